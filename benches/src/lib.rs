//! What the benches share: the columns of the table, and what runs need around them.

pub mod columns;
pub mod images;
pub mod process;
pub mod scratch;
