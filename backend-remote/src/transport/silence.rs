//! Decides whether a request that failed is repeated.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cas_core::sync::lock;
use tokio::time::Instant;

/// The times in which requests have failed. All requests of a client share them.
#[derive(Clone)]
pub(super) struct Silence {
    /// A request that fails is not repeated if all requests, or all requests for the same URL, have
    /// failed for this time.
    repeat: Duration,
    failures: Arc<Mutex<Failures>>,
}

#[derive(Default)]
struct Failures {
    all: Option<Failing>,
    /// The failures for each URL. Otherwise, requests for other URLs that succeed would let a
    /// request that always fails be repeated for ever.
    by_url: HashMap<String, Failing>,
}

/// When the first of several failed requests began, and when the last of them failed.
#[derive(Clone, Copy)]
struct Failing {
    since: Instant,
    last: Instant,
}

impl Silence {
    pub(super) fn new(repeat: Duration) -> Self {
        Silence {
            repeat,
            failures: Arc::default(),
        }
    }

    /// Returns a request for `url` that begins now.
    pub(super) fn begin(&self, url: String) -> Attempt {
        Attempt {
            silence: self.clone(),
            url,
            since: Instant::now(),
        }
    }
}

/// A request that is being sent or answered.
pub(super) struct Attempt {
    silence: Silence,
    url: String,
    /// When the request began, or last made progress.
    pub(super) since: Instant,
}

impl Attempt {
    /// Notes that the answer made progress. This ends the silence.
    pub(super) fn progress(&mut self) {
        self.since = Instant::now();
        let mut failures = lock(&self.silence.failures);
        failures.all = None;
        failures.by_url.remove(&self.url);
    }

    /// Notes that the request has failed. Returns its error, which does not count as temporary if
    /// requests have failed for the time [`Silence::repeat`]. A request that began or made progress
    /// later than this time after the last failure starts a new silence.
    pub(super) fn failed(&self, error: opendal::Error) -> opendal::Error {
        let (now, repeat) = (Instant::now(), self.silence.repeat);
        let failing = |before: Option<&Failing>| {
            let before = before.filter(|before| self.since < before.last + repeat);
            Failing {
                since: before.map_or(self.since, |before| before.since.min(self.since)),
                last: now,
            }
        };
        let mut failures = lock(&self.silence.failures);
        let all = failing(failures.all.as_ref());
        let same = failing(failures.by_url.get(&self.url));
        failures.all = Some(all);
        failures.by_url.insert(self.url.clone(), same);
        // Failures that no later request continues would only take memory.
        failures.by_url.retain(|_, old| now < old.last + repeat);
        match now - all.since.min(same.since) < repeat {
            true => error,
            false => error.set_persistent(),
        }
    }
}
