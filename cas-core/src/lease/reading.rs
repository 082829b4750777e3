//! The lease of a job that only reads.

use super::guard::LeaseGuard;
use super::pin::BlobRef;
use crate::descriptor::Descriptor;
use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;

/// The lease of a job that only reads. The guard has a lease only if the store can be written.
///
/// A store that is read-only, or whose disk is full, can still be read. In such a store, nothing is
/// pinned, and the methods ignore `Denied` and `Full` errors of the lease. If another process runs
/// a garbage collection meanwhile, the job may fail with `NotFound`, but it never reads wrong
/// bytes.
pub struct ReadGuard(Option<LeaseGuard>);

impl ReadGuard {
    /// Begins a lease as [`LeaseGuard::begin`] does, if the store can be written.
    ///
    /// # Errors
    /// As [`LeaseGuard::begin`], except `Denied` and `Full`.
    pub async fn begin(store: &Store, purpose: &str) -> Result<Self> {
        if_writable(LeaseGuard::begin(store, purpose).await).map(ReadGuard)
    }

    /// Pins blobs as [`LeaseGuard::pin_all`] does, if the store can be written.
    ///
    /// # Errors
    /// As [`LeaseGuard::pin_all`], except `Denied` and `Full`.
    pub async fn pin_all(&self, blobs: &[BlobRef]) -> Result<()> {
        match &self.0 {
            Some(guard) => if_writable(guard.pin_all(blobs).await).map(drop),
            None => Ok(()),
        }
    }

    /// Pins an image as [`LeaseGuard::pin_tree`] does, if the store can be written.
    ///
    /// # Errors
    /// As [`LeaseGuard::pin_tree`], except `Denied` and `Full`.
    pub async fn pin_tree(&self, root: &Descriptor) -> Result<()> {
        match &self.0 {
            Some(guard) => if_writable(guard.pin_tree(root).await).map(drop),
            None => Ok(()),
        }
    }

    /// Pins an image as [`LeaseGuard::pin_readable`] does, if the store can be written.
    ///
    /// # Errors
    /// As [`LeaseGuard::pin_readable`], except `Denied` and `Full`.
    pub(crate) async fn pin_readable(&self, root: &Descriptor) -> Result<()> {
        match &self.0 {
            Some(guard) => if_writable(guard.pin_readable(root).await).map(drop),
            None => Ok(()),
        }
    }

    /// Ends the lease. Returns the outcome of the job. A lease that cannot be removed expires. If
    /// damaged bytes may have caused the error of the job, the next job that has the right bytes
    /// replaces them, as after [`LeaseGuard::finish_with`].
    ///
    /// # Errors
    /// The error of the job if the job failed; otherwise as [`LeaseGuard::finish`], except `Denied`
    /// and `Full`.
    pub async fn finish_with<T>(self, outcome: Result<T>) -> Result<T> {
        let ended = match self.0 {
            Some(guard) => {
                let failed = outcome.as_ref().err();
                guard.distrust_after(failed).await;
                if_writable(guard.finish().await).map(drop)
            }
            None => Ok(()),
        };
        let done = outcome?;
        ended.map(|()| done)
    }
}

/// Returns `None` for the error of a store that cannot be written.
fn if_writable<T>(outcome: Result<T>) -> Result<Option<T>> {
    match outcome {
        Err(error) if cannot_write(&error) => Ok(None),
        outcome => outcome.map(Some),
    }
}

/// Returns whether the error is `Denied` or `Full`. A write fails with `Denied` if the store is
/// read-only, and with `Full` if the disk is full. In both cases, the store may still be readable.
pub fn cannot_write(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Denied | ErrorKind::Full)
}
