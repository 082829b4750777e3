//! A layer's bytes and a directory tree: codecs, a strict tar reader, applying, and the pipeline.
//!
//! Everything here is synchronous and runs on threads of the caller. Bytes flow one way:
//! [`flow`] reads a blob, [`codec`] inflates it, [`tar`] cuts it into entries and
//! [`apply`] writes them below one directory, never outside it.

pub mod apply;
mod buffers;
pub mod codec;
pub mod export;
pub mod flow;
pub mod import;
mod layout;
pub mod tar;
pub mod unpack;

pub use cas_core::progress;
