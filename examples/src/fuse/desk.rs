//! Where requests are taken to the runtime.
//!
//! A request is tried at once, on the thread that read it: what memory can answer is answered without a wake.
//! What has to wait goes to the runtime, as a tracked task. Guarantees that no more than
//! [`REQUESTS_IN_FLIGHT_MAX`] wait there; who comes behind them is not read. Called by `filesystem`.

use std::sync::Arc;
use std::task::Context;
use std::task::Waker;

use tokio::runtime::EnterGuard;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::fuse::limits::REQUESTS_IN_FLIGHT_MAX;

/// The runtime, as the threads see it that read requests.
#[derive(Debug)]
pub struct Desk {
    runtime: Handle,
    permits: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Desk {
    /// Tasks go to `runtime`, and are tracked.
    pub fn new(runtime: Handle, tasks: TaskTracker) -> Self {
        Self { runtime, permits: Arc::new(Semaphore::new(REQUESTS_IN_FLIGHT_MAX)), tasks }
    }

    /// What starts tasks by itself does so within this.
    pub fn enter(&self) -> EnterGuard<'_> {
        self.runtime.enter()
    }

    /// Does `work`, which answers its request itself. Waits while too much waits, and before `work` has begun: what
    /// it holds by then may be what the others wait for.
    pub fn hand(&self, work: impl Future<Output = ()> + Send + 'static) {
        let permits = self.permits.clone();
        let permit = match permits.clone().try_acquire_owned() {
            Ok(permit) => Ok(permit),
            Err(_) => self.runtime.block_on(permits.acquire_owned()),
        };
        let mut work = Box::pin(work);
        {
            let _entered = self.runtime.enter();
            // Polled again by its task, so nobody has to be woken for this.
            if work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                return;
            }
        }
        self.tasks.spawn_on(
            async move {
                // Never closed, so there always is one.
                let _permit = permit;
                work.await;
            },
            &self.runtime,
        );
    }
}
