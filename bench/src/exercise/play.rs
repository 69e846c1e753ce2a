//! Plays operations on an engine and compares every answer with the oracle.
//!
//! Guarantees that each operation is bounded in time, and that the first difference ends the play
//! with its kind and a sentence. Does not make or remove the store, and does not catch panics: `run`
//! does. Used by `run`; two operations at once are judged in `both`.

use std::time::Duration;

use foliant::Engine;
use foliant::ExtentInfo;
use foliant::Object;

use super::beside::Beside;
use super::failure::Failure;
use super::failure::Kind;
use super::failure::fail;
use super::op::End;
use super::op::Fill;
use super::op::Op;
use super::op::Span;
use super::oracle::BLOCK;
use super::oracle::Oracle;
use super::places::judge_extents;
use super::places::judge_seek;

/// No operation may take longer, in the time of the runtime. The engine's own waits end before.
const OP_WAIT: Duration = Duration::from_secs(200);
/// Bytes read at once by a comparison of everything.
const VERIFY_BYTES: u64 = 1 << 20;
/// Pieces of the ballast, which are read to push other folios out.
pub(super) const BALLAST_PIECES: u64 = 6;
/// Bytes of one read.
const BALLAST_STEP: u64 = 1 << 20;
/// Every so many evictions reads it; the others are cheaper.
const BALLAST_EVERY: u64 = 8;
/// Bytes of each buffer of these.
const SQUEEZE_BYTES: usize = 64 << 10;
/// So many of them are kept at once.
const BALLAST_HELD: usize = 2;
/// Bytes of one piece.
pub(super) const BALLAST_PIECE_BYTES: u64 = 1 << 20;
/// The name of the ballast.
pub(super) const BALLAST: &str = "ballast";

fn misplaced(what: String) -> Failure {
    fail(Kind::Places, what)
}

/// What an operation gave back.
#[derive(Debug)]
pub(super) enum Answer {
    /// Nothing.
    Done,
    /// The bytes that were read.
    Bytes(Vec<u8>),
    /// A buffer came back changed where it must not be.
    Spilled(String),
    /// Data, hole, and the extents from there on.
    Found(Option<u64>, Option<u64>, Vec<ExtentInfo>),
    /// What a transaction saw through its own writes.
    Own(Vec<(Span, Vec<u8>)>),
    /// Extents of an object.
    Extents(Vec<ExtentInfo>),
}

impl Answer {
    /// The answer, if no buffer was changed outside of its range.
    pub(super) fn untouched(self) -> Result<Self, Failure> {
        match self {
            Self::Spilled(what) => Err(fail(Kind::Content, what)),
            other => Ok(other),
        }
    }
}

/// A direct read or write; the rest of the buffer must stay as it is.
async fn direct(engine: &Engine, object: &Object, op: &Op) -> foliant::Result<Answer> {
    let (at, len, skew, data) = match op {
        Op::ReadDirect(span, skew) => (span.at, span.len, *skew, None),
        Op::WriteDirect(fill, skew) => (fill.span.at, fill.span.len, *skew, Some(fill.bytes())),
        _ => unreachable!("{op} is not direct"),
    };
    let within = skew as usize..(skew + len) as usize;
    let mut buffer = engine.direct_buffer(within.end.max(1)).await?;
    buffer.fill(0xEE);
    let (read, buffer) = match &data {
        None => {
            let (buffer, read) = object.read_direct(at, buffer, within.clone()).await;
            (within.start..within.start + read?, buffer)
        }
        Some(data) => {
            buffer[within.clone()].copy_from_slice(data);
            let (buffer, written) = object.write_direct(at, buffer, within.clone()).await;
            written?;
            (0..0, buffer)
        }
    };
    let spilled = buffer[..within.start].iter().chain(&buffer[within.end..]).any(|&b| b != 0xEE);
    let changed = data.is_some_and(|data| buffer[within.clone()] != data);
    if spilled || changed {
        return Ok(Answer::Spilled(format!("{op} changed the buffer at {within:?} or around")));
    }
    Ok(Answer::Bytes(buffer[read].to_vec()))
}

async fn seek(object: &Object, at: u64) -> foliant::Result<Answer> {
    let data = object.seek_data(at).await?;
    let hole = object.seek_hole(at).await?;
    let extents = object.extents(at..i64::MAX as u64, usize::MAX).await?;
    Ok(Answer::Found(data, hole, extents))
}

