//! Docker's credentials: `config.json` and the credential helpers it names.
//!
//! The file is in `$DOCKER_CONFIG`, otherwise in `~/.docker`. It is read only when a registry asks
//! for credentials.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cas_core::{Context, Error, Result, limit};
use serde::Deserialize;

use crate::helper;

/// Credentials for a registry. They do not implement `Debug`, so that they are never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// Name and password.
    Password { name: String, password: String },
    /// A token that a token service exchanges for other tokens.
    Identity(String),
    /// A token for the registry itself.
    Registry(String),
}

impl Credentials {
    /// Returns whose login it is, for messages.
    pub(crate) fn in_words(&self) -> String {
        match self {
            Credentials::Password { name, .. } => {
                format!("the login of {:.100}", name.escape_debug().to_string())
            }
            Credentials::Identity(_) | Credentials::Registry(_) => "the saved token".to_owned(),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: BTreeMap<String, Auth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// Returns the credentials for the registry `host`, which includes the port, if there is one.
/// Returns `None` if there are none.
///
/// # Errors
/// `InvalidArgument` if the file does not parse or names an invalid helper; `FailedPrecondition` if
/// a helper fails; errors of the file system.
pub(crate) fn find(host: &str) -> Result<Option<Credentials>> {
    let Some(path) = path() else {
        return Ok(None);
    };
    match read(&path).during("read", path.display())? {
        Some(data) => of(&data, host).during("read", path.display()),
        None => Ok(None),
    }
}

fn path() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let directory = var("DOCKER_CONFIG").map(PathBuf::from);
    let directory = directory.or_else(|| var("HOME").map(|home| Path::new(&home).join(".docker")));
    directory.map(|directory| directory.join("config.json"))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        outcome => outcome?,
    };
    let mut data = Vec::new();
    file.take(limit::DOCUMENT_READ).read_to_end(&mut data)?;
    Ok(Some(data))
}

fn of(data: &[u8], host: &str) -> Result<Option<Credentials>> {
    // The message of serde could contain a secret.
    let config: Config = serde_json::from_slice(data).map_err(|error| {
        Error::invalid(format!("line {} does not parse; correct it", error.line()))
    })?;
    let own = config.cred_helpers.get(host);
    let helper = own.unwrap_or(&config.creds_store);
    if !helper.is_empty()
        && let Some(found) = helper::ask(helper, host)?
    {
        return Ok(Some(found));
    }
    let exact = config.auths.get(host);
    let similar = || {
        let mut auths = config.auths.iter();
        auths.find(|(key, _)| host_of(key) == host)
    };
    match exact.or_else(|| similar().map(|(_, auth)| auth)) {
        Some(auth) => auth.credentials(),
        None => Ok(None),
    }
}

/// Returns the host in a key, which may be a whole URL.
fn host_of(key: &str) -> &str {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest);
    key.split_once('/').map_or(key, |(host, _)| host)
}

impl Auth {
    fn credentials(&self) -> Result<Option<Credentials>> {
        if !self.registrytoken.is_empty() {
            return Ok(Some(Credentials::Registry(self.registrytoken.clone())));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credentials::Identity(self.identitytoken.clone())));
        }
        if self.auth.is_empty() {
            let named = !self.username.is_empty();
            return Ok(named.then(|| Credentials::Password {
                name: self.username.clone(),
                password: self.password.clone(),
            }));
        }
        let decoded = BASE64_STANDARD.decode(&self.auth).ok();
        let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
        let (name, password) = pair.ok_or_else(|| {
            Error::invalid("an `auth` is not NAME:PASSWORD in base64; use `docker login` again")
        })?;
        Ok(Some(Credentials::Password {
            name: name.to_owned(),
            password: password.trim_end_matches('\0').to_owned(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(name: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Password {
            name: name.into(),
            password: password.into(),
        })
    }

    #[test]
    fn each_kind_of_login_is_read() {
        // me:pass:word
        let config = br#"{
            "auths": {
                "x.test:5000": {"auth": "bWU6cGFzczp3b3Jk"},
                "https://y.test/v1/": {"username": "you", "password": "p"},
                "z.test": {"auth": "bWU6cGFzczp3b3Jk", "identitytoken": "id"},
                "t.test": {"registrytoken": "tok"},
                "none.test": {}
            },
            "currentContext": "other"
        }"#;
        let found = |host| of(config, host).unwrap();
        assert!(found("x.test:5000") == password("me", "pass:word"));
        assert!(found("y.test") == password("you", "p"));
        assert!(found("z.test") == Some(Credentials::Identity("id".into())));
        assert!(found("t.test") == Some(Credentials::Registry("tok".into())));
        for other in ["x.test", "x.test:5001", "none.test", "test", ""] {
            assert!(found(other).is_none(), "{other}");
        }
    }

    #[test]
    fn errors_do_not_contain_secrets() {
        for bad in [
            r#"{"auths": {"x.test": {"auth": "c2VjcmV0"}}}"#,
            r#"{"auths": {"x.test": "secret"}}"#,
            r#"{"auths": {"x.test": {"auth": "secret!"}}}"#,
        ] {
            let error = of(bad.as_bytes(), "x.test").err().unwrap();
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }
}
