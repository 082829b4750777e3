//! A composition that keeps small blobs in one store and large ones in another.
//!
//! ```text
//! up to THRESHOLD bytes    small, which also keeps the records and the names
//! more                     large, which keeps bytes only
//! ```
//!
//! An ingest begins in the small store, and moves to the large store when it exceeds THRESHOLD. An
//! ingest in the large store can be within THRESHOLD when it is published: after a rewind, or if
//! THRESHOLD was lower when the ingest moved. The publish then moves the ingest back. A change of
//! THRESHOLD does not move published blobs. Two concurrent publishes of the same blob can leave a
//! copy in each store. The two copies count as one blob: the copy in the small store is listed and
//! read, and a removal removes both copies.

mod ingest;
mod opener;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;

use self::ingest::SizedIngest;
pub use self::opener::BySize;
use crate::capability::{Capabilities, Capability};
use crate::content::{BlobReader, ContentStore, Entry, Ingest, IngestStatus, Stat, Version};
use crate::digest::Digest;
use crate::error::Result;
use crate::records::Batch;
use crate::store::Store;

/// Maximum size, in bytes, of a blob in the small store, unless another threshold is set.
pub const THRESHOLD: u64 = 64 << 10;

/// Returns a store that keeps blobs of up to `threshold` bytes in `small`, and larger ones in
/// `large`.
///
/// `small` also keeps the records and the names. `small` and `large` must be different stores, or
/// the keys of their ingests would collide.
pub fn by_size(small: Store, large: Arc<dyn ContentStore>, threshold: u64) -> Store {
    let capabilities = capabilities(
        small.content.capabilities(),
        large.capabilities(),
        small.records.capabilities(),
    );
    Store {
        content: Arc::new(SizedContent(Arc::new(Members {
            small: small.content,
            large,
            threshold,
            capabilities,
        }))),
        ..small
    }
}

/// Returns what both members promise. `Atomic` is about records, so only the records store matters.
/// `Joint` is never promised, because the large store is not the records store.
fn capabilities(small: Capabilities, large: Capabilities, records: Capabilities) -> Capabilities {
    use Capability::{Atomic, Durable, Files, Joint, Resume, Shared};
    let has = |capability: &Capability| match capability {
        Atomic => records.has(Atomic),
        Joint => false,
        Durable | Resume | Shared | Files => small.has(*capability) && large.has(*capability),
    };
    Capability::ALL.into_iter().filter(has).collect()
}

struct Members {
    small: Arc<dyn ContentStore>,
    large: Arc<dyn ContentStore>,
    threshold: u64,
    capabilities: Capabilities,
}

/// One of the two members.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Small,
    Large,
}

impl Side {
    /// Returns the other member.
    fn other(self) -> Side {
        match self {
            Side::Small => Side::Large,
            Side::Large => Side::Small,
        }
    }

    /// Returns `stat` with the member marked in the lowest bit of its version, so that versions of
    /// the two members are never equal.
    ///
    /// The highest bit of the member's version is lost. Versions that are counters or times in
    /// nanoseconds never use that bit. Two random versions that differ only in that bit are as
    /// unlikely as two equal ones.
    fn tag(self, stat: Stat) -> Stat {
        let version = Version(stat.version.0 << 1 | self as u64);
        Stat { version, ..stat }
    }

    fn of(version: Version) -> Side {
        match version.0 & 1 {
            0 => Side::Small,
            _ => Side::Large,
        }
    }
}

impl Members {
    fn on(&self, side: Side) -> &dyn ContentStore {
        match side {
            Side::Small => &*self.small,
            Side::Large => &*self.large,
        }
    }
}

struct SizedContent(Arc<Members>);

