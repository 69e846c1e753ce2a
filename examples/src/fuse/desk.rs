//! Where requests are taken to the runtime.
//!
//! A request is tried at once, on the thread that read it: what memory can answer is answered without a wake.
//! What has to wait goes to the runtime, as a tracked task. Guarantees that no more than
//! [`REQUESTS_IN_FLIGHT_MAX`] have begun; who comes behind them is not read. Called by `filesystem`.
//!
//! A place comes before the first try: a request that was tried may hold what others wait for (a claim on blocks that
//! are being read, a lock of an inode), and if these had all places, and it waited for one, nobody would go on. So
//! whatever has begun has a place, and all that such requests wait for is the runtime, the device, each other in the
//! order of their locks, and waits with bounds; no request waits for one that was not read yet without such a bound
//! (for an orphan to be given up: `ORPHAN_WAIT`). What is written to the kernel on the way is not answered by it.

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

    /// Does `work`, which answers its request itself. Waits while too much waits.
    pub fn hand(&self, work: impl Future<Output = ()> + Send + 'static) {
        let permits = self.permits.clone();
        let permit = permits.try_acquire_owned().ok();
        // Never closed, so there always is one, sooner or later.
        let permit =
            permit.or_else(|| self.runtime.block_on(self.permits.clone().acquire_owned()).ok());
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
                let _permit = permit;
                work.await;
            },
            &self.runtime,
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::RecvTimeoutError;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    /// A request was tried, took what others wanted, and then waited for a place that those had.
    #[test]
    fn regression_a_request_is_not_begun_before_it_has_a_place() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let desk = Arc::new(Desk::new(runtime.handle().clone(), TaskTracker::new()));
        let gate = Arc::new(Semaphore::new(0));
        for _ in 0..REQUESTS_IN_FLIGHT_MAX {
            let gate = gate.clone();
            desk.hand(async move { drop(gate.acquire_owned().await) });
        }
        let (begins, begun) = channel();
        let late = desk.clone();
        let hander = std::thread::spawn(move || {
            late.hand(async move { begins.send(()).unwrap() });
        });
        let early = begun.recv_timeout(Duration::from_millis(100));
        assert_eq!(early, Err(RecvTimeoutError::Timeout), "there is no place for it");
        gate.add_permits(1);
        hander.join().unwrap();
        assert_eq!(begun.try_recv(), Ok(()));
        gate.close();
    }
}
