//! Decides which token services may receive the login for a registry.
//!
//! A registry names its token service, so a hostile registry could direct the login to any host.
//! Therefore a token service gets the login only if it is
//! - on the registry's own host, at any port, or on a subdomain of that host;
//! - the token service of Docker Hub, and the registry is Docker Hub; or
//! - on a host that the configuration names for the registry.
//!
//! In each case, registry and token service must both use https, or both be on loopback. The token
//! that the service issues for the login is sent to the registry. So neither the login nor this
//! token leaves loopback over plain http.

use reqwest::Url;

use crate::host::Host;
use crate::{hub, origin};

/// Why a login is withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Registry and token service do not both use https, and are not both on loopback.
    Unencrypted,
    /// The token service's host does not belong to the registry.
    ForeignHost,
}

impl Reason {
    /// Returns the sentence for the user: whose login was withheld from which host, and how to
    /// allow it. `registry` is the host of the registry, as references name it.
    pub(crate) fn explain(self, registry: &str, service: &Url) -> String {
        let from = origin::shown(service);
        let withheld = format!("the login for {registry} was withheld from {from}");
        match self {
            Reason::Unencrypted => format!(
                "{withheld}, because the registry and its token service must both use https or \
                 both be on loopback; use https for both to send the login"
            ),
            Reason::ForeignHost => format!(
                "{withheld}, because this host does not belong to the registry; to send the login \
                 to this host, add \"{}\" to token-hosts of [registries.\"{registry}\"] in \
                 cas.toml",
                origin::authority(service)
            ),
        }
    }
}

/// Checks that the login for `registry` may be sent to the token service at `service`. The
/// configuration names the hosts `named` for this registry.
///
/// # Errors
/// The reason to withhold the login.
pub(crate) fn check(registry: &Url, service: &Url, named: &[Host]) -> Result<(), Reason> {
    let encrypted = registry.scheme() == "https" && service.scheme() == "https";
    let on_loopback = origin::is_loopback(registry) && origin::is_loopback(service);
    if !(encrypted || on_loopback) {
        return Err(Reason::Unencrypted);
    }
    let own = registry.host_str() == service.host_str() || is_below(registry, service);
    let hub = encrypted && is_docker_hub(registry, service);
    if own || hub || named.iter().any(|host| host.has(service)) {
        Ok(())
    } else {
        Err(Reason::ForeignHost)
    }
}

/// Returns whether the service's host is a subdomain of the registry's. IP addresses do not have
/// subdomains.
fn is_below(registry: &Url, service: &Url) -> bool {
    let (Some(registry), Some(service)) = (registry.domain(), service.domain()) else {
        return false;
    };
    let prefix = service.strip_suffix(registry);
    prefix.is_some_and(|prefix| prefix.ends_with('.'))
}

