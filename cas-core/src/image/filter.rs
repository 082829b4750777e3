//! Filters in containerd's grammar, for anything with named fields.
//!
//! A filter is a list of selectors joined by commas. All selectors of a filter must match. If there
//! are several filters, at least one of them must match. A selector is a field path, an operator
//! and a value. The filter `labels."a.b/c"==x,name~=/^docker/` has two selectors. A selector that
//! is only a field path matches if the field is present. The operators are `==`, `!=` and `~=`. The
//! value of `~=` is a regular expression. For `!=` and `~=`, an absent field counts as empty. The
//! operator `==` never matches an absent field.

use std::borrow::Cow;

use regex_lite::{Regex, RegexBuilder};

use super::Image;
use crate::error::{Error, Result, excerpt};
use crate::labels::Labels;
use crate::limit;

/// Maximum size of a compiled regular expression, in bytes.
const REGEX: usize = 64 << 10;

/// Something that filters can be applied to.
pub trait Fields {
    /// Returns the value of a field, or `None` if the field is absent. `path` has the components of
    /// the field path: `target` and `digest` for `target.digest`.
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>>;
}

impl Fields for Image {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        match parts[..] {
            ["name"] => Some(self.name.as_str().into()),
            ["target", "digest"] => Some(self.target.digest.to_string().into()),
            ["target", "mediatype"] => Some(self.target.media_type.as_str().into()),
            ["labels", ..] => in_map(&self.labels, &path[1..]),
            ["annotations", ..] => in_map(&self.target.annotations, &path[1..]),
            _ => None,
        }
    }
}

/// Returns the value of the label whose key consists of the components of `path`, joined by dots,
/// or `None` if no label has this key. `path` is a field path without its first component. The map
/// `labels` may also hold annotations, which have the same type.
pub fn in_map<'a>(labels: &'a Labels, path: &[String]) -> Option<Cow<'a, str>> {
    labels
        .get(&path.join("."))
        .map(|value| value.as_str().into())
}

/// A list of filters. At least one of them must match.
#[derive(Clone, Debug)]
pub struct Filters(Vec<Vec<Selector>>);

#[derive(Clone, Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl Filters {
    /// Parses filters. An empty filter matches everything.
    ///
    /// # Errors
    /// `InvalidArgument` for a filter that does not parse, or is longer than [`limit::FILTER`]
    /// bytes.
    pub fn parse(filters: &[&str]) -> Result<Self> {
        let parse_one = |text: &&str| {
            Parser { text, at: 0 }
                .filter()
                .map_err(|error| error.operation("parse filter").subject(excerpt(text)))
        };
        filters
            .iter()
            .map(parse_one)
            .collect::<Result<_>>()
            .map(Filters)
    }

    /// Returns whether one of the filters matches `object`. An empty list of filters matches
    /// everything.
    pub fn matches(&self, object: &impl Fields) -> bool {
        let all = |selectors: &Vec<Selector>| selectors.iter().all(|one| one.matches(object));
        self.0.is_empty() || self.0.iter().any(all)
    }
}

