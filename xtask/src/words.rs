//! Words that no text of this repository may use, because they are hard to understand.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Forbidden words, each with a better one.
const WORDS: &[(&str, &str)] = &[
    ("anew", "\"again\""),
    ("whoever", "\"a caller that\" or \"anyone who\""),
    ("has it not", "\"does not have it\""),
    ("shall", "\"must\" or \"will\""),
    ("aloud", "\"explicitly\", or leave the word out"),
    ("is no", "\"is not a\", or \"there is none\""),
];

/// Forbidden words, each with a next word that makes it acceptable.
const ALLOWED: &[(&str, &str)] = &[("is no", "longer")];

/// The files that are checked, by their extensions.
const FILES: &[&str] = &["*.rs", "*.md", "*.toml", "*.sh"];

/// This file, which is not checked, because it contains the words.
const THIS: &str = "xtask/src/words.rs";

/// Looks for forbidden words in the Rust, Markdown, TOML and shell files that git tracks, except
/// this file.
///
/// # Errors
/// An error that lists each forbidden word as `FILE:LINE: "WORD"; write ...`, if there are any.
/// Errors of git and of reading files.
pub(crate) fn check() -> Result<()> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--"])
        .args(FILES)
        .output()
        .context("cannot start git")?;
    if !listed.status.success() || listed.stdout.is_empty() {
        bail!("git lists no files; run the check in a clone of the repository");
    }
    let mut found = Vec::new();
    let names = String::from_utf8(listed.stdout)?;
    for file in names.split_terminator('\0').filter(|file| *file != THIS) {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
        for (line, word, better) in find(&text) {
            found.push(format!("{file}:{line}: {word:?}; write {better}"));
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    bail!("forbidden words:\n{}", found.join("\n"))
}

/// Returns the forbidden words of a text: the line that each begins in, the word, and a better one.
fn find(text: &str) -> Vec<(usize, &'static str, &'static str)> {
    let words: Vec<(usize, &str)> = text
        .lines()
        .enumerate()
        .flat_map(|(at, line)| split(line).map(move |word| (at + 1, word)))
        .collect();
    let mut found = Vec::new();
    for at in 0..words.len() {
        for (word, better) in WORDS {
            let rest = words[at..].iter().map(|(_, word)| *word);
            let follows = |text: &str| {
                let expected = text.split(' ');
                rest.clone()
                    .map(str::to_ascii_lowercase)
                    .take(expected.clone().count())
                    .eq(expected)
            };
            let allowed = |(first, next): &(&str, &str)| follows(&format!("{first} {next}"));
            if follows(word) && !ALLOWED.iter().any(allowed) {
                found.push((words[at].0, *word, *better));
            }
        }
    }
    found
}

/// Splits a line into words and the marks `.`, `:`, `;`, `!` and `?`. A word consists of letters,
/// digits, hyphens, apostrophes and underscores. All other characters only separate words.
fn split(line: &str) -> impl Iterator<Item = &str> {
    let is_word = |letter: char| letter.is_alphanumeric() || "_-'".contains(letter);
    let is_end = |letter: char| ".:;!?".contains(letter);
    let mut rest = line;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(|letter| !is_word(letter) && !is_end(letter));
        let end = rest.find(|letter| !is_word(letter)).unwrap_or(rest.len());
        let end = if rest.starts_with(is_end) { 1 } else { end };
        let (word, after) = rest.split_at(end);
        rest = after;
        (!word.is_empty()).then_some(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_words_are_found_in_their_line() {
        let text = "/// Begin it anew.\n/// A name that is\n/// no text, Whoever wrote it.\n";
        let found: Vec<_> = find(text)
            .into_iter()
            .map(|(line, word, _)| (line, word))
            .collect();
        assert_eq!(found, [(1, "anew"), (2, "is no"), (3, "whoever")]);
    }

    #[test]
    fn good_words_are_not() {
        for text in [
            "It is no longer there; a shallow, renewed copy is not.",
            "this is nothing, is no-op, is none",
            "let is_no = shall_we;",
            "is no\n// longer used",
            "Say what it is. No other word helps",
        ] {
            assert_eq!(find(text), [], "{text}");
        }
    }
}
