//! The pipeline from blobs to a tree: the caller's thread reads, one thread decompresses, one
//! hashes the result, and one parses and writes.
//!
//! Sixteen buffers of 256 KiB circulate between the threads that decompress, hash and write. The
//! thread that decompresses is therefore at most 4 MiB ahead of the thread that writes, and may
//! already be in the next layer. A thread that fails drops its end of the channels, and the others
//! then stop. An error is passed on in order with the bytes, so the caller gets the error that is
//! first in this order.
//!
//! If the [checkpoints](LayerCheckpoints) of a gzip layer are known, the thread that decompresses
//! starts up to four more threads, which decompress parts of the layer.
//!
//! The threads that decompress, hash and write can be [confined](Confine), and with them the threads
//! that one of them starts. The readers of blobs and the [`OnRead`] function are never confined,
//! because they run on the caller's thread.
//!
//! A layer is verified when the whole blob has the size in its descriptor, and the whole
//! decompressed stream, including trailing bytes, has the diff ID of the layer. A blob of the same
//! size with other compressed bytes passes if it decompresses to the same stream, because its tree
//! is the same. The outcome is known only after the last byte: do not use a tree before its layers
//! are verified.

mod checkpoints;
mod feed;
mod pipe;
mod source;

use std::io::{BufRead, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::resume_unwind;
use std::sync::mpsc;
use std::thread;

use cas_core::content::Durability;
use cas_core::image::{not_a_layer, not_a_tar};
use cas_core::{Descriptor, Digest, Error, Result};
use cas_host::Confinement;

use crate::apply::{Applied, Tree};
use crate::codec::{self, Compression};
use crate::tar::{self, Reader};
pub use checkpoints::{Found, LayerCheckpoints};
use feed::feed;
use pipe::{Blob, Inflater, Message, verify};
use source::Source;

/// Number of buffers that circulate.
const BUFFERS: usize = 16;
/// Size of a buffer in bytes.
const BUFFER: usize = 256 << 10;

/// One layer to apply.
pub struct LayerSource<'a> {
    /// The stored bytes. A read must return eventually, because nothing interrupts it.
    pub blob: Box<dyn Read + Send + 'a>,
    /// The descriptor of the blob. The blob must have the size in the descriptor. The digest of the
    /// blob is not verified by this module.
    pub descriptor: Descriptor,
    /// The expected digest of the decompressed bytes. `None` if the caller verifies the digest of
    /// the blob instead.
    pub diff_id: Option<Digest>,
    /// How the stored bytes are compressed.
    pub compression: Compression,
    /// The checkpoints of the layer, which are used if they are known, and recorded if not. If this
    /// field is `None`, checkpoints are neither used nor recorded.
    pub checkpoints: Option<LayerCheckpoints>,
}

/// A function that is called with the number of compressed bytes that were read since the last
/// call.
pub type OnRead<'a> = &'a dyn Fn(u64);

/// Which threads of the pipeline are [confined](Confinement).
#[derive(Clone, Copy, Debug)]
pub enum Confine<'a> {
    /// None.
    Off,
    /// The threads that decompress and hash.
    Decoding,
    /// The threads that decompress and hash, and the thread that applies layers. The layers must be
    /// applied to this directory or to a directory below it.
    Below(BorrowedFd<'a>),
}

impl<'a> Confine<'a> {
    /// Returns `confine`, or [`Confine::Off`] if `is_set` is false.
    pub fn if_set(is_set: bool, confine: Self) -> Self {
        if is_set { confine } else { Confine::Off }
    }

    /// Returns the bounds of the threads that decompress and hash.
    fn decoding(self) -> Confinement<'a> {
        match self {
            Confine::Off => Confinement::None,
            Confine::Decoding | Confine::Below(_) => Confinement::Closed,
        }
    }

    /// Returns the bounds of the thread that applies layers.
    fn applying(self) -> Confinement<'a> {
        match self {
            Confine::Off | Confine::Decoding => Confinement::None,
            Confine::Below(directory) => Confinement::Below(directory),
        }
    }
}

/// Applies all layers, lowest first, to one tree. If `confine` is true, the threads are confined
/// with [`Confine::Below`] and the root directory of the tree.
///
/// With [`Durability::Relaxed`] the caller must sync the tree. Otherwise one `syncfs` writes the
/// tree to the device before this function returns. Returns what was done for each layer.
///
/// # Errors
/// As [`stream`]; errors of [`Tree::apply`], [`Tree::close_directories`] and [`Tree::sync`]. The
/// tree is then incomplete or not durable; remove it.
pub fn unpack(
    layers: Vec<LayerSource<'_>>,
    tree: &Tree,
    confine: bool,
    durability: Durability,
    on_read: OnRead<'_>,
) -> Result<Vec<Applied>> {
    let mut applied = Vec::with_capacity(layers.len());
    let confine = Confine::if_set(confine, Confine::Below(tree.as_fd()));
    stream(layers, Accept::Tars, confine, on_read, |_, bytes| {
        applied.push(tree.apply(&mut Reader::new(bytes))?);
        Ok(())
    })?;
    tree.close_directories()?;
    if durability != Durability::Relaxed {
        tree.sync()?;
    }
    Ok(applied)
}

