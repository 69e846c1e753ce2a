//! Decorators: devices made of another device.
//!
//! | file | what it does |
//! |---|---|
//! | [`count`] | counts requests and bytes |
//! | [`delay`] | makes a device slower: a latency and a bound on throughput |
//! | [`overlay`] | keeps what is written in memory, so that the device is only read |

pub mod count;
pub mod delay;
pub mod overlay;
