//! Warnings that a registry sends with its answers, and warnings about these answers.

use std::sync::Mutex;

use cas_core::error::shortened;
use cas_core::limit;
use cas_core::sync::lock;
use reqwest::header::{HeaderMap, WARNING};

/// Maximum number of characters of a warning that are shown.
const SHOWN: usize = 300;

/// The different warnings about a registry so far, escaped, in their order. Each one continues a
/// sentence that begins with the host, as in `says: this tag is old`. No more than
/// [`limit::WARNINGS`] are kept.
#[derive(Default)]
pub(crate) struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    /// Keeps the warnings of an answer in their order, as long as they have at most
    /// [`limit::REGISTRY_WARNINGS`] bytes together. Drops the first one that exceeds this bound,
    /// and all later ones.
    pub(crate) fn note(&self, headers: &HeaderMap) {
        let mut left = limit::REGISTRY_WARNINGS;
        for value in headers.get_all(WARNING) {
            let bytes = value.as_bytes();
            left = match left.checked_sub(bytes.len()) {
                Some(left) => left,
                None => return,
            };
            let Some(text) = text(&String::from_utf8_lossy(bytes)) else {
                continue;
            };
            self.keep(format!("says: {text}"));
        }
    }

    /// Keeps a warning, unless it is known or too many are kept.
    pub(crate) fn keep(&self, text: String) {
        let mut kept = lock(&self.0);
        if kept.len() < limit::WARNINGS && !kept.contains(&text) {
            kept.push(text);
        }
    }

    pub(crate) fn all(&self) -> Vec<String> {
        lock(&self.0).clone()
    }
}

/// Returns the text of a warning of the form `299 - "text"`, escaped and shortened. Returns `None`
/// for an empty text, and for a warning of another form, such as the warning of a cache.
pub(crate) fn text(warning: &str) -> Option<String> {
    let quoted = warning.trim().strip_prefix("299 - \"")?;
    let (mut text, mut letters) = (String::new(), quoted.chars());
    loop {
        match letters.next()? {
            '"' => break,
            '\\' => text.push(letters.next()?),
            letter => text.push(letter),
        }
    }
    let escaped: String = text.chars().flat_map(char::escape_debug).collect();
    // Quotes are harmless, and frequent in sentences.
    let readable = escaped.replace("\\'", "'").replace("\\\"", "\"");
    let shown = shortened(&readable, SHOWN, 0, text.len());
    Some(shown).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_text_of_code_299_is_taken_and_escaped() {
        for (warning, expected) in [
            ("299 - \"soon gone\"", Some("soon gone")),
            (r#"299 - "a \"b\" \\ c""#, Some(r#"a "b" \\ c"#)),
            ("299 - \"don't\"", Some("don't")),
            ("299 - \"\u{1b}]0;x\"", Some("\\u{1b}]0;x")),
            ("299 - \"open", None),
            ("299 - \"\"", None),
            ("110 - \"stale\"", None),
            ("299 r.test \"agent\"", None),
            ("", None),
        ] {
            assert_eq!(text(warning).as_deref(), expected, "{warning}");
        }
        let long = format!("299 - \"{}\"", "x".repeat(1000));
        let shown = format!("{}… (1000 bytes)", "x".repeat(SHOWN));
        assert_eq!(text(&long).unwrap(), shown);
    }

    /// Returns the headers of an answer with warnings of these texts.
    fn headers(texts: &[String]) -> HeaderMap {
        let value = |text| (WARNING, format!("299 - \"{text}\"").parse().unwrap());
        texts.iter().map(value).collect()
    }

    #[test]
    fn warnings_of_one_answer_are_kept_until_they_are_too_long_together() {
        let around = "299 - \"\"".len();
        for (more, kept) in [(0, 2), (1, 1)] {
            let first = "a".repeat(1000);
            let rest = limit::REGISTRY_WARNINGS - first.len() - 2 * around;
            let answer = headers(&[first, "b".repeat(rest + more), "short".into()]);
            let warnings = Warnings::default();
            warnings.note(&answer);
            // The short warning comes too late, whether the one before it is kept or not.
            assert_eq!(warnings.all().len(), kept, "{more}");
            // The bound holds for each answer.
            warnings.note(&headers(&["short".into()]));
            assert_eq!(warnings.all().len(), kept + 1, "{more}");
        }
    }

    #[test]
    fn each_warning_is_kept_once_and_their_number_is_bounded() {
        let warnings = Warnings::default();
        for _ in 0..2 {
            warnings.note(&headers(&["a".into(), "b".into(), "a".into()]));
        }
        assert_eq!(warnings.all(), ["says: a", "says: b"]);
        for number in 0..100 {
            warnings.note(&headers(&[number.to_string()]));
        }
        assert_eq!(warnings.all().len(), limit::WARNINGS);
    }
}
