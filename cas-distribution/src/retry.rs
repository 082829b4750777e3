//! Decides which requests are repeated, how often and after which pauses.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime};

use cas_core::{Error, Result};
use reqwest::StatusCode;
use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};
use tokio::time::Instant;

use crate::date;
use crate::timeouts::Timeouts;

/// Maximum number of attempts to connect. The number is small, so that a host that does not exist,
/// or on which nothing listens, is reported soon.
const CONNECTS: u32 = 5;
/// Number of failures in a row after which the whole content is requested instead of a range.
const RANGES: u32 = 4;
/// The part of the time for repetitions that requests for ranges may take, as a divisor: 2 means
/// one half. The rest is for requests for the whole content.
const RANGES_PART: u32 = 2;
/// The longest pause, in multiples of the first.
const LONGEST: u32 = 40;

/// Why an attempt failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The same request may succeed later.
    Passes {
        error: Error,
        /// How long the registry asks to wait.
        after: Option<Duration>,
        /// Maximum number of attempts in a row that may fail.
        attempts: u32,
    },
    /// A repetition would not help.
    Stays(Error),
}

impl Failure {
    /// Returns the failure of a connection that broke, or on which nothing useful arrived.
    pub(crate) fn lost(error: Error) -> Self {
        Self::refused(error, None)
    }

    /// Returns the failure of an attempt to connect.
    pub(crate) fn unconnected(error: Error) -> Self {
        Self::repeated(error, CONNECTS)
    }

    /// Returns a failure that may pass, and that is reported after `attempts` failed attempts in a
    /// row.
    pub(crate) fn repeated(error: Error, attempts: u32) -> Self {
        Failure::Passes {
            error,
            after: None,
            attempts,
        }
    }

    /// Returns the failure with at most `most` attempts.
    fn at_most(mut self, most: u32) -> Self {
        if let Failure::Passes { attempts, .. } = &mut self {
            *attempts = most.min(*attempts);
        }
        self
    }

