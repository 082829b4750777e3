//! The FUSE file system: a directory of read-only regular files.
//!
//! This module implements the protocol itself instead of using a FUSE library, because a session
//! must outlive the process that serves it. Another process continues the session without a new
//! handshake.

mod mounting;
mod protocol;
mod session;
mod turns;

pub use mounting::mount;
pub use session::Session;
