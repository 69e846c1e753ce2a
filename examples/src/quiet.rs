//! A bound on what clients can make a server log.
//!
//! Guarantees at most so many lines in a while, whatever clients do, and that those which were left out
//! are counted in the next one. Does not log. Called by the servers, one value for each place that logs.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Lets some lines pass.
#[derive(Debug)]
pub struct Quiet {
    most: u32,
    within: Duration,
    /// Held for a look at the clock, never over an await.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    since: Option<Instant>,
    passed: u32,
    left_out: u64,
}

impl Quiet {
    /// Lets `most` lines pass in each `within`.
    pub const fn new(most: u32, within: Duration) -> Self {
        let state = State { since: None, passed: 0, left_out: 0 };
        Self { most, within, state: Mutex::new(state) }
    }

    /// Whether a line may be logged; then, how many were left out since the last one.
    pub fn may(&self) -> Option<u64> {
        let now = Instant::now();
        let mut state = self.state.lock();
        if state.since.is_none_or(|since| now.duration_since(since) >= self.within) {
            (state.since, state.passed) = (Some(now), 0);
        }
        if state.passed == self.most {
            state.left_out += 1;
            return None;
        }
        state.passed += 1;
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_too_much_is_counted_and_told_later() {
        let quiet = Quiet::new(2, Duration::from_secs(10));
        let said: Vec<_> = (0..5).map(|_| quiet.may()).collect();
        assert_eq!(said, [Some(0), Some(0), None, None, None]);
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(quiet.may(), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!([quiet.may(), quiet.may(), quiet.may()], [Some(4), Some(0), None]);
    }
}
