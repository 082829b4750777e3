//! Diff IDs: the digests of uncompressed layers.

use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{Buf, Bytes};

use crate::content::BlobReader;
use crate::descriptor::Descriptor;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Context, Error, FETCH_AGAIN, REPAIR_BYTES, Result};
use crate::lease::set_labels;
use crate::limit;
use crate::media_type::DiffCompression;
use crate::pool;
use crate::store::Store;
use crate::sync::lock;

/// The label that stores the diff ID of a compressed layer.
pub const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// Maximum number of bytes in one read.
const PIECE: usize = 1 << 20;

/// Returns the diff ID of a layer. If the type of the layer states that it is a plain tar, the diff
/// ID is its digest. Otherwise, the diff ID is the value of its label [`UNCOMPRESSED`]. If the
/// layer has no such label, or the value is not a digest, the layer is decompressed and hashed, and
/// the label is stored. If the label cannot be stored, for example because the store is read-only,
/// only a warning is logged.
///
/// `decompress` turns the compressed stream into the uncompressed one. The function receives the
/// compression that the type states, which may be `Unknown`. It is called on a thread that may
/// block.
///
/// # Errors
/// `Corrupt` if the record of the layer does not parse; errors of the store.
///
/// Only if the layer must be decompressed: `NotFound` if it is not in the store; `Unsupported` if
/// its type is not that of a tar layer or states that the layer is wrapped (for example,
/// encrypted); `Corrupt` if the blob does not match the descriptor; `OutOfRange` if the layer
/// decompresses to more than [`limit::LAYER`] bytes; errors of `decompress`.
pub async fn diff_id<C>(store: &Store, layer: &Descriptor, decompress: C) -> Result<Digest>
where
    C: FnOnce(DiffCompression, Box<dyn Read + Send>) -> Result<Box<dyn Read + Send>>
        + Send
        + 'static,
{
    let media_type = &layer.media_type;
    let stated = media_type.diff_compression();
    let is_wrapped = media_type.is_wrapped();
    if matches!(stated, Ok(DiffCompression::None)) && !is_wrapped {
        return Ok(layer.digest);
    }
    let record = store.blobs().load(&layer.digest).await?;
    let label = record.and_then(|(record, _)| record.labels.get(UNCOMPRESSED)?.parse().ok());
    if let Some(diff_id) = label {
        return Ok(diff_id);
    }
    let compression = stated?;
    if is_wrapped {
        return Err(Error::unsupported(format!(
            "expected the tar of a layer, found the type {media_type:.200}; decrypt or unwrap the \
             layer first",
        ))
        .operation("compute diff ID")
        .subject(layer.digest));
    }
    let reader = store.content.open(&layer.digest).await?;
    let reader = reader.ok_or_else(|| {
        Error::not_found("no such blob in the store")
            .advice(FETCH_AGAIN)
            .operation("compute diff ID")
            .subject(layer.digest)
    })?;
    let (expected, reactor) = (layer.clone(), tokio::runtime::Handle::try_current().ok());
    let diff_id = pool::run(move || {
        let _entered = reactor.as_ref().map(|handle| handle.enter());
        hash_plain(reader, &expected, |stream| decompress(compression, stream))
    })
    .await
    .during("compute diff ID", layer.digest)?;
    let label = [(UNCOMPRESSED.to_owned(), diff_id.to_string())];
    if let Err(error) = set_labels(store, layer, &label.into()).await {
        tracing::warn!(digest = %layer.digest, %error, "cannot store the diff ID of the layer");
    }
    Ok(diff_id)
}

/// Hashes the output of the codec, and also its input, so that a damaged blob gets no label.
fn hash_plain(
    reader: Arc<dyn BlobReader>,
    layer: &Descriptor,
    decompress: impl FnOnce(Box<dyn Read + Send>) -> Result<Box<dyn Read + Send>>,
) -> Result<Digest> {
    let mut source = Source::new(reader, layer);
    let mut plain = decompress(Box::new(source.clone()))?.take(limit::LAYER + 1);
    // A computed diff ID is a SHA-256 digest, even if the digest of the blob is not.
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut piece = vec![0; PIECE];
    let size = drain(&mut plain, &mut piece, |data| hasher.update(data))?;
    if size > limit::LAYER {
        let allowed = limit::LAYER;
        return Err(Error::out_of_range(format!(
            "the layer decompresses to more than {allowed} bytes; build the image with smaller \
             layers"
        )));
    }
    // A codec may stop before the end of the blob, but the digest covers all of it.
    drain(&mut source, &mut piece, |_| {})?;
    source.check(layer)?;
    Ok(hasher.finish())
}

fn drain(from: &mut impl Read, piece: &mut [u8], mut each: impl FnMut(&[u8])) -> Result<u64> {
    let mut size = 0;
    loop {
        match from.read(piece) {
            Ok(0) => return Ok(size),
            Ok(read) => {
                size += read as u64;
                each(&piece[..read]);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A blob as a stream. Clones share one position and one hash.
#[derive(Clone)]
struct Source(Arc<Mutex<State>>);

struct State {
    reader: Arc<dyn BlobReader>,
    offset: u64,
    ahead: Bytes,
    hasher: Hasher,
}

impl Source {
    fn new(reader: Arc<dyn BlobReader>, layer: &Descriptor) -> Self {
        Source(Arc::new(Mutex::new(State {
            reader,
            offset: 0,
            ahead: Bytes::new(),
            hasher: Hasher::new(layer.digest.algorithm()),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    fn check(&self, layer: &Descriptor) -> Result<()> {
        let state = self.lock();
        let (size, found) = (state.offset, state.hasher.clone().finish());
        if size == layer.size && found == layer.digest {
            return Ok(());
        }
        Err(Error::corrupt(format!(
            "the stored blob is damaged: expected {} bytes, found {size} that hash to {found}",
            layer.size
        ))
        .advice(REPAIR_BYTES))
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut state = self.lock();
        if state.ahead.is_empty() {
            let piece = pool::wait(state.reader.read_at(state.offset, PIECE))?;
            state.offset += piece.len() as u64;
            state.hasher.update(&piece);
            state.ahead = piece;
        }
        let read = state.ahead.len().min(buffer.len());
        state.ahead.copy_to_slice(&mut buffer[..read]);
        Ok(read)
    }
}
