//! Ingests that no job has open.

use super::{Checker, Problem};
use crate::error::{ErrorKind, Result};

impl Checker<'_> {
    /// Reports the ingests that no writer has open. A repair discards them.
    pub(super) async fn check_ingests(&mut self) -> Result<()> {
        for ingest in self.store.content.ingests().await? {
            let is_open = match self.store.content.begin(&ingest.key).await {
                Err(error) if error.kind() == ErrorKind::Busy => true,
                // In a store that cannot be written, no ingest can be opened.
                Err(error) if error.kind() == ErrorKind::Denied => false,
                begun => {
                    let begun = begun?;
                    let has_ended = begun.offset() < ingest.offset;
                    drop(begun);
                    if has_ended {
                        // Its job ended since it was listed, so `begin` has made another ingest.
                        self.store.content.discard(&ingest.key).await?;
                    }
                    has_ended
                }
            };
            if is_open {
                continue;
            }
            let mut repaired = false;
            if self.options.repair.is_some() {
                repaired = match self.store.content.discard(&ingest.key).await {
                    Err(error) if error.kind() == ErrorKind::Busy => continue,
                    discarded => discarded.map(|_| true)?,
                };
            }
            let detail = format!("a job left {} bytes; a repair discards them", ingest.offset);
            self.add(Problem::IngestLeft, &ingest.key, detail, repaired);
        }
        Ok(())
    }
}
