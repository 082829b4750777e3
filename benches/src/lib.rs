//! The columns of the table: our backends as a program opens them, and what they are held against.

pub mod columns;
