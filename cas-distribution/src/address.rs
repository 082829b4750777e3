//! Decides which addresses the client may connect to.
//!
//! A registry chooses the addresses of its redirects, its token service and its upload locations. A
//! registry must not make this machine send requests to addresses that only this machine or its
//! network reaches. So every address is judged, after a name is looked up and before a connection
//! is made:
//!
//! | address | whether a connection is made |
//! |---|---|
//! | link-local, metadata services of clouds, multicast, reserved | never, except if the user gave this address as the registry |
//! | loopback and unspecified | if the registry is on loopback or has an address of the first row, or with [`Options::private_addresses`](crate::Options::private_addresses) |
//! | private: RFC 1918, shared (100.64/10), benchmarks (198.18/15), unique local, site-local | if the registry's own address is not public, or with the option of the row above |
//! | any other | always |
//!
//! - An IPv6 address that contains an IPv4 address (mapped, compatible, translated, NAT64, 6to4,
//!   Teredo) is judged as the IPv4 address.
//! - The registry's own address is the address that the first lookup of its name returns. If the
//!   lookup returns several addresses, the most public one counts. Addresses that a later lookup
//!   returns are judged like those of any other host.
//! - Behind a proxy, an address in a URL is judged. A name is not judged, because the proxy looks
//!   it up. If the registry is given by name, its own address is then unknown and counts as public.
//!   The proxy itself may have any address, because the user has named it in the environment.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use cas_core::{Error, ErrorKind, Result};
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::error::REGISTRY;
use crate::origin::{literal, shown};
use crate::place::Place;

/// The variables that name proxies, in lower case. They are read in upper case, too.
const PROXIES: [&str; 3] = ["http_proxy", "https_proxy", "all_proxy"];

/// Judges addresses for one registry.
pub(crate) struct Judge {
    /// The host of the registry, as in its URL.
    registry: String,
    /// The place of the registry's own address, once it is known.
    own: OnceLock<Place>,
    allows_private: bool,
    /// How the user can allow more addresses, at the end of an error.
    advice: &'static str,
    /// The hosts of proxies.
    proxies: Vec<String>,
}

impl Judge {
    /// Returns the judge for the registry at this URL.
    pub(crate) fn new(registry: &Url, allows_private: bool) -> Self {
        let own = literal(registry).map(|address| OnceLock::from(Place::of(address)));
        Judge {
            registry: registry.host_str().unwrap_or_default().to_owned(),
            own: own.unwrap_or_default(),
            allows_private,
            advice: "",
            proxies: proxies(),
        }
    }

    /// Adds advice to the errors: how the user can allow more addresses.
    pub(crate) fn with_advice(mut self, advice: &'static str) -> Self {
        self.advice = advice;
        self
    }

    /// Checks the host of a URL, if it is an address.
    ///
    /// # Errors
    /// `Denied` if the address must not be connected to.
    pub(crate) fn check(&self, url: &Url) -> Result<()> {
        match literal(url) {
            Some(address) if !self.is_registry(url.host_str()) => self.admit(&shown(url), address),
            _ => Ok(()),
        }
    }

    fn is_registry(&self, host: Option<&str>) -> bool {
        host == Some(&self.registry)
    }

    fn admit(&self, host: &str, address: IpAddr) -> Result<()> {
        let own = self.own.get().copied().unwrap_or(Place::Public);
        let what = match Place::of(address) {
            Place::Forbidden => {
                return Err(denied(format!(
                    "{host} has the address {address}, which is link-local, multicast or \
                     reserved, or belongs to a metadata service; cas does not connect to such \
                     addresses; check the configuration of {}",
                    self.registry
                )));
            }
            place if place <= own || self.allows_private => return Ok(()),
            Place::Private => "in a private network",
            _ => "on this machine",
        };
        Err(denied(format!(
            "{host} has the address {address}, which is {what}; {} may not refer to such \
             addresses, because its own address is {}{}",
            self.registry,
            match own {
                Place::Public => "public or unknown",
                _ => "in a private network",
            },
            self.advice
        )))
    }

    /// Returns those addresses of a name that may be connected to. These are all addresses if the
    /// name is that of a proxy.
    ///
    /// # Errors
    /// `Denied` if the name has addresses, but none of them may be connected to.
    fn select(&self, name: &str, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>> {
        if self.proxies.iter().any(|proxy| proxy == name) {
            return Ok(found);
        }
        if self.is_registry(Some(name)) {
            let places = found.iter().map(|address| Place::of(address.ip()));
            if let Some(most_public) = places.min() {
                self.own.get_or_init(|| most_public);
            }
        }
        let mut refused = None;
        let mut admitted = Vec::new();
        for address in found {
            match self.admit(name, address.ip()) {
                Ok(()) => admitted.push(address),
                Err(error) => refused = Some(error),
            }
        }
        match refused {
            Some(error) if admitted.is_empty() => Err(error),
            _ => Ok(admitted),
        }
    }
}

/// Looks up names, and leaves out the addresses that must not be connected to.
pub(crate) struct Resolver(pub(crate) Arc<Judge>);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let judge = Arc::clone(&self.0);
        Box::pin(async move {
            let name = name.as_str();
            let found = tokio::net::lookup_host((name, 0)).await?;
            let admitted = judge.select(name, found.collect())?;
            Ok(Box::new(admitted.into_iter()) as Addrs)
        })
    }
}

