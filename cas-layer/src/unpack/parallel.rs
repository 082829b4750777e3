//! Layers side by side: each is applied apart from the others, then they are settled on top of
//! each other from the lowest on, written to the device by one sync, and committed.

use std::cmp::Reverse;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use cas_core::error::{Context, ErrorKind};
use cas_core::snapshot::{Commit, Mount, Usage};
use cas_core::transfer::Incoming;
use cas_core::{Digest, Error, Labels, Result, pool, unique};
use cas_host::{mount, overlay, syncfs};
use futures_util::{StreamExt, stream};

use super::part::{Part, State};
use super::unpacking::Unpacking;
use super::{Layer, first_cause};
use crate::apply::{Assumed, Tree};
use crate::codec::{self, Compression};
use crate::flow::{self, LayerSource};
use crate::tar::Reader;

/// Layers that are applied at the same time; each has three threads and 4 MiB of buffers.
const AT_ONCE: usize = 3;

impl Unpacking<'_> {
    /// Makes a snapshot without parent for each layer that is missing, before the disk is busy.
    pub(super) async fn prepare_parts(&mut self) -> Result<()> {
        let keys: Vec<String> = (self.there..self.chain.len())
            .map(|place| self.extract_key(place))
            .collect();
        self.hold_snapshots(&keys).await?;
        for key in keys {
            let snapshotter = self.target.snapshotter;
            let mounts = snapshotter.prepare(&key, None, self.labels()).await?;
            let tree = only_tree(mounts)?;
            if self.watch.is_none() {
                let opened = File::open(&tree).during("open directory", tree.display());
                self.watch = Some(Arc::new(opened?));
            }
            self.parts.push(Some(Part::new(key, tree)));
        }
        Ok(())
    }

    fn part(&self, place: usize) -> Result<&Part> {
        let part = place.checked_sub(self.there);
        let part = part.and_then(|at| self.parts.get(at)?.as_ref());
        part.ok_or_else(|| Error::internal("a layer is unpacked twice"))
    }

    /// Where a layer is wanted whose bytes are about to come; it counts as begun then.
    pub(super) fn wants(&self, layer: &Digest) -> Option<usize> {
        (self.there..self.layers.len()).find(|place| {
            self.layers[*place].0.digest == *layer && self.part(*place).is_ok_and(Part::begin)
        })
    }

    /// Applies a layer while its bytes come to the store, which checks them. Where they end early
    /// the layer is applied when it is there.
    ///
    /// # Errors
    /// `Corrupt` when it does not have its diff id, or no tree can hold it; those of the file
    /// system.
    pub(super) async fn receive(&self, place: usize, mut bytes: Incoming) -> Result<()> {
        let (descriptor, diff_id) = self.layers[place].clone();
        let source = move || {
            let compression = codec::detect(bytes.peek()?);
            // Of a layer that is not compressed both are the same.
            let checked = compression == Compression::None && diff_id == descriptor.digest;
            Ok(LayerSource {
                compression,
                blob: Box::new(bytes),
                size: descriptor.size,
                digest: descriptor.digest,
                diff_id: (!checked).then_some(diff_id),
            })
        };
        match self.apply_apart(place, source, false).await {
            Err(error) if error.kind() == ErrorKind::Cancelled => {
                // What is in its tree is a part of it.
                *self.part(place)?.state() = State::Applied(None);
                Ok(())
            }
            applied => applied,
        }
    }

    /// Applies a layer that is in the store.
    async fn take(&self, place: usize) -> Result<()> {
        let layer = Layer::open(self.store, self.layers[place].clone()).await?;
        self.apply_apart(place, || Ok(layer.source()), true).await
    }

    async fn apply_apart(
        &self,
        place: usize,
        source: impl FnOnce() -> Result<LayerSource<'static>> + Send + 'static,
        shown: bool,
    ) -> Result<()> {
        let part = self.part(place)?;
        let (path, progress) = (part.tree.clone(), Arc::clone(self.progress));
        let layer = &self.layers[place].0;
        let (item, size) = (layer.digest.to_string(), layer.size);
        let applied = pool::apart("cas-unpack", move || {
            if shown {
                progress.begin(&item, Some(size));
            }
            let tree = Tree::open(&path)?;
            let advance = |bytes| {
                if shown {
                    progress.advance(&item, bytes);
                }
            };
            let mut taken = None;
            flow::stream(vec![source()?], &advance, |_, bytes| {
                let (applied, assumed) = tree.apply_apart(&mut Reader::new(bytes))?;
                if assumed.is_some() {
                    for warning in applied.warnings {
                        progress.warn(&format!("{item}: {warning}"));
                    }
                }
                taken = assumed;
                Ok(())
            })?;
            if shown {
                progress.end(&item);
            }
            Ok(taken)
        });
        let assumed = applied.await?;
        *part.state() = State::Applied(assumed);
        Ok(())
    }

    /// Applies the layers that nobody has begun, and commits all.
    pub(super) async fn side_by_side(&mut self) -> Result<()> {
        let mut waiting: Vec<usize> = (self.there..self.chain.len())
            .filter(|place| self.part(*place).is_ok_and(Part::begin))
            .collect();
        // A large layer that begins last would keep one core idle.
        waiting.sort_by_key(|place| Reverse(self.layers[*place].0.size));
        let this = &*self;
        let applied = stream::iter(waiting).map(|place| this.take(place));
        first_cause(applied.buffer_unordered(AT_ONCE).collect().await)?;
        self.settle_all().await
    }

    async fn settle_all(&mut self) -> Result<()> {
        if self.parts.is_empty() {
            return Ok(());
        }
        let mut settled = Vec::new();
        let mut base = self.base(self.there).await?;
        for place in self.there..self.chain.len() {
            let part = self.part(place)?;
            let State::Applied(assumed) = std::mem::replace(&mut *part.state(), State::Begun)
            else {
                return Err(Error::internal("a layer is committed that was not applied"));
            };
            if settle(part.tree.clone(), assumed, &settled, &base).await? {
                settled.push((place, part.tree.clone()));
                continue;
            }
            self.commit_settled(&mut settled).await?;
            if let Some(part) = self.parts[place - self.there].take() {
                self.target.snapshotter.remove(&part.key).await?;
            }
            self.on_parent(place).await?;
            base = self.base(place + 1).await?;
        }
        self.commit_settled(&mut settled).await
    }

    /// The trees of the lowest `layers`, which are committed, topmost first.
    async fn base(&self, layers: usize) -> Result<Vec<PathBuf>> {
        let Some(top) = layers.checked_sub(1) else {
            return Ok(Vec::new());
        };
        let (snapshotter, key) = (self.target.snapshotter, unique::key("look"));
        let top = self.chain[top].to_string();
        let mounts = snapshotter.view(&key, Some(&top), self.labels()).await?;
        snapshotter.remove(&key).await?;
        let trees = mounts.into_iter().flat_map(|mount| match mount {
            Mount::Bind { source, .. } => vec![source],
            Mount::Overlay { lower, .. } => lower,
        });
        Ok(trees.collect())
    }

    async fn measure(&self, settled: &[(usize, PathBuf)]) -> Result<Vec<Usage>> {
        let mut usages = Vec::with_capacity(settled.len());
        for (place, _) in settled {
            let key = &self.part(*place)?.key;
            usages.push(self.target.snapshotter.usage(key).await?);
        }
        Ok(usages)
    }

    /// Commits layers whose trees are as they shall be.
    async fn commit_settled(&mut self, settled: &mut Vec<(usize, PathBuf)>) -> Result<()> {
        let Some(watch) = self.watch.clone().filter(|_| !settled.is_empty()) else {
            return Ok(());
        };
        let synced = pool::run(move || syncfs(&*watch));
        // They are measured meanwhile, for the sync leaves a core idle.
        let (synced, usages) = tokio::join!(synced, self.measure(settled));
        synced?;
        for ((place, _), usage) in settled.drain(..).zip(usages?) {
            let below = place.checked_sub(1);
            let options = Commit {
                labels: Labels::new(),
                parent: below.map(|below| self.chain[below].to_string()),
                synced: true,
                usage: Some(usage),
            };
            let key = self.part(place)?.key.clone();
            self.commit(place, &key, options).await?;
            self.parts[place - self.there] = None;
        }
        Ok(())
    }
}

/// Makes a tree that was applied apart stand on those below it; false where it can not.
async fn settle(
    tree: PathBuf,
    assumed: Option<Assumed>,
    settled: &[(usize, PathBuf)],
    base: &[PathBuf],
) -> Result<bool> {
    let Some(assumed) = assumed else {
        return Ok(false);
    };
    if assumed.is_empty() {
        return Ok(true);
    }
    let below = settled.iter().rev().map(|(_, tree)| tree);
    let below = overlay::stack(below.chain(base).cloned().collect())?;
    pool::run(move || {
        let below = match below {
            Some(below) => Some(Tree::at(mount::open(&[below])?.as_fd())?),
            None => None,
        };
        Tree::open(&tree)?.settle(below.as_ref(), &assumed)
    })
    .await
}

/// The directory that a snapshot without parent is.
fn only_tree(mut mounts: Vec<Mount>) -> Result<PathBuf> {
    match (mounts.pop(), mounts.is_empty()) {
        (Some(Mount::Bind { source, .. }), true) => Ok(source),
        _ => Err(Error::unsupported(
            "a snapshotter that rebases must give one directory for a snapshot without parent",
        )
        .operation("unpack")),
    }
}
