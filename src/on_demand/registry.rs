//! Fetches the bytes of layers from registries.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;

use cas_core::image::FullName;
use cas_core::sync::lock;
use cas_core::transfer::Fetcher;
use cas_core::{Context, Descriptor, Error, ErrorKind, Result};
use cas_distribution::{Mirrors, Options};
use cas_lazy::StoredTable;
use cas_lazyfs::Fetch;
use futures_util::TryStreamExt;
use tokio::runtime::Runtime;

use crate::root::RemoteSettings;

/// Number of threads that wait for registries.
const THREADS: usize = 2;

/// Space in bytes for what a request fetches, made before the first byte arrives. Few requests are
/// for more.
const USUAL: usize = 2 << 20;

/// Fetches bytes of layers from registries, with the settings of a root.
pub(super) struct FromRegistry {
    settings: RemoteSettings,
    runtime: Runtime,
    /// One client for each reference. A client renews its tokens, but looks up its login only once.
    clients: Mutex<BTreeMap<String, Mirrors>>,
}

impl FromRegistry {
    pub(super) fn new(settings: RemoteSettings) -> Result<Self> {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(THREADS).enable_all().build();
        Ok(FromRegistry {
            settings,
            runtime: runtime.during("start", "threads")?,
            clients: Mutex::default(),
        })
    }

    async fn client(&self, reference: &str) -> Result<Mirrors> {
        if let Some(client) = lock(&self.clients).get(reference) {
            return Ok(client.clone());
        }
        let name: FullName = reference.parse()?;
        let options = Options {
            timeouts: self.settings.timeouts()?,
            ..Options::default()
        };
        let hosts = self.settings.hosts();
        let client = self.settings.connect(&name, options, &hosts).await?;
        lock(&self.clients).insert(reference.to_owned(), client.clone());
        Ok(client)
    }

    async fn bytes(&self, layer: &StoredTable, range: Range<u64>) -> Result<Vec<u8>> {
        let client = self.client(&layer.reference).await?;
        match read(&client, &layer.layer, range.clone()).await {
            // The login may have changed since the client looked it up.
            Err(error) if error.kind() == ErrorKind::Denied => {
                lock(&self.clients).remove(&layer.reference);
                let client = self.client(&layer.reference).await?;
                read(&client, &layer.layer, range).await
            }
            fetched => fetched,
        }
    }
}

/// Returns the bytes `range` of a blob. They are not verified, and may be fewer than requested.
///
/// # Errors
/// `Corrupt` if the registry sends more bytes; errors of the registry.
pub(super) async fn read(
    registry: &(impl Fetcher + ?Sized),
    blob: &Descriptor,
    range: Range<u64>,
) -> Result<Vec<u8>> {
    let most = (range.end - range.start) as usize;
    let mut pieces = registry.fetch(blob, range).await?;
    let mut bytes = Vec::with_capacity(most.min(USUAL));
    while let Some(piece) = pieces.try_next().await? {
        if bytes.len() + piece.len() > most {
            return Err(Error::corrupt(
                "the registry sends more bytes than were requested; try again",
            ));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

impl Fetch for FromRegistry {
    fn fetch(&self, layer: &StoredTable, range: Range<u64>) -> Result<Vec<u8>> {
        let fetched = self.runtime.block_on(self.bytes(layer, range));
        fetched.during("fetch", &layer.reference)
    }
}
