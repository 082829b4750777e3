//! The deadlines of a client.

use std::time::Duration;

/// How long a client waits for a registry, and for how long it repeats a request that fails.
///
/// Each deadline except `repeat` ends one attempt. `repeat` ends the repetitions. So a request to a
/// registry that sends nothing useful takes at most `repeat` plus the time of one attempt. A
/// request for a range takes at most `repeat` plus the time of two attempts. A transfer that makes
/// progress has no overall deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// Maximum time to look up a host, connect to it and set up TLS. For a host with
    /// `dial_timeout` in `hosts.toml`, and for the hosts to which that host refers, `dial_timeout`
    /// applies instead. By default 20 s.
    pub connect: Duration,
    /// Maximum time from a request to the head of its answer. During an upload, the maximum time in
    /// which the registry accepts no byte. By default 30 s.
    pub answer: Duration,
    /// Maximum time in which the body of an answer may make less progress than
    /// [`min_speed`](Self::min_speed) demands. By default 10 s.
    pub idle: Duration,
    /// Minimum speed of the body of an answer in bytes per second, on average over
    /// [`idle`](Self::idle). A slower connection is replaced. By default 1024. With 0, one byte in
    /// the time [`idle`](Self::idle) is enough.
    pub min_speed: u64,
    /// Maximum time from the last byte of an upload to the answer of the registry. In this time,
    /// the registry may have to copy and hash the blob. By default 10 minutes.
    pub store: Duration,
    /// How long a request that fails for a temporary reason is repeated without progress. By
    /// default 60 s. With 0, nothing is repeated. If a request for a range fails for half of this
    /// time, or four times in a row, the whole content is requested instead of the range. If no
    /// connection can be made, the request fails after five attempts in a row.
    pub repeat: Duration,
    /// The pause before the first repetition. Each further pause is twice as long as the pause
    /// before, up to 40 times the first pause. Each pause is shortened at random by up to a half.
    /// If an answer has the header `Retry-After`, the time in this header is added to the pause. By
    /// default 250 ms.
    pub pause: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect: Duration::from_secs(20),
            answer: Duration::from_secs(30),
            idle: Duration::from_secs(10),
            min_speed: 1024,
            store: Duration::from_secs(600),
            repeat: Duration::from_secs(60),
            pause: Duration::from_millis(250),
        }
    }
}

impl Timeouts {
    /// Sets [`connect`](Self::connect).
    #[must_use]
    pub fn with_connect(mut self, connect: Duration) -> Self {
        self.connect = connect;
        self
    }

    /// Sets [`answer`](Self::answer).
    #[must_use]
    pub fn with_answer(mut self, answer: Duration) -> Self {
        self.answer = answer;
        self
    }

    /// Sets [`idle`](Self::idle).
    #[must_use]
    pub fn with_idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// Sets [`min_speed`](Self::min_speed).
    #[must_use]
    pub fn with_min_speed(mut self, min_speed: u64) -> Self {
        self.min_speed = min_speed;
        self
    }

    /// Sets [`store`](Self::store).
    #[must_use]
    pub fn with_store(mut self, store: Duration) -> Self {
        self.store = store;
        self
    }

    /// Sets [`repeat`](Self::repeat).
    #[must_use]
    pub fn with_repeat(mut self, repeat: Duration) -> Self {
        self.repeat = repeat;
        self
    }

    /// Sets [`pause`](Self::pause).
    #[must_use]
    pub fn with_pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Returns how many bytes must arrive within [`idle`](Self::idle).
    pub(crate) fn least(&self) -> u64 {
        let least = u128::from(self.min_speed) * self.idle.as_millis() / 1000;
        u64::try_from(least).unwrap_or(u64::MAX).max(1)
    }
}
