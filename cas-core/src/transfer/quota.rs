//! Limits on how many jobs run at the same time: for all images together, and for each of them.

use std::sync::Arc;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, TryAcquireError};

use crate::error::{Error, Result};

/// Slots for concurrent jobs: a fixed number, or any number. Clones share the slots.
#[derive(Clone, Debug)]
pub struct Slots {
    /// `None` without a limit.
    free: Option<Arc<Semaphore>>,
    count: u32,
}

/// Slots that were acquired. The slots are free again once this value is dropped.
#[derive(Debug)]
#[must_use = "the slots are free again once this is dropped"]
pub struct AcquiredSlots {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Slots {
    /// Returns `count` free slots, or slots without a limit if `count` is zero or less.
    pub fn new(count: i64) -> Self {
        let bounded = count.clamp(0, i64::from(u32::MAX)) as u32;
        let most = bounded.min(Semaphore::MAX_PERMITS as u32);
        Slots {
            free: (most > 0).then(|| Arc::new(Semaphore::new(most as usize))),
            count: most,
        }
    }

    /// Returns how many slots there are, or `None` without a limit.
    pub fn count(&self) -> Option<u32> {
        self.free.as_ref().map(|_| self.count)
    }

    /// Waits until `wanted` slots are free. Callers get slots in the order of their calls. Returns
    /// the slots. If the future is dropped, no slot stays acquired.
    ///
    /// # Errors
    /// `OutOfRange` if there are fewer than `wanted` slots in total; `Internal` for a bug in this
    /// crate.
    pub async fn acquire(&self, wanted: u32) -> Result<AcquiredSlots> {
        let Some(free) = &self.free else {
            return Ok(AcquiredSlots { _permit: None });
        };
        if wanted > self.count {
            return Err(Error::out_of_range(format!(
                "the limit on slots is {}, but {wanted} slots were requested; raise the limit",
                self.count
            )));
        }
        let acquired = Arc::clone(free).acquire_many_owned(wanted).await;
        let permit = acquired.map_err(closed)?;
        Ok(AcquiredSlots {
            _permit: Some(permit),
        })
    }

    /// Acquires one slot without waiting. Returns the slot, or `None` if no slot is free or another
    /// caller waits for slots.
    ///
    /// # Errors
    /// `Internal` for a bug in this crate.
    pub fn try_acquire(&self) -> Result<Option<AcquiredSlots>> {
        let Some(free) = &self.free else {
            return Ok(Some(AcquiredSlots { _permit: None }));
        };
        match Arc::clone(free).try_acquire_owned() {
            Ok(permit) => Ok(Some(AcquiredSlots {
                _permit: Some(permit),
            })),
            Err(TryAcquireError::NoPermits) => Ok(None),
            Err(TryAcquireError::Closed) => {
                Err(Error::internal("the slots were closed; please report it"))
            }
        }
    }
}

fn closed(error: AcquireError) -> Error {
    Error::internal("the slots were closed; please report it").source(error)
}

/// How many jobs run at the same time: for all images together, and for each image. Clones share
/// the limit for all images.
#[derive(Clone, Debug)]
pub struct Quota {
    overall: Slots,
    per_image: i64,
}

/// The limits of a [`Quota`] for one image.
#[derive(Clone, Debug)]
pub struct ImageQuota {
    own: Slots,
    overall: Slots,
}

/// The permission to run one job within a quota. Once the permission is dropped, another job may
/// run instead.
#[derive(Debug)]
#[must_use = "the permission to run the job ends once this is dropped"]
pub struct QuotaLease {
    _own: AcquiredSlots,
    _overall: AcquiredSlots,
}

impl Quota {
    /// Returns a quota of `overall` jobs for all images together and `per_image` jobs for each
    /// image. Zero or less means any number.
    ///
    /// # Errors
    /// `InvalidArgument` if the limit for each image is above the limit for all images.
    pub fn new(overall: i64, per_image: i64) -> Result<Self> {
        if overall > 0 && per_image > overall {
            return Err(Error::invalid(format!(
                "the limit for all images, {overall}, is less than the limit for each image, \
                 {per_image}; raise the first or lower the second"
            )));
        }
        let overall = Slots::new(overall);
        Ok(Quota { overall, per_image })
    }

