//! Requests that a service carries out only if a condition holds.
//!
//! A store in a directory does not use such requests, so this module does not sync directories.

use std::time::SystemTime;

use bytes::Bytes;
use cas_core::Result;
use opendal::ErrorKind;

use super::Prefix;
use super::listing::Listing;
use crate::error::{classify, of_list};

/// What a conditional request expects to find.
#[derive(Clone, Copy)]
pub(crate) enum Condition<'a> {
    /// The object does not exist.
    Absent,
    /// The object has this ETag.
    Match(&'a str),
}

/// The outcome of a conditional request.
pub(crate) enum Outcome {
    /// The service carried out the request. After a write, this contains the new ETag, if the
    /// service returned one.
    Done(Option<String>),
    /// The condition did not hold.
    Refused,
}

/// Whether a service honors conditions on deletes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deletion {
    /// The service honors conditions.
    Conditional,
    /// The service ignores or rejects conditions.
    Unconditional,
}

impl Prefix {
    /// Writes an object if the condition holds. Returns the outcome.
    pub(crate) async fn put_if(
        &self,
        path: &str,
        body: Bytes,
        condition: Condition<'_>,
    ) -> Result<Outcome> {
        self.check_name(path)?;
        let write = self.operator.write_with(path, body);
        let outcome = match condition {
            Condition::Absent => write.if_not_exists(true).await,
            Condition::Match(etag) => write.if_match(etag).await,
        };
        match outcome {
            Ok(written) => Ok(Outcome::Done(written.etag().map(str::to_owned))),
            Err(error) if is_refusal(condition, error.kind()) => Ok(Outcome::Refused),
            Err(error) => Err(classify(error, "write", path)),
        }
    }

    /// Returns the paths of the objects in `folder` that have `length` bytes and were written
    /// before `before`. Leaves out an object if the service does not report its length or its time
    /// in the list.
    pub(crate) async fn of_length(
        &self,
        folder: &str,
        length: u64,
        before: SystemTime,
    ) -> Result<Vec<String>> {
        let list = self.operator.lister_with(folder).recursive(true);
        let list = list.await.map_err(|error| of_list(error, folder))?;
        let mut list = Listing::new(list, folder, self.lists_in_order());
        let mut paths = Vec::new();
        while let Some(entry) = list.next().await? {
            let found = entry.metadata();
            let time = found.last_modified().map(SystemTime::from);
            if found.is_file()
                && found.content_length() == length
                && time.is_some_and(|time| time < before)
            {
                paths.push(entry.path().to_owned());
            }
        }
        Ok(paths)
    }

    /// Deletes an object if it has this ETag. Returns the outcome.
    pub(crate) async fn delete_if_match(&self, path: &str, etag: &str) -> Result<Outcome> {
        match self.operator.delete_with(path).if_match(etag).await {
            Ok(()) => Ok(Outcome::Done(None)),
            Err(error) if is_refusal(Condition::Match(etag), error.kind()) => Ok(Outcome::Refused),
            Err(error) => Err(classify(error, "delete", path)),
        }
    }
}

/// Returns whether the error means that the condition did not hold. For a match, the object may
/// also be missing.
fn is_refusal(condition: Condition<'_>, kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::ConditionNotMatch | ErrorKind::Conflict => true,
        ErrorKind::NotFound => matches!(condition, Condition::Match(_)),
        _ => false,
    }
}
