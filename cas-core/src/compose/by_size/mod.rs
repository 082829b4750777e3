//! Small blobs in one store, large ones in another.
//!
//! ```text
//! up to THRESHOLD bytes    small, the home of the records and of the names
//! more                     large, which gets bytes only
//! ```
//!
//! An ingest begins in the small store and moves when it outgrows it. A blob that is in both, as
//! a race or another threshold may leave it, counts as one: the small store's is shown, and to
//! remove that removes both.

mod ingest;
mod opener;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use self::ingest::SizedIngest;
pub use self::opener::BySize;
use crate::capability::{Capabilities, Capability};
use crate::content::{BlobReader, ContentStore, Ingest, IngestStatus, Stat, Version};
use crate::digest::Digest;
use crate::error::Result;
use crate::records::Batch;
use crate::store::Store;

/// Largest blob, in bytes, of the small store where nothing else is said.
pub const THRESHOLD: u64 = 64 << 10;

/// A store that keeps blobs of up to `threshold` bytes in `small`, and larger ones in `large`.
///
/// Its records and names are those of `small`. The two must not be one store, for the keys of
/// their ingests would meet.
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

/// What both keep. `Atomic` is about records, so it is the home's; `Joint` is nobody's, for the
/// large store is not the home.
fn capabilities(small: Capabilities, large: Capabilities, home: Capabilities) -> Capabilities {
    use Capability::{Atomic, Durable, Files, Joint, Resume, Shared};
    let has = |capability: &Capability| match capability {
        Atomic => home.has(Atomic),
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

/// One of the two.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Small,
    Large,
}

impl Side {
    /// The other one.
    fn other(self) -> Side {
        match self {
            Side::Small => Side::Large,
            Side::Large => Side::Small,
        }
    }

    /// The lowest bit says which member stored the blob, so that one of the other, whose own
    /// number may be the same, is another version.
    ///
    /// The member's highest bit is lost. Numbers that count storings or nanoseconds never reach
    /// it, and in others two versions of one blob that differ there alone are as likely as two
    /// that are equal.
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

    /// While an ingest moves both have it; the longer one has all of it.
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

    /// What was copied goes before what it was copied from, so that a crash leaves a beginning.
    async fn discard(&self, key: &str) -> Result<bool> {
        let large = self.0.large.discard(key).await?;
        let small = self.0.small.discard(key).await?;
        Ok(large || small)
    }

    /// Removes the twin in the large store as well, and first: after a crash in between, the same
    /// call again removes the rest.
    ///
    /// The twin is no newer than what the caller saw. It was there before this very version was
    /// found in the small store still, and a publish that meets a blob in one store leaves the
    /// other alone; so both came of publishes at one time, and count as one storing. A twin of
    /// another size is none: it was stored to replace a damaged blob, and stays.
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

    /// Those without a twin, which are nearly all, go to their member together.
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

    async fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Stat>> {
        let small = self.0.small.list(after, limit).await?;
        let large = self.0.large.list(after, limit).await?;
        Ok(merge(small, large).take(limit).collect())
    }

    async fn flush(&self) -> Result<()> {
        self.0.small.flush().await?;
        self.0.large.flush().await
    }

    async fn compact(&self) -> Result<()> {
        self.0.small.compact().await?;
        self.0.large.compact().await
    }
}

/// Two pages in one order; of twins the small store's is shown.
fn merge(small: Vec<Stat>, large: Vec<Stat>) -> impl Iterator<Item = Stat> {
    let mut small = small.into_iter().peekable();
    let mut large = large.into_iter().peekable();
    std::iter::from_fn(move || {
        let order = match (small.peek(), large.peek()) {
            (Some(one), Some(other)) => one.digest.cmp(&other.digest),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        if order == Ordering::Greater {
            return large.next().map(|stat| Side::Large.tag(stat));
        }
        if order == Ordering::Equal {
            large.next();
        }
        small.next().map(|stat| Side::Small.tag(stat))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every set of capabilities there is.
    fn sets() -> impl Iterator<Item = Capabilities> {
        (0..1_u32 << Capability::ALL.len()).map(|bits| {
            let chosen = |(number, _): &(usize, Capability)| bits >> number & 1 == 1;
            let all = Capability::ALL.into_iter().enumerate();
            all.filter(chosen).map(|(_, one)| one).collect()
        })
    }

    #[test]
    fn promises_nothing_that_a_member_does_not() {
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
    fn promises_what_both_do() {
        let all: Capabilities = Capability::ALL.into_iter().collect();
        let both = capabilities(all, all, all);
        assert_eq!(both.iter().count(), Capability::ALL.len() - 1);
        let bare = Capabilities::default();
        assert_eq!(capabilities(all, bare, all).iter().count(), 1, "atomic");
        assert_eq!(capabilities(all, all, bare).iter().count(), 4);
    }

    #[test]
    fn one_number_of_two_members_is_two_versions() {
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
