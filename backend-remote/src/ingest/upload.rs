//! Splits the bytes of one ingest into parts and sends the parts.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use cas_core::lease::UNLEASED_TTL;
use cas_core::{Digest, Error, ErrorKind, Result, limit};
use tokio::task::JoinSet;

use crate::blob::{Blobs, PART_SIZE, Pointer, cell_path, etags_digest};
use crate::nonce::random;
use crate::retry::{ATTEMPTS, contended};
use crate::runtime;

/// Maximum number of parts that are sent concurrently. An upload holds only these and its buffer in
/// memory.
const PARALLEL_WRITES: usize = 3;

/// An upload that has parts and has sent nothing for this time must start again. A collection by
/// another process removes the parts of an upload that has sent nothing for twice this time,
/// because the process of the upload may have been killed.
const STALLED: Duration = UNLEASED_TTL.checked_div(2).unwrap();

/// An upload that no cell points to yet.
pub(super) struct Upload {
    version: u64,
    /// Number of parts that were sent or are being sent.
    parts: u64,
    /// Bytes that were not sent yet.
    buffer: BytesMut,
    sending: JoinSet<Result<(u64, Option<String>)>>,
    /// The ETags of the parts that have arrived, by number.
    etags: BTreeMap<u64, Option<String>>,
    /// Whether a cell may point to this upload: a swap that failed may still have taken effect.
    maybe_published: bool,
    /// When the last part was sent, or when the upload began if it has no parts.
    sent_at: SystemTime,
}

impl Upload {
    pub(super) fn new() -> Result<Self> {
        Ok(Upload {
            version: random()?,
            parts: 0,
            buffer: BytesMut::new(),
            sending: JoinSet::new(),
            etags: BTreeMap::new(),
            maybe_published: false,
            sent_at: SystemTime::now(),
        })
    }

    /// Returns the version that the blob will have.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Returns whether a collection may have removed the parts of this upload.
    pub(super) fn is_stalled(&self) -> bool {
        let idle = SystemTime::now().duration_since(self.sent_at);
        self.parts > 0 && idle.is_ok_and(|idle| idle > STALLED)
    }

    fn check_age(&self) -> Result<()> {
        if self.is_stalled() {
            let message = "the ingest sent nothing for 12 hours, so a collection may have removed \
                           its parts; start the ingest again";
            return Err(Error::precondition(message));
        }
        Ok(())
    }

    /// Returns the number of bytes of this upload. The number is wrong after [`Upload::publish`]
    /// has sent a short part.
    pub(super) fn offset(&self) -> u64 {
        self.sent() + self.buffer.len() as u64
    }

    /// Returns how many bytes were sent in parts, or are being sent.
    pub(super) fn sent(&self) -> u64 {
        self.parts * PART_SIZE as u64
    }

    /// Adds bytes and sends the parts that are full. A cancelled call loses no bytes.
    pub(super) async fn append(&mut self, blobs: &Blobs, data: &[u8]) -> Result<()> {
        self.check_age()?;
        self.buffer.extend_from_slice(data);
        self.send_full_parts(blobs).await
    }

    /// Waits until the parts that were sent have arrived. Returns a pointer to them.
    pub(super) async fn sent_parts(&mut self) -> Result<Pointer> {
        self.wait_for_parts(0).await?;
        Ok(Pointer::new(self.version, self.sent()))
    }

    /// Returns up to `length` bytes from `offset`, which is at least [`Upload::sent`].
    pub(super) fn read_buffer(&self, offset: u64, length: usize) -> Bytes {
        let held = self.buffer.len();
        let start = usize::try_from(offset - self.sent()).map_or(held, |start| start.min(held));
        let end = start.saturating_add(length).min(held);
        Bytes::copy_from_slice(&self.buffer[start..end])
    }

