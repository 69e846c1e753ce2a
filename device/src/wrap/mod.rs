//! Decorators: devices made of another device.
//!
//! | file | what it does |
//! |---|---|
//! | [`count`] | counts requests and bytes |
//! | [`delay`] | makes a device slower: a latency and a bound on throughput |

pub mod count;
pub mod delay;