/// Returns the hosts of the proxies that the environment names.
fn proxies() -> Vec<String> {
    let variables = PROXIES
        .iter()
        .flat_map(|name| [(*name).to_owned(), name.to_uppercase()]);
    let values = variables.filter_map(|name| std::env::var(name).ok());
    values.filter_map(|value| proxy_host(&value)).collect()
}

/// Checks the proxy that the environment names for requests of a scheme, `http` or `https`. Without
/// this check, requests would bypass a proxy that cannot be used.
///
/// # Errors
/// `InvalidArgument` if the value is not the URL of an HTTP proxy. The value is not shown, because
/// it may have a login.
pub(crate) fn check_proxy(scheme: &str) -> Result<()> {
    check_proxy_of(scheme, |name| std::env::var(name).ok())
}

fn check_proxy_of(scheme: &str, value_of: impl Fn(&str) -> Option<String>) -> Result<()> {
    // Of two variables whose names differ in case only, the one in upper case counts if it is set,
    // even if it is empty.
    let set = |name: &str| {
        let mut spelled = [name.to_uppercase(), name.to_owned()].into_iter();
        let (name, value) = spelled.find_map(|name| value_of(&name).map(|value| (name, value)))?;
        Some((name, value)).filter(|(_, value)| !value.trim().is_empty())
    };
    let Some((name, value)) = set(&format!("{scheme}_proxy")).or_else(|| set("all_proxy")) else {
        return Ok(());
    };
    let scheme = value
        .trim()
        .split_once("://")
        .map_or("http", |(scheme, _)| scheme);
    let is_http = ["http", "https"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(scheme));
    if is_http && is_understood(&value) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the variable {name} does not name a proxy that can be used; expected http://HOST:PORT; \
         correct it, or unset it"
    )))
}

/// Returns whether the HTTP client understands this value of a variable. The client ignores a value
/// that it does not understand.
fn is_understood(value: &str) -> bool {
    let proxy = Matcher::builder().all(value.to_owned()).build();
    let any = "http://registry.test/".parse();
    any.is_ok_and(|any| proxy.intercept(&any).is_some())
}

/// Returns the origin (scheme, host and port) of the proxy that the environment names for requests
/// to `url`, or `None` if requests go to `url` itself.
pub(crate) fn proxy_of(url: &Url) -> Option<String> {
    let proxy = Matcher::from_env().intercept(&url.as_str().parse().ok()?)?;
    let proxy: Url = proxy.uri().to_string().parse().ok()?;
    Some(shown(&proxy))
}

fn proxy_host(value: &str) -> Option<String> {
    let value = value.trim();
    let url: Url = if value.contains("://") {
        value.parse().ok()?
    } else {
        format!("http://{value}").parse().ok()?
    };
    url.host_str().map(str::to_ascii_lowercase)
}