    /// Returns a quota of `per_image` jobs for each image, without a limit for all images together.
    /// Zero or less means any number.
    pub fn of_each_image(per_image: i64) -> Self {
        let overall = Slots::new(0);
        Quota { overall, per_image }
    }

    /// Returns the limits for one more image.
    pub fn for_image(&self) -> ImageQuota {
        ImageQuota {
            own: Slots::new(self.per_image),
            overall: self.overall.clone(),
        }
    }
}

impl ImageQuota {
    /// Waits until the limit for this image allows one more job, and then until the limit for all
    /// images allows it. Returns the permission. If the future is dropped, no slot stays acquired.
    ///
    /// # Errors
    /// `Internal` for a bug in this crate.
    pub async fn acquire(&self) -> Result<QuotaLease> {
        Ok(QuotaLease {
            _own: self.own.acquire(1).await?,
            _overall: self.overall.acquire(1).await?,
        })
    }

    /// Returns the permission to run one more job, or `None` if the job would have to wait.
    ///
    /// # Errors
    /// `Internal` for a bug in this crate.
    pub fn try_acquire(&self) -> Result<Option<QuotaLease>> {
        // If this image has no slot left, other images must find all slots that are free.
        let Some(_own) = self.own.try_acquire()? else {
            return Ok(None);
        };
        let _overall = self.overall.try_acquire()?;
        Ok(_overall.map(|_overall| QuotaLease { _own, _overall }))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::error::ErrorKind;

    #[tokio::test]
    async fn zero_or_less_means_no_limit() {
        for count in [0, -1, i64::MIN] {
            let slots = Slots::new(count);
            assert_eq!(slots.count(), None);
            let many: Vec<_> = (0..1000).map(|_| slots.try_acquire().unwrap()).collect();
            assert!(many.iter().all(Option::is_some));
            let _all = slots.acquire(u32::MAX).await.unwrap();
        }
        assert_eq!(Slots::new(i64::MAX).count(), Some(u32::MAX));
    }

    #[tokio::test]
    async fn slots_are_waited_for_and_come_back_on_every_path() {
        let slots = Slots::new(3);
        let two = slots.acquire(2).await.unwrap();
        let mut waiting = Box::pin(slots.acquire(2));
        assert!(waiting.as_mut().now_or_never().is_none());
        // A caller that waits is served before a caller that asks later.
        assert!(slots.try_acquire().unwrap().is_none());
        drop(two);
        let two = waiting.await.unwrap();
        let panics = slots.try_acquire().unwrap();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _held = panics;
            panic!("this test wants a panic");
        }));
        assert!(panicked.is_err());
        drop(two);
        let _all = slots.acquire(3).await.unwrap();
    }

    #[tokio::test]
    async fn more_slots_than_there_are_is_an_error_and_not_a_wait() {
        let error = Slots::new(2).acquire(3).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
    }

    #[test]
    fn a_limit_for_each_image_above_the_one_for_all_is_refused() {
        let error = Quota::new(2, 3).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("is less than"), "{error}");
        for (overall, per_image) in [(3, 3), (3, 0), (0, 3), (-1, 3), (3, -1), (0, 0)] {
            Quota::new(overall, per_image).unwrap();
        }
    }

    #[tokio::test]
    async fn a_lease_counts_for_its_image_and_for_all() {
        let quota = Quota::new(3, 2).unwrap();
        let (one, other) = (quota.for_image(), quota.for_image());
        let first = one.acquire().await.unwrap();
        let _second = one.acquire().await.unwrap();
        assert!(
            one.try_acquire().unwrap().is_none(),
            "the image has its two"
        );
        let _third = other.acquire().await.unwrap();
        assert!(
            other.try_acquire().unwrap().is_none(),
            "all have their three"
        );
        drop(first);
        assert!(other.try_acquire().unwrap().is_some());
        assert!(one.try_acquire().unwrap().is_some());
    }

    /// A job that waits for the limit of all images holds a slot of its own image.
    #[tokio::test]
    async fn a_job_that_is_dropped_while_it_waits_leaves_nothing_acquired() {
        let quota = Quota::new(1, 1).unwrap();
        let (one, other) = (quota.for_image(), quota.for_image());
        let held = one.acquire().await.unwrap();
        let mut waiting = Box::pin(other.acquire());
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(waiting);
        drop(held);
        assert!(other.try_acquire().unwrap().is_some());
        assert!(one.try_acquire().unwrap().is_some());
    }
}
