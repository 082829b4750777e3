//! Starting `crash`.

use std::path::Path;
use std::process::{Command, Output};

/// Runs `crash`, or says why the test is skipped.
pub(crate) fn crash(arguments: &[&str], programs: &[&str]) -> Option<Output> {
    let path = std::env::var("PATH").unwrap();
    let directories = || path.split(':').chain(["/usr/sbin", "/sbin"]);
    let installed = |program: &&&str| directories().any(|at| Path::new(at).join(program).exists());
    let missing: Vec<&&str> = programs
        .iter()
        .filter(|program| !installed(program))
        .collect();
    let root = rustix::process::geteuid().is_root();
    if !missing.is_empty() || !root || !Path::new("/dev/fuse").exists() {
        eprintln!("SKIPPED: needs the superuser, /dev/fuse and {programs:?}; missing: {missing:?}");
        return None;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_crash"));
    Some(command.args(arguments).output().unwrap())
}
