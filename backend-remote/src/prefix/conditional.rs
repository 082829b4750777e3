//! Requests that a service carries out only if a condition holds.
//!
//! A store in a directory does not use such requests, so this module does not sync directories.

use bytes::Bytes;
use cas_core::Result;
use opendal::ErrorKind;

use super::Prefix;
use crate::error::classify;

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
