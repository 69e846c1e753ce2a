//! An export: one object as a disk, and what each command does to it.
//!
//! | command | verb of the engine |
//! |---|---|
//! | READ | `read_at`; from 32 KiB on `read_pieces`, sent from the engine's memory |
//! | WRITE | `write_at`: cached, durable at the next flush |
//! | WRITE with FUA | up to 64 KiB a transaction of its own, longer a write and `sync` |
//! | FLUSH | `sync` |
//! | TRIM | `punch` of the whole blocks inside |
//! | WRITE_ZEROES | `punch`: gives the room back |
//! | WRITE_ZEROES with NO_HOLE | `preallocate` and `zero`: keeps room |
//! | CACHE | reads, and throws away |
//! | BLOCK_STATUS | `extents` |
//!
//! **FUA.** A sync writes back whatever is dirty in the whole object, places it afresh and maps it; a
//! transaction writes its own bytes to the log, and home later. So small ones are transactions, and
//! long ones, which would cost their bytes twice, are not. Measured through a socket by two servers that
//! took turns (`qemu-img bench -w -t writethrough`, two rounds on a busy machine):
//!
//! | size, depth | write and sync | transaction |
//! |---|---|---|
//! | 4 KiB, 1 | 8.4 ms | 5.3 ms |
//! | 4 KiB, 16 | 2.2 k/s | 4.7 k/s |
//! | 16 KiB, 16 | 1.9 k/s | 4.9 k/s |
//! | 64 KiB, 16 | 1.6 k/s | 1.8 k/s |
//! | 128 KiB, 16 | 1.6 k/s | 0.9 k/s |
//! | 256 KiB, 16 | 0.73 k/s | 0.44 k/s |
//!
//! **Fast zeroes.** A punch changes mappings, and at most the two blocks at its edges: its cost is
//! that of the extents inside, whatever their length, so FAST_ZERO is honest without NO_HOLE. With
//! it stored blocks are overwritten, and the answer is ENOTSUP.
//!
//! **Room.** Writes go out of place, so even an allocated block needs room for its next version
//! until the old one is given back: NO_HOLE makes ENOSPC later unlikely, not impossible.
//!
//! Guarantees that nothing grows or shrinks the object, and that FUA of anything is durable on
//! return. Expects checked commands. Called by `session`.

use std::ops::Range;

use bytes::Bytes;
use foliant::Durability;
use foliant::Engine;
use foliant::ErrorKind;
use foliant::Object;

use crate::nbd::errno::Errno;
use crate::nbd::errno::Refusal;
use crate::nbd::limits::CACHE_BYTES_MAX;
use crate::nbd::limits::CACHE_PIECE_BYTES;
use crate::nbd::limits::FUA_LOGGED_BYTES_MAX;
use crate::nbd::limits::PINNED_READ_BYTES_MAX;
use crate::nbd::limits::REPLY_BYTES_ALONE;
use crate::nbd::pins::Pins;
use crate::nbd::reply::Answer;
use crate::nbd::reply::Payload;
use crate::nbd::request::Command;
use crate::nbd::status;
use crate::nbd::wire;

/// The unit in which room is given back.
const BLOCK: u64 = 4096;

/// An object that is served as a disk.
#[derive(Debug, Clone)]
pub struct Export {
    engine: Engine,
    object: Object,
    name: String,
    pins: Pins,
    size: u64,
    read_only: bool,
}

impl Export {
    /// Serves `object`, whose size stays what it is now. `pins` is what all replies may keep of the engine's memory.
    pub fn new(engine: Engine, object: Object, name: String, pins: Pins, read_only: bool) -> Self {
        let size = object.size();
        Self { engine, object, name, pins, size, read_only }
    }

    /// The name of the object.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether changes are refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// What clients are told that they may use.
    ///
    /// Several connections: all of them are handles of one object in one engine, with one cache and one
    /// set of dirty blocks. What was answered on any connection was accepted before a flush on another, and
    /// a sync covers everything accepted before; so a flush covers all.
    pub fn flags(&self, structured: bool) -> u16 {
        let mut flags = wire::EXPORT_HAS_FLAGS
            | wire::EXPORT_SEND_FLUSH
            | wire::EXPORT_SEND_FUA
            | wire::EXPORT_CAN_MULTI_CONN
            | wire::EXPORT_SEND_CACHE;
        if structured {
            flags |= wire::EXPORT_SEND_DF;
        }
        flags
            | match self.read_only {
                true => wire::EXPORT_READ_ONLY,
                false => {
                    wire::EXPORT_SEND_TRIM
                        | wire::EXPORT_SEND_WRITE_ZEROES
                        | wire::EXPORT_SEND_FAST_ZERO
                }
            }
    }

    /// Does what is asked for; `payload` is as long as a write says, and empty otherwise.
    ///
    /// Errors: what the client hears. Dropping the future: a write may be done or not, per block.
    pub async fn perform(
        &self,
        command: Command,
        fua: bool,
        payload: &[u8],
    ) -> Result<Answer, Refusal> {
        // All but reads and plain writes are boxed, or the future of each of those would carry room for them.
        match command {
            Command::Read(range) => return self.read(range).await,
            Command::Write(range) if !fua => self.object.write_at(range.start, payload).await?,
            Command::Write(range) => Box::pin(self.write_durably(range.start, payload)).await?,
            Command::Status { range, one } => {
                let runs = Box::pin(status::runs(&self.object, range, one)).await?;
                return Ok(Answer::Status(runs));
            }
            Command::Flush => Box::pin(self.object.sync()).await?,
            Command::Cache(range) => Box::pin(self.warm(range)).await?,
            Command::Trim(range) => {
                Box::pin(self.trim(range)).await?;
                Box::pin(self.settle(fua)).await?;
            }
            Command::Zero { range, keep_room, fast } => {
                Box::pin(self.zero(range, keep_room, fast)).await?;
                Box::pin(self.settle(fua)).await?;
            }
            Command::Disconnect => {}
        }
        Ok(Answer::Done)
    }

