//! Helpers for several test binaries.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test binary uses a part of it, and a broken helper is a failed test"
)]

use std::process::Command;

/// Returns the name that the step `step` makes.
pub(crate) fn name(step: &str) -> cas_core::image::Reference {
    format!("x.io/{step}:1").parse().unwrap()
}

/// Returns whether a program is installed. Prints a line if it is not.
pub(crate) fn installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("SKIPPED: {program} is not installed");
    }
    found
}
