//! A simulated disk: volatile and durable content, power cuts, faults, and a record of requests.
//!
//! A [`SimDisk`] is the medium. It outlives the handles plugged into it with [`SimDisk::attach`],
//! and the power cuts that end them. Everything random (delays, order, what a cut leaves) comes
//! from one seed, so that with a deterministic runtime one seed replays one run.
//!
//! | file | what it does |
//! |---|---|
//! | `disk` | the medium as its owner sees it: attach, cut, faults, peek, trace |
//! | `device` | the medium as an engine sees it: a `BlockDevice` |
//! | `options` | what kind of disk |
//! | `platter` | requests between their start and their end, on virtual time |
//! | `request` | one request and how it stands |
//! | `image` | what is there, what is only cached, and what a cut leaves of it |
//! | `cut` | all that a cut could have left of it, to be tried one by one |
//! | `plan` | which request meets which fault |
//! | `trace` | requests in the order of their starts and ends |
//! | `rng` | the seeded generator |

mod cut;
mod device;
mod disk;
mod image;
mod options;
mod plan;
mod platter;
mod request;
mod rng;
mod trace;

pub use cut::Cut;
pub use device::SimDevice;
pub use disk::SimDisk;
pub use options::SimOptions;
pub use plan::Fault;
pub use plan::FaultRule;
pub use plan::RuleId;
pub use rng::Rng;
pub use trace::Record;
