//! What the simulation tests share: the ground of the crash runs, mounted from there, because a
//! dev-dependency on the bench would be a circle.

#[allow(dead_code)] // Each test binary uses a part of it.
#[path = "../../../bench/src/crash/ground.rs"]
mod ground;

#[allow(unused_imports)] // For the same reason.
pub use ground::*;
