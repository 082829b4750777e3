//! Planned faults, for tests: a store whose mutating calls fail according to a [`Plan`].
//!
//! A planned fault makes a call fail either before its effect or after it. If a call fails after
//! its effect, only the result of the call is lost. A plan does not affect calls that only read.

mod content;
mod records;

use std::future::Future;
use std::sync::{Arc, Mutex};

use crate::content::ContentStore;
use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;
use crate::sync::lock;

/// Whether a call fails before or after its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The call has no effect.
    Before,
    /// The call has its full effect, but its result is lost.
    After,
}

/// Which mutating calls fail, and how. All parts of a store share one plan. The methods of the plan
/// count only mutating calls.
#[derive(Debug, Default)]
pub struct Plan(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    next: Option<(Choice, Fault)>,
    failed: Vec<&'static str>,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The kind of the error.
    pub kind: ErrorKind,
    /// Whether the call has its effect.
    pub side: Side,
}

#[derive(Clone, Copy, Debug)]
enum Choice {
    /// One call, after this many others.
    After(usize),
    /// One call in a number of calls, on average. The first value is the state of the generator
    /// that chooses the calls, and the second value is the number of calls.
    OneIn(u64, u64),
}

impl Plan {
    /// Returns a plan under which no call fails.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Makes only the `nth` call from now fail, counted from 1.
    pub fn fail_nth(&self, nth: usize, fault: Fault) {
        self.set(Some((Choice::After(nth.saturating_sub(1)), fault)));
    }

    /// Makes one call in `count` fail from now on, on average. `seed` determines which calls fail.
    pub fn fail_some(&self, seed: u64, count: u64, fault: Fault) {
        self.set(Some((Choice::OneIn(seed, count.max(1)), fault)));
    }

    /// Stops injecting faults. Returns the names of the calls that failed because of the plan since
    /// the plan was last changed, in the order of the calls.
    pub fn end(&self) -> Vec<&'static str> {
        self.set(None)
    }

    fn set(&self, next: Option<(Choice, Fault)>) -> Vec<&'static str> {
        let mut state = lock(&self.0);
        state.next = next;
        std::mem::take(&mut state.failed)
    }

    /// Returns the fault of the next call, or `None` if the plan does not make it fail.
    fn draw(&self, call: &'static str) -> Option<Fault> {
        let mut state = lock(&self.0);
        let (choice, fault) = state.next?;
        let (fails, next) = match choice {
            Choice::After(0) => (true, None),
            Choice::After(more) => (false, Some(Choice::After(more - 1))),
            Choice::OneIn(seed, count) => {
                let seed = mixed(seed);
                (seed.is_multiple_of(count), Some(Choice::OneIn(seed, count)))
            }
        };
        state.next = next.map(|next| (next, fault));
        if fails {
            state.failed.push(call);
        }
        fails.then_some(fault)
    }

    /// Runs a call, or makes it fail.
    async fn call<T>(
        &self,
        name: &'static str,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let Some(fault) = self.draw(name) else {
            return call.await;
        };
        if fault.side == Side::After {
            call.await?;
        }
        Err(Error::new(fault.kind, "a planted fault").operation(name))
    }
}

/// Returns the output of the generator splitmix64 for this seed. The output is the next seed.
fn mixed(seed: u64) -> u64 {
    let mut next = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    next = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    next = (next ^ (next >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    next ^ (next >> 31)
}

/// Returns `store`, with calls that fail according to `plan`.
pub fn faulty(store: &Store, plan: &Arc<Plan>) -> Store {
    Store {
        content: faulty_content(store.content.clone(), plan),
        records: Arc::new(records::Faulty::new(store.records.clone(), plan)),
        images: Arc::new(records::Faulty::new(store.images.clone(), plan)),
    }
}

/// Returns the content store `store`, with calls that fail according to `plan`.
pub fn faulty_content(store: Arc<dyn ContentStore>, plan: &Arc<Plan>) -> Arc<dyn ContentStore> {
    Arc::new(content::Content::new(store, plan))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::SystemTime;

    use super::*;
    use crate::digest::Digest;
    use crate::testing::memory::MemoryStore;
    use crate::{ContentExt, pool::wait};

    const LOST: Fault = Fault {
        kind: ErrorKind::Unavailable,
        side: Side::After,
    };

    #[test]
    fn the_nth_call_fails_before_or_after_its_effect() {
        let plan = Plan::new();
        let store = faulty_content(Arc::new(MemoryStore::new()), &plan);
        let put = |data: &'static str| wait(store.put(data.into()));
        let there = |data: &str| wait(store.stat(&Digest::sha256(data.as_bytes()))).unwrap();
        // begin, rewind, append, publish
        for (data, side) in [("a", Side::Before), ("b", Side::After)] {
            plan.fail_nth(4, Fault { side, ..LOST });
            assert_eq!(put(data).unwrap_err().kind(), ErrorKind::Unavailable);
            assert_eq!(there(data).is_some(), side == Side::After);
            assert_eq!(plan.end(), ["publish"]);
        }
        plan.fail_nth(3, LOST);
        assert!(put("c").is_err() && there("c").is_none());
        put("c").unwrap();
        assert_eq!(plan.end(), ["append"]);
    }

    /// A wrapper that does not forward a call, or does not count it, hides faults of the store.
    #[test]
    fn every_call_that_changes_something_is_forwarded_and_may_fail() {
        let plan = Plan::new();
        let store = faulty(&MemoryStore::new().with_images(), &plan);
        let (content, now) = (&store.content, SystemTime::now());
        let file = Arc::new(File::open("Cargo.toml").unwrap());
        let mut ingest = wait(content.begin("key")).unwrap();
        let fail = || plan.fail_nth(1, LOST);
        let failed = |kind: Option<ErrorKind>, call| {
            assert_eq!(kind, Some(ErrorKind::Unavailable), "{call}");
            assert_eq!(plan.end(), [call]);
        };
        fail();
        failed(kind(wait(content.compact())), "compact");
        fail();
        failed(kind(wait(content.leftovers(now, true))), "leftovers");
        fail();
        failed(kind(wait(store.images.cleanup())), "cleanup");
        fail();
        failed(kind(wait(ingest.adopt(&file, 0, 9))), "adopt");
        let again = wait(ingest.adopt(&file, 0, 9));
        assert_eq!(kind(again), Some(ErrorKind::FailedPrecondition));
        fail();
        assert_eq!(wait(content.leftovers(now, false)).unwrap(), [] as [u64; 0]);
        assert!(plan.end().is_empty(), "a call that only reads never fails");
    }

    fn kind<T>(outcome: Result<T>) -> Option<ErrorKind> {
        outcome.err().map(|error| error.kind())
    }

    #[test]
    fn a_seed_always_chooses_the_same_calls() {
        let failed = |seed| {
            let plan = Plan::new();
            plan.fail_some(seed, 5, LOST);
            let drawn = (0..100).map(|_| plan.draw("call").is_some());
            drawn.collect::<Vec<_>>()
        };
        assert_eq!(failed(7), failed(7));
        assert_ne!(failed(7), failed(8));
        let count = failed(7).iter().filter(|failed| **failed).count();
        assert!((5..50).contains(&count), "{count}");
    }
}
