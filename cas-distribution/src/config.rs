//! One file of logins: docker's `config.json`, podman's `auth.json`, or the older `.dockercfg`.

use std::collections::BTreeMap;
use std::path::Path;

use cas_core::nulls::{null_is_default, texts};
use cas_core::{Context, Error, Result, limit};
use serde::Deserialize;

use crate::bounded;
use crate::credentials::{Credentials, Saved};
use crate::keys::Keys;

/// The logins that a file has, and the credential helpers that it names.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Config {
    #[serde(deserialize_with = "null_is_default")]
    auths: BTreeMap<String, Option<Saved>>,
    #[serde(deserialize_with = "texts")]
    cred_helpers: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_default")]
    creds_store: String,
    /// Whether the file has the format of `.dockercfg`, in which every key is a URL.
    #[serde(skip)]
    is_legacy: bool,
}

impl Config {
    /// Reads a file. Returns `None` if it is absent. An empty file is an empty configuration.
    ///
    /// # Errors
    /// `InvalidArgument` if it does not parse; `OutOfRange` if it is larger than
    /// [`limit::LOGINS`]; errors of the file system.
    pub(crate) fn read(path: &Path, is_legacy: bool) -> Result<Option<Self>> {
        let read = bytes(path).and_then(|data| match data {
            Some(data) => Config::parse(&data, is_legacy).map(Some),
            None => Ok(None),
        });
        read.during("read", path.display())
    }

    pub(crate) fn parse(data: &[u8], is_legacy: bool) -> Result<Self> {
        if data.trim_ascii().is_empty() {
            return Ok(Config::default());
        }
        // The parser would take a list for an object.
        if data.trim_ascii().starts_with(b"[") {
            return Err(Error::invalid(
                "expected an object, found a list; correct the file",
            ));
        }
        let parsed = if is_legacy {
            serde_json::from_slice(data).map(|auths| Config {
                auths,
                is_legacy,
                ..Config::default()
            })
        } else {
            serde_json::from_slice(data)
        };
        parsed.map_err(|error| unparsed(&error))
    }

