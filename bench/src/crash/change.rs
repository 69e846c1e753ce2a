//! Plain operations of a run, one at a time.
//!
//! Guarantees as `commit`. Called by `run`.

use foliant::Engine;
use foliant::Object;
use foliant::Result;

use super::ground::BLOCK;
use super::ground::bytes;
use super::run::BYTES_MAX;
use super::run::MIXED;
use super::run::PLAIN;
use super::run::Run;

impl Run {
    /// Where to write: anywhere, or where small objects have their bytes.
    pub(super) fn spot(&mut self) -> usize {
        match self.rng.below(5) {
            0 => self.rng.below(300) as usize,
            _ => self.rng.below(BYTES_MAX / 2) as usize,
        }
    }

    pub(super) fn length(&mut self) -> usize {
        match self.rng.below(4) {
            0 => self.rng.below(200) as usize + 1,
            1 => BLOCK,
            2 => self.rng.below(3 * BLOCK as u64) as usize + 1,
            _ => self.rng.below(30_000) as usize + 1,
        }
    }

    pub(super) async fn change(&mut self, engine: &Engine, objects: &[Object]) -> Result<()> {
        let which = self.rng.below((PLAIN + MIXED) as u64) as usize;
        let object = &objects[which];
        let outcome = self.change_one(engine, which, object).await;
        match outcome {
            Err(cause) if cause.is_no_space() && !self.failing() => {
                self.look_again(which, object).await
            }
            outcome => outcome,
        }
    }

    async fn change_one(&mut self, engine: &Engine, which: usize, object: &Object) -> Result<()> {
        let size = self.loose[which].bytes.len() as u64;
        let model = &mut self.loose[which];
        match self.rng.below(10) {
            0 => {
                let small = self.rng.below(2) == 0;
                let to = self.rng.below(if small { 600 } else { BYTES_MAX });
                model.change(|b| b.resize(to as usize, 0));
                object.truncate(to).await
            }
            1 if size > 1 => {
                let from = self.rng.below(size);
                let to = from + self.rng.below(size - from) + 1;
                model.change(|b| b[from as usize..to as usize].fill(0));
                object.punch(from..to).await
            }
            2 => {
                let from = self.rng.below(BYTES_MAX / 2);
                let len = self.rng.below(BYTES_MAX / 4) + 1;
                object.preallocate(from..from + len).await
            }
            _ => {
                let len = self.length();
                let at = self.spot();
                let data = bytes(&mut self.rng, len);
                self.loose[which].write(at, &data);
                if self.direct && self.rng.below(2) == 0 {
                    return write_past_the_cache(engine, object, at, &data).await;
                }
                object.write_at(at as u64, &data).await
            }
        }
    }

    /// A refused operation did all, nothing or a part; what a read shows now is what there is.
    pub(super) async fn look_again(&mut self, which: usize, object: &Object) -> Result<()> {
        let mut found = vec![0; object.size() as usize];
        let read = object.read_at(0, &mut found).await?;
        found.truncate(read);
        self.loose[which].change(|bytes| *bytes = found);
        Ok(())
    }

    pub(super) async fn sync(&mut self, objects: &[Object]) -> Result<()> {
        let which = self.rng.below((PLAIN + MIXED) as u64) as usize;
        objects[which].sync().await?;
        self.loose[which].synced();
        self.tally.add("syncs acknowledged", 1);
        Ok(())
    }
}

async fn write_past_the_cache(
    engine: &Engine,
    object: &Object,
    at: usize,
    data: &[u8],
) -> Result<()> {
    let within = at % BLOCK..at % BLOCK + data.len();
    let mut buffer = engine.direct_buffer(within.end).await?;
    buffer[within.clone()].copy_from_slice(data);
    object.write_direct(at as u64, buffer, within).await.1
}
