//! Cells: small objects that are only changed by compare-and-swap.

#[cfg(feature = "s3")]
mod conditional;
mod local;
mod stored;

#[cfg(feature = "s3")]
use std::time::SystemTime;

use bytes::Bytes;
use cas_core::records::Expect;
use cas_core::{Error, Result};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::nonce::nonce;
use crate::prefix::Prefix;
#[cfg(feature = "s3")]
use crate::prefix::conditional::Deletion;

#[cfg(feature = "s3")]
use conditional::ConditionalSwap;
use local::LocalSwap;

pub(crate) use stored::Cell;

/// Maximum number of names in one list request.
const PAGE: usize = 1000;
/// Maximum number of cells that are read or changed concurrently.
pub(crate) const CONCURRENCY: usize = 16;

/// Returns whether the body of an object is a cell.
pub(crate) fn is_cell(body: &Bytes) -> bool {
    stored::decode(body).is_some()
}

/// Decodes a cell and encodes it again. Returns `None` if the body is not a cell.
#[cfg(feature = "fuzzing")]
pub(crate) fn recoded(body: &Bytes) -> Option<Bytes> {
    let cell = stored::decode(body)?;
    Some(stored::encode(&cell.nonce, cell.value.as_ref()))
}

/// The cells of a store.
pub(crate) struct Cells {
    prefix: Prefix,
    swap: Swap,
}

/// What makes a compare-and-swap atomic: locks of this process, or conditional requests to the
/// service.
enum Swap {
    Local(LocalSwap),
    #[cfg(feature = "s3")]
    Conditional(ConditionalSwap),
}

impl Cells {
    /// Returns the cells of a store that this process uses alone.
    pub(crate) fn local(prefix: Prefix) -> Self {
        let swap = Swap::Local(LocalSwap::new());
        Cells { prefix, swap }
    }

    /// Returns the cells of a store that other processes may use too.
    #[cfg(feature = "s3")]
    pub(crate) fn shared(prefix: Prefix, deletion: Deletion) -> Self {
        let swap = Swap::Conditional(ConditionalSwap::new(deletion));
        Cells { prefix, swap }
    }

    /// Returns whether other processes may use the store, too.
    pub(crate) fn is_shared(&self) -> bool {
        !matches!(self.swap, Swap::Local(_))
    }

    /// Returns the prefix that the cells are stored in.
    pub(crate) fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// Finds the objects of deleted cells in `folder` that killed processes have left, and that
    /// were written before `before`. Removes them if `remove` is set. Returns their lengths in
    /// bytes.
    #[cfg(feature = "s3")]
    pub(crate) async fn leftovers(
        &self,
        folder: &str,
        before: SystemTime,
        remove: bool,
    ) -> Result<Vec<u64>> {
        match &self.swap {
            // A deletion is one request.
            Swap::Local(_) => Ok(Vec::new()),
            Swap::Conditional(conditional) => {
                let deleted = conditional.deleted(&self.prefix, folder, before).await?;
                if remove {
                    for cell in &deleted {
                        cell.remove(&self.prefix).await?;
                    }
                }
                Ok(vec![stored::DELETED as u64; deleted.len()])
            }
        }
    }

    /// Returns the cell, or `None` if it does not exist.
    pub(crate) async fn load(&self, path: &str) -> Result<Option<Cell>> {
        match &self.swap {
            Swap::Local(_) => local::load(&self.prefix, path).await,
            #[cfg(feature = "s3")]
            Swap::Conditional(_) => conditional::load(&self.prefix, path).await,
        }
    }

    /// Returns at most `limit` cells with their names, in the order of [`Prefix::list`].
    ///
    /// The service also lists deleted cells. They are left out, so a page may take several list
    /// requests.
    pub(crate) async fn list(
        &self,
        folder: &str,
        prefix: &str,
        mut after: Option<String>,
        limit: usize,
    ) -> Result<Vec<(String, Cell)>> {
        let mut page = Vec::new();
        while page.len() < limit {
            let wanted = (limit - page.len()).min(PAGE);
            let names = self.prefix.list(folder, prefix, after.as_deref(), wanted);
            let names = names.await?;
            let full = names.len() == wanted;
            after = names.last().cloned();
            let found: Vec<_> = stream::iter(names)
                .map(|name| async move {
                    let cell = self.load(&format!("{folder}{name}")).await?;
                    Ok::<_, Error>(cell.map(|cell| (name, cell)))
                })
                .buffered(CONCURRENCY)
                .try_collect()
                .await?;
            page.extend(found.into_iter().flatten());
            if !full {
                break;
            }
        }
        Ok(page)
    }

    /// Replaces an object that is not a cell by a cell whose value is the bytes of the object. Does
    /// nothing without an object. Does not compare before it writes.
    pub(crate) async fn wrap(&self, path: &str) -> Result<()> {
        let Some(object) = self.prefix.get(path).await? else {
            return Ok(());
        };
        let body = stored::encode(&nonce()?, Some(&object.body));
        self.prefix.put(path, body).await
    }

    /// Removes the object at `path`, unless it is a cell. Returns whether it was removed.
    pub(crate) async fn remove_damaged(&self, path: &str) -> Result<bool> {
        match &self.swap {
            Swap::Local(local) => local.remove_damaged(&self.prefix, path).await,
            #[cfg(feature = "s3")]
            Swap::Conditional(conditional) => conditional.remove_damaged(&self.prefix, path).await,
        }
    }

    /// Writes `value`, or deletes the cell if `value` is `None`. Returns false and changes nothing
    /// if the cell is not as expected.
    pub(crate) async fn swap(
        &self,
        path: &str,
        expect: &Expect,
        value: Option<Bytes>,
    ) -> Result<bool> {
        match &self.swap {
            Swap::Local(local) => local.swap(&self.prefix, path, expect, value).await,
            #[cfg(feature = "s3")]
            Swap::Conditional(conditional) => {
                conditional.swap(&self.prefix, path, expect, value).await
            }
        }
    }
}
