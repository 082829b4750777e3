//! Where a repair gets blobs from.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cas_core::check::Sources;
use cas_core::image::{FullName, Reference};
use cas_core::transfer::{Fetcher, StoreFetcher};
use cas_core::{Composer, Context, Error, ErrorKind, Location, Opener, Registry, Result};
use cas_host::calls::{is_file, undisturbed};
#[cfg(feature = "on-demand")]
use cas_layer::unpack::TableContent;
use cas_layer::unpack::TableSource;

use crate::cas::Cas;
use crate::cas::lookup;
use crate::cas::open::check_there;
#[cfg(feature = "on-demand")]
use crate::on_demand::lost;
use crate::root::Root;

/// The host that a name refers to if it does not contain a host. An image with such a name was
/// often made on this machine and never pushed to this host. So failed requests to this host are
/// not repeated if only the name of an image leads to it.
const HUB: &str = "docker.io";

/// Time for which a failed request to a registry is repeated. The time is short because a repair
/// may make a request for each damaged blob.
const REPEAT: Duration = Duration::from_secs(10);

/// The forms of a source.
const FORMS: &str = "give DIR or DIR#NAME for a root or an image layout, URL or URL#NAME for \
                     another store, or HOST/NAME:TAG for an image in a registry; import an archive \
                     into another root first";

/// Names that skopeo writes before a colon. Without this list, `oci:layout` would be read as the
/// name of an image on Docker Hub.
const TRANSPORTS: [&str; 5] = [
    "containers-storage",
    "docker-archive",
    "docker-daemon",
    "oci",
    "oci-archive",
];

/// Where a repair gets blobs from: the source that the user named, or the registries that the names
/// of images refer to.
pub(super) struct RepairSources<'a> {
    cas: &'a Cas,
    chosen: Option<Arc<dyn Fetcher>>,
    #[cfg_attr(
        not(feature = "registry"),
        allow(dead_code, reason = "connects to registries")
    )]
    plain_http: bool,
    #[cfg_attr(
        not(feature = "registry"),
        allow(dead_code, reason = "connects to registries")
    )]
    auth_file: Option<PathBuf>,
    /// The clients of registries that were opened so far.
    #[cfg(feature = "registry")]
    clients: std::sync::Mutex<Vec<cas_distribution::Mirrors>>,
}

impl<'a> RepairSources<'a> {
    /// Opens the source `from`, if the user named one.
    ///
    /// # Errors
    /// As [`split`] and [`Self::locate`]; `InvalidArgument` if the source is the store of `cas`;
    /// `NotFound` if the store or the image does not exist; errors of opening the source.
    pub(super) async fn open(
        cas: &'a Cas,
        from: Option<&str>,
        plain_http: bool,
        auth_file: Option<PathBuf>,
    ) -> Result<Self> {
        let mut sources = RepairSources {
            cas,
            chosen: None,
            plain_http,
            auth_file,
            #[cfg(feature = "registry")]
            clients: std::sync::Mutex::default(),
        };
        if let Some(from) = from {
            let chosen = sources.choose(from).await;
            let chosen = chosen.map_err(|error| match from.split_once("://") {
                Some(("docker" | "http" | "https", _)) => {
                    error.advice("for an image in a registry, leave out the scheme")
                }
                _ => error,
            });
            sources.chosen = Some(chosen.during("open source", from)?);
        }
        Ok(sources)
    }

