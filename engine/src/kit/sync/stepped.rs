//! The primitives under a model: each use is a point where the explorer may run another task.
//!
//! Guarantees the behaviour of what they replace. The plain locks are the explorer's own. What waits
//! in a future is tokio's own type, so fairness and the rules of wake-ups are the real ones; a step
//! is taken before each of its operations. Nothing blocks a thread: a wait that nobody ends is a
//! deadlock, which the explorer reports.
//!
//! Does not know time: a timeout never comes, and a sleep never ends, so that neither can hide a
//! lost wake-up. Does not work outside of an exploration: a model build is for the models alone.

use std::future::Future;
use std::ops::Deref;
use std::ops::DerefMut;
use std::sync::PoisonError;
use std::time::Duration;

use shuttle::sync::MutexGuard;
use shuttle::sync::RwLockReadGuard;
use shuttle::sync::RwLockWriteGuard;
use shuttle::sync::atomic::AtomicBool;
use shuttle::sync::atomic::Ordering;
use tokio::sync::AcquireError;
use tokio::sync::SemaphorePermit;
use tokio::sync::TryAcquireError;
use tokio::sync::futures::Notified;

/// A scheduling point. The load of an atomic is one and nothing else; the explorer's "yield" would
/// also lower the task's priority. While a panic unwinds there is nothing to explore any more.
fn step() {
    if !std::thread::panicking() {
        AtomicBool::new(false).load(Ordering::SeqCst);
    }
}

/// `parking_lot::Mutex`, as far as it is used.
#[derive(Debug, Default)]
pub struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub const fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `parking_lot::RwLock`, as far as it is used.
#[derive(Debug, Default)]
pub struct RwLock<T>(shuttle::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub const fn new(value: T) -> Self {
        Self(shuttle::sync::RwLock::new(value))
    }

    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `tokio::sync::Notify` with steps.
#[derive(Debug, Default)]
pub struct Notify(tokio::sync::Notify);

impl Notify {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn notified(&self) -> Notified<'_> {
        step();
        self.0.notified()
    }

    pub fn notify_one(&self) {
        step();
        self.0.notify_one();
    }

    pub fn notify_waiters(&self) {
        step();
        self.0.notify_waiters();
    }
}

/// `tokio::sync::Semaphore` with steps.
#[derive(Debug)]
pub struct Semaphore(tokio::sync::Semaphore);

impl Semaphore {
    pub fn new(permits: usize) -> Self {
        Self(tokio::sync::Semaphore::new(permits))
    }

    pub async fn acquire(&self) -> Result<SemaphorePermit<'_>, AcquireError> {
        step();
        self.0.acquire().await
    }

    pub async fn acquire_many(&self, permits: u32) -> Result<SemaphorePermit<'_>, AcquireError> {
        step();
        self.0.acquire_many(permits).await
    }

    #[cfg(any(test, feature = "testing"))]
    pub fn try_acquire_many(&self, permits: u32) -> Result<SemaphorePermit<'_>, TryAcquireError> {
        step();
        self.0.try_acquire_many(permits)
    }

    pub fn try_acquire(&self) -> Result<SemaphorePermit<'_>, TryAcquireError> {
        step();
        self.0.try_acquire()
    }

    pub fn add_permits(&self, permits: usize) {
        step();
        self.0.add_permits(permits);
    }
}

/// `tokio::sync::Mutex` with steps, also before it is unlocked.
#[derive(Debug, Default)]
pub struct AsyncMutex<T>(tokio::sync::Mutex<T>);

/// The held lock.
#[derive(Debug)]
pub struct AsyncMutexGuard<'a, T>(tokio::sync::MutexGuard<'a, T>);

impl<T> AsyncMutex<T> {
    pub fn new(value: T) -> Self {
        Self(tokio::sync::Mutex::new(value))
    }

    pub async fn lock(&self) -> AsyncMutexGuard<'_, T> {
        step();
        AsyncMutexGuard(self.0.lock().await)
    }
}

impl<T> Deref for AsyncMutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for AsyncMutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> Drop for AsyncMutexGuard<'_, T> {
    fn drop(&mut self) {
        step();
    }
}

/// Never constructed: no time passes under a model.
#[derive(Debug)]
pub enum Elapsed {}

/// Awaits `future`, however long.
pub async fn timeout<F: Future>(_: Duration, future: F) -> Result<F::Output, Elapsed> {
    Ok(future.await)
}

/// Never ends.
pub async fn sleep(_: Duration) {
    std::future::pending().await
}
