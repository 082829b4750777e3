//! The file system and mounts of the host: durable files, locks, copying and removing trees,
//! mounting, and the common part of snapshotters whose snapshots are directories.
//!
//! A [`Dir`] is an open directory: its path is resolved once. If another directory takes the path
//! later, calls on the `Dir` still reach the directory that was opened.

mod attributes;
pub mod calls;
mod checksum;
mod claim;
mod confine;
mod copy;
mod copy_data;
mod dir;
mod dir_lock;
mod each;
pub mod erofs;
mod exposed;
mod ext4;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod groups;
mod idmap;
mod immutable;
mod in_use;
mod lock;
mod loop_device;
mod manifest;
mod misplaced;
pub mod mount;
mod mount_attr;
mod mount_right;
mod new_directory;
mod new_file;
pub mod node;
mod output;
pub mod overlay;
mod owner_file;
mod pace;
mod read;
mod regular_file;
mod remove;
mod reserve;
mod resolve;
mod scratch;
mod snapshot_dirs;
pub mod snapshotter;
mod sync;
mod tree;
mod unmount;

pub use attributes::{Attribute, attributes};
pub use checksum::sum_of_range;
pub use claim::{cannot_write, find_foreign, make_private_dir, no_directory};
pub use confine::Confinement;
pub use copy::{copy_attributes, copy_tree};
pub use copy_data::{copy_data, copy_range};
pub use dir::{Dir, Entry, Existing};
pub use dir_lock::DirLock;
pub use each::for_each;
pub use exposed::{Exposed, exposed};
pub use ext4::make_ext4;
pub use groups::may_set_groups;
pub use idmap::IdMap;
pub use immutable::set_immutable;
pub use in_use::MountedDirs;
pub use lock::Lock;
pub use misplaced::{Misplaced, Place, if_directory};
pub use new_directory::{NewDirectory, remove_unused_dir};
pub use new_file::NewFile;
pub use output::{Output, check_outside, resolved};
pub use owner_file::OwnerFile;
pub use pace::Pace;
pub use read::{digest_of, fill};
pub use regular_file::read_file;
pub use remove::{clear, remove_all};
pub use reserve::Reserve;
pub use resolve::{open_beneath, open_inside};
pub use scratch::make_scratch;
pub use snapshot_dirs::{LockedDir, SnapshotDirs, TREE, make_tree, open_tree};
pub use sync::{begin_write, boot_id, check_written, syncfs};
pub use tree::{At, Visit, measure, measure_readable, proc_path_of, walk};
