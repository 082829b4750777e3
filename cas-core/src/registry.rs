//! The backends, compositions and snapshotters that a program can open, by scheme.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use crate::capability::Capabilities;
use crate::check::Finding;
use crate::error::{Error, Result};
use crate::location::Location;
use crate::records::Records;
use crate::snapshot::Snapshotter;
use crate::store::Store;

/// Opens the stores of one scheme.
#[async_trait]
pub trait Opener: Send + Sync + 'static {
    /// Returns the scheme.
    fn scheme(&self) -> &'static str;

    /// Returns the capabilities of a store that is opened without options. An option may take some
    /// of them away.
    fn capabilities(&self) -> Capabilities;

    /// Returns the laws (conformance tests) that the stores of this opener do not keep, as pairs of
    /// a law and the reason.
    fn gaps(&self) -> &'static [(&'static str, &'static str)];

    /// Checks the options of `location` without opening the store. So a root is not made with
    /// options that [`Opener::open`] refuses. The default implementation accepts all options.
    ///
    /// # Errors
    /// `InvalidArgument` for an option or a value that the backend does not support.
    fn check(&self, _location: &Location) -> Result<()> {
        Ok(())
    }

    /// Opens the store at `location`, or creates it if there is none.
    ///
    /// # Errors
    /// `FailedPrecondition` if the location contains something other than a store of this scheme,
    /// or a store of a newer format; `Busy` if another process has the store open and the store is
    /// not [`Shared`](crate::Capability::Shared); `InvalidArgument` for an option or a value that
    /// the backend does not support, or if the location lacks a part that the backend needs, such
    /// as a path; errors of the backend.
    async fn open(&self, location: &Location) -> Result<Store>;

    /// Examines the files of the store at `location`. The caller must not have the store open. If
    /// `repair` is set, repairs the files, so that the store can be opened again. A repair renames
    /// a damaged file instead of deleting it, unless the backend can write the whole file again. In
    /// an object store, such as S3, a repair may delete a damaged object. Returns the damage that
    /// was found. The default implementation examines nothing and returns an empty list.
    ///
    /// # Errors
    /// `Busy` if another process has the store open and the store is not
    /// [`Shared`](crate::Capability::Shared); `InvalidArgument` as for [`Opener::open`]; `Full` if
    /// the disk has no room for the repair; errors of the backend.
    async fn examine(&self, _location: &Location, _repair: bool) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }
}

/// Opens the stores of one kind of composition. A composition is a store that is made of other
/// stores, its members.
#[async_trait]
pub trait Composer: Send + Sync + 'static {
    /// Returns the scheme.
    fn scheme(&self) -> &'static str;

    /// Returns the options that name the members of the composition. The value of each option is a
    /// URL, or a scheme for a store below the directory of the composition; see
    /// [`Location::member`].
    fn members(&self) -> &'static [&'static str];

    /// Checks the options that do not name members, before anything is opened.
    ///
    /// # Errors
    /// `InvalidArgument`, naming the option, if an option is unknown or its value is invalid.
    fn check(&self, location: &Location) -> Result<()>;

    /// Opens each member through `registry`, and then the composition.
    ///
    /// # Errors
    /// Errors of the members and of the composition.
    async fn open(&self, location: &Location, registry: &Registry) -> Result<Store>;
}

/// Opens the snapshotter of one scheme.
#[async_trait]
pub trait SnapshotterOpener: Send + Sync + 'static {
    /// Returns the scheme, which is the [name](Snapshotter::name) of the snapshotter.
    fn scheme(&self) -> &'static str;

    /// Returns a few short phrases about the abilities of the snapshotter, for people who choose a
    /// snapshotter. By default, there are no phrases.
    fn abilities(&self) -> &'static [&'static str] {
        &[]
    }

    /// Checks that the snapshotter works on this machine in `directory`, which need not exist. A
    /// root is the directory in which `cas` keeps a store and its snapshots. If the user does
    /// not choose a snapshotter, a new root gets the first snapshotter of the registry that passes
    /// this check.
    ///
    /// # Errors
    /// An error whose message names what is missing and what to do.
    fn probe(&self, directory: &Path) -> Result<()>;

    /// Checks the options of `chosen`, the URL of the snapshotter, without opening the snapshotter.
    /// So a root is not made with options that [`SnapshotterOpener::open`] refuses. The default
    /// implementation accepts all options.
    ///
    /// # Errors
    /// `InvalidArgument` for an option or a value that the snapshotter does not support.
    fn check(&self, _chosen: &Location) -> Result<()> {
        Ok(())
    }

    /// Opens the snapshotter.
    ///
    /// # Errors
    /// `InvalidArgument` for an option or a value that the snapshotter does not support;
    /// `Unsupported` if `parts.records` does not have the capability
    /// [`Atomic`](crate::Capability::Atomic); errors of the file system and of the records.
    async fn open(&self, parts: SnapshotterParts) -> Result<Arc<dyn Snapshotter>>;
}

