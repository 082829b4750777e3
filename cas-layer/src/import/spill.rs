//! Files of an archive that are kept together until it is known which of them an image needs.
//!
//! Their bytes are in one ingest, which is never published. When the import ends, it discards the
//! ingest. If the process is killed, a garbage collection removes the ingest after a day in which
//! the ingest has not grown.

use cas_core::Result;
use cas_core::transfer::BlobSource;

use super::contents::Location;
use super::importer::BlobImporter;
use super::spilled::Spilled;
use crate::buffers::PIECE;

/// The files that were kept so far.
#[derive(Default)]
pub(super) struct Spill {
    /// `None` until the first file.
    kept: Option<Spilled>,
    /// The last bytes, which the ingest does not have yet. Appending each file alone would be slow.
    waiting: Vec<u8>,
    /// Number of bytes of all files.
    length: u64,
}

impl Spill {
    /// Adds the file whose bytes are in `source`. Returns where they can be read after the next
    /// [`Spill::flush`].
    ///
    /// # Errors
    /// Errors of the source and of the store.
    pub(super) async fn add(
        &mut self,
        importer: &BlobImporter<'_>,
        source: &mut dyn BlobSource,
    ) -> Result<Location> {
        let kept = match &self.kept {
            Some(kept) => kept.clone(),
            None => {
                let ingest = importer.begin_spill().await?;
                let kept = Spilled::new(ingest);
                self.kept.insert(kept).clone()
            }
        };
        let start = self.length;
        while let Some(piece) = source.next().await? {
            self.waiting.extend_from_slice(&piece);
            self.length += piece.len() as u64;
            if self.waiting.len() >= PIECE {
                self.flush().await?;
            }
        }
        Ok(Location::Spilled(kept, start))
    }

    /// Writes the bytes that wait.
    ///
    /// # Errors
    /// Errors of the store.
    pub(super) async fn flush(&mut self) -> Result<()> {
        if let Some(kept) = &self.kept
            && !self.waiting.is_empty()
        {
            kept.append(std::mem::take(&mut self.waiting).into())
                .await?;
        }
        Ok(())
    }
}
