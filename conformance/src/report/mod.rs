//! The results of all laws on all stores, as a table.
//!
//! If the environment variable `CONFORMANCE_REPORT` ([`DIRECTORY`]) names a directory, the test of
//! each law appends a line of JSON, a [`Line`], to a file in that directory. Each test process has
//! its own file. [`Report::read`] reads the lines. [`Report::markdown`] and [`Report::json`] return
//! the report as Markdown and as JSON. The program `law-report` prints the report in one of these
//! formats.

mod markdown;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;
use std::{env, process};

use cas_core::Capability;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::judge::Verdict;
use crate::laws::{Rule, book};

/// The environment variable that names the directory of the results. The directory is created if it
/// does not exist. If it contains lines of an earlier run, the report covers both runs.
pub const DIRECTORY: &str = "CONFORMANCE_REPORT";

/// The kinds of [`Verdict`], ordered from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// [`Verdict::Kept`].
    Kept,
    /// [`Verdict::NotClaimed`].
    NotClaimed,
    /// [`Verdict::Gap`].
    Gap,
    /// [`Verdict::Skipped`].
    Skipped,
    /// [`Verdict::Outgrown`].
    Outgrown,
    /// [`Verdict::Broken`].
    Broken,
}

impl Outcome {
    const ALL: [Outcome; 6] = [
        Outcome::Kept,
        Outcome::NotClaimed,
        Outcome::Gap,
        Outcome::Skipped,
        Outcome::Outgrown,
        Outcome::Broken,
    ];

    fn words(self) -> &'static str {
        match self {
            Outcome::Kept => "kept",
            Outcome::NotClaimed => "not claimed",
            Outcome::Gap => "gap",
            Outcome::Skipped => "skipped",
            Outcome::Outgrown => "outgrown gap",
            Outcome::Broken => "broken",
        }
    }

    fn of(verdict: &Verdict) -> (Outcome, Option<String>) {
        let because = |why: &str| Some(why.to_owned());
        match verdict {
            Verdict::Kept => (Outcome::Kept, None),
            Verdict::NotClaimed(needed) => (Outcome::NotClaimed, because(needed.name())),
            Verdict::Gap(reason) => (Outcome::Gap, because(reason)),
            Verdict::Skipped(missing) => (Outcome::Skipped, because(missing)),
            Verdict::Outgrown => (Outcome::Outgrown, None),
            Verdict::Broken(seen) => (Outcome::Broken, because(seen)),
        }
    }
}

/// The result of one law on one store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The package of the test. Empty if cargo did not run the test.
    pub package: String,
    /// The module of the test, such as `laws::mine_content`.
    pub suite: String,
    /// The group of the law.
    pub group: String,
    /// The name of the law.
    pub law: String,
    /// The result.
    pub verdict: Outcome,
    /// The text of the verdict: the reason of a gap, the promise that is not made, the missing
    /// requirement, or the failure. `None` for `Kept` and `Outgrown`.
    pub reason: Option<String>,
    /// How long the law took, in milliseconds.
    pub ms: u64,
}

impl Line {
    /// Returns the name of the store. Suites whose names differ only in an ending, such as
    /// `_content` or `_collection`, belong to one store.
    fn store(&self) -> &str {
        let about = ["content", "records", "images", "collection", "snapshots"];
        let named = about.iter().find_map(|what| self.suite.strip_suffix(what));
        let name = named.unwrap_or(&self.suite).trim_end_matches(['_', ':']);
        if name.is_empty() { &self.suite } else { name }
    }
}

/// Appends the result of a law, if a report was requested.
///
/// # Panics
/// If the line cannot be written. A report without it would be wrong.
pub(crate) fn record(group: &str, test: &str, verdict: &Verdict, took: Duration) {
    let Some(directory) = env::var_os(DIRECTORY) else {
        return;
    };
    let (suite, law) = test.rsplit_once("::").unwrap_or(("", test));
    let (verdict, reason) = Outcome::of(verdict);
    let line = Line {
        package: env::var("CARGO_PKG_NAME").unwrap_or_default(),
        suite: suite.to_owned(),
        group: group.to_owned(),
        law: law.to_owned(),
        verdict,
        reason,
        ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    };
    append(Path::new(&directory), &line)
        .expect("the directory that CONFORMANCE_REPORT names must be writable");
}

/// Appends a line by one write, so that parallel tests do not mix their lines.
fn append(directory: &Path, line: &Line) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    let name = format!("{}-{}.jsonl", line.package, process::id());
    let mut options = OpenOptions::new();
    let mut file = options
        .create(true)
        .append(true)
        .open(directory.join(name))?;
    file.write_all(&text)
}

