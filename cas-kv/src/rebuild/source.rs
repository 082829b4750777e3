//! Reads the readable parts of a damaged database.

use std::sync::Arc;

use bytes::Bytes;
use cas_core::caught::caught;
use cas_core::records::Table;
use cas_core::{Digest, Error, ErrorKind, Result};

use super::skip::{digests_after, keys_after};
use crate::engine::{BlobEntry, Engine, View};
use crate::kv::unreadable;

/// Maximum number of entries that are read at once.
const PAGE: usize = 256;

/// Entries of a table, in the order of their keys.
type Page<K, V> = Vec<(K, V)>;
/// Receives the pages of a table.
type Each<'e, 'a, K, V> = dyn FnMut(&mut Source<'a>, Page<K, V>) -> Result<()> + 'e;
/// Lists a table after a key.
type List<K, V> = dyn Fn(&dyn View, Option<&K>, usize) -> Result<Page<K, V>>;
/// Returns keys after a key, in their order.
type After<K> = dyn Fn(Option<&K>) -> Box<dyn Iterator<Item = K>>;

/// A database of which some rows may not be readable.
pub(super) struct Source<'a> {
    open: &'a dyn Fn() -> Result<Box<dyn Engine>>,
    /// The view is dropped before its engine.
    opened: Option<(Arc<dyn View>, Box<dyn Engine>)>,
    /// Whether the database is read with a copy of its start.
    pub(super) reads_head: bool,
    /// The first damage that was found.
    pub(super) damage: Option<Error>,
}

impl<'a> Source<'a> {
    /// Opens the database.
    ///
    /// # Errors
    /// Errors of opening the database.
    pub(super) fn open(open: &'a dyn Fn() -> Result<Box<dyn Engine>>) -> Result<Self> {
        let mut source = Source {
            open,
            opened: None,
            reads_head: false,
            damage: None,
        };
        source.view()?;
        Ok(source)
    }

    fn view(&mut self) -> Result<Arc<dyn View>> {
        if let Some((view, _)) = &self.opened {
            return Ok(Arc::clone(view));
        }
        let engine = (self.open)()?;
        let view = caught(|| engine.view()).unwrap_or_else(|| Err(unreadable()))?;
        self.reads_head |= engine.reads_head();
        self.opened = Some((Arc::clone(&view), engine));
        Ok(view)
    }

    /// Returns the result of `work`, or `None` if `work` finds damage.
    pub(super) fn read<T>(&mut self, work: impl Fn(&dyn View) -> Result<T>) -> Result<Option<T>> {
        let view = self.view()?;
        let found = caught(|| work(&*view)).unwrap_or_else(|| {
            // After a panic, the engine may hold its locks forever.
            let opened = self.opened.take();
            let _ = caught(|| drop(opened));
            Err(unreadable())
        });
        match found {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.damage.get_or_insert(error);
                Ok(None)
            }
            found => found.map(Some),
        }
    }

    /// Checks the files of the database with [`Engine::check_files`].
    pub(super) fn check_files(&mut self) -> Result<()> {
        let checked = match &self.opened {
            Some((_, engine)) => engine.check_files(),
            None => Ok(()),
        };
        match checked {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.damage.get_or_insert(error);
                Ok(())
            }
            checked => checked,
        }
    }

    /// Calls `each` with all blobs that are listed.
    pub(super) fn blobs(&mut self, each: &mut Each<'_, 'a, Digest, BlobEntry>) -> Result<()> {
        let list = |view: &dyn View, after: Option<&Digest>, limit| view.list_blobs(after, limit);
        self.pages(&list, &digests_after, each)
    }

    /// Calls `each` with the records of a table that can be read, as revision and value.
    pub(super) fn records(
        &mut self,
        table: Table,
        each: &mut Each<'_, 'a, String, (u64, Bytes)>,
    ) -> Result<()> {
        let list = move |view: &dyn View, after: Option<&String>, limit| {
            let found = view.records(table, "", after.map(String::as_str), limit)?;
            let found = found.into_iter();
            Ok(found
                .map(|(key, revision, value)| (key, (revision, value)))
                .collect())
        };
        self.pages(&list, &keys_after, each)
    }

    /// Lists a table from its first key to its last. If a part of the table cannot be read, tries
    /// the keys that `after` returns, and continues after the first of them after which the table
    /// can be read.
    fn pages<K: Clone + Ord, V>(
        &mut self,
        list: &List<K, V>,
        after: &After<K>,
        each: &mut Each<'_, 'a, K, V>,
    ) -> Result<()> {
        let (mut last, mut limit) = (None::<K>, PAGE);
        loop {
            let page =
                self.read(|view| ascending(list(view, last.as_ref(), limit)?, last.as_ref()))?;
            let Some(page) = page else {
                if limit > 1 {
                    limit /= 2;
                    continue;
                }
                let mut readable = None;
                for key in after(last.as_ref()) {
                    let found = |view: &dyn View| ascending(list(view, Some(&key), 1)?, Some(&key));
                    if self.read(found)?.is_some() {
                        readable = Some(key);
                        break;
                    }
                }
                if readable.is_none() {
                    return Ok(());
                }
                last = readable;
                continue;
            };
            let is_last = page.len() < limit;
            if let Some((key, _)) = page.last() {
                last = Some(key.clone());
            }
            each(self, page)?;
            if is_last {
                return Ok(());
            }
            limit = (limit * 2).min(PAGE);
        }
    }
}

/// Checks that the keys of a page ascend from `after`, as they do in every intact table.
fn ascending<K: Ord, V>(page: Page<K, V>, after: Option<&K>) -> Result<Page<K, V>> {
    let first = page.first().map(|(key, _)| key);
    let begins = first.is_none_or(|first| after.is_none_or(|after| first > after));
    if !begins || !page.is_sorted_by(|(one, _), (next, _)| one < next) {
        return Err(Error::corrupt("the rows of a table are not in order"));
    }
    Ok(page)
}
