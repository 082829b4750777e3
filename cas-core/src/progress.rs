//! Progress of a long operation, for programs that show it.

/// Receives the progress of a long operation, item by item: blobs that are copied, layers that are
/// applied. A closure `Fn(Event<'_>)` implements this trait.
///
/// Several threads may report events at the same time. The events of different items may
/// interleave.
pub trait Progress: Send + Sync {
    /// Receives one event. The thread that does the work calls this method, so the method must be
    /// quick.
    fn report(&self, event: Event<'_>);
}

/// What happened to an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// The item has begun.
    Started,
    /// More bytes of the item are done.
    Advanced,
    /// The item is done. If the operation fails, this event may be missing.
    Finished,
    /// Something is unusual, but the operation continues. [`Event::item`] is the text of the
    /// warning.
    Warning,
}

/// A step of a long operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event<'a> {
    /// What happened.
    pub phase: Phase,
    /// The item: the digest of a blob, the key of an ingest whose digest is not known yet, the path
    /// of a directory or a disk that an image is written to, or a snapshot as
    /// `snapshots/SNAPSHOTTER/KEY`. In the phase [`Phase::Warning`], the text of the warning.
    pub item: &'a str,
    /// Bytes that are done since the last event of the item; 0 in every phase but
    /// [`Phase::Advanced`].
    pub bytes: u64,
    /// Size of the item in bytes, if it is known; `None` in every phase but [`Phase::Started`].
    pub total: Option<u64>,
}

impl<'a> Event<'a> {
    fn new(phase: Phase, item: &'a str) -> Self {
        Event {
            phase,
            item,
            bytes: 0,
            total: None,
        }
    }
}

impl dyn Progress + '_ {
    /// Reports that `item` begins. `total` is its size in bytes, if known.
    pub fn begin(&self, item: &str, total: Option<u64>) {
        self.report(Event {
            total,
            ..Event::new(Phase::Started, item)
        });
    }

    /// Reports that `bytes` more of `item` are done.
    pub fn advance(&self, item: &str, bytes: u64) {
        self.report(Event {
            bytes,
            ..Event::new(Phase::Advanced, item)
        });
    }

    /// Reports that `item` is done.
    pub fn end(&self, item: &str) {
        self.report(Event::new(Phase::Finished, item));
    }

    /// Reports a warning. `message` is the text of the warning.
    pub fn warn(&self, message: &str) {
        self.report(Event::new(Phase::Warning, message));
    }
}

impl<F: Fn(Event<'_>) + Send + Sync> Progress for F {
    fn report(&self, event: Event<'_>) {
        self(event);
    }
}

/// Ignores all progress.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn report(&self, _: Event<'_>) {}
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_closure_receives_events_in_order() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let progress: Arc<dyn Progress> = Arc::new(move |event: Event<'_>| {
            let line = format!("{:?} {} {}", event.phase, event.item, event.bytes);
            sink.lock().unwrap().push(line);
        });
        progress.begin("a", Some(2));
        progress.advance("a", 2);
        progress.end("a");
        progress.warn("odd");
        let lines = seen.lock().unwrap();
        let expected = [
            "Started a 0",
            "Advanced a 2",
            "Finished a 0",
            "Warning odd 0",
        ];
        assert_eq!(*lines, expected);
    }
}
