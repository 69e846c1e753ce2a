//! Decorators: devices made of another device.
//!
//! | file | what it does |
//! |---|---|
//! | [`count`] | counts requests and bytes |
//! | [`delay`] | makes a device slower: a latency and a bound on throughput |
//! | [`overlay`] | keeps what is written in memory, so that the device is only read |
//! | [`watch`] | knows what is on its way, and distrusts a device that was gone |

pub mod count;
pub mod delay;
pub mod overlay;
pub mod watch;
