//! Reads all layers of an image, one after the other.

use std::io::BufRead;
use std::sync::Arc;

use cas_core::blob::name_damaged;
use cas_core::lease::ReadGuard;
use cas_core::progress::Progress;
use cas_core::{Manifest, Result, pool};

use super::cancel::Waiter;
use super::{LayersFrom, check_types, layers_with_diff_ids, parts};
use crate::flow::{self, Accept, Confine};

/// Calls `read` for each layer, lowest first. `read` receives a value that it may change, and the
/// decompressed bytes of the layer. The value is `initial` at the first call. Returns the value
/// after the last call, when all layers have been verified. If this function returns an error, the
/// bytes may be damaged, so a caller must not use anything that `read` has made from them.
///
/// `read` runs on another thread. Soon after the future is dropped, the reader that `read` has
/// received returns an error. If `confine` is set, the threads that decompress and hash are
/// [confined](cas_host::Confinement). Reports to `progress` how many stored bytes of the layers
/// have been read, as one item with the name `item`.
///
/// # Errors
/// `NotFound` if `from` does not have the configuration or a layer; `Corrupt` for a damaged layer, if
/// a snapshotter should keep the tar of a layer but has lost it, or if the manifest and the
/// configuration do not match;
/// `OutOfRange` if the configuration is too large to be read; `Unsupported` for an artifact, or for
/// a layer that is not a tar; errors of [`flow::stream`], of `read` and of the store.
pub async fn fold_layers<'a, T, F>(
    from: impl Into<LayersFrom<'a>>,
    manifest: &Manifest,
    item: &str,
    confine: bool,
    progress: &Arc<dyn Progress>,
    initial: T,
    read: F,
) -> Result<T>
where
    T: Send + 'static,
    F: FnMut(&mut T, &mut dyn BufRead) -> Result<()> + Send + 'static,
{
    let from = from.into();
    let guard = ReadGuard::begin(from.store, "unpack").await?;
    let folded = match guard.pin_all(&parts(manifest)).await {
        Ok(()) => fold(from, manifest, item, confine, progress, initial, read).await,
        Err(error) => Err(error),
    };
    let folded = name_damaged(from.store, &manifest.layers, folded).await;
    let failed = folded.as_ref().err();
    from.distrust_after(failed, manifest).await;
    guard.finish_with(folded).await
}

async fn fold<T, F>(
    from: LayersFrom<'_>,
    manifest: &Manifest,
    item: &str,
    confine: bool,
    progress: &Arc<dyn Progress>,
    initial: T,
    mut read: F,
) -> Result<T>
where
    T: Send + 'static,
    F: FnMut(&mut T, &mut dyn BufRead) -> Result<()> + Send + 'static,
{
    let layers = layers_with_diff_ids(from.store, manifest).await?;
    check_types(&layers, Accept::Tars)?;
    let waiter = Waiter::new();
    let sources = from.open(&layers, &waiter).await?;
    let checkpoints: Vec<_> = (sources.iter().map(|layer| layer.checkpoints.clone())).collect();
    let (reporter, name) = (Arc::clone(progress), item.to_owned());
    let confine = Confine::if_set(confine, Confine::Decoding);
    let folded = pool::run(move || {
        let total = sources.iter().map(|layer| layer.descriptor.size).sum();
        reporter.begin(&name, Some(total));
        let mut value = initial;
        let advance = |bytes| reporter.advance(&name, bytes);
        let read = |_, bytes: &mut dyn BufRead| read(&mut value, bytes);
        flow::stream(sources, Accept::Tars, confine, &advance, read)?;
        reporter.end(&name);
        Ok(value)
    });
    let folded = folded.await?;
    from.record(&layers, &checkpoints, progress.as_ref()).await;
    Ok(folded)
}
