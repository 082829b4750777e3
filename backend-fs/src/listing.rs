//! Lists the digests in a directory, in order and in pages.
//!
//! The system does not sort the names of a directory, so each page would need a scan of the whole
//! directory. The result of a scan therefore stays in memory for the pages that follow, and is used
//! for at most [`FRESH`].
//!
//! A list must contain every blob that exists during the whole time of the list, from its first
//! page to its last page. A page must therefore not use a scan that began before the first page of
//! the same list. The first page of a list always scans the directory. Only a later page uses a
//! scan that is kept in memory. An older scan never replaces a newer scan.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cas_core::sync::lock;
use cas_core::{Algorithm, Digest};
use cas_host::Dir;
use rustix::fs::FileType;

use crate::blob_name::BlobName;

/// Maximum number of digests in a scan. A full scan takes about 9 MiB of memory, and twice as much
/// while it runs.
const WINDOW: usize = 128 << 10;
/// Maximum age of a scan that is used for another page.
const FRESH: Duration = Duration::from_secs(10);
/// Maximum number of lists that continue with a kept scan.
const LISTS: usize = 16;

/// Digests in order.
#[derive(Default)]
pub(crate) struct Page {
    pub(crate) digests: Vec<Digest>,
    /// Whether the directory does not store the types of some entries. Such an entry may be
    /// something other than a regular file.
    pub(crate) is_untyped: bool,
}

/// The lists of one directory that are under way.
#[derive(Default)]
pub(crate) struct Listing(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    latest: Option<Arc<Scan>>,
    /// The last digest of each page that no page has followed yet, in the order of the pages.
    ends: VecDeque<Digest>,
}

impl Listing {
    /// Returns the first digests of `dir` after `after`, at most `limit`.
    pub(crate) fn page(
        &self,
        dir: &Dir,
        algorithm: Algorithm,
        after: Option<&Digest>,
        limit: usize,
    ) -> io::Result<Page> {
        let kept = after.and_then(|after| lock(&self.0).take_scan(after));
        let mut scan = match kept {
            Some(kept) => kept,
            None => self.scan(dir, algorithm, after)?,
        };
        let mut page = Page::default();
        let digests = &mut page.digests;
        loop {
            let more = scan.after(digests.last().or(after));
            digests.extend(more.iter().take(limit - digests.len()));
            page.is_untyped |= scan.is_untyped;
            if digests.len() == limit || scan.complete {
                break;
            }
            scan = self.scan(dir, algorithm, digests.last().or(after))?;
        }
        let continues = digests.len() == limit;
        lock(&self.0).add_end(digests.last().filter(|_| continues));
        Ok(page)
    }

    /// Returns the first `limit` digests after `after` from the latest scan. Returns `None` if the
    /// scan does not have that many or is too old, or if `after` is not the end of a page.
    pub(crate) fn kept_page(&self, after: &Digest, limit: usize) -> Option<Page> {
        let mut inner = lock(&self.0);
        let latest = inner.latest.as_ref()?;
        let page = Page {
            digests: latest.after(Some(after)).get(..limit)?.to_vec(),
            is_untyped: latest.is_untyped,
        };
        inner.take_scan(after)?;
        inner.add_end(page.digests.last());
        Some(page)
    }

    fn scan(
        &self,
        dir: &Dir,
        algorithm: Algorithm,
        after: Option<&Digest>,
    ) -> io::Result<Arc<Scan>> {
        let scan = Arc::new(Scan::of(dir, algorithm, after, WINDOW)?);
        let mut inner = lock(&self.0);
        let newer = |latest: &Arc<Scan>| latest.begun > scan.begun;
        if !inner.latest.as_ref().is_some_and(newer) {
            inner.latest = Some(Arc::clone(&scan));
        }
        Ok(scan)
    }
}

impl Inner {
    /// Returns the kept scan for the page that continues after `after`. Returns `None` if `after`
    /// is not the end of a page, or if the scan does not cover the page.
    fn take_scan(&mut self, after: &Digest) -> Option<Arc<Scan>> {
        let position = self.ends.iter().position(|end| end == after)?;
        self.ends.remove(position);
        let latest = self.latest.as_ref();
        latest.filter(|latest| latest.covers(after)).cloned()
    }

    /// Adds the last digest of a page that another page may follow. After the last page of a list,
    /// `end` is `None`. Drops the scan when no list continues.
    fn add_end(&mut self, end: Option<&Digest>) {
        if self.ends.len() == LISTS {
            self.ends.pop_front();
        }
        self.ends.extend(end);
        if self.ends.is_empty() {
            self.latest = None;
        }
    }
}

