//! Content that is verified while it is read, for callers without a store.

use bytes::{Bytes, BytesMut};
use cas_core::transfer::{Fetcher, Pieces};
use cas_core::{Descriptor, Error, Hasher, Result, limit};
use futures_util::{StreamExt, stream};

use crate::client::Client;
use crate::error::REGISTRY;

impl Client {
    /// Returns the content of `descriptor` in pieces. If the content does not have the size and
    /// digest of `descriptor`, the last piece is an error. So the pieces must not be used before
    /// the stream has ended without an error.
    ///
    /// # Errors
    /// As [`Fetcher::fetch`]; `Corrupt`, as the last piece, if the bytes do not have that size and
    /// digest.
    pub async fn blob(&self, descriptor: &Descriptor) -> Result<Pieces> {
        verified(self, descriptor).await
    }

    /// Returns the whole of a manifest or an index, verified.
    ///
    /// # Errors
    /// As [`Client::blob`]; `OutOfRange` for more than [`limit::DOCUMENT_READ`] bytes.
    pub async fn document(&self, descriptor: &Descriptor) -> Result<Bytes> {
        whole(self, descriptor, limit::DOCUMENT_READ).await
    }
}

async fn verified(fetcher: &dyn Fetcher, descriptor: &Descriptor) -> Result<Pieces> {
    let reading = Reading {
        pieces: fetcher.fetch(descriptor, 0..descriptor.size).await?,
        hasher: Hasher::new(descriptor.digest.algorithm()),
        size: 0,
        expected: descriptor.clone(),
    };
    let pieces = stream::unfold(Some(reading), |reading| async {
        let mut reading = reading?;
        match reading.pieces.next().await {
            Some(Ok(piece)) => {
                reading.size += piece.len() as u64;
                reading.hasher.update(&piece);
                // Content that is too long may be endless, so the reading ends here.
                if reading.size > reading.expected.size {
                    return reading.check().err().map(|error| (Err(error), None));
                }
                Some((Ok(piece), Some(reading)))
            }
            Some(Err(error)) => Some((Err(error), None)),
            None => reading.check().err().map(|error| (Err(error), None)),
        }
    });
    Ok(pieces.boxed())
}

/// Returns the whole of some content of at most `allowed` bytes, verified.
///
/// # Errors
/// As [`Client::document`].
pub(crate) async fn whole(
    fetcher: &dyn Fetcher,
    descriptor: &Descriptor,
    allowed: u64,
) -> Result<Bytes> {
    if descriptor.size > allowed {
        let found = descriptor.size;
        return Err(Error::out_of_range(format!(
            "expected content of at most {allowed} bytes, found {found} bytes; if the content is a \
             manifest of cosign signatures, delete it from the registry and sign the image again; \
             otherwise read the content with `Client::blob`"
        ))
        .operation("fetch")
        .subject(descriptor.digest));
    }
    let (mut pieces, mut data) = (verified(fetcher, descriptor).await?, BytesMut::new());
    while let Some(piece) = pieces.next().await {
        data.extend_from_slice(&piece?);
    }
    Ok(data.freeze())
}

/// Content that is being read.
struct Reading {
    pieces: Pieces,
    hasher: Hasher,
    /// Number of bytes that were read.
    size: u64,
    expected: Descriptor,
}

impl Reading {
    fn check(self) -> Result<()> {
        let (expected, size, digest) = (self.expected, self.size, self.hasher.finish());
        if size == expected.size && digest == expected.digest {
            return Ok(());
        }
        Err(Error::corrupt(format!(
            "expected {} bytes of this digest, found {size} bytes of {digest}; check the registry",
            expected.size
        ))
        .operation("fetch")
        .subject(expected.digest)
        .backend(REGISTRY))
    }
}
