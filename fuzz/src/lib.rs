//! Targets that read any bytes with every parser, decoder and reader of `cas`.
//!
//! A [`Target`] panics if the code under test panics, or breaks a promise: a round trip changes a
//! value, or a second implementation reads the same bytes differently. The test `replay` runs all
//! targets on the inputs that are kept in `corpus/`. `cargo xtask fuzz` looks for more inputs, see
//! `docs/decisions/0037`.

pub mod planted;
pub mod replay;
mod targets;

use std::path::{Path, PathBuf};

/// The environment variable that names the target of the program `libfuzzer`.
pub const TARGET: &str = "CAS_FUZZ_TARGET";

/// A reader of any bytes.
#[derive(Clone, Copy)]
pub struct Target {
    /// The name, which is also the name of a directory in `corpus/`.
    pub name: &'static str,
    /// Reads an input. Returns whether it is accepted. Panics if a promise is broken.
    pub run: fn(&[u8]) -> bool,
    /// Returns inputs that are accepted.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// The longest input that is tried, in bytes.
    pub longest: usize,
}

/// Returns all targets.
pub fn targets() -> Vec<Target> {
    targets::all()
}

/// Returns the target with this name. Also finds the [planted] faults.
pub fn target(name: &str) -> Option<Target> {
    let all = targets().into_iter().chain(planted::all());
    all.into_iter().find(|target| target.name == name)
}

/// Returns the directory of the inputs that are kept for a target.
pub fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name)
}
