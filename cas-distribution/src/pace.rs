//! Measures how fast a body arrives.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Response;
use tokio::time::{Instant, timeout};

use crate::error;
use crate::retry::Failure;
use crate::timeouts::Timeouts;

/// Reads a body, and measures its speed. Only the time spent on waiting for the network counts. So
/// a connection does not count as slow because the receiver of the bytes is slow.
pub(crate) struct Pace {
    /// Maximum time in which fewer than `least` bytes may arrive.
    idle: Duration,
    least: u64,
    waited: Duration,
    arrived: u64,
}

impl Pace {
    pub(crate) fn new(timeouts: &Timeouts) -> Self {
        Pace {
            idle: timeouts.idle,
            least: timeouts.least(),
            waited: Duration::ZERO,
            arrived: 0,
        }
    }

    /// Returns the next bytes of an answer, or `None` at its end.
    ///
    /// # Errors
    /// As [`error::broken`] if the connection breaks; a failure that may pass if it is too slow.
    pub(crate) async fn next(&mut self, response: &mut Response) -> Result<Option<Bytes>, Failure> {
        let began = Instant::now();
        let left = self.idle.saturating_sub(self.waited);
        let chunk = timeout(left, response.chunk()).await;
        let chunk =
            chunk.map_err(|_| error::slow(response.url(), self.arrived, self.idle, self.least))?;
        let chunk = chunk.map_err(|error| error::broken(error, response.url()))?;
        self.waited += began.elapsed();
        self.arrived += chunk.as_ref().map_or(0, Bytes::len) as u64;
        if self.arrived >= self.least {
            (self.waited, self.arrived) = (Duration::ZERO, 0);
        }
        Ok(chunk)
    }
}
