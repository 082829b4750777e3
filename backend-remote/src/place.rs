//! A bucket below a prefix: the few things that are asked of a service.

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::Bytes;
use cas_core::{Error, Result};
use futures_util::TryStreamExt;
use opendal::{Buffer, Operator};

use crate::dir::Folder;
use crate::error::sort;

/// Where the objects of a store are.
pub(crate) struct Place {
    operator: Operator,
    folder: Option<Folder>,
    /// Longest name of an object below the prefix, in bytes.
    longest: usize,
}

/// What a write wants to find.
#[derive(Clone, Copy)]
pub(crate) enum Condition<'a> {
    Any,
    Absent,
    /// This ETag.
    Match(&'a str),
}

/// What became of a write.
pub(crate) enum Put {
    /// It was done, and the object has this ETag, where the service says.
    Done(Option<String>),
    /// It found something else.
    Refused,
}

/// An object as it was read.
pub(crate) struct Object {
    pub(crate) body: Bytes,
    pub(crate) etag: Option<String>,
}

impl Place {
    pub(crate) fn new(operator: Operator, folder: Option<Folder>, longest: usize) -> Self {
        Place {
            operator,
            folder,
            longest,
        }
    }

    /// The whole of a small object, or nothing.
    pub(crate) async fn get(&self, path: &str) -> Result<Option<Object>> {
        let reader = self.operator.reader(path).await;
        let reader = reader.map_err(|error| sort(error, "read", path))?;
        match reader.read(..).await {
            Ok(body) => Ok(Some(Object {
                body: body.to_bytes(),
                etag: reader
                    .metadata()
                    .and_then(|found| found.etag().map(str::to_owned)),
            })),
            Err(error) if error.kind() == opendal::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(sort(error, "read", path)),
        }
    }

    /// A range of an object, or nothing when there is no object.
    pub(crate) async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        match self.operator.read_with(path).range(range).await {
            Ok(body) => Ok(Some(body.to_bytes())),
            Err(error) if error.kind() == opendal::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(sort(error, "read", path)),
        }
    }

    /// The length of an object in bytes, or nothing.
    pub(crate) async fn length(&self, path: &str) -> Result<Option<u64>> {
        match self.operator.stat(path).await {
            Ok(found) => Ok(Some(found.content_length())),
            Err(error) if error.kind() == opendal::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(sort(error, "stat", path)),
        }
    }

    /// Writes an object whole.
    pub(crate) async fn put(
        &self,
        path: &str,
        body: impl Into<Buffer>,
        condition: Condition<'_>,
    ) -> Result<Put> {
        self.check_name(path)?;
        self.check_folder()?;
        let write = self.operator.write_with(path, body.into());
        let outcome = match condition {
            Condition::Any => write.await,
            Condition::Absent => write.if_not_exists(true).await,
            Condition::Match(etag) => write.if_match(etag).await,
        };
        match outcome {
            Ok(written) => {
                self.settle(path).await?;
                Ok(Put::Done(written.etag().map(str::to_owned)))
            }
            Err(error) if lost(condition, error.kind()) => Ok(Put::Refused),
            Err(error) => Err(sort(error, "write", path)),
        }
    }

    /// Deletes an object; none is no error.
    pub(crate) async fn delete(&self, path: &str) -> Result<()> {
        self.check_folder()?;
        let outcome = self.operator.delete(path).await;
        outcome.map_err(|error| sort(error, "delete", path))?;
        self.settle(path).await
    }

    /// Deletes an object where it has this ETag.
    pub(crate) async fn delete_match(&self, path: &str, etag: &str) -> Result<Put> {
        match self.operator.delete_with(path).if_match(etag).await {
            Ok(()) => Ok(Put::Done(None)),
            Err(error) if lost(Condition::Match(etag), error.kind()) => Ok(Put::Refused),
            Err(error) => Err(sort(error, "delete", path)),
        }
    }

    /// At most `limit` names of objects in `folder`, which ends in `/`: those that begin with
    /// `prefix` and come after `after`, in byte order.
    ///
    /// A service that cannot begin a list in its middle is asked for all of it.
    pub(crate) async fn names(
        &self,
        folder: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>> {
        let fail = |error| sort(error, "list", folder);
        let ordered = self.operator.info().capability().list_with_start_after;
        let path = format!("{folder}{prefix}");
        let mut list = self.operator.lister_with(&path).recursive(true);
        if let Some(after) = after.filter(|_| ordered) {
            list = list.start_after(&format!("{folder}{after}"));
        }
        let mut list = list.await.map_err(fail)?;
        let mut names = BTreeSet::new();
        while let Some(entry) = list.try_next().await.map_err(fail)? {
            let Some(name) = entry.path().strip_prefix(folder) else {
                continue;
            };
            let wanted = name.starts_with(prefix) && after.is_none_or(|after| name > after);
            if !wanted || entry.metadata().is_dir() {
                continue;
            }
            names.insert(name.to_owned());
            if names.len() > limit {
                names.pop_last();
            }
            if ordered && names.len() == limit {
                break;
            }
        }
        Ok(names.into_iter().collect())
    }

    fn check_name(&self, path: &str) -> Result<()> {
        if path.len() > self.longest {
            return Err(Error::invalid(format!(
                "its object would have a name of {} bytes, here at most {} fit; use a shorter one",
                path.len(),
                self.longest
            ))
            .subject(format!("{path:.100}...")));
        }
        Ok(())
    }

    fn check_folder(&self) -> Result<()> {
        self.folder.as_ref().map_or(Ok(()), Folder::check)
    }

    /// Makes the name of what was written durable, where that is not the service's.
    async fn settle(&self, path: &str) -> Result<()> {
        match &self.folder {
            Some(folder) => folder.settle(path).await,
            None => Ok(()),
        }
    }
}

/// Whether the error says that the condition did not hold; an object to match may be gone.
fn lost(condition: Condition<'_>, found: opendal::ErrorKind) -> bool {
    match condition {
        Condition::Any => false,
        Condition::Absent => matches!(
            found,
            opendal::ErrorKind::ConditionNotMatch | opendal::ErrorKind::Conflict
        ),
        Condition::Match(_) => matches!(
            found,
            opendal::ErrorKind::ConditionNotMatch
                | opendal::ErrorKind::Conflict
                | opendal::ErrorKind::NotFound
        ),
    }
}