    /// The answer to a small read whose bytes are cached; `None` to any other command, and then
    /// [`Export::perform`] is the way.
    pub fn at_once(&self, command: &Command) -> Option<Answer> {
        let Command::Read(range) = command else { return None };
        let len = (range.end - range.start) as usize;
        if len >= REPLY_BYTES_ALONE {
            return None;
        }
        let mut bytes = vec![0; len];
        // What goes wrong is found, and told, on the long way.
        let read = self.object.try_read_at(range.start, &mut bytes).ok()??;
        let whole = read == len;
        whole.then(|| Answer::Data { offset: range.start, bytes: Payload::of(bytes) })
    }

    async fn read(&self, range: Range<u64>) -> Result<Answer, Refusal> {
        let len = (range.end - range.start) as usize;
        let mut found = None;
        if len >= REPLY_BYTES_ALONE && len as u64 <= PINNED_READ_BYTES_MAX {
            found = Box::pin(self.read_in_place(range.clone())).await?;
        }
        let payload = match found {
            Some(payload) => payload,
            None => {
                let mut bytes = vec![0; len];
                let read = self.object.read_at(range.start, &mut bytes).await?;
                bytes.truncate(read);
                Payload::of(bytes)
            }
        };
        if payload.len() < len {
            let why = format!("the object ends at {}", range.start + payload.len() as u64);
            return Err(Refusal::new(Errno::Io, why));
        }
        Ok(Answer::Data { offset: range.start, bytes: payload })
    }

    /// The bytes where the engine has them, or a copy when replies keep too much of its memory already; `None`
    /// when they do not stay for it.
    async fn read_in_place(&self, range: Range<u64>) -> foliant::Result<Option<Payload>> {
        let Some(found) = self.object.read_pieces(range).await? else { return Ok(None) };
        let pin = self.pins.hold(found.iter().map(|piece| piece.held_bytes).sum());
        let pieces = found.into_iter().map(|piece| match pin {
            Some(_) => piece.bytes,
            None => Bytes::copy_from_slice(&piece.bytes),
        });
        Ok(Some(Payload { pieces: pieces.collect(), pin }))
    }

    async fn write_durably(&self, offset: u64, bytes: &[u8]) -> foliant::Result<()> {
        if bytes.len() <= FUA_LOGGED_BYTES_MAX {
            match self.write_logged(offset, bytes).await {
                Err(cause) if cause.kind() == ErrorKind::TooLarge => {}
                done => return done,
            }
        }
        self.object.write_at(offset, bytes).await?;
        self.object.sync().await
    }

    async fn write_logged(&self, offset: u64, bytes: &[u8]) -> foliant::Result<()> {
        let mut transaction = self.engine.transaction();
        transaction.write_at(&self.object, offset, bytes)?;
        transaction.commit_with(Durability::Durable).await.map(drop)
    }

    async fn settle(&self, fua: bool) -> foliant::Result<()> {
        if fua { self.object.sync().await } else { Ok(()) }
    }

    /// Only whole blocks have room to give back, and zeroing the rest would cost some.
    async fn trim(&self, range: Range<u64>) -> foliant::Result<()> {
        let start = range.start.next_multiple_of(BLOCK);
        let end = if range.end == self.size { range.end } else { range.end / BLOCK * BLOCK };
        if start >= end {
            return Ok(());
        }
        self.object.punch(start..end).await
    }

    async fn zero(&self, range: Range<u64>, keep_room: bool, fast: bool) -> Result<(), Refusal> {
        if !keep_room {
            return Ok(self.object.punch(range).await?);
        }
        if fast {
            let why = "zeroes that keep their room are written where bytes are stored";
            return Err(Refusal::new(Errno::NotSupported, why));
        }
        self.check_room(&range).await?;
        self.object.preallocate(range.clone()).await?;
        Ok(self.object.zero(range).await?)
    }

    /// A preallocation that ends for want of room keeps what it got, and a wish that is far too large
    /// would fill the store. So it is refused before.
    async fn check_room(&self, range: &Range<u64>) -> Result<(), Refusal> {
        let (len, free) = (range.end - range.start, self.engine.stats().free_bytes);
        if len <= free {
            return Ok(());
        }
        let needed = len - status::stored(&self.object, range.clone()).await?;
        if needed <= free {
            return Ok(());
        }
        let why = format!("{needed} bytes of room are wanted, {free} are there");
        Err(Refusal::new(Errno::NoSpace, why))
    }

    async fn warm(&self, range: Range<u64>) -> foliant::Result<()> {
        let end = range.end.min(range.start + CACHE_BYTES_MAX);
        let mut at = range.start;
        while at < end {
            let stop = end.min(at + CACHE_PIECE_BYTES);
            // Without a copy that nobody wants, unless the pieces are too many or somebody changes one of them.
            if self.object.read_pieces(at..stop).await?.is_none() {
                self.object.read(at..stop).await?;
            }
            at = stop;
        }
        Ok(())
    }
}
