//! An ingest that begins small.
//!
//! The writer holds the key in the small store until it holds it in the large one, so there is
//! one at a time across both. Whatever a crash leaves, each of the two holds a beginning of the
//! same bytes, and who resumes takes the longer.

use std::fs::File;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Members, Side};
use crate::content::{ContentStore, Durability, Ingest, Patience, Verified};
use crate::error::{Error, ErrorKind, Result};
use crate::records::Batch;

/// Most bytes that a move holds at once.
const PIECE: usize = 1 << 20;
/// How long a publish that nobody waits for any more may hold a key.
const LETTING_GO: Duration = Duration::from_secs(30);

pub(super) struct SizedIngest {
    members: Arc<Members>,
    /// Where the bytes are.
    side: Side,
    ingest: Box<dyn Ingest>,
}

impl SizedIngest {
    /// Begins in the small store; goes on in the large one where that has more.
    pub(super) async fn begin(members: Arc<Members>, key: &str) -> Result<Self> {
        let small = members.small.begin(key).await?;
        // Asked only now: whoever moved the key held it in the small store meanwhile.
        let ingests = members.large.ingests().await?;
        if !ingests.iter().any(|one| one.key == key) {
            return Ok(SizedIngest {
                members,
                side: Side::Small,
                ingest: small,
            });
        }
        let large = match members.large.begin(key).await {
            Ok(large) => large,
            Err(error) => {
                // Its writer does not need the small one any more.
                forget(&*members.small, small).await?;
                return Err(error);
            }
        };
        let (side, ingest, shorter) = match large.offset() > small.offset() {
            true => (Side::Large, large, small),
            false => (Side::Small, small, large),
        };
        forget(members.on(side.other()), shorter).await?;
        Ok(SizedIngest {
            members,
            side,
            ingest,
        })
    }

    /// Moves what is held to the large store. The small one keeps it until the copy is whole.
    async fn grow(&mut self) -> Result<()> {
        let key = self.ingest.key().to_owned();
        let mut large = begin_large(&*self.members.large, &key).await?;
        if large.offset() > 0 {
            // Left by a writer whose small store did not outlive a crash.
            large.rewind().await?;
        }
        while large.offset() < self.ingest.offset() {
            let piece = self.ingest.read_back(large.offset(), PIECE).await?;
            if piece.is_empty() {
                return Err(
                    Error::corrupt("the ingest is shorter than its offset; discard it")
                        .operation("move ingest")
                        .subject(self.ingest.key()),
                );
            }
            large.append(piece).await?;
        }
        let small = mem::replace(&mut self.ingest, large);
        self.side = Side::Large;
        forget(&*self.members.small, small).await
    }
}

/// Nobody else has the key; but one who went away in the middle of a publish may not have let go
/// of it yet.
async fn begin_large(store: &dyn ContentStore, key: &str) -> Result<Box<dyn Ingest>> {
    let mut patience = Patience::new(LETTING_GO);
    loop {
        match store.begin(key).await {
            Err(error) if error.kind() == ErrorKind::Busy && patience.wait().await => {}
            outcome => return outcome,
        }
    }
}

/// Ends an ingest without a blob. It is emptied first: where another writer takes the key before
/// it is discarded, that one finds nothing in it.
async fn forget(store: &dyn ContentStore, mut ingest: Box<dyn Ingest>) -> Result<()> {
    let key = ingest.key().to_owned();
    if ingest.offset() > 0 {
        ingest.rewind().await?;
    }
    drop(ingest);
    match store.discard(&key).await {
        Err(error) if error.kind() == ErrorKind::Busy => Ok(()),
        outcome => outcome.map(|_| ()),
    }
}

#[async_trait]
impl Ingest for SizedIngest {
    fn key(&self) -> &str {
        self.ingest.key()
    }

    fn offset(&self) -> u64 {
        self.ingest.offset()
    }

    async fn append(&mut self, data: Bytes) -> Result<()> {
        let end = self.ingest.offset() + data.len() as u64;
        if self.side == Side::Small && end > self.members.threshold {
            self.grow().await?;
        }
        self.ingest.append(data).await
    }

    /// What may be small comes through memory, as it is moved when it is not.
    async fn adopt(&mut self, file: &Arc<File>, offset: u64, length: usize) -> Result<usize> {
        match self.side {
            Side::Small => Ok(0),
            Side::Large => self.ingest.adopt(file, offset, length).await,
        }
    }

    async fn read_back(&mut self, offset: u64, length: usize) -> Result<Bytes> {
        self.ingest.read_back(offset, length).await
    }

    /// Stays where it is: what is written anew is most often the same.
    async fn rewind(&mut self) -> Result<()> {
        self.ingest.rewind().await
    }

    /// A blob that the other store has is not stored a second time. One of another size there is
    /// damaged, and goes when the right one is stored.
    async fn publish(
        self: Box<Self>,
        verified: &Verified,
        batch: &Batch,
        durability: Durability,
    ) -> Result<bool> {
        verified.check(self.key(), self.offset())?;
        let digest = verified.digest();
        let (own, other) = (
            self.members.on(self.side),
            self.members.on(self.side.other()),
        );
        let twin = other.stat(digest).await?;
        if twin.is_some_and(|twin| twin.size == verified.size()) {
            if durability != Durability::Relaxed {
                // Whoever published it may not have synced it.
                other.flush().await?;
            }
            forget(own, self.ingest).await?;
            return Ok(false);
        }
        let committed = match self.side {
            Side::Small => self.ingest.publish(verified, batch, durability).await?,
            Side::Large => {
                let nothing = Batch::new();
                self.ingest.publish(verified, &nothing, durability).await?;
                false
            }
        };
        if let Some(damaged) = twin {
            other.remove_version(digest, damaged.version).await?;
        }
        Ok(committed)
    }
}
