//! Hosts with an optional port.

use std::fmt;
use std::str::FromStr;

use cas_core::error::excerpt;
use cas_core::{Error, Result};
use reqwest::Url;

/// A host with an optional port: `HOST[:PORT]`. Without a port, the value stands for every port of
/// the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The host in lower case. An IPv6 address is in brackets.
    name: String,
    port: Option<u16>,
}

impl Host {
    /// Returns whether this stands for every port of the host.
    pub(crate) fn is_any_port(&self) -> bool {
        self.port.is_none()
    }

    /// Returns whether a URL is on this host. A subdomain is another host.
    pub(crate) fn has(&self, url: &Url) -> bool {
        let port = url.port_or_known_default();
        url.host_str() == Some(&self.name) && (self.port.is_none() || self.port == port)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl FromStr for Host {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text).ok_or_else(|| {
            Error::invalid(format!(
                "\"{}\" is not a host; expected HOST or HOST:PORT, for example \
                 auth.example.net:5000",
                excerpt(text)
            ))
        })
    }
}

fn parse(text: &str) -> Option<Host> {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (text, None),
    };
    let port = match port {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse().ok()?)
        }
        Some(_) => return None,
        None => None,
    };
    // A final dot makes a name absolute.
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    // The parser of URLs, which is called below, accepts empty parts.
    if name.split('.').any(str::is_empty) {
        return None;
    }
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b".-_[:]".contains(&byte);
    // A host that is not written as in a URL would never match a URL.
    let url: Url = format!("https://{name}/").parse().ok()?;
    let same = url.host_str() == Some(&name) && name.bytes().all(known);
    same.then_some(Host { name, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_stands_for_one_port_or_for_all() {
        for (host, url, expected) in [
            ("auth.x.test", "https://auth.x.test/token", true),
            ("auth.x.test", "https://auth.x.test:5001/token", true),
            ("Auth.X.test", "https://auth.x.test/token", true),
            ("auth.x.test:443", "https://auth.x.test/token", true),
            ("auth.x.test:443", "https://auth.x.test:5001/token", false),
            ("auth.x.test:5001", "https://auth.x.test:5001/token", true),
            ("auth.x.test.", "https://auth.x.test/token", true),
            ("x.test", "https://auth.x.test/token", false),
            ("auth.x.test", "https://auth.x.test.evil.test/token", false),
            ("10.0.0.1:80", "http://10.0.0.1/token", true),
            ("[::1]:5001", "http://[::1]:5001/token", true),
            ("[::1]", "http://[::1]:5001/token", true),
        ] {
            let parsed: Host = host.parse().unwrap();
            assert_eq!(parsed.has(&url.parse().unwrap()), expected, "{host} {url}");
            let shown = parsed.to_string();
            assert_eq!(shown, host.trim_end_matches('.').to_ascii_lowercase());
        }
    }

    #[test]
    fn anything_but_a_host_is_refused() {
        for bad in [
            "",
            ":5000",
            ".",
            "..",
            "auth..test",
            "https://auth.x.test",
            "auth.x.test/token",
            "auth.x.test:",
            "auth.x.test:+1",
            "auth.x.test:99999",
            "me@auth.x.test",
            "*.x.test",
            "auth x.test",
            "auth.x.test?",
            "::1",
            "127.1",
            "b\u{fc}cher.test",
        ] {
            let said = bad.parse::<Host>().unwrap_err().to_string();
            assert!(said.contains("expected HOST or HOST:PORT"), "{bad}: {said}");
        }
    }
}
