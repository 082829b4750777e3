//! Decides which URLs a registry may refer to, and which hosts are on this machine.

use std::net::IpAddr;

use cas_core::error::excerpt;
use cas_core::{Error, ErrorKind, Result};
use reqwest::Url;

/// Returns whether two URLs have the same origin: scheme, host and port.
pub(crate) fn same(a: &Url, b: &Url) -> bool {
    a.origin() == b.origin()
}

/// Checks a URL that a registry refers to: a redirect, an upload location, a next page or a token
/// service.
///
/// # Errors
/// `Denied` if the URL uses neither http nor https, uses http although the registry uses https, or
/// contains credentials. The address of its host is [judged](crate::address) when a connection is
/// made.
pub(crate) fn check(registry: &Url, to: &Url) -> Result<()> {
    if !["http", "https"].contains(&to.scheme()) {
        return Err(Error::new(
            ErrorKind::Denied,
            format!(
                "the server refers to a URL with the scheme \"{}\", expected http or https; ask \
                 the operator of the server to correct this",
                excerpt(to.scheme())
            ),
        ));
    }
    let why = if registry.scheme() == "https" && to.scheme() == "http" {
        "which uses http instead of https"
    } else if !to.username().is_empty() || to.password().is_some() {
        "which contains credentials"
    } else {
        return Ok(());
    };
    Err(Error::new(
        ErrorKind::Denied,
        format!(
            "the server refers to {}, {why}; ask the operator of the server to correct this",
            shown(to)
        ),
    ))
}

/// Returns whether the host of a URL is on loopback.
pub(crate) fn is_loopback(url: &Url) -> bool {
    is_localhost(url) || address(url).is_some_and(|address| address.is_loopback())
}

/// Returns whether the host of a URL is on loopback, or has an unspecified or a link-local address.
/// Requests to a registry on such a host do not use a proxy, because these addresses lead to other
/// hosts if the proxy connects to them.
pub(crate) fn is_local(url: &Url) -> bool {
    let is_link_local = |address: IpAddr| match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let here = |address: IpAddr| is_link_local(address) || address.is_unspecified();
    is_loopback(url) || address(url).is_some_and(here)
}

fn is_localhost(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    // A final dot makes a name absolute.
    let host = host.strip_suffix('.').unwrap_or(host);
    host == "localhost" || host.ends_with(".localhost")
}

/// Returns the host as an IP address, if it is one.
pub(crate) fn literal(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    plain.parse().ok()
}

/// Returns the host if it is an IP address. An IPv6 address that is mapped from an IPv4 address is
/// returned as the IPv4 address.
fn address(url: &Url) -> Option<IpAddr> {
    Some(literal(url)?.to_canonical())
}

/// Returns the host of a URL, with its port unless that is the scheme's default.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Returns the origin of a URL for messages. The rest may contain a signature.
pub(crate) fn shown(url: &Url) -> String {
    url.origin().ascii_serialization()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn urls_that_show_something_are_not_followed() {
        let registry = url("https://x.test/");
        for to in [
            "http://x.test/",
            "ftp://x.test/",
            "https://me:secret@x.test/",
            "https://me@x.test/",
            "https://:secret@x.test/",
            "file:///etc/passwd",
        ] {
            assert!(check(&registry, &url(to)).is_err(), "{to}");
        }
        let error = check(&registry, &url("file:///etc/passwd")).unwrap_err();
        assert!(error.to_string().contains("the scheme \"file\""), "{error}");
        assert!(check(&registry, &url("https://cdn.test/x?signature=1")).is_ok());
        assert!(check(&url("http://localhost:1/"), &url("http://127.0.0.1:2/")).is_ok());
    }
}
