//! What the kernel gives: directories with durable changes, locks that die with their owner.
//!
//! Everything goes through descriptors of directories, so that a path is walked once and nothing
//! can be swapped underneath.

mod dir;
mod lock;
mod sync;

pub use dir::{Dir, Entry, Existing};
pub use lock::Lock;
pub use sync::{boot_id, syncfs};
