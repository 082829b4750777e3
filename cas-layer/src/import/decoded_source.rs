//! Decompresses a file of the import source on a separate thread, and provides the result as a
//! [`BlobSource`].

use std::io::{Cursor, Read};
use std::sync::Arc;
use std::thread;

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::transfer::BlobSource;
use cas_core::{Descriptor, Error, MediaType, Result, Store};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::contents::{Location, Part};
use crate::buffers::{At, Buffers};
use crate::codec::{Compression, Decoder};
use crate::unpack::Blob;

/// Maximum number of decompressed pieces that wait for the store.
const AHEAD: usize = 2;

/// A part that is being decompressed.
pub(super) struct DecodedSource {
    pieces: Receiver<Result<Bytes>>,
    /// Number of bytes that were returned.
    pub(super) produced: u64,
}

impl DecodedSource {
    /// Begins to decompress a part.
    pub(super) async fn begin(
        store: &Store,
        part: &Part,
        compression: Compression,
        buffers: &Buffers,
    ) -> Result<Self> {
        let decoder = Decoder::new(reader(store, part).await?, compression)?;
        let (sender, pieces) = channel(AHEAD);
        let buffers = buffers.clone();
        thread::Builder::new()
            .name("cas-inflate".to_owned())
            .spawn(move || decode(decoder, &buffers, &sender))?;
        Ok(DecodedSource {
            pieces,
            produced: 0,
        })
    }
}

/// Sends the pieces of a stream, and an empty one at its end.
fn decode(mut decoder: impl Read, buffers: &Buffers, sender: &Sender<Result<Bytes>>) {
    loop {
        let piece = buffers.read(&mut decoder, u64::MAX).map_err(Error::from);
        let last = piece.as_ref().map_or(true, Bytes::is_empty);
        // The receiver is gone if the import failed.
        if sender.blocking_send(piece).is_err() || last {
            return;
        }
    }
}

/// Returns a blocking reader of the bytes of a part.
async fn reader(store: &Store, part: &Part) -> Result<Box<dyn Read + Send>> {
    Ok(match &part.location {
        Location::Memory(data) => Box::new(Cursor::new(data.clone())),
        // Such files are small.
        Location::Spilled(..) => Box::new(Cursor::new(part.head(store, usize::MAX).await?)),
        Location::File(file, offset) => {
            let (file, from) = (Arc::clone(file), *offset);
            Box::new(At { file, from }.take(part.size))
        }
        Location::Stored(digest) => {
            let blob = Descriptor::new(MediaType::default(), *digest, part.size);
            Box::new(Blob::open(store, &blob).await?.0)
        }
    })
}

#[async_trait]
impl BlobSource for DecodedSource {
    async fn open(&mut self, offset: u64) -> Result<()> {
        if offset > 0 || self.produced > 0 {
            return Err(Error::internal(
                "a decompressed layer was read again, or not from its beginning; please report it",
            ));
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        let ended_early = || {
            Error::internal("the thread that decompresses the layer ended early; please report it")
        };
        let piece = self.pieces.recv().await.ok_or_else(ended_early)??;
        self.produced += piece.len() as u64;
        Ok((!piece.is_empty()).then_some(piece))
    }
}
