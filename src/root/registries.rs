//! Registries in `cas.toml`: which token services may receive a login, and whether http and private
//! addresses are allowed.
//!
//! ```toml
//! [registries."registry.example"]
//! token-hosts = ["auth.example.net"]
//! plain-http = true
//! ```

#[cfg(feature = "registry")]
use std::{collections::BTreeMap, path::Path};

#[cfg(feature = "registry")]
use cas_core::{Error, Result};
#[cfg(feature = "registry")]
use cas_distribution::Host;
use serde::{Deserialize, Serialize};

/// The table of one registry in `cas.toml`: `[registries."HOST[:PORT]"]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RegistryTable {
    /// Hosts of token services that may receive the login for the registry, in addition to the
    /// registry's own host and its subdomains. Each host is `HOST[:PORT]`. A host without a port
    /// stands for all ports of this host.
    #[serde(default)]
    pub token_hosts: Vec<String>,
    /// Whether the registry is reached over http, as with `--plain-http`.
    #[serde(default)]
    pub plain_http: bool,
    /// Whether the registry may refer to addresses on this machine and in private networks, as with
    /// `--private-addresses`.
    #[serde(default)]
    pub private_addresses: bool,
}

/// Returns the table for the registry at `host`, if there is one.
#[cfg(feature = "registry")]
pub(crate) fn of_host<'a>(
    tables: &'a BTreeMap<String, RegistryTable>,
    host: &str,
) -> Option<&'a RegistryTable> {
    let is_of = |name: &str| {
        let named: Option<Host> = name.parse().ok();
        named.is_some_and(|named| named.to_string() == host)
    };
    let mut tables = tables.iter();
    tables.find_map(|(name, table)| is_of(name).then_some(table))
}

/// Returns the hosts of token services that the tables name for the registry at `host`. Errors name
/// `file`, from which the tables were read.
///
/// # Errors
/// `InvalidArgument` if the name of any table, or of a token service in it, is not a host.
#[cfg(feature = "registry")]
pub(crate) fn token_hosts(
    tables: &BTreeMap<String, RegistryTable>,
    host: &str,
    file: &Path,
) -> Result<Vec<Host>> {
    let mut found = Vec::new();
    for (registry, table) in tables {
        let place = format!("[registries.{registry:?}] of {}", file.display());
        let at = |key: &str| {
            let subject = format!("{key}{place}");
            move |error: Error| error.operation("read").subject(subject)
        };
        let registry: Host = registry.parse().map_err(at(""))?;
        for named in &table.token_hosts {
            let named: Host = named.parse().map_err(at("token-hosts of "))?;
            if registry.to_string() == host {
                found.push(named);
            }
        }
    }
    Ok(found)
}

#[cfg(feature = "registry")]
#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str, host: &str) -> Result<Vec<String>> {
        let tables = toml::from_str(text).unwrap();
        let hosts = token_hosts(&tables, host, Path::new("/root/cas.toml"))?;
        Ok(hosts.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_table_is_for_its_registry_alone() {
        let text = r#"
            ["x.test"]
            token-hosts = ["auth.y.test", "auth.z.test:5001"]
            ["x.test:5000"]
            token-hosts = ["localhost"]
            ["empty.test"]
        "#;
        let two = vec!["auth.y.test".to_owned(), "auth.z.test:5001".to_owned()];
        assert_eq!(named(text, "x.test").unwrap(), two);
        assert_eq!(named(text, "x.test:5000").unwrap(), ["localhost"]);
        for other in ["empty.test", "y.test", "a.x.test", "x.test:443"] {
            assert!(named(text, other).unwrap().is_empty(), "{other}");
        }
    }

    #[test]
    fn any_spelling_of_a_host_has_the_settings_of_its_table() {
        let text = r#"
            ["X.test:5000"]
            plain-http = true
            ["y.test"]
            private-addresses = true
        "#;
        let tables = toml::from_str(text).unwrap();
        let found = |host: &str| {
            let table = of_host(&tables, host);
            table.map(|table| (table.plain_http, table.private_addresses))
        };
        assert_eq!(found("x.test:5000"), Some((true, false)));
        assert_eq!(found("y.test"), Some((false, true)));
        assert_eq!(found("x.test"), None);
    }

    #[test]
    fn a_mistake_is_told_with_file_and_key() {
        for (text, subject) in [
            (
                "[\"x.test\"]\ntoken-hosts = [\"https://y.test\"]",
                "token-hosts of [registries.\"x.test\"] of /root/cas.toml: \"https://y.test\"",
            ),
            (
                "[\"x.test/team\"]\ntoken-hosts = []",
                "[registries.\"x.test/team\"] of /root/cas.toml: \"x.test/team\"",
            ),
        ] {
            // The error does not depend on the host.
            let error = named(text, "other.test").unwrap_err();
            assert_eq!(error.kind(), cas_core::ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(subject), "{error}");
        }
    }
}
