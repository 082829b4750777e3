//! Code that the benches share: the columns of the table, images, processes and file systems.

pub mod columns;
pub mod images;
pub mod process;
pub mod scratch;
