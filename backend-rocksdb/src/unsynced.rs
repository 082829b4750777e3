//! Writes to the log that are not synced yet.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts the writes to the log, so that a sync can tell whether there is something to sync.
#[derive(Default)]
pub(crate) struct Unsynced {
    /// The number of writes that have begun and not ended. Some of them may be visible already.
    writing: AtomicU64,
    /// The number of writes that have ended.
    written: AtomicU64,
    /// How many of those writes are synced.
    synced: AtomicU64,
}

impl Unsynced {
    /// Runs a write to the log that is not synced.
    pub(crate) fn write<T>(&self, write: impl FnOnce() -> T) -> T {
        self.writing.fetch_add(1, Ordering::SeqCst);
        let result = write();
        // In this order, so that at each moment at least one of the two shows the write.
        self.written.fetch_add(1, Ordering::SeqCst);
        self.writing.fetch_sub(1, Ordering::SeqCst);
        result
    }

    /// Returns the number of writes that a sync covers if it begins now.
    pub(crate) fn covered(&self) -> u64 {
        self.written.load(Ordering::SeqCst)
    }

    /// Returns whether a write that is visible may not be synced.
    pub(crate) fn is_pending(&self) -> bool {
        self.writing.load(Ordering::SeqCst) > 0
            || self.synced.load(Ordering::SeqCst) < self.written.load(Ordering::SeqCst)
    }

    /// Notes that a sync has succeeded, which began when [`Unsynced::covered`] returned `covered`.
    pub(crate) fn mark_synced(&self, covered: u64) {
        self.synced.fetch_max(covered, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_pending_from_its_begin_until_a_sync_has_succeeded() {
        let log = Unsynced::default();
        assert!(!log.is_pending());
        log.write(|| assert!(log.is_pending()));
        assert!(log.is_pending());
        let covered = log.covered();
        assert!(log.is_pending(), "the sync has not succeeded yet");
        log.mark_synced(covered);
        assert!(!log.is_pending());
    }

    #[test]
    fn a_sync_does_not_cover_what_is_written_after_it_began() {
        let log = Unsynced::default();
        log.write(|| ());
        let covered = log.covered();
        log.write(|| ());
        log.mark_synced(covered);
        assert!(log.is_pending());
        let (later, earlier) = (log.covered(), covered);
        log.mark_synced(later);
        log.mark_synced(earlier);
        assert!(!log.is_pending(), "syncs may end in another order");
    }

    #[test]
    fn a_sync_does_not_cover_a_write_that_has_not_ended() {
        let log = Unsynced::default();
        log.write(|| {
            let covered = log.covered();
            log.mark_synced(covered);
        });
        assert!(log.is_pending());
    }
}
