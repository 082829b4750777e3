//! The names of a directory in order, a page at a time.
//!
//! A directory gives its names in no order, so that each page would cost a reading of them all.
//! What one reading found is kept for the pages that follow, for a while.
//!
//! A list shows what is there from its first page to its last. So a reading serves only pages that
//! go on where a page ended; any other, the first of a list above all, has the directory read
//! again, and an older reading never takes the place of a newer.

use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cas_core::{Algorithm, Digest};
use cas_host::Dir;

use crate::blobs::Name;

/// Most digests of a reading, in 4 MiB.
const WINDOW: usize = 64 << 10;
/// How long a reading serves.
const FRESH: Duration = Duration::from_secs(10);
/// Most lists that go on with one reading.
const LISTS: usize = 16;

/// The lists of one directory.
#[derive(Default)]
pub(crate) struct Listing(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    latest: Option<Arc<Reading>>,
    /// Ends of pages that no page has followed yet, the latest last.
    ends: VecDeque<Digest>,
}

impl Listing {
    /// The smallest digests of `dir` beyond `after` in order: `limit`, or all that there are.
    pub(crate) fn page(
        &self,
        dir: &Dir,
        algorithm: Algorithm,
        after: Option<&Digest>,
        limit: usize,
    ) -> io::Result<Vec<Digest>> {
        let known = after.and_then(|after| self.lock().follow(after));
        let mut reading = match known {
            Some(known) => known,
            None => self.read(dir, algorithm, after)?,
        };
        let mut page = Vec::new();
        loop {
            let more = reading.beyond(page.last().or(after));
            page.extend(more.iter().take(limit - page.len()));
            if page.len() == limit || reading.whole {
                break;
            }
            reading = self.read(dir, algorithm, page.last().or(after))?;
        }
        self.lock().end(page.last().filter(|_| page.len() == limit));
        Ok(page)
    }

    fn read(
        &self,
        dir: &Dir,
        algorithm: Algorithm,
        after: Option<&Digest>,
    ) -> io::Result<Arc<Reading>> {
        let reading = Arc::new(Reading::of(dir, algorithm, after)?);
        let mut inner = self.lock();
        let newer = |latest: &Arc<Reading>| latest.begun > reading.begun;
        if !inner.latest.as_ref().is_some_and(newer) {
            inner.latest = Some(Arc::clone(&reading));
        }
        Ok(reading)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The reading that serves the page after the one that ended with `after`.
    fn follow(&mut self, after: &Digest) -> Option<Arc<Reading>> {
        let place = self.ends.iter().position(|end| end == after)?;
        self.ends.remove(place);
        let latest = self.latest.as_ref();
        latest.filter(|latest| latest.serves(after)).cloned()
    }

    /// A page ended here, or was the last of its list.
    fn end(&mut self, end: Option<&Digest>) {
        if self.ends.len() == LISTS {
            self.ends.pop_front();
        }
        self.ends.extend(end);
        if self.ends.is_empty() {
            self.latest = None;
        }
    }
}

/// The smallest digests beyond one, as the directory gave them.
struct Reading {
    beyond: Option<Digest>,
    found: Vec<Digest>,
    /// Whether there were no more.
    whole: bool,
    begun: Instant,
}

impl Reading {
    fn of(dir: &Dir, algorithm: Algorithm, after: Option<&Digest>) -> io::Result<Self> {
        let (begun, mut whole) = (Instant::now(), true);
        let mut smallest = BinaryHeap::new();
        for entry in dir.entries()? {
            // Names that are no digests are no blobs.
            let Some(digest) = Name::read(algorithm, &entry?.name) else {
                continue;
            };
            if after.is_some_and(|after| digest <= *after) {
                continue;
            }
            if smallest.len() == WINDOW {
                whole = false;
                match smallest.peek_mut() {
                    Some(mut greatest) if digest < *greatest => *greatest = digest,
                    _ => {}
                }
            } else {
                smallest.push(digest);
            }
        }
        Ok(Reading {
            beyond: after.copied(),
            found: smallest.into_sorted_vec(),
            whole,
            begun,
        })
    }

    /// What it found beyond a digest.
    fn beyond(&self, after: Option<&Digest>) -> &[Digest] {
        match after {
            None => &self.found,
            Some(after) => &self.found[self.found.partition_point(|one| one <= after)..],
        }
    }

    /// Whether it knows what comes next after a digest, and is not too old.
    fn serves(&self, after: &Digest) -> bool {
        let begins = self.beyond.is_none_or(|beyond| beyond <= *after);
        let goes_on = self.whole || self.found.last().is_some_and(|last| after < last);
        begins && goes_on && self.begun.elapsed() < FRESH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u32) -> Digest {
        Digest::sha256(&number.to_le_bytes())
    }

    fn make(path: &std::path::Path, numbers: std::ops::Range<u32>) {
        for number in numbers {
            std::fs::File::create(path.join(digest(number).hex())).unwrap();
        }
    }

    /// Pages of a list that has more digests than a reading keeps.
    #[test]
    fn pages_across_readings_make_up_the_list() {
        const COUNT: u32 = WINDOW as u32 + 5_000;
        let temp = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let temp = temp.unwrap();
        make(temp.path(), 0..COUNT);
        let (dir, listing) = (Dir::open(temp.path()).unwrap(), Listing::default());
        let (mut all, mut pages) = (Vec::new(), 0);
        loop {
            let page = listing.page(&dir, Algorithm::Sha256, all.last(), 1000);
            let page = page.unwrap();
            pages += 1;
            all.extend(page.iter().copied());
            if page.len() < 1000 {
                break;
            }
        }
        let mut expected: Vec<_> = (0..COUNT).map(digest).collect();
        expected.sort();
        assert!(all == expected, "{} of {COUNT}", all.len());
        assert_eq!(pages, COUNT / 1000 + 1);
        assert!(listing.lock().latest.is_none(), "kept for nobody");
    }

    /// A list that was begun before and goes on after must not hide from another what came
    /// between.
    #[test]
    fn a_list_shows_what_was_there_when_it_began() {
        let temp = tempfile::tempdir().unwrap();
        let (dir, listing) = (Dir::open(temp.path()).unwrap(), Listing::default());
        let page = |after: Option<&Digest>, limit| {
            listing.page(&dir, Algorithm::Sha256, after, limit).unwrap()
        };
        make(temp.path(), 0..10);
        let old = page(None, 3);
        make(temp.path(), 10..40);
        let new = page(None, 3);
        let follows = page(old.last(), 3);
        assert_eq!(page(follows.last(), 100).last(), page(None, 100).last());
        let rest = page(new.last(), 100);
        assert_eq!(new.len() + rest.len(), 40);
        // Whoever begins in the middle has followed nobody.
        make(temp.path(), 40..60);
        let middle = digest(20);
        let expected = (0..60).filter(|number| digest(*number) > middle).count();
        assert_eq!(page(Some(&middle), 100).len(), expected);
    }
}