/// The results of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By package, suite and law.
    lines: BTreeMap<(String, String, String), Line>,
}

impl Report {
    /// Returns the report of the lines in the files `*.jsonl` of `directory`. If a law ran twice in
    /// one suite, the worse result counts.
    ///
    /// # Errors
    /// Errors of the file system; `InvalidData` for a line that is not a [`Line`].
    pub fn read(directory: &Path) -> io::Result<Report> {
        let mut report = Report::default();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_none_or(|ending| ending != "jsonl") {
                continue;
            }
            for text in fs::read_to_string(&path)?.lines() {
                report.add(serde_json::from_str(text).map_err(|error| {
                    let what = format!("{}: {error}", path.display());
                    io::Error::new(io::ErrorKind::InvalidData, what)
                })?);
            }
        }
        Ok(report)
    }

    fn add(&mut self, line: Line) {
        let key = (line.package.clone(), line.suite.clone(), line.law.clone());
        let known = self.lines.entry(key).or_insert_with(|| line.clone());
        if line.verdict > known.verdict {
            *known = line;
        }
    }

    /// Returns whether there are no results.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Returns whether a store breaks a law, or keeps a law that it declares as a gap.
    pub fn has_broken(&self) -> bool {
        self.lines
            .values()
            .any(|line| line.verdict >= Outcome::Outgrown)
    }

    /// Returns the lines of each package and store.
    fn stores(&self) -> BTreeMap<(&str, &str), Vec<&Line>> {
        let mut stores: BTreeMap<_, Vec<&Line>> = BTreeMap::new();
        for line in self.lines.values() {
            let store = (line.package.as_str(), line.store());
            stores.entry(store).or_default().push(line);
        }
        stores
    }

    /// Returns the report as JSON. `stores` lists the stores, each with its promises and, for each
    /// group, the number of laws per [`Outcome`]. `laws` describes all laws. `verdicts` lists the
    /// [`Line`] of each law and suite.
    pub fn json(&self) -> Value {
        let stores = self.stores().into_iter().map(|((package, store), lines)| {
            let groups = groups().into_iter().filter_map(|group| {
                let counts = Counts::of(group, &lines)?;
                Some((group.to_owned(), json!(counts.by_outcome)))
            });
            json!({
                "package": package,
                "store": store,
                "promises": promises(&lines),
                "groups": Value::Object(groups.collect()),
            })
        });
        let laws = book().map(|rule| {
            json!({
                "group": rule.group,
                "law": rule.name,
                "needs": rule.needs.map(Capability::name),
                "why": rule.why,
                "source": rule.source,
            })
        });
        json!({
            "stores": stores.collect::<Vec<_>>(),
            "laws": laws.collect::<Vec<_>>(),
            "verdicts": self.lines.values().collect::<Vec<_>>(),
        })
    }
}

/// Returns the groups in the order of the law book.
fn groups() -> Vec<&'static str> {
    let mut groups: Vec<&str> = book().map(|rule| rule.group).collect();
    groups.dedup();
    groups
}

/// Returns the promises of a store, as its lines show them: the capabilities that are needed by a
/// law whose verdict is neither `NotClaimed` nor `Skipped`.
fn promises(lines: &[&Line]) -> Vec<&'static str> {
    let needed = |rule: &Rule, capability| rule.needs == Some(capability);
    let made = |capability: Capability| {
        book().filter(|rule| needed(rule, capability)).any(|rule| {
            let mut of_it = lines.iter().filter(|line| line.law == rule.name);
            of_it.any(|line| !matches!(line.verdict, Outcome::NotClaimed | Outcome::Skipped))
        })
    };
    let all = Capability::ALL.into_iter().filter(|one| made(*one));
    all.map(Capability::name).collect()
}

/// The results of one store in one group, counted by outcome.
struct Counts {
    by_outcome: BTreeMap<Outcome, usize>,
    /// Laws of the group that were not run.
    not_run: usize,
}

impl Counts {
    fn of(group: &str, lines: &[&Line]) -> Option<Counts> {
        let mut by_outcome = BTreeMap::new();
        for line in lines.iter().filter(|line| line.group == group) {
            *by_outcome.entry(line.verdict).or_insert(0) += 1;
        }
        let all = book().filter(|rule| rule.group == group).count();
        let run: usize = by_outcome.values().sum();
        (run > 0).then(|| Counts {
            by_outcome,
            not_run: all.saturating_sub(run),
        })
    }
}