#[async_trait]
impl ContentStore for SizedContent {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities
    }

    async fn stat(&self, digest: &Digest) -> Result<Option<Stat>> {
        if let Some(stat) = self.0.small.stat(digest).await? {
            return Ok(Some(Side::Small.tag(stat)));
        }
        let stat = self.0.large.stat(digest).await?;
        Ok(stat.map(|stat| Side::Large.tag(stat)))
    }

    async fn open(&self, digest: &Digest) -> Result<Option<Arc<dyn BlobReader>>> {
        match self.0.small.open(digest).await? {
            None => self.0.large.open(digest).await,
            found => Ok(found),
        }
    }

    async fn begin(&self, key: &str) -> Result<Box<dyn Ingest>> {
        let ingest = SizedIngest::begin(Arc::clone(&self.0), key).await?;
        Ok(Box::new(ingest))
    }

    /// While an ingest moves, both members have it, and the longer one is complete.
    async fn ingests(&self) -> Result<Vec<IngestStatus>> {
        let mut found: BTreeMap<String, IngestStatus> = BTreeMap::new();
        for side in [Side::Small, Side::Large] {
            for status in self.0.on(side).ingests().await? {
                let known = found.get(&status.key).map(|known| known.offset);
                if known.is_none_or(|offset| offset < status.offset) {
                    found.insert(status.key.clone(), status);
                }
            }
        }
        Ok(found.into_values().collect())
    }

    /// The copy in the large store is removed first, so that a crash leaves the original in the
    /// small one.
    async fn discard(&self, key: &str) -> Result<bool> {
        let large = self.0.large.discard(key).await?;
        let small = self.0.small.discard(key).await?;
        Ok(large || small)
    }

    /// If the version is that of a copy in the small store, also removes the twin: the copy in the
    /// large store. The twin is removed first. After a crash in between, the same call removes the
    /// rest.
    ///
    /// The twin is not newer than the version that the caller saw. This call first finds the twin,
    /// and then finds that the small store still has this version. A publish that finds the blob in
    /// one store does not add it to the other. So both copies come from concurrent publishes, and
    /// count as one version. A copy of another size is not a twin: it replaced a damaged blob, and
    /// stays.
    async fn remove_version(&self, digest: &Digest, version: Version) -> Result<bool> {
        let side = Side::of(version);
        let twin = match side {
            Side::Small => self.0.large.stat(digest).await?,
            Side::Large => None,
        };
        let stat = self.0.on(side).stat(digest).await?;
        let Some(stat) = stat.filter(|stat| side.tag(*stat).version == version) else {
            return Ok(false);
        };
        if let Some(twin) = twin.filter(|twin| twin.size == stat.size) {
            self.0.large.remove_version(digest, twin.version).await?;
        }
        self.0.on(side).remove_version(digest, stat.version).await
    }

    /// Blobs without a twin are removed from their member together. Nearly all blobs have no twin.
    async fn remove_versions(&self, blobs: &[(Digest, Version)], _batch: &Batch) -> Result<bool> {
        let (mut small, mut large) = (Vec::new(), Vec::new());
        for (digest, version) in blobs {
            let side = Side::of(*version);
            if side == Side::Small && self.0.large.stat(digest).await?.is_some() {
                self.remove_version(digest, *version).await?;
                continue;
            }
            let stat = self.0.on(side).stat(digest).await?;
            let seen = stat.filter(|stat| side.tag(*stat).version == *version);
            let list = match side {
                Side::Small => &mut small,
                Side::Large => &mut large,
            };
            list.extend(seen.map(|stat| (*digest, stat.version)));
        }
        let none = Batch::new();
        self.0.small.remove_versions(&small, &none).await?;
        self.0.large.remove_versions(&large, &none).await?;
        Ok(false)
    }

    fn commits_records(&self, size: u64) -> bool {
        size <= self.0.threshold && self.0.small.commits_records(size)
    }

    async fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Stat>> {
        let small = self.0.small.list(after, limit).await?;
        let large = self.0.large.list(after, limit).await?;
        let merged = merge(small, large, |stat| stat.digest);
        let tagged = merged.map(|(side, stat)| side.tag(stat));
        Ok(tagged.take(limit).collect())
    }

    async fn entries(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Entry>> {
        let small = self.0.small.entries(after, limit).await?;
        let large = self.0.large.entries(after, limit).await?;
        let merged = merge(small, large, |entry| *entry.digest());
        let tagged = merged.map(|(side, entry)| match entry {
            Entry::Stat(stat) => Entry::Stat(side.tag(stat)),
            Entry::Digest(_) => entry,
        });
        Ok(tagged.take(limit).collect())
    }

    async fn is_unchanged(&self, stat: &Stat) -> Result<bool> {
        let side = Side::of(stat.version);
        let own = self.0.on(side).stat(&stat.digest).await?;
        match own.filter(|own| side.tag(*own) == *stat) {
            Some(own) => self.0.on(side).is_unchanged(&own).await,
            None => Ok(false),
        }
    }

    async fn flush(&self) -> Result<()> {
        self.0.small.flush().await?;
        self.0.large.flush().await
    }

    async fn compact(&self) -> Result<()> {
        self.0.small.compact().await?;
        self.0.large.compact().await
    }

    async fn leftovers(&self, before: SystemTime, remove: bool) -> Result<Vec<u64>> {
        let mut found = self.0.small.leftovers(before, remove).await?;
        found.extend(self.0.large.leftovers(before, remove).await?);
        Ok(found)
    }
}

