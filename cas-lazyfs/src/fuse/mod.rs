//! The FUSE file system: a directory of regular files that are only read.
//!
//! The protocol is spoken here and not by a library, because a session must outlive the process
//! that serves it: another process continues it without a new handshake.

mod mounting;
mod protocol;
mod session;

pub use mounting::mount;
pub use session::Session;
