//! Filters in containerd's grammar, over anything whose fields can be looked up.
//!
//! A filter is a list of selectors joined by commas, all of which must hold; of several filters
//! one is enough. A selector is a field path alone, which asks for presence, or a path, one of
//! `==`, `!=`, `~=` (a regular expression) and a value: `labels."a.b/c"==x,name~=/^docker/`.

use std::borrow::Cow;

use regex_lite::{Regex, RegexBuilder};

use super::Image;
use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::limit;

/// Bytes that a regular expression may take when compiled.
const REGEX: usize = 64 << 10;

/// Something that filters can be asked of.
pub trait Fields {
    /// The value under a field path, or nothing where it is absent.
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

/// Looks a label up: what follows `labels` in its path, joined by dots, is its key.
pub fn in_map<'a>(labels: &'a Labels, path: &[String]) -> Option<Cow<'a, str>> {
    labels
        .get(&path.join("."))
        .map(|value| value.as_str().into())
}

/// Filters of which one is enough.
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
    /// Reads filters; an empty one holds for everything.
    ///
    /// # Errors
    /// `InvalidArgument`, saying where, for one that does not parse or is over its bound.
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

    /// Whether one of the filters holds for `object`, or there are none.
    pub fn matches(&self, object: &impl Fields) -> bool {
        let holds = |selectors: &Vec<Selector>| selectors.iter().all(|one| one.holds(object));
        self.0.is_empty() || self.0.iter().any(holds)
    }
}

impl Selector {
    fn holds(&self, object: &impl Fields) -> bool {
        let value = object.field(&self.path);
        // As in containerd, what is absent counts as empty where it is not asked for equality.
        let text = value.as_deref().unwrap_or_default();
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value.is_some() && text == wanted,
            Test::NotEqual(unwanted) => text != unwanted,
            Test::Matches(regex) => regex.is_match(text),
        }
    }
}

fn excerpt(text: &str) -> String {
    let shown: String = text.chars().take(100).collect();
    format!("{shown:?}")
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
                "has {found} bytes, at most {allowed}"
            )));
        }
        while !self.text.is_empty() {
            selectors.push(self.selector()?);
            if self.rest().is_empty() {
                break;
            }
            if !self.eat(",") {
                return Err(self.expected("a comma or the end; quote what has other characters"));
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
            return Err(self.expected("the name of a field, or a quoted one"));
        }
        Ok(name.to_owned())
    }

    fn value(&mut self, quotes: &[char]) -> Result<String> {
        if let Some(quote) = self.rest().chars().next().filter(|c| quotes.contains(c)) {
            return self.quoted(quote);
        }
        let value = self.take_while(|c| c != ',' && !c.is_whitespace() && !c.is_control());
        if value.is_empty() {
            return Err(self.expected("a value; the empty one is \"\""));
        }
        Ok(value.to_owned())
    }

    /// Between double quotes the escapes are those of Go; between slashes or bars, which are for
    /// regular expressions, a backslash stays unless it hides the closing character.
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
        Error::invalid(format!("expected {what}, at byte {}", self.at))
    }
}

fn compile(pattern: &str) -> Result<Regex> {
    RegexBuilder::new(pattern)
        .size_limit(REGEX)
        .build()
        .map_err(|error| Error::invalid(format!("no regular expression: {error}")).source(error))
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

    fn holds(filters: &[&str]) -> bool {
        Filters::parse(filters).unwrap().matches(&image())
    }

    #[test]
    fn selectors_hold_and_do_not() {
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
            assert!(holds(&[yes]), "{yes}");
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
            assert!(!holds(&[no]), "{no}");
        }
    }

    #[test]
    fn one_of_several_filters_is_enough() {
        assert!(holds(&[]) && holds(&["name==b", "labels.plain==x"]));
        assert!(!holds(&["name==b", "name==c"]));
    }

    #[test]
    fn refuses_what_does_not_parse() {
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
