//! Sources as tools and people in the field write them: the tool reads them, or reports what they
//! are. Each module is about one kind of peculiarity, and tries several cases of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

#[path = "../common/mod.rs"]
mod common;
mod compressed;
mod config_types;
mod damaged;
mod foreign;
mod healed;
mod long_names;
mod messages;
mod nulls;
mod rooted;
mod scene;
mod skopeo_dir;
mod tar_sizes;
mod terminal;
mod trees;
mod xattrs;
