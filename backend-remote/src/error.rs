//! What services answer, sorted by what the caller must do.

use std::io;

use cas_core::{Error, Kind};
use opendal::ErrorKind;

/// What S3 calls a bucket that is not there.
const NO_BUCKET: &str = "NoSuchBucket";
/// What OpenDAL was doing when it found no credentials.
const SIGNING: &str = "signing";

/// The error of ours for one of a service, about the object `path`.
pub(crate) fn sort(error: opendal::Error, operation: &'static str, path: &str) -> Error {
    let ours = match error.kind() {
        ErrorKind::ConfigInvalid if error.message().contains(NO_BUCKET) => Error::precondition(
            "the bucket does not exist, or not any more; make it, or name another",
        ),
        ErrorKind::NotFound => Error::not_found("no such object"),
        ErrorKind::PermissionDenied => Error::new(
            Kind::Denied,
            format!("the service refused: {}", error.message()),
        ),
        ErrorKind::ConditionNotMatch | ErrorKind::Conflict => {
            Error::conflict("somebody else was quicker")
        }
        ErrorKind::ConfigInvalid | ErrorKind::IsADirectory | ErrorKind::NotADirectory => {
            Error::invalid(error.message().to_owned())
        }
        ErrorKind::Unsupported => Error::unsupported(error.message().to_owned()),
        ErrorKind::RateLimited => Error::unavailable("the service asks for patience; retry later"),
        _ if error.message().contains(SIGNING) => Error::new(
            Kind::Denied,
            "no credentials to sign requests with were found; set AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY in the environment",
        ),
        _ => unexpected(&error),
    };
    ours.operation(operation).subject(path).source(error)
}

/// A directory fails with errors of the system; a service that does not answer is unavailable.
fn unexpected(error: &opendal::Error) -> Error {
    let (mut kind, mut last) = (Kind::Unavailable, error.message().to_owned());
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(found) = inner.downcast_ref::<io::Error>() {
            kind = Error::from(io::Error::from(found.kind())).kind();
        }
        last = inner.to_string();
        cause = inner.source();
    }
    match last == error.message() {
        true => Error::new(kind, last),
        false => Error::new(kind, format!("{}: {last}", error.message())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_say_what_to_do() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let sorted = [
            (
                opendal::Error::new(ErrorKind::Unexpected, "reset"),
                Kind::Unavailable,
            ),
            (
                opendal::Error::new(ErrorKind::Unexpected, "disk").set_source(full),
                Kind::Full,
            ),
            (
                opendal::Error::new(
                    ErrorKind::ConfigInvalid,
                    "S3Error { code: \"NoSuchBucket\" }",
                ),
                Kind::FailedPrecondition,
            ),
            (
                opendal::Error::new(ErrorKind::PermissionDenied, "no"),
                Kind::Denied,
            ),
        ];
        for (error, kind) in sorted {
            let shown = error.to_string();
            assert_eq!(sort(error, "read", "x").kind(), kind, "{shown}");
        }
    }
}