    /// Returns the refusal of a request that may be sent again after the time `after`.
    pub(crate) fn refused(error: Error, after: Option<Duration>) -> Self {
        Failure::Passes {
            error,
            after,
            attempts: u32::MAX,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Stays(error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Passes { error, .. } | Failure::Stays(error) => error,
        }
    }
}

/// Returns whether a request that was answered with this status may succeed later without a change.
pub(crate) fn passes(status: StatusCode) -> bool {
    // 425 is "too early".
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// Returns how long a registry asks to wait: a number of seconds, or until a date. The date is
/// compared with the header `Date`, or with the clock of this machine if that header is absent.
/// Returns `None` if the header `Retry-After` is absent or invalid.
pub(crate) fn wanted_pause(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
    let wanted = text(RETRY_AFTER)?;
    if let Ok(seconds) = wanted.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = date::parse(wanted)?;
    let now = text(DATE).and_then(date::parse);
    let now = now.unwrap_or_else(SystemTime::now);
    Some(until.duration_since(now).unwrap_or_default())
}

/// Decides how long one operation is repeated. The time begins again with each progress.
pub(crate) struct Patience {
    repeat: Duration,
    first: Duration,
    /// When the operation began, or last made progress.
    since: Instant,
    pause: Duration,
    /// Number of attempts that failed since the last progress.
    failed: u32,
    /// Whether no range is requested until the next progress.
    gave_up_ranges: bool,
}

impl Patience {
    pub(crate) fn new(timeouts: &Timeouts) -> Self {
        Patience {
            repeat: timeouts.repeat,
            first: timeouts.pause,
            since: Instant::now(),
            pause: timeouts.pause,
            failed: 0,
            gave_up_ranges: false,
        }
    }

    /// Notes progress: the time and the pauses begin again.
    pub(crate) fn renew(&mut self) {
        self.since = Instant::now();
        self.pause = self.first;
        self.failed = 0;
        self.gave_up_ranges = false;
    }

    /// Returns whether ranges have failed so often or for so long since the last progress that the
    /// whole content is requested instead. Some registries answer every request for a range with
    /// the status of a temporary failure.
    pub(crate) fn gave_up_ranges(&self) -> bool {
        self.gave_up_ranges
    }

    /// Makes attempts until one does not fail. Returns its result.
    ///
    /// # Errors
    /// As [`Patience::wait`].
    pub(crate) async fn repeat<T, F>(&mut self, attempt: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        loop {
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(failure) => self.wait(failure).await?,
            }
        }
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// The error of the failure if another attempt would not help or would begin too late, or if
    /// too many attempts have failed in a row.
    pub(crate) async fn wait(&mut self, failure: Failure) -> Result<()> {
        self.wait_within(failure, self.repeat).await
    }

    /// Waits before the next request for a range. If such requests have failed too often, or if the
    /// next one would begin after the time for ranges ([`RANGES_PART`]), the caller must request
    /// the whole content instead: [`Patience::gave_up_ranges`] then returns true. It returns false
    /// if the failure would not pass, or if failures are never repeated.
    ///
    /// # Errors
    /// As [`Patience::wait`]. A range has fewer attempts and less time than the whole content.
    pub(crate) async fn wait_for_range(&mut self, failure: Failure) -> Result<()> {
        let may_pass = matches!(failure, Failure::Passes { .. });
        let waited = self
            .wait_within(failure.at_most(RANGES), self.repeat / RANGES_PART)
            .await;
        // Without time for repetitions, another mirror is asked instead.
        self.gave_up_ranges = waited.is_err() && may_pass && !self.repeat.is_zero();
        waited
    }

    /// Waits before the next attempt, which must begin within `time` after the last progress.
    async fn wait_within(&mut self, failure: Failure, time: Duration) -> Result<()> {
        let (error, after, attempts) = match failure {
            Failure::Stays(error) => return Err(error),
            Failure::Passes {
                error,
                after,
                attempts,
            } => (error, after, attempts),
        };
        self.failed += 1;
        let pause = after
            .unwrap_or_default()
            .saturating_add(shortened(self.pause));
        if self.failed >= attempts || pause > time.saturating_sub(self.since.elapsed()) {
            return Err(error);
        }
        let doubled = self.pause.saturating_mul(2);
        self.pause = doubled.min(self.first.saturating_mul(LONGEST));
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// Returns a random time between half of `pause` and all of it, so that clients do not all return
/// at the same time.
fn shortened(pause: Duration) -> Duration {
    // Each state has random keys.
    let random = RandomState::new().hash_one(0) % 1024;
    pause / 2 + pause / 2048 * random as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn the_pause_that_a_registry_asks_for_has_two_forms() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        type Row<'a> = (&'a [(HeaderName, &'a str)], Option<u64>);
        let rows: [Row<'_>; 8] = [
            (&[(RETRY_AFTER, "7")], Some(7)),
            (&[(RETRY_AFTER, " 0 ")], Some(0)),
            (
                &[(RETRY_AFTER, date), (DATE, "Sun, 06 Nov 1994 08:49:30 GMT")],
                Some(7),
            ),
            // The date is past, by our clock.
            (&[(RETRY_AFTER, date)], Some(0)),
            (&[(RETRY_AFTER, "soon")], None),
            (&[(RETRY_AFTER, "18446744073709551615")], Some(u64::MAX)),
            (&[(RETRY_AFTER, "-7")], None),
            (&[], None),
        ];
        for (pairs, expected) in rows {
            let found = wanted_pause(&headers(pairs));
            assert_eq!(found, expected.map(Duration::from_secs), "{pairs:?}");
        }
    }

    #[test]
    fn pauses_are_shortened_by_at_most_a_half() {
        let pause = Duration::from_secs(8);
        for _ in 0..100 {
            let found = shortened(pause);
            assert!(found >= pause / 2 && found <= pause, "{found:?}");
        }
    }

    const MILLI: Duration = Duration::from_millis(1);

    fn passing(after: Option<Duration>) -> Failure {
        Failure::refused(Error::unavailable("busy"), after)
    }

    #[tokio::test]
    async fn repetition_ends_at_its_deadline_and_progress_moves_it() {
        let timeouts = Timeouts::default()
            .with_repeat(2000 * MILLI)
            .with_pause(40 * MILLI);
        let mut patience = Patience::new(&timeouts);
        let began = Instant::now();
        let mut attempts = 1;
        while patience.wait(passing(None)).await.is_ok() {
            attempts += 1;
        }
        // The pauses are at most 40, 80, 160, 320, 640 and 1280 ms.
        assert!((5..=9).contains(&attempts), "{attempts}");
        assert!(began.elapsed() >= 720 * MILLI);
        patience.renew();
        let began = Instant::now();
        assert!(patience.wait(passing(Some(50 * MILLI))).await.is_ok());
        assert!(began.elapsed() >= 50 * MILLI);
        // A pause beyond the deadline is not begun.
        for pause in [Duration::from_secs(3600), Duration::MAX] {
            assert!(patience.wait(passing(Some(pause))).await.is_err());
        }
    }

    #[tokio::test]
    async fn what_does_not_pass_is_not_repeated_and_connecting_only_a_few_times() {
        let timeouts = Timeouts::default().with_pause(MILLI);
        let mut patience = Patience::new(&timeouts);
        let stays = Failure::Stays(Error::not_found("gone"));
        assert!(patience.wait(stays).await.is_err());
        let mut attempts = 1;
        let unconnected = || Failure::unconnected(Error::unavailable("nobody"));
        while patience.wait(unconnected()).await.is_ok() {
            attempts += 1;
        }
        assert_eq!(attempts, CONNECTS);
        let mut never = Patience::new(&timeouts.with_repeat(Duration::ZERO));
        assert!(never.wait(passing(None)).await.is_err());
    }

    #[tokio::test]
    async fn ranges_leave_time_for_the_whole() {
        let timeouts = Timeouts::default().with_pause(MILLI);
        let patience = || Patience::new(&timeouts);
        // Too often.
        let mut often = patience();
        for _ in 1..RANGES {
            often.wait_for_range(passing(None)).await.unwrap();
            assert!(!often.gave_up_ranges());
        }
        assert!(often.wait_for_range(passing(None)).await.is_err());
        assert!(often.gave_up_ranges());
        often.renew();
        assert!(!often.gave_up_ranges());
        // Too late, although the whole may still be requested.
        let late = Some(timeouts.repeat / RANGES_PART);
        let mut slow = patience();
        assert!(slow.wait_for_range(passing(late)).await.is_err());
        assert!(slow.gave_up_ranges());
        slow.wait(passing(None)).await.unwrap();
        // After a failure that does not pass, the whole content is not requested either.
        let mut refused = patience();
        let stays = Failure::Stays(Error::not_found("gone"));
        assert!(refused.wait_for_range(stays).await.is_err());
        assert!(!refused.gave_up_ranges());
        let mut never = Patience::new(&timeouts.clone().with_repeat(Duration::ZERO));
        assert!(never.wait_for_range(passing(None)).await.is_err());
        assert!(!never.gave_up_ranges());
    }
}
