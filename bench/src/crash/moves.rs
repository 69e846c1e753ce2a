//! Cleaning and defragmenting beside everything else, in a third of the runs.
//!
//! Guarantees nothing to wait for: a mover stops when it is dropped, wherever it is. Ignores what it is refused:
//! what others find is what the run judges. Called by `run`.

use std::time::Duration;

use foliant::Engine;
use foliant::Object;
use tokio::task::JoinHandle;

/// A mover on its way.
pub(super) struct Mover(Option<JoinHandle<()>>);

impl Mover {
    /// Moves blocks of `objects` and of the whole volume, with pauses, if the seed says so.
    pub(super) fn start(seed: u64, engine: &Engine, objects: &[Object]) -> Self {
        if !seed.is_multiple_of(3) {
            return Self(None);
        }
        let (engine, objects) = (engine.clone(), objects.to_vec());
        let moving = async move {
            loop {
                for object in &objects {
                    let _ = object.defragment().await;
                    tokio::time::sleep(Duration::from_millis(7)).await;
                    let _ = engine.clean().await;
                }
            }
        };
        Self(Some(tokio::spawn(moving)))
    }

    /// Ends it, with the handles that it has.
    pub(super) async fn stop(mut self) {
        if let Some(moving) = self.0.take() {
            moving.abort();
            let _ = moving.await;
        }
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        if let Some(moving) = &self.0 {
            moving.abort();
        }
    }
}
