//! What services answer, sorted by what the caller must do.

use std::io;

use cas_core::{Error, ErrorKind};

/// What S3 calls a bucket that is not there.
const NO_BUCKET: &str = "NoSuchBucket";
/// What OpenDAL was doing when it found no credentials.
const SIGNING: &str = "signing";

/// The error of ours for one of a service, about the object `path`.
pub(crate) fn sort(error: opendal::Error, operation: &'static str, path: &str) -> Error {
    let ours = match error.kind() {
        opendal::ErrorKind::ConfigInvalid if error.message().contains(NO_BUCKET) => {
            Error::precondition(
                "the bucket does not exist, or not any more; make it, or name another",
            )
        }
        opendal::ErrorKind::NotFound => Error::not_found("no such object"),
        opendal::ErrorKind::PermissionDenied => Error::new(
            ErrorKind::Denied,
            format!("the service refused: {}", error.message()),
        ),
        opendal::ErrorKind::ConditionNotMatch | opendal::ErrorKind::Conflict => {
            Error::conflict("somebody else was quicker")
        }
        opendal::ErrorKind::ConfigInvalid
        | opendal::ErrorKind::IsADirectory
        | opendal::ErrorKind::NotADirectory => Error::invalid(error.message().to_owned()),
        opendal::ErrorKind::Unsupported => Error::unsupported(error.message().to_owned()),
        opendal::ErrorKind::RateLimited => {
            Error::unavailable("the service asks for patience; retry later")
        }
        _ if error.message().contains(SIGNING) => Error::new(
            ErrorKind::Denied,
            "no credentials to sign requests with were found; set AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY in the environment",
        ),
        _ => unexpected(&error),
    };
    ours.operation(operation).subject(path).source(error)
}

/// A directory fails with errors of the system; a service that does not answer is unavailable.
fn unexpected(error: &opendal::Error) -> Error {
    let (mut kind, mut last) = (ErrorKind::Unavailable, error.message().to_owned());
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
        for (error, kind) in sorted {
            let shown = error.to_string();
            assert_eq!(sort(error, "read", "x").kind(), kind, "{shown}");
        }
    }
}
