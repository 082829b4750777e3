//! [`Counters`]: an observer that counts calls.

use std::array;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::{Event, Observer, Operation};

/// Counts the calls of every operation, their errors, bytes and time.
pub struct Counters([Counter; Operation::ALL.len()]);

#[derive(Default)]
struct Counter {
    calls: AtomicU64,
    errors: AtomicU64,
    bytes: AtomicU64,
    total: AtomicU64,
    longest: AtomicU64,
}

/// The totals of all calls of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Number of calls that ended.
    pub calls: u64,
    /// Number of calls that failed.
    pub errors: u64,
    /// Sum of [`Event::bytes`]. Calls that failed count as 0.
    pub bytes: u64,
    /// Total duration of all calls in nanoseconds.
    pub total_ns: u64,
    /// Duration of the longest call in nanoseconds.
    pub longest_ns: u64,
}

impl Counters {
    /// Returns counters at zero.
    pub fn new() -> Self {
        Counters(array::from_fn(|_| Counter::default()))
    }

    /// Returns the totals of one operation so far.
    pub fn of(&self, operation: Operation) -> Counts {
        let counter = &self.0[operation as usize];
        Counts {
            calls: counter.calls.load(Ordering::Relaxed),
            errors: counter.errors.load(Ordering::Relaxed),
            bytes: counter.bytes.load(Ordering::Relaxed),
            total_ns: counter.total.load(Ordering::Relaxed),
            longest_ns: counter.longest.load(Ordering::Relaxed),
        }
    }

    /// Returns the totals of every operation with at least one call that ended, by the name of the
    /// operation. The fields of [`Counts`] are read one after the other. So if a call ends
    /// meanwhile, `errors` may include this call although `calls` does not.
    pub fn snapshot(&self) -> BTreeMap<&'static str, Counts> {
        let all = Operation::ALL.iter();
        all.map(|operation| (operation.name(), self.of(*operation)))
            .filter(|(_, counts)| counts.calls > 0)
            .collect()
    }
}

impl Default for Counters {
    fn default() -> Self {
        Counters::new()
    }
}

impl Observer for Counters {
    fn observe(&self, event: &Event) {
        let counter = &self.0[event.operation as usize];
        let elapsed = u64::try_from(event.elapsed.as_nanos()).unwrap_or(u64::MAX);
        counter.calls.fetch_add(1, Ordering::Relaxed);
        counter.total.fetch_add(elapsed, Ordering::Relaxed);
        counter.longest.fetch_max(elapsed, Ordering::Relaxed);
        if event.bytes > 0 {
            counter.bytes.fetch_add(event.bytes, Ordering::Relaxed);
        }
        if event.error.is_some() {
            counter.errors.fetch_add(1, Ordering::Relaxed);
        }
    }
}
