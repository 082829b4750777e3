//! Where a registry may lead to, and what is on this machine.

use std::net::IpAddr;

use cas_core::{Error, ErrorKind, Result};
use reqwest::Url;

/// Whether both are one origin: scheme, host and port.
pub(crate) fn same(a: &Url, b: &Url) -> bool {
    a.origin() == b.origin()
}

/// Checks an address that a registry leads to: a redirect, an upload, a token service.
///
/// # Errors
/// `Denied` when it gives up encryption, is no HTTP, holds credentials, or is a place of this
/// machine or this link while the registry is not.
pub(crate) fn check(registry: &Url, to: &Url) -> Result<()> {
    let why = if !["http", "https"].contains(&to.scheme()) {
        "which is no HTTP"
    } else if registry.scheme() == "https" && to.scheme() == "http" {
        "which gives up encryption"
    } else if !to.username().is_empty() || to.password().is_some() {
        "which holds credentials"
    } else if is_local(to) && !is_local(registry) {
        "which is local to this machine"
    } else {
        return Ok(());
    };
    Err(Error::new(
        ErrorKind::Denied,
        format!(
            "the registry leads to {}, {why}; it is not followed",
            shown(to)
        ),
    ))
}

/// Whether a host is on loopback.
pub(crate) fn is_loopback(url: &Url) -> bool {
    is_localhost(url) || address(url).is_some_and(|address| address.is_loopback())
}

/// Whether a host is loopback, or an address of this link only: where clouds keep secrets.
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
    host == "localhost" || host.ends_with(".localhost")
}

/// The host as an IP address, if it is one.
fn address(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    let address = plain.parse::<IpAddr>().ok()?;
    Some(address.to_canonical())
}

/// The host of an address, with its port unless the scheme implies it.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// An address without its query, which may be a signature.
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
    fn nobody_is_led_into_the_plain_or_home() {
        let registry = url("https://x.test/");
        for to in [
            "http://x.test/",
            "ftp://x.test/",
            "https://me:secret@x.test/",
            "https://127.0.0.1/",
            "https://169.254.169.254/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::1]/",
            "https://localhost/",
            "https://0.0.0.0/",
        ] {
            assert!(check(&registry, &url(to)).is_err(), "{to}");
        }
        assert!(check(&registry, &url("https://cdn.test/x?signature=1")).is_ok());
        assert!(check(&url("http://localhost:1/"), &url("http://127.0.0.1:2/")).is_ok());
    }
}