/// The arguments of [`SnapshotterOpener::open`].
#[derive(Clone)]
#[non_exhaustive]
pub struct SnapshotterParts {
    /// The directory for the files of the snapshotter. The directory need not exist, and nothing
    /// else writes to it.
    pub directory: PathBuf,
    /// The store for the records of the snapshotter. This store must be on the same machine, and
    /// must have the capability [`Atomic`](crate::Capability::Atomic).
    pub records: Arc<dyn Records>,
    /// The store whose layers are unpacked into the snapshotter.
    pub store: Store,
    /// The options of the snapshotter, by name.
    pub options: BTreeMap<String, String>,
}

impl SnapshotterParts {
    /// Returns parts without options.
    pub fn new(directory: impl Into<PathBuf>, records: Arc<dyn Records>, store: Store) -> Self {
        SnapshotterParts {
            directory: directory.into(),
            records,
            store,
            options: BTreeMap::new(),
        }
    }

    /// Sets an option.
    #[must_use]
    pub fn with_option(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.insert(name.into(), value.into());
        self
    }

    /// Checks that every option is one of `known`.
    ///
    /// # Errors
    /// `InvalidArgument` if an option is not in `known`; the message names the first such option,
    /// and lists `known`.
    pub fn check_options(&self, known: &[&str]) -> Result<()> {
        match self
            .options
            .keys()
            .find(|name| !known.contains(&name.as_str()))
        {
            None => Ok(()),
            Some(name) => Err(Error::invalid(format!(
                "unknown option {name:?}: the options of this snapshotter are: {}",
                listed(known.iter().copied())
            ))
            .operation("open snapshotter")),
        }
    }
}

/// The backends, compositions and snapshotters of a program. Each program makes its own registry.
/// No registry is global.
///
/// The schemes of all backends and kinds of composition must differ, and so must the schemes of all
/// snapshotters. A snapshotter may have the scheme of a backend or of a kind of composition. If two
/// schemes that must differ are the same, [`Registry::opener`], [`Registry::snapshotter`],
/// [`Registry::check`], [`Registry::open`] and [`Registry::examine`] fail.
#[derive(Default)]
pub struct Registry {
    openers: Vec<Box<dyn Opener>>,
    composers: Vec<Box<dyn Composer>>,
    snapshotters: Vec<Box<dyn SnapshotterOpener>>,
    features: &'static [(&'static str, &'static str)],
    twice: Option<&'static str>,
}

impl Registry {
    /// Returns an empty registry.
    pub fn new() -> Self {
        Registry::default()
    }

    /// Adds a backend.
    #[must_use]
    pub fn with(mut self, opener: impl Opener) -> Self {
        self.refuse_store(opener.scheme());
        self.openers.push(Box::new(opener));
        self
    }

    /// Adds a kind of composition. Its scheme must differ from the schemes of all backends and
    /// other kinds of composition.
    #[must_use]
    pub fn with_composer(mut self, composer: impl Composer) -> Self {
        self.refuse_store(composer.scheme());
        self.composers.push(Box::new(composer));
        self
    }

    /// Adds a snapshotter. If the user does not choose a snapshotter for a new root directory,
    /// `cas` takes the first added snapshotter that passes [`SnapshotterOpener::probe`].
    #[must_use]
    pub fn with_snapshotter(mut self, opener: impl SnapshotterOpener) -> Self {
        let scheme = opener.scheme();
        if self.snapshotters().any(|known| known.scheme() == scheme) {
            self.twice = Some(scheme);
        }
        self.snapshotters.push(Box::new(opener));
        self
    }

