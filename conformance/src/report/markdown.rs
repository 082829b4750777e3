//! The report as Markdown.

use std::fmt::{self, Display, Formatter};

use super::{Counts, Outcome, Report, groups, promises};
use crate::laws::book;

impl Report {
    /// Returns the report as Markdown. First comes a table of the stores. Then come four tables:
    /// the gaps, the skipped laws, the outgrown gaps and the broken laws. A table that would be
    /// empty is left out. At the end, one table for each group describes the laws of the group.
    pub fn markdown(&self) -> impl Display + '_ {
        Page(self)
    }
}

struct Page<'a>(&'a Report);

impl Display for Page<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        stores(self.0, f)?;
        for outcome in Outcome::ALL.into_iter().filter(|one| *one >= Outcome::Gap) {
            reasons(self.0, outcome, f)?;
        }
        laws(f)
    }
}

fn stores(report: &Report, f: &mut Formatter<'_>) -> fmt::Result {
    let groups = groups();
    writeln!(f, "| package | store | promises | {} |", groups.join(" | "))?;
    writeln!(f, "|---|---|---|{}", "---|".repeat(groups.len()))?;
    for ((package, store), lines) in report.stores() {
        let promises = promises(&lines).join(", ");
        write!(f, "| {package} | {store} | {promises} |")?;
        for group in &groups {
            match Counts::of(group, &lines) {
                Some(counts) => write!(f, " {counts} |")?,
                None => write!(f, " |")?,
            }
        }
        writeln!(f)?;
    }
    Ok(())
}

/// Formats counts as `45 kept, 2 not claimed`, with failures in bold.
impl Display for Counts {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let told = self.by_outcome.iter().map(|(outcome, count)| {
            let words = format!("{count} {}", outcome.words());
            match outcome {
                Outcome::Outgrown | Outcome::Broken => format!("**{words}**"),
                _ => words,
            }
        });
        let left_out = (self.not_run > 0).then(|| format!("{} not run", self.not_run));
        let all: Vec<String> = told.chain(left_out).collect();
        f.write_str(&all.join(", "))
    }
}

fn reasons(report: &Report, outcome: Outcome, f: &mut Formatter<'_>) -> fmt::Result {
    let mut of_it = report
        .lines
        .values()
        .filter(|line| line.verdict == outcome)
        .peekable();
    if of_it.peek().is_none() {
        return Ok(());
    }
    let title = match outcome {
        Outcome::Gap => "Gaps",
        Outcome::Skipped => "Skipped",
        Outcome::Outgrown => "Outgrown gaps",
        _ => "Broken",
    };
    writeln!(
        f,
        "\n### {title}\n\n| package | suite | law | reason |\n|---|---|---|---|"
    )?;
    for line in of_it {
        let reason = cell(line.reason.as_deref().unwrap_or_default());
        let (package, suite, law) = (&line.package, &line.suite, &line.law);
        writeln!(f, "| {package} | {suite} | `{law}` | {reason} |")?;
    }
    Ok(())
}

fn laws(f: &mut Formatter<'_>) -> fmt::Result {
    for group in groups() {
        writeln!(f, "\n### The laws of {group}\n")?;
        writeln!(f, "| law | without it | source |\n|---|---|---|")?;
        for rule in book().filter(|rule| rule.group == group) {
            let needs = rule.needs.map(|one| format!(" ({})", one.name()));
            let (name, needs) = (rule.name, needs.unwrap_or_default());
            writeln!(
                f,
                "| `{name}`{needs} | {} | {} |",
                cell(rule.why),
                cell(rule.source)
            )?;
        }
    }
    Ok(())
}

/// Escapes text for a table cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
