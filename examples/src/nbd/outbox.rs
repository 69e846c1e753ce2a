//! The way back: replies in whatever order they are ready, many in one write, large ones from where they lie.
//!
//! Guarantees that what waits here is bounded by the permits that each reply holds until it is
//! sent, so a client that does not read is not read from either; and that a client that takes
//! nothing for `SEND_WAIT` is given up. Does not order replies: their cookies name them. Called by
//! `server`, fed by `session`.

use std::io;

use bytes::BytesMut;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::Receiver;

use crate::nbd::limits::REPLY_BYTES_ALONE;
use crate::nbd::limits::REPLY_BYTES_GATHERED;
use crate::nbd::pins::Pin;
use crate::nbd::reply::Payload;
use crate::nbd::stream;
use crate::nbd::stream::Output;
use crate::nbd::stream::Parts;

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
    pub payload: Payload,
    /// What the request holds.
    pub room: Room,
}

/// Replies that go together.
#[derive(Debug, Default)]
struct Bundle {
    parts: Parts,
    /// Heads and small payloads that come behind the parts.
    small: BytesMut,
    /// What the replies hold until they are sent.
    held: Vec<(Room, Option<Pin>)>,
    bytes: usize,
}

impl Bundle {
    fn add(&mut self, reply: Reply) {
        let Reply { head, payload, room } = reply;
        let len = payload.len();
        self.bytes += head.len() + len;
        self.small.extend_from_slice(&head);
        if len < REPLY_BYTES_ALONE {
            payload.pieces.iter().for_each(|piece| self.small.extend_from_slice(piece));
        } else {
            self.close();
            payload.pieces.into_iter().for_each(|piece| self.parts.push(piece));
        }
        self.held.push((room, payload.pin));
    }

    fn close(&mut self) {
        self.parts.push(self.small.split().freeze());
    }

    async fn send(&mut self, output: &mut Output) -> io::Result<()> {
        self.close();
        stream::send_parts(output, &mut self.parts).await?;
        self.held.clear();
        self.bytes = 0;
        Ok(())
    }
}

/// Sends replies until nobody can make one any more. Errors: the client is gone or too slow.
pub async fn run(output: &mut Output, mut replies: Receiver<Reply>) -> io::Result<()> {
    let mut bundle = Bundle::default();
    while let Some(first) = replies.recv().await {
        let mut next = Some(first);
        while let Some(reply) = next {
            bundle.add(reply);
            let full = bundle.bytes >= REPLY_BYTES_GATHERED;
            next = if full { None } else { replies.try_recv().ok() };
        }
        bundle.send(output).await?;
    }
    Ok(())
}