fn is_docker_hub(registry: &Url, service: &Url) -> bool {
    let host = registry.host_str().unwrap_or_default();
    let default_ports = registry.port().is_none() && service.port().is_none();
    hub::is_hub(host) && service.host_str() == Some(hub::TOKENS) && default_ports
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    /// Checks the rule with rows of registry, token service and outcome.
    fn hold(rows: &[(&str, &str, Result<(), Reason>)], named: &[Host]) {
        for (registry, service, expected) in rows {
            let found = check(&url(registry), &url(service), named);
            assert_eq!(found, *expected, "{registry} {service}");
        }
    }

    const FOREIGN: Result<(), Reason> = Err(Reason::ForeignHost);
    const UNENCRYPTED: Result<(), Reason> = Err(Reason::Unencrypted);

    #[test]
    fn a_login_stays_on_the_registrys_host_and_below() {
        let rows = [
            ("https://r.x.test", "https://r.x.test/token", Ok(())),
            ("https://r.x.test", "https://r.x.test:5001/token", Ok(())),
            ("https://r.x.test:5000", "https://r.x.test/token", Ok(())),
            ("https://r.x.test", "https://auth.r.x.test/token", Ok(())),
            ("https://r.x.test:1", "https://a.b.r.x.test:2/", Ok(())),
            ("https://r.x.test", "https://R.X.TEST/token", Ok(())),
            // The parent, a sibling, and names that only look alike.
            ("https://r.x.test", "https://x.test/token", FOREIGN),
            ("https://r.x.test", "https://auth.x.test/token", FOREIGN),
            ("https://r.x.test", "https://evilr.x.test/token", FOREIGN),
            ("https://r.x.test", "https://r.x.test.evil.test/", FOREIGN),
            ("https://r.x.test", "https://evil.test/r.x.test", FOREIGN),
            ("https://r.x.test", "https://r.x.test./token", FOREIGN),
            ("https://r.x.test", "https://127.0.0.1/token", FOREIGN),
            // Addresses are compared whole.
            ("https://10.0.0.1", "https://10.0.0.1:5001/token", Ok(())),
            ("https://10.0.0.1", "https://10.0.0.2/token", FOREIGN),
            ("https://0.0.1.1", "https://10.0.0.1/token", FOREIGN),
            ("https://10.0.0.1", "https://auth.10.0.0.1.test/", FOREIGN),
            ("https://[fd00::1]", "https://[fd00::1]:5001/", Ok(())),
            ("https://[fd00::1]", "https://[fd00::2]/", FOREIGN),
        ];
        hold(&rows, &[]);
    }

    #[test]
    fn both_speak_https_or_both_are_on_loopback() {
        let rows = [
            ("http://r.x.test", "http://r.x.test/token", UNENCRYPTED),
            ("http://r.x.test", "https://r.x.test/token", UNENCRYPTED),
            ("https://r.x.test", "http://r.x.test/token", UNENCRYPTED),
            ("http://10.0.0.1", "http://10.0.0.1/token", UNENCRYPTED),
            ("http://0.0.0.0:1", "http://0.0.0.0:1/token", UNENCRYPTED),
            ("http://169.254.0.1", "http://169.254.0.1/", UNENCRYPTED),
            ("http://[fe80::1]", "http://[fe80::1]/token", UNENCRYPTED),
            ("http://r.x.test", "http://127.0.0.1/token", UNENCRYPTED),
            ("http://127.0.0.1:1", "https://auth.x.test/", UNENCRYPTED),
            ("http://127.0.0.1:1", "http://127.0.0.1:2/token", Ok(())),
            ("http://127.0.0.1:1", "https://127.0.0.1:2/token", Ok(())),
            ("http://127.9.9.9:1", "http://127.9.9.9:2/token", Ok(())),
            ("http://[::1]:1", "http://[::1]:2/token", Ok(())),
            ("http://localhost:1", "http://localhost:2/token", Ok(())),
            ("http://localhost:1", "http://auth.localhost:2/", Ok(())),
            ("http://r.localhost:1", "http://a.r.localhost/", Ok(())),
            // Hosts on loopback are foreign to each other, too.
            ("http://127.0.0.1:1", "http://127.0.0.2:1/", FOREIGN),
            ("http://127.0.0.1:1", "http://localhost:1/", FOREIGN),
            ("http://127.0.0.1:1", "http://[::1]:1/token", FOREIGN),
            ("http://r.localhost", "http://a.localhost/", FOREIGN),
            (
                "http://localhost.evil.test",
                "http://localhost.evil.test/",
                UNENCRYPTED,
            ),
        ];
        hold(&rows, &[]);
    }

    #[test]
    fn docker_hub_has_a_token_service_elsewhere() {
        let auth = "https://auth.docker.io/token";
        let rows = [
            ("https://docker.io", auth, Ok(())),
            ("https://index.docker.io", auth, Ok(())),
            ("https://registry-1.docker.io", auth, Ok(())),
            ("https://mirror.docker.io", auth, FOREIGN),
            ("https://r.x.test", auth, FOREIGN),
            ("https://registry-1.docker.io:5000", auth, FOREIGN),
            ("http://registry-1.docker.io", auth, UNENCRYPTED),
            (
                "https://registry-1.docker.io",
                "http://auth.docker.io/token",
                UNENCRYPTED,
            ),
            (
                "https://registry-1.docker.io",
                "https://auth.docker.io:5000/token",
                FOREIGN,
            ),
            (
                "https://registry-1.docker.io",
                "https://evil.docker.io/token",
                FOREIGN,
            ),
        ];
        hold(&rows, &[]);
    }

    #[test]
    fn a_configuration_names_other_hosts() {
        let named = ["auth.y.test", "auth.z.test:5001", "127.0.0.2"];
        let named = named.map(|host| host.parse().unwrap());
        let rows = [
            ("https://r.x.test", "https://auth.y.test/token", Ok(())),
            ("https://r.x.test", "https://auth.y.test:5001/", Ok(())),
            ("https://r.x.test", "https://auth.z.test:5001/", Ok(())),
            ("https://r.x.test", "https://auth.z.test/token", FOREIGN),
            ("https://r.x.test", "https://y.test/token", FOREIGN),
            ("https://r.x.test", "https://a.auth.y.test/token", FOREIGN),
            ("https://r.x.test", "http://auth.y.test/", UNENCRYPTED),
            ("http://r.x.test", "https://auth.y.test/", UNENCRYPTED),
            ("http://127.0.0.1:1", "https://auth.y.test/", UNENCRYPTED),
            ("http://127.0.0.1:1", "http://127.0.0.2:2/token", Ok(())),
            ("http://r.x.test", "http://127.0.0.2:2/", UNENCRYPTED),
        ];
        hold(&rows, &named);
    }

    #[test]
    fn the_message_says_whose_login_from_whom_and_what_to_do() {
        let service = url("https://auth.y.test:5001/token?secret=1");
        let said = Reason::ForeignHost.explain("r.x.test:5000", &service);
        for part in [
            "login for r.x.test:5000",
            "from https://auth.y.test:5001,",
            "add \"auth.y.test:5001\" to token-hosts of [registries.\"r.x.test:5000\"]",
        ] {
            assert!(said.contains(part), "{said}");
        }
        assert!(!said.contains("secret"), "{said}");
        let said = Reason::Unencrypted.explain("r.x.test", &url("http://r.x.test/token"));
        assert!(said.contains("use https for both"), "{said}");
    }
}
