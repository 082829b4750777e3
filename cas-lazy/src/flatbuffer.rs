//! The part of FlatBuffers that zTOCs use: reading with checked offsets, and writing the same bytes
//! as the library for Go.

mod read;
mod write;

pub(crate) use read::Table;
pub(crate) use write::{Builder, Place};
