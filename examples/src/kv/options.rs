//! What the user may choose of a server.
//!
//! Guarantees that a password is compared in a time that does not tell how much of it is right.
//! Called by `serve` and by tests, read by the rooms of the server.

use std::time::Duration;

use crate::kv::clock::Clock;
use crate::kv::limits::CONNECTIONS_MAX;
use crate::kv::op::Promise;

/// A server's options.
#[derive(Debug, Clone)]
pub struct Options {
    /// What time it is.
    pub clock: Clock,
    /// What a client has to say first, if anything.
    pub password: Option<Password>,
    /// Clients at once.
    pub clients_max: usize,
    /// How long a client may say nothing, if that is limited.
    pub idle: Option<Duration>,
    /// What the store was opened with, to be told to clients.
    pub promise: Promise,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Clock::wall(),
            password: None,
            clients_max: CONNECTIONS_MAX,
            idle: None,
            promise: Promise::Durable,
        }
    }
}

/// A password, which no log shows.
#[derive(Clone)]
pub struct Password(Vec<u8>);

impl Password {
    /// These bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// Whether this is it.
    pub fn is(&self, said: &[u8]) -> bool {
        let differences = self.0.iter().zip(said).map(|(a, b)| a ^ b);
        let different = differences.fold(0, |all, one| all | one);
        self.0.len() == said.len() && std::hint::black_box(different) == 0
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}
