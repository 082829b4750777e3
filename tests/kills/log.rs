//! What was struck so far, in a file, so that a run that was stopped can be continued.
//!
//! Each store and snapshotter has a line with its seed, and a line for each verb.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;

use crate::run::Struck;

/// The end of the entry of a verb of which nothing was left.
const DONE: &str = "nothing left";

/// The lines of one store and snapshotter.
pub(crate) struct Log {
    /// `None` if no file is kept.
    file: Option<PathBuf>,
    /// The store and the snapshotter.
    what: String,
}

impl Log {
    /// Returns the log in the file that `CAS_KILLS_LOG` names.
    pub(crate) fn from_environment(store: &str, snapshotter: &str) -> Self {
        Log {
            file: std::env::var_os("CAS_KILLS_LOG").map(PathBuf::from),
            what: format!("{store} on {snapshotter}"),
        }
    }

    /// Returns the seed of the run that this one continues, if there is one.
    pub(crate) fn seed(&self) -> Option<u64> {
        self.entries("seed").last()?.parse().ok()
    }

    pub(crate) fn add_seed(&self, seed: u64) {
        self.add("seed", &seed.to_string());
    }

    /// Returns whether a verb was struck at least `times` times, and nothing was left.
    pub(crate) fn has(&self, verb: &str, times: u64) -> bool {
        let enough = |entry: &String| {
            let number = entry.split(' ').next().and_then(|text| text.parse().ok());
            number.is_some_and(|number: u64| number >= times) && entry.ends_with(DONE)
        };
        self.entries(verb).iter().any(enough)
    }

    /// Adds how often a verb was struck, if nothing was left of that, or that something was left.
    pub(crate) fn add_verb(&self, verb: &str, struck: &Struck) {
        let result = match struck.left.is_empty() {
            true => format!("{} times, {DONE}", struck.times),
            false => "LEFT".to_owned(),
        };
        self.add(verb, &result);
    }

    /// Returns the entries of `subject`, in order.
    fn entries(&self, subject: &str) -> Vec<String> {
        let Some(file) = self.file.as_ref().filter(|file| file.exists()) else {
            return Vec::new();
        };
        let begin = format!("{}, {subject}: ", self.what);
        let text = fs::read_to_string(file).unwrap();
        let entries = text.lines().filter_map(|line| line.strip_prefix(&begin));
        entries.map(str::to_owned).collect()
    }

    fn add(&self, subject: &str, entry: &str) {
        let Some(file) = &self.file else {
            return;
        };
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(file)
            .unwrap();
        // One write, because other stores add lines at the same time.
        let line = format!("{}, {subject}: {entry}\n", self.what);
        file.write_all(line.as_bytes()).unwrap();
    }
}
