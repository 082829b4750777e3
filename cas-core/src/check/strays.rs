//! Ingests that nobody writes.

use super::{Checker, Problem};
use crate::error::{ErrorKind, Result};

impl Checker<'_> {
    /// Reports the ingests that no writer has open, and discards them.
    pub(super) async fn check_ingests(&mut self) -> Result<()> {
        for ingest in self.store.content.ingests().await? {
            let is_open = match self.store.content.begin(&ingest.key).await {
                Err(error) if error.kind() == ErrorKind::Busy => true,
                // A store that cannot be written resumes nothing.
                Err(error) if error.kind() == ErrorKind::Denied => false,
                begun => {
                    drop(begun?);
                    false
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
            let detail = format!("a job ended after {} bytes", ingest.offset);
            self.add(Problem::IngestLeft, &ingest.key, detail, repaired);
        }
        Ok(())
    }
}