    /// Makes the cell of the blob point to this upload, unless the store has the blob already.
    /// Returns whether the cell was changed.
    pub(super) async fn publish(
        &mut self,
        blobs: &Blobs,
        digest: &Digest,
        size: u64,
    ) -> Result<bool> {
        self.check_age()?;
        for _ in 0..ATTEMPTS {
            let found = blobs.pointer_to_replace(digest).await?;
            if let Some((pointer, _)) = &found
                && pointer.size == size
                && blobs.is_complete(pointer).await?
            {
                return Ok(false);
            }
            self.send_all(blobs).await?;
            let mut pointer = Pointer::new(self.version, size);
            pointer.etags = etags_digest(self.etags.values().map(Option::as_deref));
            pointer.blob = Some(*digest);
            self.maybe_published = true;
            match blobs.set_pointer(digest, &pointer, found).await {
                Ok(true) => return Ok(true),
                Ok(false) => self.maybe_published = false,
                Err(error) => {
                    // Only a store in a directory fails because a disk is full. There, a write
                    // that failed does not take effect later, so the cell already shows whether it
                    // points to this upload. If it does not, the parts can be deleted, so that they
                    // do not keep the disk full.
                    if error.kind() == ErrorKind::Full
                        && let Ok(found) = blobs.pointer(digest).await
                    {
                        self.maybe_published =
                            found.is_some_and(|(pointer, _)| pointer.version == self.version);
                    }
                    return Err(error);
                }
            }
        }
        Err(contended(&cell_path(digest)))
    }

    /// Deletes the parts of this upload, unless a cell may point to them.
    pub(super) async fn discard(mut self, blobs: &Blobs) -> Result<()> {
        if self.maybe_published {
            return Ok(());
        }
        // A part that arrived after its deletion would stay.
        while self.sending.join_next().await.is_some() {}
        blobs.delete_parts(self.version, self.parts).await
    }

    async fn send_full_parts(&mut self, blobs: &Blobs) -> Result<()> {
        while self.buffer.len() >= PART_SIZE {
            self.wait_for_parts(PARALLEL_WRITES - 1).await?;
            let part = self.buffer.split_to(PART_SIZE).freeze();
            self.send(blobs, part)?;
        }
        Ok(())
    }

    /// Sends all bytes, even if the last part is short, and waits until they have arrived. No bytes
    /// can be added afterwards.
    async fn send_all(&mut self, blobs: &Blobs) -> Result<()> {
        self.send_full_parts(blobs).await?;
        if !self.buffer.is_empty() {
            let rest = self.buffer.split().freeze();
            self.send(blobs, rest)?;
        }
        self.wait_for_parts(0).await
    }

    fn send(&mut self, blobs: &Blobs, part: Bytes) -> Result<()> {
        if self.parts >= limit::PARTS {
            return Err(Error::out_of_range(format!(
                "the blob is too large: expected at most {} bytes; use an `fs` store",
                limit::PARTS * PART_SIZE as u64
            )));
        }
        let (blobs, version, number) = (blobs.clone(), self.version, self.parts);
        let put = async move { Ok((number, blobs.put_part(version, number, part).await?)) };
        self.sending.spawn_on(put, runtime::handle()?);
        self.parts += 1;
        self.sent_at = SystemTime::now();
        Ok(())
    }

    /// Waits until at most `most` parts are being sent.
    async fn wait_for_parts(&mut self, most: usize) -> Result<()> {
        while self.sending.len() > most {
            match runtime::unconstrained(self.sending.join_next()).await {
                None => {}
                Some(Ok(Ok((number, etag)))) => {
                    self.etags.insert(number, etag);
                }
                Some(Ok(Err(error))) => return Err(error),
                Some(Err(_)) => {
                    return Err(Error::internal(
                        "the upload of a part panicked; please report it",
                    ));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use cas_core::ErrorKind;
    use cas_core::pool::wait;

    use super::super::OpenIngests;
    use super::*;
    use crate::store::RemoteStore;

    /// The parts may have been collected, so nothing may point to them.
    #[test]
    fn an_upload_that_has_sent_nothing_for_long_is_given_up() {
        let store = wait(RemoteStore::memory()).unwrap();
        let (blobs, ingests, key) = (&store.0.blobs, OpenIngests::default(), "key");
        let mut upload = ingests.acquire(key).unwrap();
        upload.sent_at -= 3 * STALLED;
        assert!(!upload.is_stalled(), "it has no parts");
        let part = vec![7; PART_SIZE];
        let send = async {
            upload.append(blobs, &part).await.unwrap();
            assert!(!upload.is_stalled());
            upload.sent_at = SystemTime::now() - STALLED - Duration::from_secs(1);
            let appended = upload.append(blobs, &part).await.unwrap_err();
            let digest = Digest::sha256(&part);
            let published = upload.publish(blobs, &digest, PART_SIZE as u64).await;
            [appended, published.unwrap_err()]
        };
        for error in wait(send) {
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        }
        let version = upload.version();
        ingests.release(key, Some(upload));
        let again = ingests.acquire(key).unwrap();
        assert_eq!(again.offset(), 0);
        assert_ne!(again.version(), version);
        assert_eq!(ingests.versions(), [again.version()]);
    }
}
