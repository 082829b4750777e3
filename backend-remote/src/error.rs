//! Errors of services, classified by what the caller must do.

use std::fmt::Display;
use std::io;

use cas_core::{Error, ErrorKind};

/// S3's code for a missing bucket.
const NO_BUCKET: &str = "NoSuchBucket";
/// The word that a message of OpenDAL contains if there are no credentials.
const SIGNING: &str = "signing";

/// Converts an error of a service about the object `path`.
pub(crate) fn classify(error: opendal::Error, operation: &'static str, path: &str) -> Error {
    let classified = match error.kind() {
        opendal::ErrorKind::ConfigInvalid if error.message().contains(NO_BUCKET) => {
            Error::precondition(
                "the bucket does not exist; create the bucket, or name another bucket",
            )
        }
        opendal::ErrorKind::NotFound => {
            Error::not_found("the object does not exist; run `cas fsck`")
        }
        opendal::ErrorKind::PermissionDenied => Error::new(
            ErrorKind::Denied,
            format!(
                "access was denied: {}; check credentials and permissions",
                error.message()
            ),
        ),
        opendal::ErrorKind::ConditionNotMatch | opendal::ErrorKind::Conflict => {
            Error::conflict("another writer changed the object first; retry")
        }
        opendal::ErrorKind::ConfigInvalid
        | opendal::ErrorKind::IsADirectory
        | opendal::ErrorKind::NotADirectory => Error::invalid(format!(
            "{}; check the location of the store",
            error.message()
        )),
        opendal::ErrorKind::Unsupported => Error::unsupported(format!(
            "the service does not support a request: {}; use another service",
            error.message()
        )),
        opendal::ErrorKind::RateLimited => {
            Error::unavailable("the service limits the rate of requests; retry later")
        }
        _ if error.message().contains(SIGNING) => Error::new(
            ErrorKind::Denied,
            "no credentials for signing requests were found; set AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY in the environment",
        ),
        _ => unexpected(&error),
    };
    classified.operation(operation).subject(path).source(error)
}

/// Returns the error for a failure that OpenDAL does not classify. If an I/O error caused it, as in
/// a store in a directory, the kind comes from that error. Otherwise the kind is `Unavailable`.
fn unexpected(error: &opendal::Error) -> Error {
    if let Some(error) = Error::of_system(error) {
        return error;
    }
    let (mut kind, mut last) = (ErrorKind::Unavailable, error.message().to_owned());
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(found) = inner.downcast_ref::<io::Error>() {
            kind = Error::from(io::Error::from(found.kind())).kind();
        }
        last = inner.to_string();
        cause = inner.source();
    }
    if last == error.message() {
        Error::new(kind, last)
    } else {
        Error::new(kind, format!("{}: {last}", error.message()))
    }
}

/// Returns the error for an object that is damaged, or that this store cannot have written.
pub(crate) fn foreign_object(path: impl Display) -> Error {
    let why = "the object is damaged, or was not written by this store; run `cas fsck --repair`, \
               or delete the object";
    Error::corrupt(why).operation("read").subject(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_classified_by_what_the_caller_must_do() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let expected = [
            (
                opendal::Error::new(opendal::ErrorKind::Unexpected, "reset"),
                ErrorKind::Unavailable,
            ),
            (
                opendal::Error::new(opendal::ErrorKind::Unexpected, "disk").set_source(full),
                ErrorKind::Full,
            ),
            (
                opendal::Error::new(
                    opendal::ErrorKind::ConfigInvalid,
                    "S3Error { code: \"NoSuchBucket\" }",
                ),
                ErrorKind::FailedPrecondition,
            ),
            (
                opendal::Error::new(opendal::ErrorKind::PermissionDenied, "no"),
                ErrorKind::Denied,
            ),
        ];
        for (error, kind) in expected {
            let shown = error.to_string();
            assert_eq!(classify(error, "read", "x").kind(), kind, "{shown}");
        }
    }
}
