//! Which backends are compiled in, and how each is opened.

use async_trait::async_trait;

use crate::capability::Capabilities;
use crate::error::{Error, Result};
use crate::location::Location;
use crate::store::Store;

/// Opens the stores of one scheme.
#[async_trait]
pub trait Opener: Send + Sync + 'static {
    /// The scheme.
    fn scheme(&self) -> &'static str;

    /// What its stores promise.
    fn capabilities(&self) -> Capabilities;

    /// Laws that its stores do not keep, each with the reason.
    fn gaps(&self) -> &'static [(&'static str, &'static str)];

    /// Opens the store at `location`, making it where nothing is there yet.
    ///
    /// # Errors
    /// `FailedPrecondition` when something else is there; `Busy` when another process owns it.
    async fn open(&self, location: &Location) -> Result<Store>;
}

/// Opens the stores of one kind of composition, members first.
#[async_trait]
pub trait Composer: Send + Sync + 'static {
    /// The scheme.
    fn scheme(&self) -> &'static str;

    /// The options that name its members: each holds a URL, or a scheme for a store below the
    /// place of the composition; see [`Location::member`].
    fn members(&self) -> &'static [&'static str];

    /// Checks the other options, before anything is opened.
    ///
    /// # Errors
    /// `InvalidArgument`, naming the option.
    fn check(&self, location: &Location) -> Result<()>;

    /// Opens the members from `registry`, and the composition over them.
    ///
    /// # Errors
    /// Those of the members.
    async fn open(&self, location: &Location, registry: &Registry) -> Result<Store>;
}

/// Schemes that exist but may be left out of a build, and the feature that brings each.
const FEATURES: &[(&str, &str)] = &[
    ("fs", "fs"),
    ("redb", "redb"),
    ("rocksdb", "rocksdb"),
    ("dir", "remote"),
    ("s3", "s3"),
    ("gcs", "gcs"),
    ("azblob", "azblob"),
    ("webdav", "webdav"),
];

/// The backends of a program, and how they are composed; made by it, shared with nobody.
#[derive(Default)]
pub struct Registry {
    openers: Vec<Box<dyn Opener>>,
    composers: Vec<Box<dyn Composer>>,
}

impl Registry {
    /// No backends.
    pub fn new() -> Self {
        Registry::default()
    }

    /// Adds a backend; a later one of the same scheme takes the place of the earlier.
    #[must_use]
    pub fn with(mut self, opener: impl Opener) -> Self {
        self.openers
            .retain(|known| known.scheme() != opener.scheme());
        self.openers.push(Box::new(opener));
        self
    }

    /// Adds a kind of composition; a later one of the same scheme takes the place of the earlier.
    #[must_use]
    pub fn with_composer(mut self, composer: impl Composer) -> Self {
        self.composers
            .retain(|known| known.scheme() != composer.scheme());
        self.composers.push(Box::new(composer));
        self
    }

    /// The backends in the order they were added.
    pub fn openers(&self) -> impl Iterator<Item = &dyn Opener> {
        self.openers.iter().map(Box::as_ref)
    }

    /// The kinds of composition in the order they were added.
    pub fn composers(&self) -> impl Iterator<Item = &dyn Composer> {
        self.composers.iter().map(Box::as_ref)
    }

    /// The kind of composition that `scheme` names, if it names one.
    pub fn composer(&self, scheme: &str) -> Option<&dyn Composer> {
        self.composers()
            .find(|composer| composer.scheme() == scheme)
    }

    /// The backend of `scheme`.
    ///
    /// # Errors
    /// `Unsupported`, listing the schemes that are compiled in and the feature to enable.
    pub fn opener(&self, scheme: &str) -> Result<&dyn Opener> {
        self.openers()
            .find(|opener| opener.scheme() == scheme)
            .ok_or_else(|| {
                let composed = self.composers().map(Composer::scheme);
                let compiled: Vec<&str> =
                    self.openers().map(Opener::scheme).chain(composed).collect();
                let advice = match FEATURES.iter().find(|(known, _)| *known == scheme) {
                    Some((_, feature)) => format!("enable the Cargo feature `{feature}` for it"),
                    None => "no feature brings it".to_owned(),
                };
                Error::unsupported(format!(
                    "this scheme is not compiled in; compiled in: {}; {advice}",
                    compiled.join(", ")
                ))
                .operation("open store")
                .subject(scheme)
            })
    }

    /// Checks what can be known of a location without opening it: its scheme and, of a
    /// composition, the options and the members.
    ///
    /// # Errors
    /// As [`Registry::opener`] and [`Composer::check`].
    pub fn check(&self, location: &Location) -> Result<()> {
        let Some(composer) = self.composer(location.scheme()) else {
            return self.opener(location.scheme()).map(|_| ());
        };
        composer.check(location)?;
        composer
            .members()
            .iter()
            .try_for_each(|member| self.check(&location.member(member)?))
    }

    /// Opens the store at `location`.
    ///
    /// # Errors
    /// As [`Registry::check`], [`Opener::open`] and [`Composer::open`].
    pub async fn open(&self, location: &Location) -> Result<Store> {
        self.check(location)?;
        match self.composer(location.scheme()) {
            Some(composer) => composer.open(location, self).await,
            None => self.opener(location.scheme())?.open(location).await,
        }
    }
}
