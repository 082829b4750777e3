//! An ingest that begins in the small store, and moves to the large store when it exceeds the
//! threshold. An ingest in the large store that is within the threshold when it is published moves
//! back.
//!
//! A writer keeps the key open in the small store until the key is open in the large store, so two
//! writers never have the same key open. After a crash, each of the two stores may have a prefix of
//! the same bytes, and the next writer continues with the longer prefix.

use std::fs::File;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Members, Side};
use crate::content::{
    Backoff, ContentStore, Durability, Ingest, Verified, discard_unless_open, fewer_than_stated,
};
use crate::error::{ErrorKind, Result};
use crate::records::Batch;

/// Maximum number of bytes that a move has in memory.
const PIECE: usize = 1 << 20;
/// Maximum time to wait until an abandoned publish releases its key.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) struct SizedIngest {
    members: Arc<Members>,
    /// The member that holds the bytes.
    side: Side,
    ingest: Box<dyn Ingest>,
}

impl SizedIngest {
    /// Begins or resumes the ingest in the small store, or resumes it in the large store if the
    /// ingest there has more bytes.
    pub(super) async fn begin(members: Arc<Members>, key: &str) -> Result<Self> {
        let small = members.small.begin(key).await?;
        // The large store is listed only after the small ingest is open: a writer that moves the
        // key keeps it open in the small store until the large store lists it.
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
                if error.kind() == ErrorKind::Busy {
                    // The writer that has the large ingest open no longer needs the small ingest.
                    delete(&*members.small, small).await?;
                }
                return Err(error);
            }
        };
        let (side, ingest, shorter) = if large.offset() > small.offset() {
            (Side::Large, large, small)
        } else {
            (Side::Small, small, large)
        };
        delete(members.on(side.other()), shorter).await?;
        Ok(SizedIngest {
            members,
            side,
            ingest,
        })
    }

    /// Moves the bytes to the other member. The member that has them keeps them until the copy is
    /// complete.
    async fn change_side(&mut self) -> Result<()> {
        let key = self.ingest.key().to_owned();
        let mut copy = begin_on(self.members.on(self.side.other()), &key).await?;
        if copy.offset() > 0 {
            // A move of this writer or of an earlier one was dropped in the middle, and left bytes.
            copy.rewind().await?;
        }
        while copy.offset() < self.ingest.offset() {
            let piece = self.ingest.read_back(copy.offset(), PIECE).await?;
            if piece.is_empty() {
                let error = fewer_than_stated(&*self.ingest, copy.offset());
                return Err(error.operation("move ingest"));
            }
            copy.append(piece).await?;
        }
        let original = mem::replace(&mut self.ingest, copy);
        self.side = self.side.other();
        delete(self.members.on(self.side.other()), original).await
    }
}

/// Begins the ingest in the member to which it moves. If the key is busy there, waits up to
/// [`RELEASE_TIMEOUT`]. The key can be busy for a short time, until one of these writers has
/// released it: a writer that was dropped in the middle of a publish, or a writer that found the
/// key busy in the other member.
async fn begin_on(store: &dyn ContentStore, key: &str) -> Result<Box<dyn Ingest>> {
    let mut backoff = Backoff::new(RELEASE_TIMEOUT);
    loop {
        match store.begin(key).await {
            Err(error) if error.kind() == ErrorKind::Busy && backoff.wait().await => {}
            outcome => return outcome,
        }
    }
}

/// Empties an ingest and then deletes it. If another writer opens the key before the deletion, that
/// writer finds no bytes.
async fn delete(store: &dyn ContentStore, mut ingest: Box<dyn Ingest>) -> Result<()> {
    let key = ingest.key().to_owned();
    if ingest.offset() > 0 {
        ingest.rewind().await?;
    }
    drop(ingest);
    discard_unless_open(store, &key).await.map(|_| ())
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
            self.change_side().await?;
        }
        self.ingest.append(data).await
    }

    /// Adopts nothing while the ingest is in the small store, because the bytes may have to be
    /// moved.
    async fn adopt(&mut self, file: &Arc<File>, offset: u64, length: usize) -> Result<usize> {
        match self.side {
            Side::Small => Ok(0),
            Side::Large => self.ingest.adopt(file, offset, length).await,
        }
    }

    async fn read_back(&mut self, offset: u64, length: usize) -> Result<Bytes> {
        self.ingest.read_back(offset, length).await
    }

    /// The ingest stays in its member, because usually the same bytes are written again.
    async fn rewind(&mut self) -> Result<()> {
        self.ingest.rewind().await
    }

    /// A blob that the other member has is not stored a second time. If the other member has it
    /// with another size, that copy is damaged, and is removed once the right bytes are stored.
    ///
    /// The ingest of a small blob can be in the large store: after a rewind, or if the threshold
    /// was lower when the ingest moved. It moves back, because only the small store can commit the
    /// record of the blob together with its bytes, and [`ContentStore::commits_records`] may have
    /// promised this. A kill during the move leaves the ingest in both stores, or in one.
    async fn publish(
        mut self: Box<Self>,
        verified: &Verified,
        batch: &Batch,
        durability: Durability,
    ) -> Result<bool> {
        verified.check(self.key(), self.offset())?;
        if self.side == Side::Large && verified.size() <= self.members.threshold {
            self.change_side().await?;
        }
        let digest = verified.digest();
        let (own, other) = (
            self.members.on(self.side),
            self.members.on(self.side.other()),
        );
        let twin = other.stat(digest).await?;
        if twin.is_some_and(|twin| twin.size == verified.size()) {
            if durability != Durability::Relaxed {
                // The twin may have been published without a sync.
                other.flush().await?;
            }
            delete(own, self.ingest).await?;
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
