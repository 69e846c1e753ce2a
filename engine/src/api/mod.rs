//! The public verbs: [`Engine`], [`Object`], [`Transaction`], direct I/O, and how to make and open a store.

mod attributes;
mod direct;
mod engine;
mod handle;
mod health;
mod moves;
mod object;
mod options;
mod scrub;
mod stats;
mod transaction;
mod work;

pub use direct::DirectBuffer;
pub use engine::Engine;
pub use health::FailedObject;
pub use health::Health;
pub use moves::CleanReport;
pub use moves::DefragmentReport;
pub use moves::FreeSpace;
pub use object::ExtentInfo;
pub use object::ExtentState;
pub use object::Object;
pub use object::Piece;
pub use options::FormatOptions;
pub use options::OpenOptions;
pub use scrub::Damage;
pub use scrub::Scrub;
pub use scrub::ScrubReport;
pub use stats::RecoveryReport;
pub use stats::Stats;
pub use transaction::Commit;
pub use transaction::Durability;
pub use transaction::Transaction;