    async fn choose(&self, from: &str) -> Result<Arc<dyn Fetcher>> {
        let registry = crate::registry();
        let (place, image) = split(from)?;
        let Some(location) = self.locate(place, image.is_some(), &registry)? else {
            let named = from.parse::<FullName>();
            named.map_err(|error| error.advice(FORMS))?;
            return self.connect(from, REPEAT).await;
        };
        registry
            .check(&location)
            .map_err(|error| match error.kind() {
                ErrorKind::Unsupported => error.advice(FORMS),
                _ => error,
            })?;
        if is_same(&location, &self.cas.location) {
            return Err(Error::invalid(
                "the source is the store that is checked; name another source",
            ));
        }
        // Opening an absent store would create it.
        check_there(&location, &registry)?;
        let store = registry.open(&location).await?;
        if let Some(image) = image.filter(|image| !image.is_empty()) {
            let found = lookup::find(&store, image).await;
            found.map_err(|error| error.within(place))?;
        }
        Ok(Arc::new(StoreFetcher(store.content)))
    }

    /// Returns the location of the store of a root, of an image layout, of the URL of a store or,
    /// if `has_image` is set, of a scheme or the name of a table in `cas.toml`. `has_image` states
    /// that the name of an image in the store follows `place`. Returns `None` if `place` can only
    /// be the name of an image in a registry.
    ///
    /// # Errors
    /// `NotFound` for a path at which nothing exists; `InvalidArgument` for a path to something
    /// else than a root or an image layout, and for text that could also be the name of an image in
    /// a registry; errors of [`Root::open`].
    fn locate(
        &self,
        place: &str,
        has_image: bool,
        registry: &Registry,
    ) -> Result<Option<Location>> {
        let (path, own) = (Path::new(place), &self.cas.root);
        if place.contains("://") {
            return place.parse().map(Some);
        }
        if is_root(place) {
            return Root::open(path, registry)?.store(registry).map(Some);
        }
        if is_layout(place) {
            return Location::of_path("fs", &std::path::absolute(path)?).map(Some);
        }
        if own.engines.stores.contains_key(place) || has_scheme(registry, place) {
            return match has_image {
                true => own.locate(place, registry).map(Some),
                false => Err(Error::invalid(
                    "this could be a store or an image in a registry; for the store, add # at the \
                     end; for the image, write its whole name, such as docker.io/library/app:1",
                )),
            };
        }
        if let Some((before, _)) = place.split_once(':')
            && (has_scheme(registry, before) || TRANSPORTS.contains(&before))
        {
            return Err(Error::invalid(
                "not a source: expected :// after a scheme, as in fs:///srv/store",
            )
            .advice(FORMS));
        }
        let is_path = place.starts_with(['/', '.']) || (has_image && place.contains('/'));
        let exists = undisturbed(|| path.try_exists());
        let exists = if is_path {
            exists?
        } else {
            exists.unwrap_or(false)
        };
        match (exists, is_path) {
            (true, _) => Err(Error::invalid(
                "neither a root nor an image layout: expected a directory with the file cas.toml \
                 or oci-layout",
            )
            .advice(FORMS)),
            (false, true) => Err(Error::not_found(
                "nothing exists at this path; check the path",
            )),
            // No name of an image in a registry has a `#`. The scheme is unknown.
            (false, false) if has_image => own.locate(place, registry).map(Some),
            (false, false) => Ok(None),
        }
    }

    /// Opens a registry. A failed request to it is repeated for the time `repeat`.
    #[cfg(feature = "registry")]
    async fn connect(&self, reference: &str, repeat: Duration) -> Result<Arc<dyn Fetcher>> {
        let reference = crate::cas::RegistryRef::from(reference).0?;
        let options = cas_distribution::Options {
            plain_http: self.plain_http,
            auth_file: self.auth_file.clone(),
            timeouts: self.cas.remote_settings().timeouts()?.with_repeat(repeat),
            ..Default::default()
        };
        let client = self
            .cas
            .connect(&reference, options, &self.cas.hosts())
            .await?;
        cas_core::sync::lock(&self.clients).push(client.clone());
        Ok(Arc::new(client))
    }

