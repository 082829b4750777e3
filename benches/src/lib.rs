//! Code that the benches share: the columns of the table, images, medians, processes and file
//! systems.

pub mod columns;
pub mod images;
pub mod measure;
pub mod process;
pub mod scratch;