/// Returns the merged pages, each blob with its member. Of two twins, the result contains the copy
/// in the small store.
fn merge<T>(
    small: Vec<T>,
    large: Vec<T>,
    digest: impl Fn(&T) -> Digest,
) -> impl Iterator<Item = (Side, T)> {
    let mut small = small.into_iter().peekable();
    let mut large = large.into_iter().peekable();
    std::iter::from_fn(move || {
        let order = match (small.peek(), large.peek()) {
            (Some(one), Some(other)) => digest(one).cmp(&digest(other)),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        if order == Ordering::Greater {
            return large.next().map(|blob| (Side::Large, blob));
        }
        if order == Ordering::Equal {
            large.next();
        }
        small.next().map(|blob| (Side::Small, blob))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns every possible set of capabilities.
    fn sets() -> impl Iterator<Item = Capabilities> {
        (0..1_u32 << Capability::ALL.len()).map(|bits| {
            let chosen = |(number, _): &(usize, Capability)| bits >> number & 1 == 1;
            let all = Capability::ALL.into_iter().enumerate();
            all.filter(chosen).map(|(_, one)| one).collect()
        })
    }

    #[test]
    fn nothing_is_promised_that_a_member_does_not_promise() {
        for small in sets() {
            for large in sets() {
                let both = capabilities(small, large, small);
                for one in both.iter() {
                    assert!(small.has(one), "{one:?} of {small:?}");
                    assert!(large.has(one) || one == Capability::Atomic, "{large:?}");
                }
                assert!(!both.has(Capability::Joint));
                assert_eq!(both, capabilities(small, both, small), "of itself");
            }
        }
    }

    #[test]
    fn everything_is_promised_that_both_members_promise() {
        let all: Capabilities = Capability::ALL.into_iter().collect();
        let both = capabilities(all, all, all);
        assert_eq!(both.iter().count(), Capability::ALL.len() - 1);
        let bare = Capabilities::default();
        assert_eq!(capabilities(all, bare, all).iter().count(), 1, "atomic");
        assert_eq!(capabilities(all, all, bare).iter().count(), 4);
    }

    #[test]
    fn equal_versions_of_the_two_members_differ() {
        let stat = |version| Stat {
            digest: Digest::sha256(b"x"),
            size: 1,
            version: Version(version),
        };
        let mut seen = std::collections::HashSet::new();
        for number in [0, 1, 2, 3, 1 << 40, (1 << 63) - 1] {
            for side in [Side::Small, Side::Large] {
                let version = side.tag(stat(number)).version;
                assert!(seen.insert(version), "{number} came twice");
                assert!(Side::of(version) == side);
            }
        }
    }
}