    /// Returns the login that the file itself has for these keys, or `None` if it has none.
    ///
    /// # Errors
    /// `InvalidArgument` if the entry does not decode.
    pub(crate) fn saved(&self, keys: &Keys) -> Result<Option<Credentials>> {
        let exact = keys.exact().filter_map(|key| self.auths.get(key));
        let others = self.auths.iter();
        let others = others.filter(|(key, _)| keys.mean(key, self.is_legacy));
        for saved in exact.chain(others.map(|(_, saved)| saved)).flatten() {
            if let Some(found) = saved.credentials()? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Returns the keys in the file for which a helper may keep a login, each with the name of the
    /// helper.
    pub(crate) fn helped(&self) -> Vec<(&str, &str)> {
        let own = self
            .cred_helpers
            .iter()
            .map(|(key, helper)| (key.as_str(), helper.as_str()));
        let all = self
            .auths
            .keys()
            .filter(|key| !self.cred_helpers.contains_key(*key));
        let all = all.map(|key| (key.as_str(), self.creds_store.as_str()));
        own.chain(all)
            .filter(|(_, helper)| !helper.is_empty())
            .collect()
    }

    /// Returns the helpers that may have the login, in the order in which they are asked: first the
    /// helper of the registry. Returns none if `credHelpers` has an empty name for the registry.
    pub(crate) fn helpers(&self, keys: &Keys) -> Vec<&str> {
        let mut exact = keys.whole().iter();
        let exact = exact.find_map(|key| self.cred_helpers.get(key));
        let own = exact.or_else(|| {
            let mut helpers = self.cred_helpers.iter();
            let other = helpers.find(|(key, _)| keys.mean(key, false));
            other.map(|(_, helper)| helper)
        });
        match own.map(String::as_str) {
            Some("") => Vec::new(),
            Some(own) if own != self.creds_store && !self.creds_store.is_empty() => {
                vec![own, &self.creds_store]
            }
            Some(own) => vec![own],
            None if self.creds_store.is_empty() => Vec::new(),
            None => vec![&self.creds_store],
        }
    }
}

/// Returns the bytes of a file, or `None` if it is absent.
///
/// # Errors
/// `OutOfRange` if it is larger than [`limit::LOGINS`]; errors of the file system.
pub(crate) fn bytes(path: &Path) -> Result<Option<Vec<u8>>> {
    bounded::read(path, "the file of logins", limit::LOGINS)
}

/// Returns the error for a file that does not parse. The error names only the line, because the
/// message of serde could contain a secret.
pub(crate) fn unparsed(error: &serde_json::Error) -> Error {
    Error::invalid(format!(
        "line {} does not parse; correct the file",
        error.line()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(name: &str, password: &str) -> Option<Credentials> {
        Credentials::of(name.into(), password.into())
    }

    fn keys(registry: &str, repository: &str) -> Keys {
        Keys::new(&format!("https://{registry}/").parse().unwrap(), repository)
    }

    fn found(config: &str, registry: &str, repository: &str) -> Option<Credentials> {
        let config = Config::parse(config.as_bytes(), false).unwrap();
        config.saved(&keys(registry, repository)).unwrap()
    }

    #[test]
    fn each_kind_of_login_is_read() {
        // me:pass:word
        let config = r#"{
            "auths": {
                "x.test:5000": {"auth": "bWU6cGFzczp3b3Jk"},
                "https://y.test/v1/": {"username": "you", "password": "p"},
                "z.test": {"auth": "bWU6cGFzczp3b3Jk", "identitytoken": "id"},
                "t.test": {"registrytoken": "tok"},
                "helped.test": {},
                "https://helped.test": {"auth": "bWU6cGFzczp3b3Jk"},
                "token.test": {"auth": "PHRva2VuPjppZA=="},
                "bare.test": {"auth": "YTpi\n"},
                "unpadded.test": {"auth": "YTpiYw"},
                "zeros.test": {"auth": "YTpiAAA="},
                "none.test": {},
                "null.test": null,
                "nulls.test": {"auth": null, "username": null, "identitytoken": null}
            },
            "currentContext": "other"
        }"#;
        for (host, expected) in [
            ("x.test:5000", password("me", "pass:word")),
            ("y.test", password("you", "p")),
            ("z.test", Some(Credentials::Identity("id".into()))),
            ("t.test", Some(Credentials::Registry("tok".into()))),
            ("helped.test", password("me", "pass:word")),
            ("token.test", Some(Credentials::Identity("id".into()))),
            ("bare.test", password("a", "b")),
            ("unpadded.test", password("a", "bc")),
            ("zeros.test", password("a", "b")),
        ] {
            assert!(found(config, host, "app") == expected, "{host}");
        }
        let others = [
            "x.test",
            "x.test:5001",
            "none.test",
            "null.test",
            "nulls.test",
            "test",
        ];
        for other in others {
            assert!(found(config, other, "app").is_none(), "{other}");
        }
    }

    #[test]
    fn nulls_and_an_empty_file_are_empty() {
        for config in [
            "",
            " \n",
            "{}",
            r#"{"auths": null, "credHelpers": null, "credsStore": null}"#,
            r#"{"credHelpers": {"x.test": null}}"#,
        ] {
            let config = Config::parse(config.as_bytes(), false).unwrap();
            let keys = keys("x.test", "app");
            assert!(config.saved(&keys).unwrap().is_none());
            assert!(config.helpers(&keys).is_empty());
        }
    }

    #[test]
    fn the_login_of_a_namespace_is_for_that_alone() {
        let config = r#"{"auths": {
            "x.test": {"username": "all"},
            "x.test/team": {"username": "team"},
            "x.test/team/app": {"username": "app"},
            "y.test/team": {"username": "team"}
        }}"#;
        for (host, repository, expected) in [
            ("x.test", "team/app", "app"),
            ("x.test", "team/app/sub", "app"),
            ("x.test", "team/other", "team"),
            ("x.test", "team", "team"),
            ("x.test", "teams/app", "all"),
            ("x.test", "other", "all"),
            ("x.test", "", "all"),
            ("y.test", "team/app", "team"),
        ] {
            let found = found(config, host, repository);
            assert!(found == password(expected, ""), "{host} {repository}");
        }
        assert!(found(config, "y.test", "other").is_none());
        assert!(found(config, "y.test", "").is_none());
    }

    #[test]
    fn docker_hub_has_the_login_of_docker_or_podman() {
        for key in [
            "https://index.docker.io/v1/",
            "docker.io",
            "index.docker.io",
            "https://registry-1.docker.io",
            "docker.io/library",
            "docker.io/library/app",
        ] {
            let config = format!(r#"{{"auths": {{"{key}": {{"username": "me"}}}}}}"#);
            let found = found(&config, "registry-1.docker.io", "library/app");
            assert!(found == password("me", ""), "{key}");
        }
        for key in [
            "auth.docker.io",
            "hub.docker.com",
            "docker.io/other",
            "docker.io/library/ap",
        ] {
            let config = format!(r#"{{"auths": {{"{key}": {{"username": "me"}}}}}}"#);
            let found = found(&config, "registry-1.docker.io", "library/app");
            assert!(found.is_none(), "{key}");
        }
    }

    #[test]
    fn the_earliest_format_has_only_logins() {
        let data = br#"{"https://x.test/v1/": {"auth": "YTpi", "email": "a@x.test"}}"#;
        let config = Config::parse(data, true).unwrap();
        assert!(config.saved(&keys("x.test", "app")).unwrap() == password("a", "b"));
        assert!(config.saved(&keys("y.test", "app")).unwrap().is_none());
    }

    #[test]
    fn the_helper_of_the_registry_comes_first() {
        let config = r#"{
            "credHelpers": {"x.test": "own", "none.test": "", "docker.io": "hub", "all.test": "all",
                "https://y.test/": "url"},
            "credsStore": "all"
        }"#;
        let config = Config::parse(config.as_bytes(), false).unwrap();
        for (host, expected) in [
            ("x.test", vec!["own", "all"]),
            ("x.test:5000", vec!["all"]),
            ("none.test", vec![]),
            ("all.test", vec!["all"]),
            ("y.test", vec!["url", "all"]),
            ("registry-1.docker.io", vec!["hub", "all"]),
        ] {
            assert_eq!(config.helpers(&keys(host, "app")), expected, "{host}");
        }
    }

    #[test]
    fn errors_do_not_contain_secrets() {
        for bad in [
            r#"{"auths": {"x.test": {"auth": "c2VjcmV0"}}}"#,
            r#"{"auths": {"x.test": "secret"}}"#,
            r#"{"auths": {"x.test": {"auth": "secret!"}}}"#,
            r#"{"auths": {"x.test": {"password": "secret}}}"#,
            r#"secret"#,
        ] {
            let parsed = Config::parse(bad.as_bytes(), false);
            let outcome = parsed.and_then(|config| config.saved(&keys("x.test", "app")));
            let error = outcome.err().unwrap();
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }

    #[test]
    fn a_file_of_as_many_bytes_as_are_allowed_is_read_and_no_longer_one() {
        let path = std::env::temp_dir().join(format!("cas-logins-{}", std::process::id()));
        let read = |size: u64| {
            std::fs::write(&path, vec![b' '; size as usize]).unwrap();
            Config::read(&path, false)
        };
        assert!(read(limit::LOGINS).unwrap().is_some());
        let error = read(limit::LOGINS + 1).err().unwrap();
        assert_eq!(error.kind(), cas_core::ErrorKind::OutOfRange);
        std::fs::remove_file(path).unwrap();
    }
}
