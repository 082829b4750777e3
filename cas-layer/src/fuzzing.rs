//! Public functions that call private code, for the fuzz targets of this repository.

use std::io::{self, Read};
use std::sync::Arc;
use std::thread;

use cas_core::Result;

use crate::codec::{Checkpoints, Compression, Decoder, Recorder, Spans};

/// Decompresses a gzip stream, and records checkpoints with a distance of at least one byte, even
/// if they are too few to be of use. Returns `None` if there are none.
///
/// # Errors
/// As [`Decoder`].
pub fn record_checkpoints(layer: &[u8]) -> Result<Option<Checkpoints>> {
    let mut decoder = Decoder::new(layer, Compression::Gzip)?;
    decoder.record(Recorder::of_every_block());
    io::copy(&mut decoder, &mut io::sink())?;
    Ok(decoder.recorded())
}

/// Decompresses a gzip stream with checkpoints, which may be wrong, on two threads. Returns `None`
/// if the distance of the checkpoints is too large.
///
/// # Errors
/// As [`Decoder`].
pub fn decompress_with(checkpoints: Checkpoints, layer: &[u8]) -> Option<Result<Vec<u8>>> {
    let checkpoints = checkpoints.are_close().then(|| Arc::new(checkpoints))?;
    Some(thread::scope(|scope| {
        let (mut spans, mut bytes) = (Spans::new(layer, checkpoints, 2, scope), Vec::new());
        spans.read_to_end(&mut bytes)?;
        Ok(bytes)
    }))
}