    /// Warns of mirrors and credential helpers that were skipped, each once.
    #[cfg(feature = "registry")]
    pub(super) fn warn_of_skipped(&self, progress: &dyn cas_core::Progress) {
        let clients = cas_core::sync::lock(&self.clients);
        let warnings = clients.iter().flat_map(cas_distribution::Mirrors::warnings);
        for message in std::collections::BTreeSet::from_iter(warnings) {
            progress.warn(&message);
        }
    }

    /// Returns the source of tables of contents of layers that are read on demand, or `None` if
    /// this build cannot read layers on demand.
    pub(super) fn tables(&self) -> Option<&dyn TableSource> {
        #[cfg(feature = "on-demand")]
        return Some(self);
        #[cfg(not(feature = "on-demand"))]
        return None;
    }

    #[cfg(not(feature = "registry"))]
    async fn connect(&self, _: &str, _: Duration) -> Result<Arc<dyn Fetcher>> {
        Err(Error::unsupported(
            "this build cannot fetch from registries; name a root, an image layout or the URL of a \
             store as the source, or build with the Cargo feature `registry`",
        ))
    }
}

/// Splits a source into a store and, after the last `#`, the name of an image in this store, as
/// `cas copy` does. Every blob of the store can be fetched, and not only those of the image. A root
/// or an image layout may have a path with a `#`.
///
/// # Errors
/// `InvalidArgument` if the text is empty, or if nothing is before the `#`.
fn split(from: &str) -> Result<(&str, Option<&str>)> {
    match from.rsplit_once('#') {
        Some(("", _)) => Err(Error::invalid("the part before # is missing").advice(FORMS)),
        None if from.is_empty() => Err(Error::invalid("the text is empty").advice(FORMS)),
        Some((store, image)) if !is_root(from) && !is_layout(from) => Ok((store, Some(image))),
        _ => Ok((from, None)),
    }
}

fn is_root(path: &str) -> bool {
    is_file(&Path::new(path).join("cas.toml"))
}

fn is_layout(path: &str) -> bool {
    is_file(&Path::new(path).join("oci-layout"))
}

/// Returns whether a backend or a kind of composition has this scheme.
fn has_scheme(registry: &Registry, scheme: &str) -> bool {
    let openers = registry.openers().map(Opener::scheme);
    let mut schemes = openers.chain(registry.composers().map(Composer::scheme));
    schemes.any(|known| known == scheme)
}

/// Returns whether two locations are those of one store.
fn is_same(one: &Location, other: &Location) -> bool {
    let place = |location: &Location| {
        let place = Path::new(location.place());
        undisturbed(|| place.canonicalize()).unwrap_or_else(|_| place.to_owned())
    };
    let is_like = one.scheme() == other.scheme() && one.options() == other.options();
    // A directory has one store.
    let is_path = Path::new(one.place()).is_absolute();
    (is_like || is_path) && place(one) == place(other)
}

/// Fetches the table of contents of a layer that is read on demand. Fetches it from the source that
/// the user named, or otherwise from the registry that the description of the table names.
#[cfg(feature = "on-demand")]
#[async_trait]
impl TableSource for RepairSources<'_> {
    async fn files(&self, description: &str) -> Result<Vec<(&'static str, TableContent)>> {
        let source = match &self.chosen {
            Some(chosen) => Arc::clone(chosen),
            None => {
                let reference = lost::reference(description)?;
                self.connect(&reference.to_string(), REPEAT).await?
            }
        };
        lost::fetch(&*source, description).await
    }
}

#[async_trait]
impl Sources for RepairSources<'_> {
    async fn of(&self, name: Option<&Reference>) -> Result<Vec<Arc<dyn Fetcher>>> {
        if let Some(chosen) = &self.chosen {
            return Ok(vec![Arc::clone(chosen)]);
        }
        let Some(full) = name.and_then(FullName::of) else {
            return Ok(Vec::new());
        };
        let repeat = match full.host() {
            HUB => Duration::ZERO,
            _ => REPEAT,
        };
        Ok(vec![self.connect(&full.to_string(), repeat).await?])
    }
}
