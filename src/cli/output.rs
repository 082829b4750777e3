//! Results on standard output: tables for people, JSON for machines.

use std::io::{ErrorKind, Write};

use cas::{Error, Result};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// Prints results.
pub(crate) struct Output {
    json: bool,
    quiet: bool,
}

impl Output {
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        Output { json, quiet }
    }

    /// Returns whether the output is JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Prints one item of a list or one result: a line of JSON, or `text`.
    pub(crate) fn item<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce() -> String,
    ) -> Result<()> {
        let line = if self.json { to_json(value)? } else { text() };
        self.bytes(format!("{line}\n").as_bytes())
    }

    /// Prints a list: a line of JSON per item, or a table with these columns.
    pub(crate) fn list<T: Serialize>(
        &self,
        columns: &[&str],
        items: &[T],
        row: impl Fn(&T) -> Vec<String>,
    ) -> Result<()> {
        if self.json {
            return items
                .iter()
                .try_for_each(|item| self.item(item, String::new));
        }
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(columns);
        table.add_rows(items.iter().map(row));
        self.bytes(format!("{table}\n").as_bytes())
    }

    /// Prints a JSON document: indented for people, in one line for machines.
    pub(crate) fn document<T: Serialize>(&self, value: &T) -> Result<()> {
        let pretty = || serde_json::to_string_pretty(value).map_err(unserialisable);
        let text = if self.json {
            to_json(value)?
        } else {
            pretty()?
        };
        self.bytes(format!("{text}\n").as_bytes())
    }

    /// Prints a remark for people. Prints nothing with `--quiet` or `--json`.
    pub(crate) fn say(&self, text: impl std::fmt::Display) -> Result<()> {
        if self.quiet || self.json {
            return Ok(());
        }
        self.bytes(format!("{text}\n").as_bytes())
    }

    /// Prints bytes unchanged.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<()> {
        let mut out = std::io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            // The reader has closed the pipe, as in `cas images | head -1`: not a failure.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
            outcome => outcome.map_err(|error| Error::from(error).operation("write output")),
        }
    }
}

fn to_json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(unserialisable)
}

fn unserialisable(error: serde_json::Error) -> Error {
    Error::internal("the result cannot be written as JSON").source(error)
}

/// Returns a size in binary units, as in `12.3 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// Returns how long ago a time was, in its two largest units.
pub(crate) fn ago(time: std::time::SystemTime) -> String {
    let elapsed = time.elapsed().unwrap_or_default().as_secs();
    let text = humantime::format_duration(std::time::Duration::from_secs(elapsed)).to_string();
    format!(
        "{} ago",
        text.split(' ').take(2).collect::<Vec<_>>().join(" ")
    )
}
