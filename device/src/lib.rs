//! Block devices for a storage engine: blocks in, blocks out, and nothing else.
//!
//! A [`Device`] reads and writes whole 4 KiB blocks from and to engine-owned [`Buffer`]s, and
//! says exactly what is durable and when. This crate does not know what a file system is.
//!
//! | room | what it is |
//! |---|---|
//! | [`contract`] | the treaty: what every device guarantees and what its caller must do |
//! | [`buffer`] | the arena and the reference-counted, aligned buffers that the kernel may touch |
//! | [`geometry`] | sizes and range checks, written once |
//! | `locked` | an open file with its lock |
//! | [`backend`] | regular file, block device, memory, and the thread-pool fallback |
//! | [`uring`] | the ring: probe, slots, operations, driver |
//! | [`sim`] | a simulated disk with a volatile and a durable image, faults, and a trace |
//! | [`wrap`] | decorators: counting, delaying |
//! | `conformance` | the treaty as a test suite (feature `testing`) |

pub mod backend;
pub mod buffer;
pub mod contract;
pub mod error;
pub mod geometry;
mod locked;
pub mod sim;
pub mod uring;
pub mod wrap;

#[cfg(feature = "testing")]
pub mod conformance;

pub use buffer::Arena;
pub use buffer::Buffer;
pub use buffer::Segment;
pub use contract::BackendInfo;
pub use contract::BlockDevice;
pub use contract::Device;
pub use contract::IoFuture;
pub use contract::Persist;
pub use contract::ReadOutcome;
pub use error::DeviceError;
pub use error::DeviceErrorKind;
pub use geometry::BLOCK_SIZE;
pub use geometry::Geometry;
