//! Results on standard output: tables for people, JSON for machines. Text from images and
//! registries is escaped, because a terminal could execute parts of it as commands. Only two
//! methods print bytes unchanged: [`Output::bytes`], and [`Output::content`] if standard output is
//! not a terminal.

use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;

use cas::error::shortened;
use cas::{Error, Result};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::patient::Patient;

/// Maximum number of characters of an argument that a message repeats.
const ARGUMENT: usize = 200;

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
        let line = if self.json {
            to_json(value)?
        } else {
            printable_lines(&text()).into_owned()
        };
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
        let printable = |cell: String| printable(&cell).into_owned();
        let rows = items.iter().map(row);
        table.add_rows(rows.map(|row| row.into_iter().map(printable)));
        self.bytes(format!("{table}\n").as_bytes())
    }

    /// Prints a JSON document: in one line with `--json`, otherwise indented.
    pub(crate) fn document<T: Serialize>(&self, value: &T) -> Result<()> {
        let pretty = || serde_json::to_string_pretty(value).map_err(unserializable);
        let text = if self.json {
            to_json(value)?
        } else {
            harmless(&pretty()?).into_owned()
        };
        self.bytes(format!("{text}\n").as_bytes())
    }

    /// Prints a remark for people. Prints nothing with `--quiet` or `--json`.
    pub(crate) fn say(&self, text: impl std::fmt::Display) -> Result<()> {
        if self.quiet || self.json {
            return Ok(());
        }
        self.bytes(format!("{}\n", printable_lines(&text.to_string())).as_bytes())
    }

    /// Prints content of a store: unchanged, or with the escapes of [`printable_lines`] on a
    /// terminal.
    pub(crate) fn content(&self, bytes: &[u8]) -> Result<()> {
        if std::io::stdout().is_terminal() {
            let text = String::from_utf8_lossy(bytes);
            return self.bytes(printable_lines(&text).as_bytes());
        }
        self.bytes(bytes)
    }

    /// Prints bytes unchanged. If the reader of standard output has closed the pipe, ends the
    /// process with exit code 0.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<()> {
        let mut out = Patient(std::io::stdout().lock());
        match out.write_all(bytes).and_then(|()| out.flush()) {
            // The reader has closed the pipe, as in `cas images | head -1`: not a failure.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
            outcome => outcome.map_err(|error| Error::from(error).operation("write output")),
        }
    }
}

/// Checks that `path` is not `-`, which means standard output, for something that a command cannot
/// write there.
///
/// # Errors
/// `InvalidArgument` for `-`.
pub(crate) fn check_path(path: &Path) -> Result<()> {
    match path.as_os_str() == "-" {
        true => Err(Error::invalid(
            "this cannot be written to standard output; for a file or a directory with the name \
             -, write ./-",
        )
        .operation("write")
        .subject("-")),
        false => Ok(()),
    }
}

/// Returns the beginning of an argument for a message, as [`shortened`] does.
pub(crate) fn beginning(argument: &str) -> String {
    shortened(argument, ARGUMENT, 0, argument.len())
}

fn to_json<T: Serialize>(value: &T) -> Result<String> {
    let text = serde_json::to_string(value).map_err(unserializable)?;
    Ok(harmless(&text).into_owned())
}

/// Returns `text` in a form that is safe to show on a terminal: control characters, invisible
/// characters, and characters that change the order of other characters are escaped.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    escape(text, is_dangerous, |character| {
        character.escape_unicode().to_string()
    })
}

/// Returns the same as [`printable`], but keeps line breaks.
pub(crate) fn printable_lines(text: &str) -> Cow<'_, str> {
    escape(text, is_dangerous_in_a_line, |character| {
        character.escape_unicode().to_string()
    })
}

/// Returns JSON in which the characters that a terminal may interpret are escaped. Line breaks are
/// kept, because JSON has them only between its values.
fn harmless(json: &str) -> Cow<'_, str> {
    escape(json, is_dangerous_in_a_line, |character| {
        let mut units = [0; 2];
        let units = character.encode_utf16(&mut units).iter();
        units.map(|unit| format!("\\u{unit:04x}")).collect()
    })
}

fn escape(
    text: &str,
    is_escaped: fn(char) -> bool,
    escaped: impl Fn(char) -> String,
) -> Cow<'_, str> {
    if !text.contains(is_escaped) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_escaped(character) {
            shown.push_str(&escaped(character));
        } else {
            shown.push(character);
        }
    }
    shown.into()
}

fn is_dangerous_in_a_line(character: char) -> bool {
    character != '\n' && is_dangerous(character)
}

fn is_dangerous(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}')
}

fn unserializable(error: serde_json::Error) -> Error {
    Error::internal("the result cannot be written as JSON; please report it").source(error)
}

/// Returns a number and the noun for what was counted, as in `1 blob` and `2 blobs`.
pub(crate) fn count(number: u64, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

/// Returns a size in binary units, as in `12.30 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// Returns how long ago a time was, in the two largest units, as in `2h 5m ago`.
pub(crate) fn ago(time: std::time::SystemTime) -> String {
    let elapsed = time.elapsed().unwrap_or_default().as_secs();
    let text = humantime::format_duration(std::time::Duration::from_secs(elapsed)).to_string();
    format!(
        "{} ago",
        text.split(' ').take(2).collect::<Vec<_>>().join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_argument_is_shortened() {
        let longest = "ä".repeat(200);
        assert_eq!(beginning(&longest), longest);
        let long = format!("{longest}b");
        assert_eq!(beginning(&long), format!("{longest}… (401 bytes)"));
    }

    #[test]
    fn what_a_terminal_may_interpret_is_escaped() {
        for (text, shown) in [
            ("plain, ünïcödé 名前", "plain, ünïcödé 名前"),
            ("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("a\rb\nc\td", "a\\u{d}b\\u{a}c\\u{9}d"),
            ("\u{202e}txt.exe\u{2066}", "\\u{202e}txt.exe\\u{2066}"),
            ("del\u{7f}\u{200b}", "del\\u{7f}\\u{200b}"),
            ("a\u{ad}b\u{180e}\u{fffa}", "a\\u{ad}b\\u{180e}\\u{fffa}"),
            ("tag\u{e0041}", "tag\\u{e0041}"),
        ] {
            assert_eq!(printable(text), shown);
        }
        assert_eq!(printable_lines("a\u{1b}\nb"), "a\\u{1b}\nb");
        let value = "\u{1b}\u{9b}\u{202e}\n\u{e0041}";
        let text = to_json(&value).unwrap();
        assert!(!text.contains(is_dangerous), "{text:?}");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), value);
    }
}
