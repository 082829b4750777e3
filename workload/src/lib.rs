//! The measurements of `cas bench` and of the benchmark table, their data, and the table itself.
//!
//! [`ROWS`] lists the rows of the table. A [`Contender`] is a column of the table. It has a name, a
//! promise about the durability of its writes, and a function that opens it. [`stores`] returns a
//! column for any kind of [`cas_core::Store`]. [`plain`] returns the baseline, plain files that are
//! as durable as a store. [`run`] measures the columns in turn and returns a [`Table`]. A table can
//! be printed as Markdown, JSON and plots, and compared with the goals in [`targets`].

mod child;
mod column;
pub mod data;
mod disk;
mod lane;
mod machine;
mod memory;
mod number;
mod plain;
mod plot;
mod render;
mod rows;
mod run;
mod scale;
mod steps;
mod store;
mod table;
pub mod targets;

pub use child::{SelfCommand, run_task};
pub use column::{Blob, Column, Contender, ImageBlobs, Opening, Promise, Role, not_applicable};
pub use disk::free_space;
pub use machine::Machine;
pub use plain::{floors, plain};
pub use rows::{Better, ROWS, Row, rows};
pub use run::{Plan, run};
pub use scale::Scale;
pub use store::{Open, Snapshots, stores};
pub use table::{Cell, Head, Table};