fn denied(why: String) -> Error {
    Error::new(ErrorKind::Denied, why).backend(REGISTRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_an_error_without_its_login() {
        let check = |scheme: &str, set: &[(&str, &str)]| {
            check_proxy_of(scheme, |name| {
                let found = set.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        for good in [
            "",
            "proxy.test:3128",
            "http://me:pass@proxy.test",
            "HTTPS://10.0.0.1:1",
        ] {
            for name in ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
                check("https", &[(name, good)]).unwrap();
            }
        }
        for bad in [
            "http://me:secret@",
            "socks5://me:secret@proxy.test",
            "ftp://secret.test",
            "http://me:sec^ret@proxy.test",
            ":::",
        ] {
            let error = check("https", &[("HTTPS_PROXY", bad)]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad}: {error}");
            let said = error.to_string();
            assert!(
                said.contains("HTTPS_PROXY") && !said.contains("sec"),
                "{said}"
            );
            // The proxy is for another scheme, or another variable comes first.
            check("http", &[("HTTPS_PROXY", bad)]).unwrap();
            for (first, other) in [
                (("https_proxy", "proxy.test:1"), "ALL_PROXY"),
                (("HTTPS_PROXY", "proxy.test:1"), "https_proxy"),
                (("HTTPS_PROXY", ""), "https_proxy"),
            ] {
                check("https", &[first, (other, bad)]).unwrap();
            }
            check("https", &[("HTTPS_PROXY", ""), ("all_proxy", bad)]).unwrap_err();
        }
    }

    #[test]
    fn an_address_in_a_url_is_judged_by_where_the_registry_is() {
        for (registry, to, expected) in [
            ("https://10.0.0.1", "https://10.0.0.2/", true),
            ("https://10.0.0.1", "https://127.0.0.1/", false),
            ("https://10.0.0.1", "https://8.8.8.8/", true),
            ("https://8.8.8.8", "https://10.0.0.1/", false),
            ("https://8.8.8.8", "https://[::ffff:10.0.0.1]/", false),
            ("https://8.8.8.8", "https://[64:ff9b::7f00:1]/", false),
            // URLs have many forms of one address.
            ("https://8.8.8.8", "https://0x7f.1/", false),
            ("https://8.8.8.8", "https://2130706433/", false),
            ("https://8.8.8.8", "https://0177.0.0.1/", false),
            ("https://8.8.8.8", "https://127.0.0.1./", false),
            ("https://8.8.8.8", "https://8.8.8.8:5001/", true),
            ("http://127.0.0.1:1", "http://10.0.0.1/", true),
            ("http://127.0.0.1:1", "http://[::1]:2/", true),
            ("http://127.0.0.1:1", "http://169.254.169.254/", false),
            ("http://127.0.0.1:1", "http://100.100.100.200/", false),
            ("http://127.0.0.1:1", "http://[fd00:ec2::254]/", false),
            // The user gave this address.
            ("https://169.254.7.7", "https://169.254.7.7/token", true),
            ("https://169.254.7.7", "https://169.254.169.254/", false),
            ("https://169.254.7.7", "https://8.8.8.8/", true),
            // As long as the address of a name is unknown, it counts as public.
            ("https://r.test", "https://10.0.0.1/", false),
            ("https://r.test", "https://8.8.8.8/", true),
        ] {
            let judge = Judge::new(&url(registry), false);
            assert_eq!(judge.check(&url(to)).is_ok(), expected, "{registry} {to}");
        }
    }

    #[test]
    fn an_option_allows_private_addresses_and_nothing_else() {
        let judge = Judge::new(&url("https://8.8.8.8"), true);
        for to in ["https://10.0.0.1/", "https://127.0.0.1/", "https://[::1]/"] {
            judge.check(&url(to)).unwrap();
        }
        for to in [
            "https://169.254.169.254/",
            "https://[fe80::1]/",
            "https://100.100.100.200/",
        ] {
            let error = judge.check(&url(to)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Denied, "{to}");
        }
    }

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        let parsed = texts
            .iter()
            .map(|text| SocketAddr::new(text.parse().unwrap(), 0));
        parsed.collect()
    }

    /// Returns which of the addresses of a name are connected to.
    fn selected(judge: &Judge, name: &str, found: &[&str]) -> Vec<String> {
        let selected = judge.select(name, addresses(found)).unwrap_or_default();
        selected
            .iter()
            .map(|address| address.ip().to_string())
            .collect()
    }

    #[test]
    fn the_addresses_of_a_name_are_judged_after_it_is_looked_up() {
        let judge = Judge::new(&url("https://r.test"), false);
        assert_eq!(selected(&judge, "r.test", &["8.8.8.8"]), ["8.8.8.8"]);
        let none: [&str; 0] = [];
        for hidden in [
            "127.0.0.1",
            "10.0.0.1",
            "169.254.169.254",
            "fd00:ec2::254",
            "::",
        ] {
            assert_eq!(selected(&judge, "cdn.test", &[hidden]), none);
            // The same name later has another address.
            assert_eq!(selected(&judge, "r.test", &[hidden]), none);
        }
        let mixed = ["10.0.0.1", "9.9.9.9", "::1"];
        assert_eq!(selected(&judge, "cdn.test", &mixed), ["9.9.9.9"]);
    }

    #[test]
    fn the_most_public_address_of_a_registry_is_its_own() {
        for (found, expected, private, loopback) in [
            (
                &["127.0.0.1", "8.8.8.8"][..],
                &["8.8.8.8"][..],
                false,
                false,
            ),
            (&["10.0.0.1"], &["10.0.0.1"], true, false),
            (&["127.0.0.1", "10.0.0.1"], &["10.0.0.1"], true, false),
            (&["127.0.0.1", "::1"], &["127.0.0.1", "::1"], true, true),
            (&["169.254.1.1"], &[], true, true),
        ] {
            let judge = Judge::new(&url("https://r.test"), false);
            assert_eq!(selected(&judge, "r.test", found), expected);
            let reaches = |address| !selected(&judge, "cdn.test", &[address]).is_empty();
            if !expected.is_empty() {
                assert_eq!(reaches("192.168.1.1"), private, "{found:?}");
                assert_eq!(reaches("127.0.0.2"), loopback, "{found:?}");
            }
            assert!(!reaches("169.254.169.254"), "{found:?}");
        }
    }

    #[test]
    fn a_proxy_may_have_any_address() {
        for (value, expected) in [
            ("http://proxy.corp:3128", Some("proxy.corp")),
            ("http://me:secret@Proxy.corp:3128/", Some("proxy.corp")),
            ("proxy.corp:3128", Some("proxy.corp")),
            ("socks5h://proxy.corp:1080", Some("proxy.corp")),
            ("", None),
        ] {
            assert_eq!(proxy_host(value).as_deref(), expected, "{value}");
        }
        let mut judge = Judge::new(&url("https://r.test"), false);
        judge.proxies = vec!["proxy.corp".to_owned()];
        assert_eq!(selected(&judge, "proxy.corp", &["10.0.0.9"]), ["10.0.0.9"]);
    }
}
