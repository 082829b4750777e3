//! Who may be sent where, and who may know what.

use cas_core::{Error, ErrorKind, Result};
use reqwest::Url;

/// Whether both are one origin: scheme, host and port.
pub(crate) fn same(a: &Url, b: &Url) -> bool {
    a.origin() == b.origin()
}

/// Whether a token service may know the credentials of a registry: it is the same origin, or
/// reached over https at the domain that the registry's host is in, or beside it.
pub(crate) fn same_site(registry: &Url, service: &Url) -> bool {
    if same(registry, service) {
        return true;
    }
    let (Some(registry_host), Some(host)) = (registry.domain(), service.domain()) else {
        return false;
    };
    let Some((_, site)) = registry_host.split_once('.') else {
        return false;
    };
    let below = |host: &str| host.strip_suffix(site).is_some_and(|at| at.ends_with('.'));
    let encrypted = registry.scheme() == "https" && service.scheme() == "https";
    encrypted && site.contains('.') && (host == site || host == registry_host || below(host))
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

/// Whether a host is loopback, or an address of this link only: where clouds keep secrets.
pub(crate) fn is_local(url: &Url) -> bool {
    use std::net::IpAddr;
    let host = url.host_str().unwrap_or_default();
    if host == "localhost" || host.ends_with(".localhost") {
        return true;
    }
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    match plain
        .parse::<IpAddr>()
        .map(|address| address.to_canonical())
    {
        Ok(IpAddr::V4(address)) => {
            address.is_loopback() || address.is_link_local() || address.is_unspecified()
        }
        Ok(IpAddr::V6(address)) => {
            address.is_loopback() || address.is_unicast_link_local() || address.is_unspecified()
        }
        Err(_) => false,
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
    fn credentials_stay_on_their_site() {
        let registry = url("https://registry.x.test/v2/");
        for (service, known) in [
            ("https://registry.x.test/token", true),
            ("https://x.test/token", true),
            ("https://auth.x.test/token", true),
            ("https://x.test.evil.test/token", false),
            ("https://evilx.test/token", false),
            ("https://evil.test/token", false),
            ("http://auth.x.test/token", false),
        ] {
            assert_eq!(same_site(&registry, &url(service)), known, "{service}");
        }
        // The top level is nobody's site, and addresses have none.
        assert!(!same_site(
            &url("https://x.test/"),
            &url("https://evil.test/")
        ));
        assert!(!same_site(
            &url("https://10.0.0.1/"),
            &url("https://10.0.0.2/")
        ));
        assert!(!same_site(
            &url("http://127.0.0.1:1/"),
            &url("http://127.0.0.1:2/")
        ));
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
