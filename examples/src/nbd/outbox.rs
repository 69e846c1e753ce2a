//! The way back: replies in whatever order they are ready, many in one write, large ones from where they lie.
//!
//! What lies in the engine's memory is missing to everybody, and who changes a byte of it needs as much again in
//! one piece. So a client that does not take what it is sent within `PIN_WAIT` gets copies from then on, of all that
//! waits for it.
//!
//! Guarantees that what waits here is bounded by the permits that each reply holds until it is
//! sent, so a client that does not read is not read from either; that it keeps the engine's memory for `PIN_WAIT`
//! at most while it is sent; and that a client that is too slow for `SEND_WAIT` is given up. Does not order
//! replies: their cookies name them. Called by `server`, fed by `session`.

use std::collections::VecDeque;
use std::io;
use std::pin::pin;

use bytes::BytesMut;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

use crate::nbd::limits::PIN_WAIT;
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

    /// Copies what lies in the engine's memory, and gives that back.
    fn unpin(&mut self) {
        let pins: Vec<_> = self.held.iter_mut().filter_map(|(_, pin)| pin.take()).collect();
        if !pins.is_empty() {
            self.parts.copy_out();
        }
    }

    fn clear(&mut self) {
        self.held.clear();
        self.bytes = 0;
    }
}

/// Sends replies until nobody can make one any more. Errors: the client is gone or too slow.
pub async fn run(output: &mut Output, replies: Receiver<Reply>) -> io::Result<()> {
    let mut coming = Coming { replies, waiting: VecDeque::new() };
    let mut bundle = Bundle::default();
    while let Some(first) = coming.next().await {
        let mut next = Some(first);
        while let Some(reply) = next {
            bundle.add(reply);
            let full = bundle.bytes >= REPLY_BYTES_GATHERED;
            next = if full { None } else { coming.next_now() };
        }
        bundle.close();
        match timeout(PIN_WAIT, stream::send_parts(output, &mut bundle.parts)).await {
            Ok(sent) => sent?,
            Err(_) => {
                bundle.unpin();
                coming.unpin_beside(stream::send_parts(output, &mut bundle.parts)).await?;
            }
        }
        bundle.clear();
    }
    Ok(())
}

/// Replies that were not bundled yet.
struct Coming {
    replies: Receiver<Reply>,
    /// Those that came while the client was slow: copies.
    waiting: VecDeque<Reply>,
}

impl Coming {
    async fn next(&mut self) -> Option<Reply> {
        match self.waiting.pop_front() {
            Some(reply) => Some(reply),
            None => self.replies.recv().await,
        }
    }

    fn next_now(&mut self) -> Option<Reply> {
        self.waiting.pop_front().or_else(|| self.replies.try_recv().ok())
    }

    /// Drives `send` to its end. What comes meanwhile will wait, and gives the engine's memory back at once.
    async fn unpin_beside(&mut self, send: impl Future<Output = io::Result<()>>) -> io::Result<()> {
        let mut send = pin!(send);
        loop {
            tokio::select! {
                biased;
                sent = &mut send => return sent,
                Some(mut reply) = self.replies.recv() => {
                    reply.payload.unpin();
                    self.waiting.push_back(reply);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use tokio::io::AsyncReadExt;
    use tokio::sync::Semaphore;
    use tokio::sync::mpsc::channel;
    use tokio::time::sleep;

    use super::*;
    use crate::nbd::limits::SEND_WAIT;
    use crate::nbd::pins::Pins;

    const LEN: usize = 100 << 10;

    fn reply(number: u8, pin: Pin) -> Reply {
        let permit = || Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let room = Room { _place: permit(), _bytes: permit() };
        let pieces = vec![Bytes::from(vec![number; LEN / 2]), Bytes::from(vec![number; LEN / 2])];
        Reply { head: vec![number; 16], payload: Payload { pieces, pin: Some(pin) }, room }
    }

    /// A client that fetched a byte now and then kept what lay in front of it in the engine's memory for minutes,
    /// and who wrote there waited for a free piece of 2 MiB.
    #[tokio::test(start_paused = true)]
    async fn a_slow_client_keeps_nothing_of_the_engine() {
        let all = 16 * LEN;
        let pins = Pins::new(all as u64);
        let (near, mut far) = tokio::io::duplex(4096);
        let (sender, receiver) = channel(64);
        for number in 0..8 {
            sender.send(reply(number, pins.hold(LEN).unwrap())).await.unwrap();
        }
        let mut output: Output = Box::new(near);
        let outbox = tokio::spawn(async move { run(&mut output, receiver).await });
        // Slow, but not too slow for `SEND_WAIT`.
        let mut got = Vec::new();
        far.read_buf(&mut got).await.unwrap();
        sleep(PIN_WAIT / 2).await;
        assert!(pins.hold(all).is_none(), "sent from where it lies");
        sleep(PIN_WAIT).await;
        assert!(pins.hold(all).is_some(), "a slow client keeps the engine's memory");
        // What comes now comes to a slow client.
        for number in 8..12 {
            sender.send(reply(number, pins.hold(LEN).unwrap())).await.unwrap();
        }
        sleep(Duration::from_millis(1)).await;
        assert!(pins.hold(all).is_some(), "a reply that waits keeps the engine's memory");
        drop(sender);
        while far.read_buf(&mut got).await.unwrap() > 0 {}
        outbox.await.unwrap().unwrap();
        let expected: Vec<u8> = (0..12).flat_map(|number| vec![number; 16 + LEN]).collect();
        assert!(got == expected, "{} bytes", got.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        let pins = Pins::new(LEN as u64);
        let (near, _far) = tokio::io::duplex(4096);
        let (sender, receiver) = channel(1);
        sender.send(reply(1, pins.hold(LEN).unwrap())).await.unwrap();
        let mut output: Output = Box::new(near);
        let began = tokio::time::Instant::now();
        let error = run(&mut output, receiver).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() <= PIN_WAIT + SEND_WAIT);
    }
}
