//! Losses of power.
//!
//! ```text
//! worker -> file system -> loop device -> Disk -> Record -> State -> check
//! ```
//! A worker changes a root. The root is in a file system on a loop device. The backing file of the
//! loop device is a [`Disk`](disk::Disk). The disk records all writes, all flushes, and what the
//! worker was promised. From the record, a [`Trial`] builds [`states`] in which a loss of power can
//! leave the disk. The trial mounts each state, so that the file system recovers. Then it checks
//! that `cas` keeps its promises.

mod disk;
mod fault;
mod file_system;
mod plant;
mod states;
mod trial;

pub(crate) use self::fault::Fault;
pub(crate) use self::file_system::FileSystem;
pub(crate) use self::plant::Plant;
pub(crate) use self::trial::{NOTICED, Trial};
