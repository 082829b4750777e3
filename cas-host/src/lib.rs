//! What the kernel gives: directories with durable changes, locks that die with their owner,
//! trees copied, measured and removed.
//!
//! Everything goes through descriptors of directories, so that a path is walked once and nothing
//! can be swapped underneath.

mod claim;
mod copy;
mod dir;
mod lock;
pub mod mount;
pub mod overlay;
mod owners;
mod snapshot_dirs;
pub mod snapshotter;
mod sync;
mod tree;

pub use claim::{find_foreign, make_private_dir};
pub use copy::{copy_attributes, copy_range, copy_tree};
pub use dir::{Dir, Entry, Existing};
pub use lock::Lock;
pub use snapshot_dirs::{Held, SnapshotDirs, TREE, make_tree};
pub use sync::{begin_write, boot_id, check_written, syncfs};
pub use tree::measure;
