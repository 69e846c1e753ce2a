//! Points in time as inodes keep them: seconds and nanoseconds, also before 1970.
//!
//! Guarantees that a time comes back as it was given. Called by `record` and the operations.

use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

/// A point in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Whole seconds since 1970, rounded down.
    pub seconds: i64,
    /// The rest.
    pub nanos: u32,
}

impl Time {
    /// A time as the crate hands it on from the kernel. Before 1970 it counts the nanoseconds in the wrong
    /// direction: 0.3 s behind second -5 comes as 5.3 s before 1970.
    pub fn of_kernel(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(_) => time.into(),
            Err(before) => {
                let before = before.duration();
                Self { seconds: -(before.as_secs() as i64), nanos: before.subsec_nanos() }
            }
        }
    }

    /// What the clock on the wall says.
    pub fn now() -> Self {
        SystemTime::now().into()
    }
}

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Self { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() },
            Err(before) => {
                let before = before.duration();
                let seconds = -(before.as_secs() as i64);
                match before.subsec_nanos() {
                    0 => Self { seconds, nanos: 0 },
                    nanos => Self { seconds: seconds - 1, nanos: 1_000_000_000 - nanos },
                }
            }
        }
    }
}

impl From<Time> for SystemTime {
    fn from(time: Time) -> Self {
        let nanos = Duration::from_nanos(time.nanos.into());
        let whole = Duration::from_secs(time.seconds.unsigned_abs());
        let second = match time.seconds >= 0 {
            true => UNIX_EPOCH.checked_add(whole),
            false => UNIX_EPOCH.checked_sub(whole),
        };
        second.and_then(|second| second.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_as_they_went() {
        for (seconds, nanos) in [(0, 0), (1, 999_999_999), (-1, 0), (-1, 1), (-2, 999_999_999)] {
            let time = Time { seconds, nanos };
            assert_eq!(Time::from(SystemTime::from(time)), time);
        }
    }
}