    /// Sets the Cargo features that add schemes, as pairs of a scheme and its feature. The error
    /// for a scheme that is not compiled in suggests the feature of the scheme.
    #[must_use]
    pub fn with_features(mut self, features: &'static [(&'static str, &'static str)]) -> Self {
        self.features = features;
        self
    }

    /// Returns the backends in the order in which they were added.
    pub fn openers(&self) -> impl Iterator<Item = &dyn Opener> {
        self.openers.iter().map(Box::as_ref)
    }

    /// Returns the kinds of composition in the order in which they were added.
    pub fn composers(&self) -> impl Iterator<Item = &dyn Composer> {
        self.composers.iter().map(Box::as_ref)
    }

    /// Returns the snapshotters in the order in which they were added.
    pub fn snapshotters(&self) -> impl Iterator<Item = &dyn SnapshotterOpener> {
        self.snapshotters.iter().map(Box::as_ref)
    }

    /// Returns the kind of composition that has this scheme, or `None` if no kind has it.
    pub fn composer(&self, scheme: &str) -> Option<&dyn Composer> {
        self.composers()
            .find(|composer| composer.scheme() == scheme)
    }

    /// Returns the backend of `scheme`.
    ///
    /// # Errors
    /// `Unsupported` if no backend has the scheme, even if a kind of composition has it. The
    /// message lists the schemes that are compiled in. If [`Registry::with_features`] has set a
    /// Cargo feature for the scheme, the message also names this feature. `AlreadyExists` if a
    /// scheme is registered twice.
    pub fn opener(&self, scheme: &str) -> Result<&dyn Opener> {
        self.check_registered()?;
        let found = self.openers().find(|opener| opener.scheme() == scheme);
        found.ok_or_else(|| self.unknown("open store", scheme, self.store_schemes()))
    }

    /// Returns the snapshotter of `scheme`.
    ///
    /// # Errors
    /// `Unsupported` if no snapshotter has the scheme. The message lists the snapshotters that are
    /// compiled in. If [`Registry::with_features`] has set a Cargo feature for the scheme, the
    /// message also names this feature. `AlreadyExists` if a scheme is registered twice.
    pub fn snapshotter(&self, scheme: &str) -> Result<&dyn SnapshotterOpener> {
        self.check_registered()?;
        let found = self.snapshotters().find(|opener| opener.scheme() == scheme);
        let known = self.snapshotters().map(SnapshotterOpener::scheme);
        found.ok_or_else(|| self.unknown("open snapshotter", scheme, known))
    }

