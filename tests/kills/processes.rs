//! The processes that the commands on a place have started.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::text;

/// The environment variable of all commands on a place, which their processes inherit. Its value is
/// the directory of the place.
pub(crate) const MARK: &str = "DOCKER_CONFIG";

/// The time in which the processes of a killed command must end by themselves.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(10);

/// Returns the command lines of the processes that the commands on a place have started, and that
/// have not ended.
pub(crate) fn of(place: &Path) -> Vec<String> {
    let mark = format!("{MARK}={}", place.display());
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        // This fails if the entry is not a process, or if the process has ended.
        let read = |name| fs::read(process.path().join(name)).unwrap_or_default();
        let variables = read("environ");
        let mut variables = variables.split(|byte| *byte == 0);
        if variables.any(|variable| variable == mark.as_bytes()) {
            found.push(text(&read("cmdline")).replace('\0', " "));
        }
    }
    found
}

/// Waits until the processes of a place have ended, or until [`PATIENCE`] is over.
pub(crate) fn await_end(place: &Path) {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE && !of(place).is_empty() {
        thread::sleep(LOOK);
    }
}
