//! The way back: replies in whatever order they are ready, many small ones in one write.
//!
//! Guarantees that what waits here is bounded by the permits that each reply holds until it is
//! sent, so a client that does not read is not read from either; and that a client that takes
//! nothing for `SEND_WAIT` is given up. Does not order replies: their cookies name them. Called by
//! `server`, fed by `session`.

use std::io;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::Receiver;

use crate::nbd::limits::REPLY_BYTES_ALONE;
use crate::nbd::limits::REPLY_BYTES_GATHERED;
use crate::nbd::stream;
use crate::nbd::stream::Output;

/// Room for one request: a place and its bytes, given back when the reply is sent.
#[derive(Debug)]
pub struct Room {
    /// One of the places.
    pub _place: OwnedSemaphorePermit,
    /// Its bytes.
    pub _bytes: OwnedSemaphorePermit,
}

/// A reply on its way.
#[derive(Debug)]
pub struct Reply {
    /// Up to the payload.
    pub head: Vec<u8>,
    /// What was read, if anything.
    pub payload: Vec<u8>,
    /// What the request holds.
    pub room: Room,
}

/// Sends replies until nobody can make one any more. Errors: the client is gone or too slow.
pub async fn run(output: &mut Output, mut replies: Receiver<Reply>) -> io::Result<()> {
    let mut gathered = Vec::new();
    let mut rooms = Vec::new();
    while let Some(first) = replies.recv().await {
        let mut next = Some(first);
        while let Some(reply) = next {
            gathered.extend_from_slice(&reply.head);
            rooms.push(reply.room);
            if reply.payload.len() < REPLY_BYTES_ALONE {
                gathered.extend_from_slice(&reply.payload);
            } else {
                stream::send(output, &gathered).await?;
                gathered.clear();
                stream::send(output, &reply.payload).await?;
            }
            let full = gathered.len() >= REPLY_BYTES_GATHERED;
            next = if full { None } else { replies.try_recv().ok() };
        }
        stream::send(output, &gathered).await?;
        gathered.clear();
        rooms.clear();
    }
    Ok(())
}
