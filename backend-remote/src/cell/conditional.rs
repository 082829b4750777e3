//! Compare-and-swap by conditional requests to a service that other processes use too.

use std::time::SystemTime;

use bytes::Bytes;
use cas_core::records::{Expect, Revision};
use cas_core::{Error, Result};

use super::stored::{self, Cell, encode};
use crate::nonce::nonce;
use crate::prefix::conditional::{Condition, Deletion, Outcome};
use crate::prefix::{Object, Prefix};
use crate::retry::{ATTEMPTS, contended};

/// Returns the cell, or `None` if it does not exist.
pub(super) async fn load(prefix: &Prefix, path: &str) -> Result<Option<Cell>> {
    let Some((cell, object)) = stored::read(prefix, path).await? else {
        return Ok(None);
    };
    let revision = Revision::new(etag(object, path)?);
    Ok(cell.value.map(|value| Cell { value, revision }))
}

/// Conditional writes and, if the service has them, conditional deletes. The revision of a cell
/// is the ETag of its object.
pub(super) struct ConditionalSwap {
    deletion: Deletion,
}

/// A deleted cell whose object remains.
pub(crate) struct Deleted {
    path: String,
    etag: String,
}

impl Deleted {
    /// Deletes the object, unless another writer has replaced it.
    pub(super) async fn remove(&self, prefix: &Prefix) -> Result<()> {
        let deleted = prefix.delete_if_match(&self.path, &self.etag).await;
        deleted.map(drop)
    }
}

/// What a swap does with a cell that exists.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IfPresent {
    Replace,
    Refuse,
}

impl ConditionalSwap {
    pub(super) fn new(deletion: Deletion) -> Self {
        ConditionalSwap { deletion }
    }

    /// Writes `value`, or deletes the cell if `value` is `None`. Returns false and changes nothing
    /// if the cell is not as expected.
    pub(super) async fn swap(
        &self,
        prefix: &Prefix,
        path: &str,
        expect: &Expect,
        value: Option<Bytes>,
    ) -> Result<bool> {
        match expect {
            Expect::Revision(seen) => self.replace(prefix, path, seen.as_str(), value).await,
            Expect::Absent => {
                // Most new cells need only this request.
                if create(prefix, path, value.as_ref()).await? {
                    return Ok(true);
                }
                self.swap_current(prefix, path, value, IfPresent::Refuse)
                    .await
            }
            Expect::Any => {
                self.swap_current(prefix, path, value, IfPresent::Replace)
                    .await
            }
        }
    }

    /// Replaces the object at `path` with a deleted cell, unless the object is a cell. Returns false
    /// and does nothing if another writer replaces the object first.
    pub(super) async fn remove_damaged(&self, prefix: &Prefix, path: &str) -> Result<bool> {
        match prefix.get(path).await? {
            Some(object) if stored::decode(&object.body).is_none() => {
                let seen = etag(object, path)?;
                self.replace(prefix, path, &seen, None).await
            }
            _ => Ok(false),
        }
    }

    /// Returns the cells in `folder` that were deleted before `before`, but whose objects remain,
    /// because a process was killed between the two requests of a deletion. Returns none if the
    /// service does not have conditional deletes. Then the objects of all deleted cells remain.
    pub(super) async fn deleted(
        &self,
        prefix: &Prefix,
        folder: &str,
        before: SystemTime,
    ) -> Result<Vec<Deleted>> {
        let mut deleted = Vec::new();
        if self.deletion == Deletion::Unconditional {
            return Ok(deleted);
        }
        let paths = prefix.of_length(folder, stored::DELETED as u64, before);
        for path in paths.await? {
            // An object of this length may also be a cell with a value, or be damaged.
            let object = prefix.get(&path).await?;
            let is_deleted = |object: &Object| {
                let cell = stored::decode(&object.body);
                cell.is_some_and(|cell| cell.value.is_none())
            };
            if let Some(object) = object.filter(is_deleted) {
                let etag = etag(object, &path)?;
                deleted.push(Deleted { path, etag });
            }
        }
        Ok(deleted)
    }

    /// Reads the cell and replaces exactly the version that was read. Returns false if the cell has
    /// a value and `if_present` is `Refuse`. Never writes unconditionally, because such a write
    /// could arrive late and undo a newer write.
    async fn swap_current(
        &self,
        prefix: &Prefix,
        path: &str,
        value: Option<Bytes>,
        if_present: IfPresent,
    ) -> Result<bool> {
        for _ in 0..ATTEMPTS {
            let swapped = match stored::read(prefix, path).await? {
                Some((cell, _)) if cell.value.is_some() && if_present == IfPresent::Refuse => {
                    return Ok(false);
                }
                None if value.is_none() => return Ok(true),
                Some((cell, _)) if cell.value.is_none() && value.is_none() => return Ok(true),
                Some((_, object)) => {
                    let seen = etag(object, path)?;
                    self.replace(prefix, path, &seen, value.clone()).await?
                }
                None => create(prefix, path, value.as_ref()).await?,
            };
            if swapped {
                return Ok(true);
            }
        }
        Err(contended(path))
    }

    /// If the object still has the ETag `etag`, replaces it with a cell that contains `value`. If
    /// `value` is `None`, replaces it with a cell that is marked as deleted, and then deletes the
    /// object if the service has conditional deletes. Returns whether the object was replaced.
    async fn replace(
        &self,
        prefix: &Prefix,
        path: &str,
        etag: &str,
        value: Option<Bytes>,
    ) -> Result<bool> {
        let written = write(prefix, path, Condition::Match(etag), value.as_ref()).await?;
        let swapped = written.is_some();
        if let (Some(Some(tombstone)), None, Deletion::Conditional) =
            (written, value, self.deletion)
        {
            // A failure is ignored: the deleted cell may stay, and another writer may have replaced
            // it.
            let _ = prefix.delete_if_match(path, &tombstone).await;
        }
        Ok(swapped)
    }
}

/// Returns the ETag of an object.
///
/// # Errors
/// `Unsupported` if the service returned none.
fn etag(object: Object, path: &str) -> Result<String> {
    object.etag.ok_or_else(|| {
        let message = "the service returned no ETag; use a service that returns ETags";
        Error::unsupported(message).subject(path)
    })
}

/// Creates a cell if the object is absent and there is a value. Returns whether the cell was
/// created.
async fn create(prefix: &Prefix, path: &str, value: Option<&Bytes>) -> Result<bool> {
    let created = value.is_some()
        && write(prefix, path, Condition::Absent, value)
            .await?
            .is_some();
    Ok(created)
}

/// Writes a cell if the condition holds. Returns `None` if it does not hold. Otherwise returns
/// `Some` with the new ETag, which is `None` if the service returned no ETag.
async fn write(
    prefix: &Prefix,
    path: &str,
    condition: Condition<'_>,
    value: Option<&Bytes>,
) -> Result<Option<Option<String>>> {
    let nonce = nonce()?;
    let body = encode(&nonce, value);
    match prefix.put_if(path, body, condition).await? {
        Outcome::Done(etag) => Ok(Some(etag)),
        // If the reply to the first attempt was lost, the retry finds what that attempt wrote.
        Outcome::Refused => Ok(match stored::read(prefix, path).await? {
            Some((cell, object)) if cell.nonce == nonce => Some(object.etag),
            _ => None,
        }),
    }
}