/// The first digests of a directory after `start`, at most [`WINDOW`].
struct Scan {
    start: Option<Digest>,
    found: Vec<Digest>,
    /// Whether `found` has all digests after `start`.
    complete: bool,
    /// Whether the directory does not store the type of at least one entry.
    is_untyped: bool,
    begun: Instant,
}

impl Scan {
    /// Scans a directory for its first digests after `after`, at most `window`.
    fn of(
        dir: &Dir,
        algorithm: Algorithm,
        after: Option<&Digest>,
        window: usize,
    ) -> io::Result<Self> {
        let (begun, mut complete, mut found) = (Instant::now(), true, Vec::new());
        let mut is_untyped = false;
        dir.each_name(|name, kind| {
            // Only a regular file whose name is a digest is a blob.
            if !matches!(kind, FileType::RegularFile | FileType::Unknown) {
                return;
            }
            let Some(digest) = BlobName::parse(algorithm, name) else {
                return;
            };
            is_untyped |= kind == FileType::Unknown;
            if after.is_some_and(|after| digest <= *after) {
                return;
            }
            found.push(digest);
            if found.len() == 2 * window {
                found.select_nth_unstable(window);
                found.truncate(window);
                complete = false;
            }
        })?;
        found.sort_unstable();
        complete &= found.len() <= window;
        found.truncate(window);
        Ok(Scan {
            start: after.copied(),
            found,
            complete,
            is_untyped,
            begun,
        })
    }

    /// Returns the digests of the scan that follow a digest.
    fn after(&self, after: Option<&Digest>) -> &[Digest] {
        match after {
            None => &self.found,
            Some(after) => &self.found[self.found.partition_point(|one| one <= after)..],
        }
    }

    /// Returns whether the scan contains the digests that follow a digest, and is younger than
    /// [`FRESH`].
    fn covers(&self, after: &Digest) -> bool {
        let begins = self.start.is_none_or(|start| start <= *after);
        let goes_on = self.complete || self.found.last().is_some_and(|last| after < last);
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

    /// The list has more digests than one scan keeps.
    #[test]
    fn pages_across_scans_make_up_the_list() {
        const COUNT: u32 = WINDOW as u32 + 5_000;
        let temp = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let temp = temp.unwrap();
        make(temp.path(), 0..COUNT);
        let (dir, listing) = (Dir::open(temp.path()).unwrap(), Listing::default());
        let (mut all, mut pages) = (Vec::new(), 0);
        loop {
            let page = listing.page(&dir, Algorithm::Sha256, all.last(), 1000);
            let page = page.unwrap().digests;
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
        assert!(lock(&listing.0).latest.is_none(), "no list continues");
    }

    #[test]
    fn a_scan_of_a_large_directory_keeps_the_first_digests() {
        const COUNT: u32 = 350;
        let temp = tempfile::tempdir().unwrap();
        make(temp.path(), 0..COUNT);
        let dir = Dir::open(temp.path()).unwrap();
        let mut all: Vec<_> = (0..COUNT).map(digest).collect();
        all.sort();
        for window in [1, 100, 175, 349, 350, 351] {
            let scan = Scan::of(&dir, Algorithm::Sha256, None, window).unwrap();
            assert!(scan.found == all[..window.min(all.len())], "{window}");
            assert_eq!(scan.complete, window >= all.len(), "{window}");
        }
    }

    /// Blobs are added, and then a second list begins. It contains these blobs, even if the first
    /// list continues meanwhile.
    #[test]
    fn a_list_contains_what_existed_when_it_began() {
        let temp = tempfile::tempdir().unwrap();
        let (dir, listing) = (Dir::open(temp.path()).unwrap(), Listing::default());
        let page = |after: Option<&Digest>, limit| {
            let page = listing.page(&dir, Algorithm::Sha256, after, limit);
            page.unwrap().digests
        };
        make(temp.path(), 0..10);
        let old = page(None, 3);
        make(temp.path(), 10..40);
        let new = page(None, 3);
        let follows = page(old.last(), 3);
        assert_eq!(page(follows.last(), 100).last(), page(None, 100).last());
        let rest = page(new.last(), 100);
        assert_eq!(new.len() + rest.len(), 40);
        // A list that begins in the middle does not continue another.
        make(temp.path(), 40..60);
        let middle = digest(20);
        let expected = (0..60).filter(|number| digest(*number) > middle).count();
        assert_eq!(page(Some(&middle), 100).len(), expected);
    }
}
