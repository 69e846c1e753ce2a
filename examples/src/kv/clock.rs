//! What time it is, for the server.
//!
//! One place, so that a test moves time instead of waiting. The engine and the store know no time.
//! Called by `connection` (once per command), `sweep` and `info`.

use std::sync::Arc;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crate::kv::units::Millis;

/// A clock.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Millis + Send + Sync>);

impl Clock {
    /// The clock on the wall. It may be set, also back: then what had ended is there again if nobody
    /// has taken it away.
    pub fn wall() -> Self {
        Self::new(|| {
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as Millis)
        })
    }

    /// Another one.
    pub fn new(now: impl Fn() -> Millis + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time.
    pub fn now(&self) -> Millis {
        (self.0)()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}
