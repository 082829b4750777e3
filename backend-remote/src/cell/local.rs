//! Compare-and-swap by locks in this process, for a store that no other process uses.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use bytes::Bytes;
use cas_core::records::{Expect, Revision};
use cas_core::{ErrorKind, Result};
use tokio::sync::{Mutex, MutexGuard};

use super::stored::{self, Cell, encode};
use crate::nonce::nonce;
use crate::prefix::Prefix;

/// Number of locks that all cells share.
const LOCKS: usize = 64;

/// Returns the cell, or `None` if it does not exist.
pub(super) async fn load(prefix: &Prefix, path: &str) -> Result<Option<Cell>> {
    let Some((cell, _)) = stored::read(prefix, path).await? else {
        return Ok(None);
    };
    let revision = Revision::new(cell.nonce);
    Ok(cell.value.map(|value| Cell { value, revision }))
}

/// Locks, chosen by the hash of a path. The revision of a cell is its nonce.
pub(super) struct LocalSwap(Box<[Mutex<()>]>);

impl LocalSwap {
    pub(super) fn new() -> Self {
        LocalSwap((0..LOCKS).map(|_| Mutex::new(())).collect())
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
        let _held = self.lock(path).await;
        let found = stored::read(prefix, path).await?.map(|(cell, _)| cell);
        let live = found.as_ref().filter(|found| found.value.is_some());
        let as_expected = match expect {
            Expect::Any => true,
            Expect::Absent => live.is_none(),
            Expect::Revision(seen) => live.is_some_and(|live| live.nonce == seen.as_str()),
        };
        match value {
            _ if !as_expected => return Ok(false),
            Some(value) => {
                prefix.put(path, encode(&nonce()?, Some(&value))).await?;
            }
            None if found.is_some() => prefix.delete(path).await?,
            None => {}
        }
        Ok(true)
    }

    /// Deletes the object at `path`, unless it is a cell. Returns whether it was deleted.
    pub(super) async fn remove_damaged(&self, prefix: &Prefix, path: &str) -> Result<bool> {
        let _held = self.lock(path).await;
        match stored::read(prefix, path).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                prefix.delete(path).await?;
                Ok(true)
            }
            found => found.map(|_| false),
        }
    }

    async fn lock(&self, path: &str) -> MutexGuard<'_, ()> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(path);
        // There are a few dozen locks, so the remainder fits.
        self.0[(hash % self.0.len() as u64) as usize].lock().await
    }
}
