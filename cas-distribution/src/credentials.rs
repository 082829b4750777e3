//! A login for a registry, and its forms in files and in the answers of helpers.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use cas_core::error::excerpt;
use cas_core::nulls::null_is_default;
use cas_core::{Error, Result};
use serde::Deserialize;

/// The name in a login that has a token in place of a password.
const TOKEN: &str = "<token>";

/// Base64 whose padding may be absent.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

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
    /// Returns the login of a name and a secret. The secret is an identity token if the name is
    /// [`TOKEN`], and otherwise a password. Returns `None` if the secret is empty and the name is
    /// empty or [`TOKEN`].
    pub(crate) fn of(name: String, secret: String) -> Option<Self> {
        match name.as_str() {
            "" if secret.is_empty() => None,
            TOKEN if secret.is_empty() => None,
            TOKEN => Some(Credentials::Identity(secret)),
            _ => Some(Credentials::Password {
                name,
                password: secret,
            }),
        }
    }

    /// Returns whose login it is, for messages.
    pub(crate) fn in_words(&self) -> String {
        match self {
            Credentials::Password { name, .. } => {
                format!("the login of {}", excerpt(name))
            }
            Credentials::Identity(_) | Credentials::Registry(_) => "the saved token".to_owned(),
        }
    }
}

/// A login in a file. A member that is absent, null or empty does not count.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(crate) struct Saved {
    #[serde(deserialize_with = "null_is_default")]
    auth: String,
    #[serde(deserialize_with = "null_is_default")]
    username: String,
    #[serde(deserialize_with = "null_is_default")]
    password: String,
    #[serde(deserialize_with = "null_is_default")]
    identitytoken: String,
    #[serde(deserialize_with = "null_is_default")]
    registrytoken: String,
}

impl Saved {
    /// Returns the login, or `None` if there is none, as in an entry for a login that a helper
    /// keeps.
    ///
    /// # Errors
    /// `InvalidArgument` if `auth` does not decode, or has no name.
    pub(crate) fn credentials(&self) -> Result<Option<Credentials>> {
        if !self.registrytoken.is_empty() {
            return Ok(Some(Credentials::Registry(self.registrytoken.clone())));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credentials::Identity(self.identitytoken.clone())));
        }
        let auth = self.auth.trim();
        if auth.is_empty() {
            return Ok(Credentials::of(
                self.username.clone(),
                self.password.clone(),
            ));
        }
        let decoded = BASE64.decode(auth).ok();
        let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
        let pair = pair.filter(|(name, _)| !name.is_empty());
        let (name, password) = pair.ok_or_else(|| {
            Error::invalid(
                "the `auth` of a login is not NAME:PASSWORD in base64; use `cas login` again",
            )
        })?;
        let password = password.trim_end_matches('\0');
        Ok(Credentials::of(name.to_owned(), password.to_owned()))
    }
}
