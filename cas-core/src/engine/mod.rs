//! Questions asked of an image, and what is done with one: each built on
//! [`dispatch`](crate::dispatch) and the traits alone.

mod check;
mod config;
mod copy;
mod diff_id;
mod fetch;
mod image;
mod pull;
mod push;
mod resolve;
mod unpacker;

pub use check::{Check, check, size};
pub use config::{ImageConfig, config, config_platform, image_config, layers, rootfs};
pub use copy::copy;
pub use diff_id::{UNCOMPRESSED, diff_id};
pub use fetch::fetch;
pub use pull::pull;
pub use push::push;
pub use resolve::{Resolved, manifest, manifest_for, platforms};
pub use unpacker::{Feed, Incoming, Receiving, Unpacker, feed, write_through};
