//! Cells: small objects that are changed by compare-and-swap only.

mod body;

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use bytes::Bytes;
use cas_core::records::{Expect, Revision};
use cas_core::{Error, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::{Mutex, MutexGuard};

use crate::place::{Condition, Place, Put};

pub(crate) use body::{number, random};

use body::{Found, decode, encode};

/// How often a swap is tried that others win.
pub(crate) const ATTEMPTS: usize = 64;
/// How often a cell is read that shows two states.
const READS: usize = 3;
/// Names that are asked for at once, and cells that are read at once.
const PAGE: usize = 1000;
pub(crate) const AT_ONCE: usize = 16;
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
                Expect::Absent => Ok(self.create(path, value.as_ref()).await?
                    || self.swap_found(path, value, false).await?),
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

    /// Makes a cell where no object is; whether it did. Most new cells need no more.
    async fn create(&self, path: &str, value: Option<&Bytes>) -> Result<bool> {
        let created =
            value.is_some() && self.write(path, Condition::Absent, value).await?.is_some();
        Ok(created)
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
                None => self.create(path, value.as_ref()).await?,
            };
            if swapped {
                return Ok(true);
            }
        }
        Err(contended(path))
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
            // A mark that stays counts as nothing, and somebody may have made a cell of it already.
            let _ = self.place.delete_match(path, &mark).await;
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
        for _ in 0..READS {
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

/// What says that others won every time.
pub(crate) fn contended(path: &str) -> Error {
    Error::unavailable("others change it all the time; retry later").subject(path)
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
