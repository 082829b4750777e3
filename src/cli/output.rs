//! Tables for people, JSON for machines; both on standard output.

use std::io::{ErrorKind, Write};

use cas::{Error, Result};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// Where results go.
pub(crate) struct Output {
    json: bool,
    quiet: bool,
}

impl Output {
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        Output { json, quiet }
    }

    /// Whether a machine reads it.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// One item of a list or one result: a line of JSON, or `text`.
    pub(crate) fn item<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce() -> String,
    ) -> Result<()> {
        let line = if self.json { to_json(value)? } else { text() };
        self.bytes(format!("{line}\n").as_bytes())
    }

    /// A list: a line of JSON an item, or a table with these columns.
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

    /// A document: indented for people, one line for machines.
    pub(crate) fn document<T: Serialize>(&self, value: &T) -> Result<()> {
        let pretty = || serde_json::to_string_pretty(value).map_err(unserialisable);
        let text = if self.json {
            to_json(value)?
        } else {
            pretty()?
        };
        self.bytes(format!("{text}\n").as_bytes())
    }

    /// A remark for people; nothing with `-q` or for machines.
    pub(crate) fn say(&self, text: impl std::fmt::Display) -> Result<()> {
        if self.quiet || self.json {
            return Ok(());
        }
        self.bytes(format!("{text}\n").as_bytes())
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<()> {
        let mut out = std::io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            // Whoever reads has enough: `cas images | head -1` is no failure.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
            outcome => outcome.map_err(|error| Error::from(error).operation("write output")),
        }
    }
}

fn to_json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(unserialisable)
}

fn unserialisable(error: serde_json::Error) -> Error {
    Error::internal("the result does not serialise").source(error)
}

/// A size in binary units, as `12.3 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// How long ago a time is, in its two largest units.
pub(crate) fn ago(time: std::time::SystemTime) -> String {
    let elapsed = time.elapsed().unwrap_or_default().as_secs();
    let text = humantime::format_duration(std::time::Duration::from_secs(elapsed)).to_string();
    format!(
        "{} ago",
        text.split(' ').take(2).collect::<Vec<_>>().join(" ")
    )
}