/// Calls the engine. Operations on the whole engine are not for here.
pub(super) async fn act(engine: Engine, objects: Vec<Object>, op: Op) -> foliant::Result<Answer> {
    match op {
        Op::Read(span) => {
            let mut bytes = vec![0xEE; span.len as usize];
            let read = objects[span.object].read_at(span.at, &mut bytes).await?;
            bytes.truncate(read);
            return Ok(Answer::Bytes(bytes));
        }
        Op::Share(span) => {
            let bytes = objects[span.object].read(span.at..span.end()).await?;
            return Ok(Answer::Bytes(bytes.to_vec()));
        }
        Op::ReadDirect(Span { object, .. }, _)
        | Op::WriteDirect(Fill { span: Span { object, .. }, .. }, _) => {
            return direct(&engine, &objects[object], &op).await;
        }
        Op::Seek(object, at) => return seek(&objects[object], at).await,
        Op::Write(fill) => {
            objects[fill.span.object].write_at(fill.span.at, &fill.bytes()).await?;
        }
        Op::Punch(span) => objects[span.object].punch(span.at..span.end()).await?,
        Op::Zero(span) => objects[span.object].zero(span.at..span.end()).await?,
        Op::Allocate(span) => objects[span.object].preallocate(span.at..span.end()).await?,
        Op::Truncate(object, size) => objects[object].truncate(size).await?,
        Op::Sync(object) => objects[object].sync().await?,
        Op::SyncAll => engine.sync().await?,
        Op::Extents(object) => {
            let found = objects[object].extents(0..i64::MAX as u64, usize::MAX).await?;
            return Ok(Answer::Extents(found));
        }
        Op::Commit(end, fills) => return commit(&engine, &objects, end, &fills).await,
        Op::Recreate(_) | Op::Evict | Op::Reopen | Op::Verify | Op::Both(..) => {
            unreachable!("{op} concerns the whole engine")
        }
    }
    Ok(Answer::Done)
}

async fn commit(
    engine: &Engine,
    objects: &[Object],
    end: End,
    fills: &[Fill],
) -> foliant::Result<Answer> {
    let mut transaction = engine.transaction();
    for fill in fills {
        let object = &objects[fill.span.object];
        transaction.write_at(object, fill.span.at, &fill.bytes())?;
    }
    let mut seen = Vec::new();
    for fill in fills {
        let at = fill.span.at.saturating_sub(10);
        let span = Span { at, len: fill.span.end() - at + 10, ..fill.span };
        let mut bytes = vec![0xEE; span.len as usize];
        let read = transaction.read_at(&objects[span.object], at, &mut bytes).await?;
        bytes.truncate(read);
        seen.push((span, bytes));
    }
    match end {
        End::Dropped => drop(transaction),
        End::Seen => drop(transaction.commit().await?),
        End::Durable => transaction.commit().await?.durable().await?,
    }
    Ok(Answer::Own(seen))
}

/// A sentence about the first byte that differs.
pub(super) fn compare(span: &Span, found: &[u8], want: &[u8]) -> Result<(), Failure> {
    if found == want {
        return Ok(());
    }
    if found.len() != want.len() {
        let what = format!("a read of {span} gave {} bytes, not {}", found.len(), want.len());
        return Err(fail(Kind::Size, what));
    }
    let differ = found.iter().zip(want).filter(|(a, b)| a != b).count();
    let first = found.iter().zip(want).position(|(a, b)| a != b).unwrap_or(0);
    let what = format!(
        "object {} differs at byte {} (block {}, {} into it): {:#04x} instead of {:#04x}; {differ} bytes of {span}",
        span.object,
        span.at + first as u64,
        (span.at + first as u64) / BLOCK,
        (span.at + first as u64) % BLOCK,
        found[first],
        want[first],
    );
    Err(fail(Kind::Content, what))
}

/// An open engine with its handles, and what they must show.
pub(super) struct Play {
    pub(super) engine: Engine,
    /// Two handles of each object.
    pub(super) hands: [Vec<Object>; 2],
    pub(super) oracle: Oracle,
    pub(super) beside: Option<Beside>,
    /// Evictions so far.
    pub(super) evictions: u64,
    /// Whether two at once are two tasks.
    pub(super) spawn: bool,
}

/// The name of an object.
pub(super) fn name(object: usize) -> String {
    format!("exercised-{object}")
}

impl Play {
    /// Opens the handles of all objects. Errors: as the engine's.
    pub(super) async fn take_hands(&mut self) -> Result<(), Failure> {
        for hand in 0..2 {
            self.hands[hand].clear();
            for at in 0..self.oracle.count() {
                self.hands[hand].push(self.engine.object(name(at)).await?);
            }
        }
        Ok(())
    }

    /// Plays one operation. `Reopen` is the caller's.
    pub(super) async fn step(&mut self, op: &Op) -> Result<(), Failure> {
        match tokio::time::timeout(OP_WAIT, self.step_unbounded(op)).await {
            Ok(done) => done,
            Err(_) => Err(fail(Kind::Stuck, format!("{op} did not end within {OP_WAIT:?}"))),
        }
    }

    async fn step_unbounded(&mut self, op: &Op) -> Result<(), Failure> {
        match op {
            Op::Both(a, b) => return self.both(a, b).await,
            Op::Verify => self.verify().await?,
            Op::Evict => self.evict().await?,
            Op::Recreate(object) => {
                self.engine.remove(name(*object)).await?;
                self.engine.create(name(*object)).await?;
                self.take_hands().await?;
                self.oracle.apply(op);
            }
            Op::Reopen => unreachable!("the caller reopens"),
            _ => self.simple(op).await?,
        }
        self.follow(op)
    }

