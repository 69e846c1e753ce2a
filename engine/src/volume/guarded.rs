//! Work of the engine's tasks, watched for panics.
//!
//! Guarantees: if the work panics, writes stop for good with that as the cause, because nobody knows what it
//! left half done; whoever waits for a commit or a sync hears it. Does not spawn. Called by `mount` and by the
//! flusher, for all that they spawn.

use crate::error::Error;
use crate::error::ErrorKind;
use crate::kit::poison::Poison;

struct Guard(Poison);

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let why = "a background task of the engine panicked";
            self.0.set_for_good(Error::new(ErrorKind::WritesStopped, why));
        }
    }
}

/// `work` under watch.
pub fn guarded<W>(poison: &Poison, work: W) -> impl Future<Output = W::Output> + Send + use<W>
where
    W: Future + Send,
{
    let guard = Guard(poison.clone());
    async move {
        let _guard = guard;
        work.await
    }
}
