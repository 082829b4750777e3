//! Cells: small objects that are changed by compare-and-swap only.
//!
//! ```text
//! NUMBER +\n VALUE \nNUMBER      32 hex digits that never come again; `-` for a mark of deletion
//! ```

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use bytes::{Bytes, BytesMut};
use cas_core::records::{Expect, Revision};
use cas_core::{Error, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::{Mutex, MutexGuard};

use crate::place::{Condition, Object, Place, Put};

/// Length of the number in hex digits.
const NUMBER: usize = 32;
/// What stands around a value.
const HEAD: usize = NUMBER + 3;
const TAIL: usize = NUMBER + 1;
/// How often a swap that does not care what is there is tried, and a read that shows two states.
const ATTEMPTS: usize = 64;
/// Names that are asked for at once, and cells that are read at once.
const PAGE: usize = 1000;
const AT_ONCE: usize = 16;
/// Locks that the cells share.
const LOCKS: usize = 64;

/// How a swap is decided.
pub(crate) enum Swaps {
    /// By the service, on ETags; and whether it honours conditional deletion.
    Service { deletion: bool },
    /// By this process, which uses the store alone.
    Local(Box<[Mutex<()>]>),
}

impl Swaps {
    /// By this process.
    pub(crate) fn local() -> Self {
        Swaps::Local((0..LOCKS).map(|_| Mutex::new(())).collect())
    }
}

/// The cells of a store.
pub(crate) struct Cells {
    place: Place,
    swaps: Swaps,
}

/// A cell with a value.
pub(crate) struct Cell {
    pub(crate) value: Bytes,
    pub(crate) revision: Revision,
}

/// A cell as it lies in the bucket; one without a value is a mark of deletion.
struct Found {
    number: String,
    etag: Option<String>,
    value: Option<Bytes>,
}

impl Cells {
    pub(crate) fn new(place: Place, swaps: Swaps) -> Self {
        Cells { place, swaps }
    }

    /// Where they are.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// The cell, or nothing.
    pub(crate) async fn load(&self, path: &str) -> Result<Option<Cell>> {
        let Some(found) = self.find(path).await? else {
            return Ok(None);
        };
        let revision = Revision::new(self.revision(&found, path)?);
        Ok(found.value.map(|value| Cell { value, revision }))
    }

    /// At most `limit` cells with their names, as [`Place::names`] lists them.
    ///
    /// A name may be of a cell that was deleted, so a page may take several lists.
    pub(crate) async fn page(
        &self,
        folder: &str,
        prefix: &str,
        mut after: Option<String>,
        limit: usize,
    ) -> Result<Vec<(String, Cell)>> {
        let mut page = Vec::new();
        while page.len() < limit {
            let wanted = (limit - page.len()).min(PAGE);
            let names = self.place.names(folder, prefix, after.as_deref(), wanted);
            let names = names.await?;
            let full = names.len() == wanted;
            after = names.last().cloned();
            let found: Vec<_> = stream::iter(names)
                .map(|name| async move {
                    let cell = self.load(&format!("{folder}{name}")).await?;
                    Ok::<_, Error>(cell.map(|cell| (name, cell)))
                })
                .buffered(AT_ONCE)
                .try_collect()
                .await?;
            page.extend(found.into_iter().flatten());
            if !full {
                break;
            }
        }
        Ok(page)
    }

    /// Makes the cell `value`, nothing deletes, where it is as expected; whether it was.
    pub(crate) async fn swap(
        &self,
        path: &str,
        expect: &Expect,
        value: Option<Bytes>,
    ) -> Result<bool> {
        match &self.swaps {
            Swaps::Local(locks) => {
                let _held = lock(locks, path).await;
                self.swap_locked(path, expect, value).await
            }
            Swaps::Service { .. } => match expect {
                Expect::Revision(seen) => self.replace(path, seen.as_str(), value).await,
                Expect::Absent => self.swap_found(path, value, false).await,
                Expect::Any => self.swap_found(path, value, true).await,
            },
        }
    }

    async fn swap_locked(&self, path: &str, expect: &Expect, value: Option<Bytes>) -> Result<bool> {
        let found = self.find(path).await?;
        let live = found.as_ref().filter(|found| found.value.is_some());
        let fits = match expect {
            Expect::Any => true,
            Expect::Absent => live.is_none(),
            Expect::Revision(seen) => live.is_some_and(|live| live.number == seen.as_str()),
        };
        match value {
            _ if !fits => return Ok(false),
            Some(value) => {
                let body = encode(&number()?, Some(&value));
                self.place.put(path, body, Condition::Any).await?;
            }
            None if found.is_some() => self.place.delete(path).await?,
            None => {}
        }
        Ok(true)
    }

    /// Swaps what is there, if `any` is welcome, or else nothing; a write that does not say what
    /// it replaces might come late and undo what came after it.
    async fn swap_found(&self, path: &str, value: Option<Bytes>, any: bool) -> Result<bool> {
        for _ in 0..ATTEMPTS {
            let swapped = match self.find(path).await? {
                Some(found) if found.value.is_some() && !any => return Ok(false),
                None if value.is_none() => return Ok(true),
                Some(found) if found.value.is_none() && value.is_none() => return Ok(true),
                Some(found) => {
                    let seen = self.revision(&found, path)?;
                    self.replace(path, &seen, value.clone()).await?
                }
                None => self
                    .write(path, Condition::Absent, value.as_ref())
                    .await?
                    .is_some(),
            };
            if swapped {
                return Ok(true);
            }
        }
        Err(Error::unavailable("others change it all the time; retry later").subject(path))
    }

    /// Replaces the object with this ETag by `value`, or by a mark of deletion; whether it did.
    async fn replace(&self, path: &str, etag: &str, value: Option<Bytes>) -> Result<bool> {
        let written = self
            .write(path, Condition::Match(etag), value.as_ref())
            .await?;
        let swapped = written.is_some();
        if let (Some(Some(mark)), None, Swaps::Service { deletion: true }) =
            (written, value, &self.swaps)
        {
            // Somebody may have made a cell of the mark already; then there is nothing to tidy.
            self.place.delete_match(path, &mark).await?;
        }
        Ok(swapped)
    }

    /// Writes under the condition; nothing when it did not hold, else the ETag where it is known.
    async fn write(
        &self,
        path: &str,
        condition: Condition<'_>,
        value: Option<&Bytes>,
    ) -> Result<Option<Option<String>>> {
        let number = number()?;
        let body = encode(&number, value);
        match self.place.put(path, body, condition).await? {
            Put::Done(etag) => Ok(Some(etag)),
            // A retry after a lost answer finds what the first attempt wrote.
            Put::Refused => Ok(match self.find(path).await? {
                Some(found) if found.number == number => Some(found.etag),
                _ => None,
            }),
        }
    }

    async fn find(&self, path: &str) -> Result<Option<Found>> {
        for _ in 0..ATTEMPTS {
            let Some(object) = self.place.get(path).await? else {
                return Ok(None);
            };
            if let Some(found) = decode(object) {
                return Ok(Some(found));
            }
        }
        Err(not_ours(path, ""))
    }

    fn revision(&self, found: &Found, path: &str) -> Result<String> {
        match (&self.swaps, &found.etag) {
            (Swaps::Local(_), _) => Ok(found.number.clone()),
            (Swaps::Service { .. }, Some(etag)) => Ok(etag.clone()),
            (Swaps::Service { .. }, None) => {
                Err(Error::unsupported("the service gave no ETag").subject(path))
            }
        }
    }
}

/// What says that an object is none that this store wrote.
pub(crate) fn not_ours(folder: &str, name: &str) -> Error {
    Error::corrupt("the object is damaged, or none of this store; delete it")
        .operation("read")
        .subject(format!("{folder}{name}"))
}

async fn lock<'a>(locks: &'a [Mutex<()>], path: &str) -> MutexGuard<'a, ()> {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(path);
    // There are a few dozen locks, so the remainder fits.
    locks[(hash % locks.len() as u64) as usize].lock().await
}

