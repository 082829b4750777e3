//! The pipeline from blobs to a tree: one thread reads and inflates, one hashes what was inflated,
//! and the caller's thread parses and writes.
//!
//! Sixteen buffers of 256 KiB go round between the three, so the first thread runs ahead, into the
//! next layer too, by no more than they hold. Nothing else bounds or blocks: whoever fails drops
//! its end, the others then find theirs closed and leave. An error travels in its place among
//! the bytes, so the first cause is what the caller meets first.
//!
//! A layer is good when the whole blob has its size and the whole of what it inflates to has the
//! diff id, trailing bytes included; whatever else was changed in a blob changes no tree. That is
//! known only after the last byte: a tree is not to be used before its layers are verified.

mod pipe;
mod source;

use std::io::{BufRead, Read};
use std::sync::mpsc;
use std::thread;

use cas_core::content::Durability;
use cas_core::{Digest, Error, Result};

use crate::apply::{Applied, Tree};
use crate::codec::Compression;
use crate::tar::Reader;
use pipe::{Inflater, Message, verify};
use source::Source;

/// Buffers that go round, and the bytes of each.
const BUFFERS: usize = 16;
const BUFFER: usize = 256 << 10;

/// One layer to apply.
pub struct LayerSource<'a> {
    /// The bytes as they are stored. A read must end some day: nothing interrupts it.
    pub blob: Box<dyn Read + Send + 'a>,
    /// How many they must be.
    pub size: u64,
    /// Their name in messages; whoever stores them checks it.
    pub digest: Digest,
    /// What they must hash to when inflated; nothing where whoever stores them checks just that.
    pub diff_id: Option<Digest>,
    /// How they are compressed.
    pub compression: Compression,
}

/// Called with the compressed bytes read since the last call, from another thread.
pub type OnRead<'a> = &'a (dyn Fn(u64) + Sync);

/// Applies all layers, lowest first, to one tree; gives what each did.
///
/// # Errors
/// `Corrupt` for a blob that does not inflate to its diff id, and all of
/// [`Tree::apply`] and [`crate::codec::Decoder`]. The tree is then unfinished; remove it.
pub fn unpack(
    layers: Vec<LayerSource<'_>>,
    tree: &Tree,
    durability: Durability,
    on_read: OnRead<'_>,
) -> Result<Vec<Applied>> {
    let mut applied = Vec::with_capacity(layers.len());
    stream(layers, on_read, |_, bytes| {
        applied.push(tree.apply(&mut Reader::new(bytes))?);
        Ok(())
    })?;
    if durability != Durability::Relaxed {
        tree.sync()?;
    }
    Ok(applied)
}

/// Applies one layer to one tree.
///
/// # Errors
/// Those of [`unpack`].
pub fn unpack_one(
    layer: LayerSource<'_>,
    tree: &Tree,
    durability: Durability,
    on_read: OnRead<'_>,
) -> Result<Applied> {
    let applied = unpack(vec![layer], tree, durability, on_read)?.pop();
    applied.ok_or_else(|| Error::internal("no layer was applied"))
}

/// Gives the inflated bytes of each layer in turn to `apply`, with the layer's place, and
/// verifies them; the bytes that `apply` leaves are read and verified too.
///
/// # Errors
/// Those of `apply`, of the blobs, and `Corrupt` for what does not have its size or diff id.
pub fn stream(
    layers: Vec<LayerSource<'_>>,
    on_read: OnRead<'_>,
    mut apply: impl FnMut(usize, &mut dyn BufRead) -> Result<()>,
) -> Result<()> {
    let (raw, inflated) = mpsc::channel();
    let (hashed, whole) = mpsc::channel();
    let (spent, free) = mpsc::channel();
    for _ in 0..BUFFERS {
        // Never fails: the other end is in this function.
        let _ = spent.send(Vec::new());
    }
    let diff_ids: Vec<Option<Digest>> = layers.iter().map(|layer| layer.diff_id).collect();
    let digests: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
    thread::scope(|scope| {
        let inflater = Inflater::new(raw, free, on_read);
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        named("cas-inflate").spawn_scoped(scope, move || inflater.run(layers))?;
        named("cas-hash").spawn_scoped(scope, move || verify(&diff_ids, &inflated, &hashed))?;
        let mut source = Source::new(whole, spent);
        for (layer, digest) in digests.into_iter().enumerate() {
            apply(layer, &mut source)
                .and_then(|()| source.finish())
                .map_err(|error| {
                    error
                        .operation("apply")
                        .within(format_args!("layer {digest}"))
                })?;
        }
        Ok(())
    })
}