    async fn simple(&mut self, op: &Op) -> Result<(), Failure> {
        let answer = act(self.engine.clone(), self.hands[0].clone(), op.clone()).await?;
        match (op, answer.untouched()?) {
            (Op::Read(span) | Op::Share(span) | Op::ReadDirect(span, _), Answer::Bytes(bytes)) => {
                compare(span, &bytes, &self.oracle.object(span.object).read(span))?;
            }
            (Op::Commit(_, fills), Answer::Own(seen)) => {
                let inside = self.oracle.after(&Op::Commit(End::Seen, fills.clone()));
                for (span, bytes) in seen {
                    compare(&span, &bytes, &inside.object(span.object).read(&span))?;
                }
            }
            (Op::Seek(object, at), Answer::Found(data, hole, extents)) => {
                let model = self.oracle.object(*object);
                judge_seek(*at, data, hole, &extents, model).map_err(misplaced)?;
            }
            (Op::Extents(object), Answer::Extents(extents)) => {
                judge_extents(&extents, self.oracle.object(*object)).map_err(misplaced)?;
            }
            _ => {}
        }
        self.oracle.apply(op);
        self.check_sizes()?;
        match op {
            Op::Sync(object) => self.check_places(*object).await,
            Op::SyncAll => self.check_rest(),
            _ => Ok(()),
        }
    }

    /// Lets the plain files follow and compares them.
    pub(super) fn follow(&mut self, op: &Op) -> Result<(), Failure> {
        self.follow_unseen(op)?;
        self.look_beside(op)
    }

    /// Lets the plain files follow.
    pub(super) fn follow_unseen(&mut self, op: &Op) -> Result<(), Failure> {
        match &mut self.beside {
            Some(beside) => Ok(beside.apply(op)?),
            None => Ok(()),
        }
    }

    /// Compares what `op` looks at in the plain files.
    pub(super) fn look_beside(&self, op: &Op) -> Result<(), Failure> {
        let Some(beside) = &self.beside else { return Ok(()) };
        match beside.compare(op, &self.oracle)? {
            Some(what) => Err(fail(Kind::Beside, what)),
            None => Ok(()),
        }
    }

    pub(super) fn check_sizes(&self) -> Result<(), Failure> {
        for (at, object) in self.hands[0].iter().enumerate() {
            let (found, want) = (object.size(), self.oracle.object(at).bytes.len());
            if found != want || self.hands[1][at].size() != want {
                let what = format!("object {at} has {found} bytes, not {want}");
                return Err(fail(Kind::Size, what));
            }
        }
        Ok(())
    }

    async fn check_places(&self, object: usize) -> Result<(), Failure> {
        let extents = self.hands[1][object].extents(0..i64::MAX as u64, usize::MAX).await?;
        judge_extents(&extents, self.oracle.object(object)).map_err(misplaced)
    }

    fn check_rest(&self) -> Result<(), Failure> {
        let dirty = self.engine.stats().dirty_bytes;
        if dirty > 0 {
            return Err(fail(
                Kind::Balance,
                format!("{dirty} bytes are dirty after a sync of all"),
            ));
        }
        Ok(())
    }

    /// Compares every byte, size and place.
    async fn verify(&self) -> Result<(), Failure> {
        self.check_sizes()?;
        for at in 0..self.oracle.count() {
            let model = self.oracle.object(at);
            let mut start = 0;
            while start <= model.bytes.len() {
                let span = Span { object: at, at: start, len: VERIFY_BYTES };
                let mut bytes = vec![0xEE; span.len as usize];
                let read = self.hands[1][at].read_at(start, &mut bytes).await?;
                compare(&span, &bytes[..read], &model.read(&span))?;
                start += VERIFY_BYTES;
            }
            self.check_places(at).await?;
        }
        Ok(())
    }

    /// Takes all the memory that there is, or reads more than the cache can keep.
    async fn evict(&mut self) -> Result<(), Failure> {
        self.evictions += 1;
        match self.evictions.is_multiple_of(BALLAST_EVERY) {
            true => self.read_ballast().await,
            false => self.take_memory().await,
        }
    }

    /// Buffers drive folios out that are clean, without a request to the device.
    async fn take_memory(&self) -> Result<(), Failure> {
        let mut held = Vec::new();
        // What is not there at once is not waited for: then the flusher would be asked.
        let buffer = || self.engine.direct_buffer(SQUEEZE_BYTES);
        while let Ok(buffer) = tokio::time::timeout(Duration::ZERO, buffer()).await {
            held.push(buffer?);
        }
        Ok(())
    }

    /// Reads all of the ballast, and holds some of it meanwhile.
    async fn read_ballast(&self) -> Result<(), Failure> {
        let ballast = self.engine.object(BALLAST).await?;
        let mut held = std::collections::VecDeque::new();
        for at in (0..BALLAST_PIECES * BALLAST_PIECE_BYTES).step_by(BALLAST_STEP as usize) {
            if held.len() == BALLAST_HELD {
                held.pop_front();
            }
            held.push_back(ballast.read(at..at + BALLAST_STEP).await?);
        }
        Ok(())
    }
}