fn encode(number: &str, value: Option<&Bytes>) -> Bytes {
    let kept = value.map_or(&[][..], |value| value);
    let mut body = BytesMut::with_capacity(HEAD + kept.len() + TAIL);
    body.extend_from_slice(number.as_bytes());
    body.extend_from_slice(if value.is_some() { b" +\n" } else { b" -\n" });
    body.extend_from_slice(kept);
    body.extend_from_slice(b"\n");
    body.extend_from_slice(number.as_bytes());
    body.freeze()
}

/// Nothing when the two ends do not agree.
fn decode(object: Object) -> Option<Found> {
    let body = object.body;
    let end = body.len().checked_sub(TAIL).filter(|end| *end >= HEAD)?;
    let number = std::str::from_utf8(&body[..NUMBER]).ok()?.to_owned();
    let whole = body[end] == b'\n' && body[end + 1..] == *number.as_bytes();
    let value = match &body[NUMBER..HEAD] {
        b" +\n" => Some(body.slice(HEAD..end)),
        b" -\n" => None,
        _ => return None,
    };
    whole.then_some(Found {
        number,
        etag: object.etag,
        value,
    })
}

/// A number that never comes again.
pub(crate) fn number() -> Result<String> {
    Ok(format!("{:016x}{:016x}", random()?, random()?))
}

/// 64 random bits.
pub(crate) fn random() -> Result<u64> {
    getrandom::u64().map_err(|error| Error::unavailable(format!("no random numbers: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(body: Bytes) -> Object {
        Object { body, etag: None }
    }

    #[test]
    fn what_was_read_over_a_change_is_no_cell() {
        let (one, other) = (number().unwrap(), number().unwrap());
        for value in [None, Some(Bytes::new()), Some(Bytes::from_static(b"a\nb"))] {
            let body = encode(&one, value.as_ref());
            assert_eq!(decode(object(body.clone())).unwrap().value, value);
            let later = encode(&other, value.as_ref());
            let mixed = [&body[..HEAD], &later[HEAD..]].concat();
            assert!(decode(object(mixed.into())).is_none());
            assert!(decode(object(body.slice(..body.len() - 1))).is_none());
        }
    }
}
