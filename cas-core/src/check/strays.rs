//! Ingests that no job has open.

use std::time::SystemTime;

use super::{Checker, Finding, Problem};
use crate::content::{IngestStatus, discard_unless_open};
use crate::digest::Digest;
use crate::error::{ErrorKind, Result};
use crate::gc::leftovers_of_content;
use crate::records::UNLEASED_TTL;

impl Checker<'_> {
    /// Reports the ingests that no writer has open and no later job continues. A repair discards
    /// them. New ingests without bytes are not reported: a fetch of the repair itself may have left
    /// them. Lists the ingests that a later pull can continue.
    pub(super) async fn check_ingests(&mut self) -> Result<()> {
        let content = &*self.store.content;
        let now = SystemTime::now();
        for ingest in content.ingests().await? {
            let is_of_failed_job = is_of_failed_job(&ingest, now);
            if self.options.repair.is_none() && is_of_failed_job {
                continue;
            }
            let is_open = match content.begin(&ingest.key).await {
                Err(error) if error.kind() == ErrorKind::Busy => true,
                // In a store that cannot be written, no ingest can be opened.
                Err(error) if error.kind() == ErrorKind::Denied => false,
                begun => {
                    let begun = begun?;
                    let has_ended = begun.offset() < ingest.offset;
                    drop(begun);
                    if has_ended {
                        // The job of the ingest ended after the ingest was listed, so `begin` has
                        // made a new ingest.
                        discard_unless_open(content, &ingest.key).await?;
                    }
                    has_ended
                }
            };
            if is_open {
                continue;
            }
            if can_be_continued(&ingest, now) {
                self.report.resumable.push((ingest.key, ingest.offset));
                continue;
            }
            let mut repaired = false;
            if self.options.repair.is_some() {
                repaired = discard_unless_open(content, &ingest.key).await?;
                if !repaired || is_of_failed_job {
                    continue;
                }
            }
            let outcome = match repaired {
                true => "it was discarded",
                false => "a repair discards it",
            };
            let detail = format!(
                "a job left this ingest of {} bytes; {outcome}",
                ingest.offset
            );
            self.add(Problem::IngestLeft, &ingest.key, detail, repaired);
        }
        Ok(())
    }

    /// Reports pieces of blobs that belong to no blob and no ingest, and that a collection would
    /// remove. A repair removes them. Does nothing if the store is opened for an owner.
    pub(super) async fn check_pieces(&mut self) -> Result<()> {
        if self.store.owner().is_some() {
            return Ok(());
        }
        let (content, remove) = (&*self.store.content, self.options.repair.is_some());
        let before = SystemTime::now() - UNLEASED_TTL;
        let left = leftovers_of_content(content, before, remove).await?;
        let left = left.map(|left| Finding::left(&left, remove));
        self.report.findings.extend(left);
        Ok(())
    }
}

/// Returns whether a later job can continue an ingest: it has bytes, its key is the digest of the
/// blob, and it is so new that a collection keeps it.
fn can_be_continued(ingest: &IngestStatus, now: SystemTime) -> bool {
    ingest.offset > 0 && is_young(ingest, now) && ingest.key.parse::<Digest>().is_ok()
}

/// Returns whether an ingest has no bytes and is so new that a collection keeps it. A job that
/// fails before it receives a byte leaves such an ingest, and nothing is damaged by it.
fn is_of_failed_job(ingest: &IngestStatus, now: SystemTime) -> bool {
    ingest.offset == 0 && is_young(ingest, now)
}

fn is_young(ingest: &IngestStatus, now: SystemTime) -> bool {
    now.duration_since(ingest.updated_at).unwrap_or_default() < UNLEASED_TTL
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn only_new_ingests_without_bytes_are_of_failed_jobs() {
        let now = SystemTime::now();
        let second = Duration::from_secs(1);
        for (offset, updated_at, expected) in [
            (0, now, true),
            (0, now + second, true),
            (0, now - UNLEASED_TTL + second, true),
            (0, now - UNLEASED_TTL, false),
            (1, now, false),
        ] {
            let ingest = IngestStatus {
                key: "k".to_owned(),
                offset,
                updated_at,
            };
            assert_eq!(is_of_failed_job(&ingest, now), expected, "{ingest:?}");
        }
    }

    #[test]
    fn young_ingests_of_blobs_can_be_continued() {
        let now = SystemTime::now();
        let digest = Digest::sha256(b"blob").to_string();
        let second = Duration::from_secs(1);
        for (key, offset, updated_at, expected) in [
            (&*digest, 1, now, true),
            (&digest, 1, now - UNLEASED_TTL + second, true),
            (&digest, 1, now - UNLEASED_TTL, false),
            (&digest, 0, now, false),
            ("blob-add-1", 1, now, false),
        ] {
            let ingest = IngestStatus {
                key: key.to_owned(),
                offset,
                updated_at,
            };
            assert_eq!(can_be_continued(&ingest, now), expected, "{ingest:?}");
        }
    }
}
