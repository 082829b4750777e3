//! The name of an image in a registry: `HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]`.

use std::fmt;
use std::str::FromStr;

use cas_core::error::excerpt;
use cas_core::image::Reference;
use cas_core::{Digest, Error, Result};

/// Maximum number of bytes in host and repository together, by the distribution specification.
const NAME: usize = 255;
/// Maximum number of bytes in a tag, by the distribution specification.
const TAG: usize = 128;

/// A name in a repository of a registry. The host is required: no registry is the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteRef {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl RemoteRef {
    /// Returns the host of the registry, with its port if the reference has one.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the repository in the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns the tag. It is `latest` if the reference has neither a tag nor a digest. Returns
    /// `None` if the reference has only a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Returns the digest, if the reference has one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Returns the whole reference as the name of an image in a store.
    ///
    /// # Errors
    /// `InvalidArgument` if OCI's grammar for names in a layout does not allow it, for example
    /// because of two underscores in a row.
    pub fn name(&self) -> Result<Reference> {
        self.to_string().parse()
    }
}

impl fmt::Display for RemoteRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl FromStr for RemoteRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text).map_err(|error| error.operation("parse reference").subject(excerpt(text)))
    }
}

fn parse(text: &str) -> Result<RemoteRef> {
    if text.contains("://") {
        return Err(Error::invalid(
            "expected HOST[:PORT]/REPOSITORY[:TAG], without a scheme; for http use --plain-http",
        ));
    }
    let (host, rest) = match text.split_once('/') {
        Some((host, rest)) if host == "localhost" || host.contains(['.', ':']) => (host, rest),
        _ => {
            let official = if text.contains('/') {
                String::new()
            } else {
                format!(", or HOST/library/{text:.100} for an official image of Docker Hub")
            };
            return Err(Error::invalid(format!(
                "the registry is missing; add its host: HOST/{text:.100}{official}"
            )));
        }
    };
    let (rest, digest) = match rest.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
        None => (rest, None),
    };
    let (repository, tag) = match rest.split_once(':') {
        Some((repository, tag)) => (repository, Some(tag.to_owned())),
        None if digest.is_none() => (rest, Some("latest".to_owned())),
        None => (rest, None),
    };
    let good = is_host(host)
        && host.len() + repository.len() <= NAME
        && repository.split('/').all(is_component)
        && tag.as_deref().is_none_or(is_tag);
    if !good {
        return Err(Error::invalid(
            "expected HOST[:PORT]/REPOSITORY[:TAG][@DIGEST], with the repository in lower case",
        ));
    }
    Ok(RemoteRef {
        host: host.to_owned(),
        repository: repository.to_owned(),
        tag,
        digest,
    })
}

fn is_host(host: &str) -> bool {
    let (name, port) = host.split_once(':').unwrap_or((host, "443"));
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.bytes().all(|byte| good(byte) || b".-".contains(&byte))
        && name.bytes().next().is_some_and(good)
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok()
}

/// Returns whether a part of a repository is valid: lower-case letters and digits, separated by
/// `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let separator = |run: &[u8]| {
        matches!(run, [] | b"." | b"_" | b"__") || run.iter().all(|byte| *byte == b'-')
    };
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.split(alphanumeric).all(separator)
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || b".-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_printed_with_tag_or_digest() {
        let digest = Digest::sha256(b"x");
        for (text, whole) in [
            ("x.test/a", "x.test/a:latest".to_owned()),
            ("localhost/a", "localhost/a:latest".to_owned()),
            (
                "x:5000/a/b-c__d:1.2-x_",
                "x:5000/a/b-c__d:1.2-x_".to_owned(),
            ),
            (&format!("x.test/a@{digest}"), format!("x.test/a@{digest}")),
            (
                &format!("x.test/a:1@{digest}"),
                format!("x.test/a:1@{digest}"),
            ),
        ] {
            assert_eq!(text.parse::<RemoteRef>().unwrap().to_string(), whole);
        }
    }

    #[test]
    fn without_a_host_the_error_says_what_to_type() {
        for (text, typed) in [
            ("debian", "HOST/library/debian"),
            ("debian:12", "HOST/library/debian:12"),
            ("me/app:1", "HOST/me/app:1"),
        ] {
            let error = text.parse::<RemoteRef>().unwrap_err().to_string();
            assert!(error.contains(typed), "{error}");
        }
    }

    #[test]
    fn anything_that_could_change_the_url_is_refused() {
        for bad in [
            "https://x.test/a",
            "x.test/",
            "x.test/A",
            "x.test/a/../b",
            "x.test/a?b",
            "x.test/a#b",
            "x.test/a%2fb",
            "me@x.test/a",
            "x.test:99999/a",
            "x.test:/a",
            "X.test/a",
            "x.test/a:b/c",
            "x.test/a:-1",
            "x.test/a@sha256:12",
            "x.test/a b",
            "[::1]:5000/a",
        ] {
            assert!(bad.parse::<RemoteRef>().is_err(), "{bad}");
        }
    }
}