    /// Checks a location without opening it: its scheme, its options and, for a composition, its
    /// members.
    ///
    /// # Errors
    /// As [`Registry::opener`], [`Opener::check`], [`Composer::check`] and [`Location::member`].
    pub fn check(&self, location: &Location) -> Result<()> {
        self.check_registered()?;
        let Some(composer) = self.composer(location.scheme()) else {
            return self.opener(location.scheme())?.check(location);
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

    /// Examines the files of the store at `location` with [`Opener::examine`], and repairs them if
    /// `repair` is set. For a composition, examines the files of its members. Returns the damage
    /// that was found.
    ///
    /// # Errors
    /// As [`Registry::check`] and [`Opener::examine`].
    pub async fn examine(&self, location: &Location, repair: bool) -> Result<Vec<Finding>> {
        self.check(location)?;
        let mut findings = Vec::new();
        for part in self.parts(location)? {
            let opener = self.opener(part.scheme())?;
            findings.extend(opener.examine(&part, repair).await?);
        }
        Ok(findings)
    }

    /// Returns the locations of the stores that the store at `location` consists of. A composition
    /// consists of its members, and a member that is a composition is replaced by its own members.
    /// Any other store consists of itself.
    ///
    /// # Errors
    /// As [`Location::member`].
    pub fn parts(&self, location: &Location) -> Result<Vec<Location>> {
        let (mut parts, mut waiting) = (Vec::new(), vec![location.clone()]);
        while let Some(location) = waiting.pop() {
            match self.composer(location.scheme()) {
                None => parts.push(location),
                Some(composer) => {
                    for member in composer.members() {
                        waiting.push(location.member(member)?);
                    }
                }
            }
        }
        Ok(parts)
    }

    /// Sets `scheme` as the scheme that is registered twice, if a store has the scheme already.
    fn refuse_store(&mut self, scheme: &'static str) {
        if self.store_schemes().any(|known| known == scheme) {
            self.twice = Some(scheme);
        }
    }

    fn check_registered(&self) -> Result<()> {
        let Some(scheme) = self.twice else {
            return Ok(());
        };
        let snapshotters = self.snapshotters().map(SnapshotterOpener::scheme);
        Err(Error::already_exists(format!(
            "the scheme is registered twice; registered schemes: {}; change one of the two \
             registrations",
            listed(self.store_schemes().chain(snapshotters))
        ))
        .operation("use registry")
        .subject(scheme))
    }

    fn store_schemes(&self) -> impl Iterator<Item = &'static str> {
        let composers = self.composers().map(Composer::scheme);
        self.openers().map(Opener::scheme).chain(composers)
    }

    fn unknown(
        &self,
        operation: &'static str,
        scheme: &str,
        known: impl Iterator<Item = &'static str>,
    ) -> Error {
        let feature = self
            .features
            .iter()
            .find(|(left_out, _)| *left_out == scheme);
        let advice = match feature {
            Some((_, feature)) => {
                format!("; to add this scheme, build with the Cargo feature `{feature}`")
            }
            None => String::new(),
        };
        Error::unsupported(format!(
            "unknown scheme; compiled in: {}{advice}",
            listed(known)
        ))
        .operation(operation)
        .subject(scheme)
    }
}

/// Returns the names separated by commas, or `none`.
fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    struct Named(&'static str);

    #[async_trait]
    impl Opener for Named {
        fn scheme(&self) -> &'static str {
            self.0
        }

        fn capabilities(&self) -> Capabilities {
            Capabilities::of(&[])
        }

        fn gaps(&self) -> &'static [(&'static str, &'static str)] {
            &[]
        }

        async fn open(&self, _: &Location) -> Result<Store> {
            Err(Error::internal("not for opening"))
        }
    }

    #[async_trait]
    impl SnapshotterOpener for Named {
        fn scheme(&self) -> &'static str {
            self.0
        }

        fn probe(&self, _: &Path) -> Result<()> {
            Ok(())
        }

        async fn open(&self, _: SnapshotterParts) -> Result<Arc<dyn Snapshotter>> {
            Err(Error::internal("not for opening"))
        }
    }

    #[test]
    fn an_unknown_scheme_is_told_with_the_known_ones_and_the_feature() {
        let registry = Registry::new()
            .with(Named("a"))
            .with(Named("b"))
            .with_snapshotter(Named("c"))
            .with_features(&[("d", "brings-d"), ("e", "brings-e")]);
        let store = registry.opener("d").err().unwrap();
        assert_eq!(store.kind(), ErrorKind::Unsupported);
        let message = store.to_string();
        assert!(message.contains("compiled in: a, b;"), "{message}");
        assert!(message.contains("`brings-d`"), "{message}");
        let message = registry.snapshotter("x").err().unwrap().to_string();
        assert!(message.contains("compiled in: c"), "{message}");
        assert!(!message.contains("feature"), "{message}");
    }

    #[test]
    fn a_scheme_is_registered_once_a_kind() {
        let fine = Registry::new()
            .with(Named("a"))
            .with_snapshotter(Named("a"));
        fine.opener("a").unwrap();
        for twice in [
            Registry::new().with(Named("a")).with(Named("a")),
            Registry::new()
                .with_snapshotter(Named("a"))
                .with_snapshotter(Named("a")),
        ] {
            let error = twice
                .opener("a")
                .err()
                .or(twice.snapshotter("a").err())
                .unwrap();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists);
            let message = error.to_string();
            assert!(
                message.contains("registered twice; registered schemes: a"),
                "{message}"
            );
        }
    }
}
