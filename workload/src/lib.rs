//! The workloads, named once: what is measured, on which data, and the one table of it.
//!
//! [`ROWS`] are the rows. A [`Contender`] is a column: a name, what it promises, and how it is
//! opened; [`stores`] makes one of any [`cas_core::Store`], [`plain`] is the baseline of files
//! that keep the same promise. [`run`] measures, contenders in turn, and gives a [`Table`], which
//! prints itself as Markdown, JSON and plots, and says how far [`targets`] are met.

mod child;
mod column;
pub mod data;
mod disk;
mod machine;
mod memory;
mod plain;
mod plot;
mod render;
mod rows;
mod run;
mod step;
mod store;
mod table;
pub mod targets;

pub use child::{Again, task};
pub use column::{Blob, Column, Contender, ImageBlobs, Opening, Promise, Role, gap};
pub use disk::free;
pub use machine::Machine;
pub use plain::{floors, plain};
pub use rows::{Better, ROWS, Row, Scale, rows};
pub use run::{Plan, run};
pub use store::{Open, Snapshots, stores};
pub use table::{Cell, Head, Table};
