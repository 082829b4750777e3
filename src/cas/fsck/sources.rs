//! Where a repair gets blobs from.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cas_core::check::Sources;
use cas_core::image::{FullName, Reference};
use cas_core::transfer::{Fetcher, StoreFetcher};
use cas_core::{Context, Error, Location, Registry, Result};
use cas_host::calls::{is_file, undisturbed};

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
    /// As [`split`] and [`locate`]; `InvalidArgument` if the source is the store of `cas`;
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
        let location = match locate(place, image.is_some(), &registry)? {
            Some(location) => location,
            // No name of an image in a registry has a `#`.
            None if image.is_some() => self.cas.root.locate(place, &registry)?,
            None => return self.connect(from, REPEAT).await,
        };
        if is_same(&location, &self.cas.location) {
            return Err(Error::invalid(
                "the source is the store that is checked; name another source",
            ));
        }
        registry.check(&location)?;
        // Opening an absent store would create it.
        check_there(&location, &registry)?;
        let store = registry.open(&location).await?;
        if let Some(image) = image.filter(|image| !image.is_empty()) {
            let found = lookup::find(&store, image).await;
            found.map_err(|error| error.within(place))?;
        }
        Ok(Arc::new(StoreFetcher(store.content)))
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
    pub(super) fn tables(&self) -> Option<&dyn cas_layer::unpack::TableSource> {
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
/// `InvalidArgument` if nothing is before the `#`.
fn split(from: &str) -> Result<(&str, Option<&str>)> {
    match from.rsplit_once('#') {
        Some(("", _)) => Err(Error::invalid(
            "expected a root, an image layout or the URL of a store before #",
        )),
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

/// Returns the location of the store of a root, of an image layout or of the URL of a store.
/// `has_image` states that the name of an image in the store follows `place`. Returns `None` if
/// `place` is neither a path nor a URL. It can then be the name of an image in a registry, or if an
/// image follows, a scheme or the name of a table in `cas.toml`.
///
/// # Errors
/// `NotFound` for a path at which nothing exists; `InvalidArgument` for a path to something else
/// than a root or an image layout; errors of [`Root::open`].
fn locate(place: &str, has_image: bool, registry: &Registry) -> Result<Option<Location>> {
    let path = Path::new(place);
    let is_path = place.starts_with(['/', '.']) || (has_image && place.contains('/'));
    if place.contains("://") {
        place.parse().map(Some)
    } else if is_root(place) {
        Root::open(path, registry)?.store(registry).map(Some)
    } else if is_layout(place) {
        Location::of_path("fs", &std::path::absolute(path)?).map(Some)
    } else if !is_path {
        Ok(None)
    } else if undisturbed(|| path.try_exists())? {
        Err(Error::invalid(
            "neither a root nor an image layout: expected a directory with the file cas.toml or \
             oci-layout; to use an archive as the source, import it into another root first",
        ))
    } else {
        Err(Error::not_found(
            "nothing exists at this path; check the path",
        ))
    }
}

/// Returns whether two locations are those of one store.
fn is_same(one: &Location, other: &Location) -> bool {
    let place = |location: &Location| {
        let place = Path::new(location.place());
        undisturbed(|| place.canonicalize()).unwrap_or_else(|_| place.to_owned())
    };
    let is_like = one.scheme() == other.scheme() && one.options() == other.options();
    is_like && place(one) == place(other)
}

/// Fetches the table of contents of a layer that is read on demand. Fetches it from the source that
/// the user named, or otherwise from the registry that the description of the table names.
#[cfg(feature = "on-demand")]
#[async_trait]
impl cas_layer::unpack::TableSource for RepairSources<'_> {
    async fn files(&self, description: &str) -> Result<Vec<(&'static str, Vec<u8>)>> {
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
