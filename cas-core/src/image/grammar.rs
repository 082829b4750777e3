//! The grammar of names, from the module `reference` of the distribution project.

use std::net::Ipv6Addr;

use crate::digest::Algorithm;
use crate::error::{Error, Result, excerpt};
use crate::limit;

/// The host of a name that does not state one.
pub(super) const HUB: &str = "docker.io";
/// The beginning of the repositories of official images of [`HUB`]. A name may leave it out.
pub(super) const OFFICIAL: &str = "library/";
/// The form of a name, for messages.
pub(super) const EXPECTED: &str = "expected [HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]";

/// Returns whether the first part of a name is a host and not the beginning of a repository.
pub(super) fn is_host_like(part: &str) -> bool {
    part == "localhost"
        || part.contains(['.', ':'])
        || part.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// Checks the parts of a name.
pub(super) fn check(host: &str, repository: &str, tag: Option<&str>) -> Result<()> {
    let refused = |why: String| Err(Error::invalid(format!("not the name of an image: {why}")));
    if !is_host(host) {
        return refused(format!("\"{}\" is not a host; {EXPECTED}", excerpt(host)));
    }
    if host.len() > limit::HOST {
        let (found, most) = (host.len(), limit::HOST);
        return refused(format!(
            "the host has {found} bytes; expected at most {most}"
        ));
    }
    if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return refused("the repository has upper-case letters; write it in lower case".into());
    }
    if !repository.split('/').all(is_component) {
        return refused(format!(
            "{EXPECTED}; the repository consists of words of lower-case letters and digits, with \
             one of . _ __ / or any number of - between two words"
        ));
    }
    if repository.len() > limit::REPOSITORY {
        let (found, most) = (repository.len(), limit::REPOSITORY);
        return refused(format!(
            "the repository has {found} bytes; expected at most {most}"
        ));
    }
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return refused(format!(
            "expected a tag that begins with a letter, a digit or _, followed by at most {} \
             characters: letters, digits, . _ or -",
            limit::TAG - 1
        ));
    }
    let short = repository.strip_prefix(OFFICIAL).unwrap_or(repository);
    let is_algorithm = Algorithm::ALL.iter().any(|one| one.name() == short);
    let is_id = short.len() == 64 && short.bytes().all(|byte| byte.is_ascii_hexdigit());
    if host == HUB && (is_algorithm || is_id && tag.is_none()) {
        return refused(
            "it looks like a digest, and a digest is not a name; give a name, such as app:1".into(),
        );
    }
    Ok(())
}

/// Returns whether `host` is a domain name, an IPv4 address or an IPv6 address in brackets, with or
/// without a port.
fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (host, "443"),
    };
    let address = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    let named = match address {
        // Docker refuses an address that ends in the dotted form of IPv4.
        Some(address) => !address.contains('.') && address.parse::<Ipv6Addr>().is_ok(),
        None => name.split('.').all(is_label),
    };
    named && port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

fn is_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

/// Returns whether `component` consists of lower-case letters and digits, separated by `.`, `_`,
/// `__` or any number of `-`.
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
    tag.len() <= limit::TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || b".-".contains(&byte))
}