/// Applies one layer to one tree, in the same way as [`unpack`] applies several. Returns what was
/// done.
///
/// # Errors
/// As [`unpack`].
pub fn unpack_one(
    layer: LayerSource<'_>,
    tree: &Tree,
    confine: bool,
    durability: Durability,
    on_read: OnRead<'_>,
) -> Result<Applied> {
    let applied = unpack(vec![layer], tree, confine, durability, on_read)?.pop();
    applied.ok_or_else(|| Error::internal("no layer was applied; please report it"))
}

/// The types of decompressed layers that [`stream`] accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// A tar.
    Tars,
    /// A tar, or an EROFS image that has the media type of an EROFS image.
    TarsAndImages,
}

/// Passes the decompressed bytes of each layer to `apply`, with the position of the layer in
/// `layers`, and verifies the bytes. Bytes that `apply` does not read are read and verified too.
/// `apply` runs on another thread.
///
/// # Errors
/// `Corrupt` for a layer that does not match its size or diff ID; `Unsupported` for a blob of a
/// type that `accept` does not include; errors of `apply`, of the blobs, of
/// [`Decoder`](crate::codec::Decoder) and of starting the threads.
pub fn stream(
    layers: Vec<LayerSource<'_>>,
    accept: Accept,
    confine: Confine<'_>,
    on_read: OnRead<'_>,
    mut apply: impl FnMut(usize, &mut dyn BufRead) -> Result<()> + Send,
) -> Result<()> {
    let (stored, pieces) = mpsc::sync_channel(feed::AHEAD);
    let (raw, inflated) = mpsc::channel();
    let (hashed, whole) = mpsc::channel();
    let (spent, free) = mpsc::channel();
    for _ in 0..BUFFERS {
        // Never fails: the receiver is in this function.
        let _ = spent.send(Vec::new());
    }
    let diff_ids: Vec<Option<Digest>> = layers.iter().map(|layer| layer.diff_id).collect();
    let blobs: Vec<Blob> = layers
        .iter()
        .map(|layer| Blob {
            descriptor: layer.descriptor.clone(),
            compression: layer.compression,
            checkpoints: layer.checkpoints.clone(),
        })
        .collect();
    let blobs = &blobs;
    let inflater = Inflater::new(pieces, raw, free);
    let mut source = Source::new(whole, spent);
    let apply_all = move || {
        for (layer, blob) in blobs.iter().enumerate() {
            let blob = &blob.descriptor;
            check_begin(&mut source, blob, accept)?;
            apply(layer, &mut source)
                .and_then(|()| source.finish())
                .map_err(|error| {
                    error
                        .operation("apply")
                        .within(format_args!("layer {}", blob.digest))
                })?;
        }
        Ok(())
    };
    let (decoding, applying) = (confine.decoding(), confine.applying());
    // Each thread owns its ends of the channels. If one cannot be started, the others end, too.
    thread::scope(move |scope| {
        decoding.spawn(scope, "cas-inflate", move || inflater.run(blobs))?;
        decoding.spawn(scope, "cas-hash", move || {
            verify(&diff_ids, &inflated, &hashed)
        })?;
        let applied = applying.spawn(scope, "cas-apply", apply_all)?;
        feed(layers, stored, on_read);
        applied.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// Checks that a layer begins like a type that `accept` includes. If it begins like no known type,
/// but its media type may be that of a layer, also verifies all of it, to find out whether it is
/// damaged.
///
/// # Errors
/// `Unsupported` if it begins like another type, or like none and is not damaged; `Corrupt` if it
/// is damaged; errors of reading it.
fn check_begin(source: &mut Source, blob: &Descriptor, accept: Accept) -> Result<()> {
    let named = |error: Error| {
        error
            .operation("apply")
            .within(format_args!("layer {}", blob.digest))
    };
    let first = source.fill_buf().map_err(|error| named(error.into()))?;
    if codec::is_erofs(first) {
        let is_accepted = accept == Accept::TarsAndImages && blob.media_type.is_erofs();
        return match is_accepted {
            true => Ok(()),
            false => Err(not_a_tar(blob).operation("apply")),
        };
    }
    if tar::may_begin(first) {
        return Ok(());
    }
    let found = match codec::foreign(first) {
        Some(known) => known,
        None => {
            if blob.media_type.may_be_layer() {
                source.finish().map_err(named)?;
            }
            "unrecognized bytes"
        }
    };
    Err(not_a_layer(blob, found).operation("apply"))
}
