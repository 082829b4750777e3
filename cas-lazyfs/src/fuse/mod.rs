//! The FUSE file system: a directory of regular files that are only read.
//!
//! The protocol is implemented here instead of in a library, because a session must outlive the
//! process that serves it. Another process continues the session without a new handshake.

mod mounting;
mod protocol;
mod session;

pub use mounting::mount;
pub use session::Session;
