//! Storing the bytes that a reader returns.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};

use super::ext::{Stored, commit, stored};
use super::{Committed, ContentStore, Expected, OwnIngest, Writer};
use crate::error::{Error, Result};

/// Number of bytes that are read in one piece.
const PIECE: usize = 256 << 10;

/// Stores the bytes of `reader` under their SHA-256 digest, without a record. Succeeds if the blob
/// is stored already. Returns the digest and the size. If this fails, or if the future is dropped,
/// the unfinished ingest is discarded.
///
/// # Errors
/// Errors of `reader` and of the store.
pub async fn put_reader(
    content: &Arc<dyn ContentStore>,
    reader: impl AsyncRead + Send,
) -> Result<Committed> {
    let ingest = OwnIngest::new(content, "put");
    let stored = store(&**content, ingest.key(), reader).await;
    match stored {
        Ok((committed, true)) => {
            ingest.published();
            Ok(committed)
        }
        Ok((committed, false)) => ingest.discard().await.map(|_| committed),
        Err(error) => {
            // Only the first error is returned.
            let _ = ingest.discard().await;
            Err(error)
        }
    }
}

/// Stores the bytes of `reader`. Returns the outcome, and whether the ingest was published.
async fn store(
    content: &dyn ContentStore,
    key: &str,
    reader: impl AsyncRead + Send,
) -> Result<(Committed, bool)> {
    let mut writer = Writer::begin(content, key, Expected::ANY).await?;
    let mut reader = pin!(reader);
    let mut buffer = vec![0; PIECE];
    loop {
        let read = poll_fn(|context| {
            let mut piece = ReadBuf::new(&mut buffer);
            ready!(reader.as_mut().poll_read(context, &mut piece))?;
            Poll::Ready(Ok(piece.filled().len()))
        });
        let length = read
            .await
            .map_err(|error: io::Error| Error::from(error).operation("read"))?;
        if length == 0 {
            break;
        }
        let piece = Bytes::copy_from_slice(&buffer[..length]);
        writer.write(piece).await?;
    }
    let (digest, size) = (writer.digest().await?, writer.offset());
    let stored = stored(content, &digest).await?;
    if stored == Stored::Intact {
        let batch = false;
        let kept = Committed {
            digest,
            size,
            batch,
        };
        return Ok((kept, false));
    }
    let committed = commit(content, writer, stored).await?;
    Ok((committed, true))
}
