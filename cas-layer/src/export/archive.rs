//! Writes a tar archive in one pass, from start to end.

use bytes::Bytes;
use cas_core::{Error, Hasher, Result, pool};

use super::target::Out;
use crate::tar::{self, Entry, EntryKind};

/// An archive that is being written.
pub(super) struct Archive {
    /// `None` after a failed or cancelled write.
    out: Option<Out>,
}

impl Archive {
    /// Begins an archive.
    pub(super) fn new(out: Out) -> Self {
        Archive { out: Some(out) }
    }

    /// Adds a small file.
    pub(super) async fn file(&mut self, path: &str, data: Bytes) -> Result<()> {
        let size = data.len() as u64;
        self.begin(path, size).await?;
        self.write(move |out| Ok(out.write_all(&data)?)).await?;
        self.end(size).await
    }

    /// Begins a file of `size` bytes. [`Archive::piece`] adds bytes, and [`Archive::end`] ends it.
    pub(super) async fn begin(&mut self, path: &str, size: u64) -> Result<()> {
        let head = head(path, size)?;
        self.write(move |out| Ok(out.write_all(&head)?)).await
    }

    /// Adds bytes to the file, and hashes them. Returns the hasher.
    pub(super) async fn piece(&mut self, data: Bytes, mut hasher: Hasher) -> Result<Hasher> {
        self.write(move |out| {
            hasher.update(&data);
            out.write_all(&data)?;
            Ok(hasher)
        })
        .await
    }

    /// Ends a file of `size` bytes.
    pub(super) async fn end(&mut self, size: u64) -> Result<()> {
        let padding = vec![0; tar::padding(size)];
        self.write(move |out| Ok(out.write_all(&padding)?)).await
    }

    /// Ends the archive.
    pub(super) async fn finish(mut self) -> Result<()> {
        self.write(|out| {
            out.write_all(&tar::END)?;
            Ok(out.flush()?)
        })
        .await
    }

    /// Runs `work` on the pool, because writing may block. Returns its result.
    async fn write<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Out) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let out = self.out.take();
        let mut out =
            out.ok_or_else(|| Error::cancelled("an earlier write was not finished; export again"))?;
        let (out, done) = pool::run(move || {
            let done = work(&mut out).map_err(|error| error.operation("write archive"))?;
            Ok((out, done))
        })
        .await?;
        self.out = Some(out);
        Ok(done)
    }
}

/// Returns the header blocks of a file.
fn head(path: &str, size: u64) -> Result<Vec<u8>> {
    tar::head(&Entry::plain(path, EntryKind::File, 0o644, size))
}
