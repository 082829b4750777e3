//! Fuzz targets. A target passes arbitrary bytes to a parser, a decoder or a reader of `cas`.
//!
//! A [`Target`] panics if the code under test panics or breaks a promise. A promise is broken, for
//! example, if an error is `Internal`, if a value changes when it is written and read again, or if
//! a second implementation reads the same bytes differently. The test `replay` runs all targets on
//! their seeds, on changed seeds, and on the inputs that are kept in `corpus/`. `cargo xtask fuzz`
//! runs a campaign, which looks for more inputs on which a target fails. See
//! `docs/decisions/0037`.

pub mod planted;
pub mod replay;
mod targets;

use std::path::{Path, PathBuf};

/// The environment variable that names the target of the program `libfuzzer`.
pub const TARGET: &str = "CAS_FUZZ_TARGET";

/// A fuzz target: a function that reads arbitrary bytes, with its name and its seeds.
#[derive(Clone, Copy)]
pub struct Target {
    /// The name. If inputs are kept for the target, their directory in `corpus/` has this name.
    pub name: &'static str,
    /// Reads an input. Returns whether it is accepted. Panics if a promise is broken.
    pub run: fn(&[u8]) -> bool,
    /// Returns inputs that `run` accepts.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// The longest input that a campaign tries, in bytes.
    pub longest: usize,
}

/// Returns all targets, without the [planted] faults.
pub fn targets() -> Vec<Target> {
    targets::all()
}

/// Returns the target with this name. Also finds the targets of the [planted] faults. Returns
/// `None` if no target has this name.
pub fn target(name: &str) -> Option<Target> {
    let all = targets().into_iter().chain(planted::all());
    all.into_iter().find(|target| target.name == name)
}

/// Returns the directory of the inputs that are kept for a target. The directory does not exist if
/// no inputs are kept.
pub fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name)
}
