//! Ingests that no job has open.

use super::{Checker, Problem};
use crate::content::discard_unless_open;
use crate::error::{ErrorKind, Result};

impl Checker<'_> {
    /// Reports the ingests that no writer has open. A repair discards them.
    pub(super) async fn check_ingests(&mut self) -> Result<()> {
        let content = &*self.store.content;
        for ingest in content.ingests().await? {
            let is_open = match content.begin(&ingest.key).await {
                Err(error) if error.kind() == ErrorKind::Busy => true,
                // In a store that cannot be written, no ingest can be opened.
                Err(error) if error.kind() == ErrorKind::Denied => false,
                begun => {
                    let begun = begun?;
                    let has_ended = begun.offset() < ingest.offset;
                    drop(begun);
                    if has_ended {
                        // Its job ended after the ingest was listed, so `begin` has made another.
                        discard_unless_open(content, &ingest.key).await?;
                    }
                    has_ended
                }
            };
            if is_open {
                continue;
            }
            let mut repaired = false;
            if self.options.repair.is_some() {
                repaired = discard_unless_open(content, &ingest.key).await?;
                if !repaired {
                    continue;
                }
            }
            let detail = format!("a job left {} bytes; a repair discards them", ingest.offset);
            self.add(Problem::IngestLeft, &ingest.key, detail, repaired);
        }
        Ok(())
    }
}
