//! The one spelling of a host, in which rules and names are compared. Another spelling of a host
//! must not evade a rule.

use crate::hosts::url;
use crate::{hub, origin};

/// Returns a host in its one spelling: in lower case, without the final dot and without the port
/// 443, an address in its shortest form, and `docker.io` for all hosts of Docker Hub. A host that
/// no URL may have cannot be connected to, and is only written in lower case.
pub(crate) fn host(host: &str) -> String {
    let lower = host.to_ascii_lowercase();
    let whole = url(&lower, "", "https").map(|url| origin::authority(&url));
    let whole = whole.unwrap_or(lower);
    let (name, port) = match whole.split_once(".:") {
        Some((name, port)) => (name, format!(":{port}")),
        None => (whole.strip_suffix('.').unwrap_or(&whole), String::new()),
    };
    let spelled = format!("{name}{port}");
    if hub::is_hub(&spelled) {
        hub::HOSTS[0].to_owned()
    } else {
        spelled
    }
}

/// Returns a name, or the beginning of one, with its host in its one spelling. `*.HOST` is not a
/// host, and stays as it is.
pub(crate) fn name(text: &str) -> String {
    let (first, rest) = text.split_at(text.find('/').unwrap_or(text.len()));
    if first.is_empty() || first.contains('*') {
        return text.to_owned();
    }
    format!("{}{rest}", host(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_spelling() {
        for (typed, expected) in [
            ("x.test", "x.test"),
            ("X.Test", "x.test"),
            ("x.test.", "x.test"),
            ("X.TEST.:443", "x.test"),
            ("x.test:443", "x.test"),
            ("x.test:0443", "x.test"),
            ("x.test:80", "x.test:80"),
            ("x.test.:5000", "x.test:5000"),
            ("x.test:05000", "x.test:5000"),
            ("localhost:5000", "localhost:5000"),
            ("127.1", "127.0.0.1"),
            ("0x7f.0.0.1:5000", "127.0.0.1:5000"),
            ("[2001:DB8:0:0::1]", "[2001:db8::1]"),
            ("[2001:db8:0000::0001]:443", "[2001:db8::1]"),
            ("[0:0:0:0:0:0:0:1]:5000", "[::1]:5000"),
            ("docker.io", "docker.io"),
            ("Docker.IO:443", "docker.io"),
            ("index.docker.io", "docker.io"),
            ("INDEX.docker.io.", "docker.io"),
            ("registry-1.docker.io:443", "docker.io"),
            ("auth.docker.io", "auth.docker.io"),
            ("a b", "a b"),
        ] {
            assert_eq!(host(typed), expected, "{typed}");
        }
    }

    #[test]
    fn only_the_host_of_a_name_is_spelled_in_one_way() {
        for (text, expected) in [
            ("X.test/team/app:V1", "x.test/team/app:V1"),
            ("*.X.test", "*.X.test"),
            ("index.docker.io/team", "docker.io/team"),
            ("", ""),
        ] {
            assert_eq!(name(text), expected, "{text}");
        }
    }
}