impl Selector {
    fn matches(&self, object: &impl Fields) -> bool {
        let value = object.field(&self.path);
        // As in containerd, an absent field counts as empty for `!=` and `~=`.
        let text = value.as_deref().unwrap_or_default();
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value.is_some() && text == wanted,
            Test::NotEqual(unwanted) => text != unwanted,
            Test::Matches(regex) => regex.is_match(text),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn filter(mut self) -> Result<Vec<Selector>> {
        let mut selectors = Vec::new();
        if self.text.len() > limit::FILTER {
            let (found, allowed) = (self.text.len(), limit::FILTER);
            return Err(Error::invalid(format!(
                "the filter has {found} bytes: at most {allowed} are allowed; shorten it"
            )));
        }
        while !self.text.is_empty() {
            selectors.push(self.selector()?);
            if self.rest().is_empty() {
                break;
            }
            if !self.eat(",") {
                return Err(self.expected(
                    "a comma or the end of the filter (quote a field name that has characters \
                     other than letters, digits and _, and quote a value that has blanks)",
                ));
            }
        }
        Ok(selectors)
    }

    fn selector(&mut self) -> Result<Selector> {
        let mut path = vec![self.component()?];
        while self.eat(".") {
            path.push(self.component()?);
        }
        let test = if self.eat("==") {
            Test::Equal(self.value(&['"'])?)
        } else if self.eat("!=") {
            Test::NotEqual(self.value(&['"'])?)
        } else if self.eat("~=") {
            Test::Matches(compile(&self.value(&['"', '/', '|'])?)?)
        } else {
            Test::Present
        };
        Ok(Selector { path, test })
    }

    fn component(&mut self) -> Result<String> {
        if self.rest().starts_with('"') {
            return self.quoted('"');
        }
        let name = self.take_while(|c| c == '_' || c.is_ascii_alphanumeric());
        if name.is_empty() {
            return Err(self.expected("the name of a field, quoted if it has special characters"));
        }
        Ok(name.to_owned())
    }

    fn value(&mut self, quotes: &[char]) -> Result<String> {
        if let Some(quote) = self.rest().chars().next().filter(|c| quotes.contains(c)) {
            return self.quoted(quote);
        }
        let value = self.take_while(|c| c != ',' && !c.is_whitespace() && !c.is_control());
        if value.is_empty() {
            return Err(self.expected("a value (write an empty one as \"\")"));
        }
        Ok(value.to_owned())
    }

    /// Reads a quoted text. Between double quotes, the escapes are `\\`, `\"`, `\n`, `\t` and `\r`,
    /// as in Go. Between slashes or bars, which quote regular expressions, a backslash is kept
    /// unless it escapes the closing character.
    fn quoted(&mut self, quote: char) -> Result<String> {
        let (mut out, start) = (String::new(), self.at + quote.len_utf8());
        let mut rest = self.text[start..].char_indices();
        while let Some((offset, c)) = rest.next() {
            self.at = start + offset;
            match c {
                _ if c == quote => {
                    self.at += quote.len_utf8();
                    return Ok(out);
                }
                '\\' => match rest.next().map(|(_, escaped)| escaped) {
                    Some(escaped) if escaped == quote => out.push(quote),
                    Some(escaped) if quote != '"' => out.extend(['\\', escaped]),
                    Some('\\') => out.push('\\'),
                    Some('n') => out.push('\n'),
                    Some('t') => out.push('\t'),
                    Some('r') => out.push('\r'),
                    _ => return Err(self.expected("one of \\\\ \\\" \\n \\t \\r")),
                },
                _ => out.push(c),
            }
        }
        self.at = self.text.len();
        Err(self.expected("the closing quote"))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn take_while(&mut self, accept: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !accept(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn expected(&self, what: &str) -> Error {
        Error::invalid(format!("at byte {}: expected {what}", self.at))
    }
}

fn compile(pattern: &str) -> Result<Regex> {
    RegexBuilder::new(pattern)
        .size_limit(REGEX)
        .build()
        .map_err(|error| {
            Error::invalid(format!("invalid regular expression: {error}")).source(error)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Descriptor, Digest, MediaType};

    fn image() -> Image {
        let target = Descriptor::of(MediaType::OCI_INDEX, b"{}");
        let mut image = Image::new("docker.io/library/a:1".parse().unwrap(), target);
        for (key, value) in [("plain", "x"), ("a.b/c", "y z"), ("dotted.key", "1,2")] {
            image.labels.insert(key.into(), value.into());
        }
        image.target.annotations.insert("k".into(), "v".into());
        image
    }

    fn matches(filters: &[&str]) -> bool {
        Filters::parse(filters).unwrap().matches(&image())
    }

    #[test]
    fn selectors_match_as_in_containerd() {
        let digest = format!("target.digest=={}", Digest::sha256(b"{}"));
        let index = format!("target.mediatype=={}", MediaType::OCI_INDEX);
        for yes in [
            "",
            "name",
            "name==docker.io/library/a:1",
            &digest,
            &index,
            "labels.plain",
            "labels.plain==x",
            "labels.plain!=y",
            r#"labels."a.b/c"=="y z""#,
            "labels.dotted.key==\"1,2\"",
            r#"labels."dotted.key"~=^1"#,
            "annotations.k==v",
            "labels.absent!=x",
            r"name~=/^docker\.io\/lib/",
            "name~=|^docker[.]io/|,labels.plain==x",
        ] {
            assert!(matches(&[yes]), "{yes}");
        }
        for no in [
            "labels.absent",
            "labels.absent==x",
            "labels",
            "nonsense==1",
            "target",
            "name==docker.io/library/a:1,labels.plain==y",
            "name~=^library",
            "labels.plain!=x",
        ] {
            assert!(!matches(&[no]), "{no}");
        }
    }

    #[test]
    fn one_of_several_filters_must_match() {
        assert!(matches(&[]) && matches(&["name==b", "labels.plain==x"]));
        assert!(!matches(&["name==b", "name==c"]));
    }

    #[test]
    fn invalid_filters_are_refused() {
        let long = format!("name=={}", "x".repeat(limit::FILTER));
        let bomb = r"name~=/(((((a{1000}){1000}){1000}){1000}){1000})/";
        let nested = format!("name~={}", "(".repeat(2000));
        for bad in [
            ",",
            "name,",
            "name==",
            "=x",
            "name=x",
            "name== x",
            "labels.a-b==x",
            "labels.",
            "labels..a",
            "name==\"x",
            "name==\"\\d\"",
            "name==a b",
            "\"",
            "\"\\",
            "name~=/(/",
            "name~=/x",
            "é",
            "name==\u{0}",
            bomb,
            &long,
            &nested,
        ] {
            let error = Filters::parse(&[bad]).unwrap_err();
            assert_eq!(
                error.kind(),
                crate::error::ErrorKind::InvalidArgument,
                "{bad:.50}"
            );
        }
    }
}
