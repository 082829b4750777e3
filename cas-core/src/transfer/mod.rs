//! Images on their way between stores and remotes: pull, push and copy.

mod copy;
mod fetch;
mod pull;
mod push;
mod remote;
mod unpacker;

pub use copy::copy;
pub use fetch::fetch;
pub use pull::pull;
pub use push::push;
pub use remote::{Fetcher, Pieces, Pusher};
pub use unpacker::{Feed, Incoming, Receiving, Unpacker, feed, write_through};
