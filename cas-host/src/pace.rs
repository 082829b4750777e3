//! A maximum rate of reading.

use std::time::{Duration, Instant};

/// Slows reading down to a maximum rate.
#[derive(Debug)]
pub struct Pace {
    per_second: Option<u64>,
    read: u64,
    begun: Instant,
}

impl Pace {
    /// Returns a pace of at most `per_second` bytes per second, or without a maximum if
    /// `per_second` is `None`. Zero counts as 1. The rate is measured from this call on.
    pub fn new(per_second: Option<u64>) -> Self {
        Pace {
            per_second,
            read: 0,
            begun: Instant::now(),
        }
    }

    /// Counts `read` bytes as read. Then waits until the average rate since [`Self::new`] does not
    /// exceed the maximum.
    pub fn count(&mut self, read: u64) {
        self.read += read;
        if let Some(rate) = self.per_second {
            let due = Duration::from_secs_f64(self.read as f64 / rate.max(1) as f64);
            std::thread::sleep(due.saturating_sub(self.begun.elapsed()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept() {
        let mut pace = Pace::new(Some(1_000_000));
        for _ in 0..10 {
            pace.count(10_000);
        }
        assert!(pace.begun.elapsed() >= Duration::from_millis(100));
    }
}
