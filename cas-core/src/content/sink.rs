//! Storing the bytes that a blocking writer produces on a thread of its own.

use std::io::{self, Write};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use tokio::runtime::Handle;

use super::{ContentStore, Expected, OwnIngest, Writer};
use crate::{Error, Result, pool};

/// Number of bytes that are collected before they are stored in one piece.
const PIECE: usize = 256 << 10;

/// Begins an ingest, starts a thread, and calls `write` on the new thread with the writer of the
/// ingest. `write` may block. The thread has the name `owner`, and the key of the ingest begins
/// with `owner`. Returns the ingest and the result of `write`.
///
/// The second argument of `write` is a [`Weak`] pointer that shows whether the caller still waits:
/// [`Weak::upgrade`] returns `None` once the caller has dropped the future of this function. From
/// then on, a [`Sink`] with this pointer fails to store pieces, and `write` should stop.
///
/// # Errors
/// Errors of `write`, of the store and of starting the thread; `Internal` if `write` panicked.
/// After any error, the ingest is discarded.
pub async fn write_apart<T: Send + 'static>(
    content: &Arc<dyn ContentStore>,
    owner: &str,
    write: impl FnOnce(Writer, Weak<()>) -> Result<T> + Send + 'static,
) -> Result<(OwnIngest, T)> {
    // Declared before the writer, so that it is dropped after the writer. An ingest can only be
    // discarded when no writer has it open.
    let ingest = OwnIngest::new(content, owner);
    let writer = Writer::begin(&**content, ingest.key(), Expected::ANY).await?;
    let waiter = Arc::new(());
    let watch = Arc::downgrade(&waiter);
    let runtime = Handle::try_current().ok();
    let written = pool::apart(owner, move || {
        let _entered = runtime.as_ref().map(Handle::enter);
        write(writer, watch)
    });
    Ok((ingest, written.await?))
}

/// Collects the bytes that are written to the sink, and passes them to a [`Writer`] in larger
/// pieces. A sink is meant for the function `write` that is given to [`write_apart`]. The two
/// arguments of `write` are the arguments `writer` and `waiter` of [`Sink::new`]. Once `waiter` can
/// no longer be upgraded, storing a piece fails with `Cancelled`, because no caller waits for the
/// bytes.
pub struct Sink {
    writer: Writer,
    waiter: Weak<()>,
    buffer: Vec<u8>,
}

impl Sink {
    /// Returns a sink that writes to `writer` while `waiter` can be upgraded.
    pub fn new(writer: Writer, waiter: Weak<()>) -> Self {
        Sink {
            writer,
            waiter,
            buffer: Vec::with_capacity(PIECE),
        }
    }

    /// Stores the last bytes. Returns the writer.
    ///
    /// # Errors
    /// `Cancelled` if no caller waits for the bytes; errors of [`Writer::write`].
    pub fn finish(mut self) -> Result<Writer> {
        self.flush()?;
        Ok(self.writer)
    }
}

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(data);
        if self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.waiter.strong_count() == 0 {
            return Err(Error::cancelled("the caller no longer waits for what is written").into());
        }
        let piece = Bytes::from(std::mem::take(&mut self.buffer));
        if !piece.is_empty() {
            pool::wait(self.writer.write(piece))?;
        }
        Ok(())
    }
}
