//! Errors of services, classified by what the caller must do.

use std::fmt::Display;
use std::io;

use cas_core::error::excerpt;
use cas_core::{Error, ErrorKind};

/// The name that [`Error::answered_by`] returns if the object store denied access
/// ([`ErrorKind::Denied`]). If this machine denied access, for example to a file in a `dir:` store,
/// the function does not return this name.
pub const SERVICE: &str = "object store";
/// S3's code for a missing bucket.
const NO_BUCKET: &str = "NoSuchBucket";
/// The message for a missing bucket.
const BUCKET_ABSENT: &str = "the bucket does not exist; create the bucket, or name another bucket";
/// The word that a message of OpenDAL contains if there are no credentials.
const SIGNING: &str = "signing";
/// The beginning of a message of OpenDAL that is an answer of the service. Such a message is the
/// debug form of a structure.
const ANSWER: &str = "S3Error { code: \"";
/// Maximum number of characters of each text of the service that a message repeats.
const TEXT: usize = 100;

/// Converts an error of a service about the object `path`. A missing bucket has the kind
/// `FailedPrecondition`, because callers take `NotFound` for a missing object.
pub(crate) fn classify(error: opendal::Error, operation: &'static str, path: &str) -> Error {
    let classified = match error.kind() {
        _ if is_bucket_absent(&error) => Error::precondition(BUCKET_ABSENT),
        opendal::ErrorKind::NotFound => {
            Error::not_found("the object does not exist; run `cas fsck`")
        }
        opendal::ErrorKind::PermissionDenied => denied(&error),
        opendal::ErrorKind::ConditionNotMatch | opendal::ErrorKind::Conflict => {
            Error::conflict("another writer changed the object first; retry")
        }
        opendal::ErrorKind::ConfigInvalid
        | opendal::ErrorKind::IsADirectory
        | opendal::ErrorKind::NotADirectory => Error::invalid(format!(
            "{}; check the location of the store",
            said(error.message())
        )),
        opendal::ErrorKind::Unsupported => Error::unsupported(format!(
            "the service does not support a request: {}; use another service",
            said(error.message())
        )),
        opendal::ErrorKind::RateLimited => {
            Error::unavailable("the service limits the rate of requests; retry later")
        }
        _ if is_unsigned(&error) => Error::invalid(
            "no credentials for signing requests were found; set AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY in the environment",
        ),
        _ => unexpected(&error),
    };
    classified.operation(operation).subject(path).source(error)
}

/// Converts an error of a service that lists the objects in `folder`. Every bucket has a list, so a
/// list that is not found means a missing bucket.
pub(crate) fn of_list(error: opendal::Error, folder: &str) -> Error {
    if error.kind() != opendal::ErrorKind::NotFound {
        return classify(error, "list", listed(folder));
    }
    let absent = Error::precondition(BUCKET_ABSENT).operation("list");
    absent.subject(listed(folder)).source(error)
}

/// Returns what is listed, for a message. The name of the outermost folder is empty.
pub(crate) fn listed(folder: &str) -> &str {
    match folder {
        "" => "all objects",
        folder => folder,
    }
}

/// Returns the error for a store that cannot be opened because of `error`, which [`classify`] or
/// [`of_list`] has returned. A missing bucket has the kind `NotFound`.
#[cfg(feature = "s3")]
pub(crate) fn of_opening(error: Error) -> Error {
    let cause = std::error::Error::source(&error);
    let is_of_service = cause.is_some_and(|cause| cause.is::<opendal::Error>());
    // Only a missing bucket is such an error of a service.
    match is_of_service && error.kind() == ErrorKind::FailedPrecondition {
        true => Error::not_found(BUCKET_ABSENT).source(error),
        false => error,
    }
}

fn is_bucket_absent(error: &opendal::Error) -> bool {
    error.kind() == opendal::ErrorKind::ConfigInvalid && error.message().contains(NO_BUCKET)
}

fn is_unsigned(error: &opendal::Error) -> bool {
    let message = error.message();
    message.contains(SIGNING) && answered(message).is_none()
}

fn denied(error: &opendal::Error) -> Error {
    let denied = Error::new(
        ErrorKind::Denied,
        format!(
            "access was denied: {}; check credentials and permissions",
            said(error.message())
        ),
    );
    match Error::of_system(error) {
        Some(_) => denied,
        None => denied.backend(SERVICE),
    }
}

/// Returns what the message of an error of OpenDAL says, escaped and shortened: the text and the
/// code that the service has sent, or else the message.
fn said(message: &str) -> String {
    if message.is_empty() {
        return "the service gave no reason".to_owned();
    }
    let Some((code, text)) = answered(message) else {
        return shortened(message);
    };
    // Both are escaped already.
    let short = |text: &str| text.chars().take(TEXT).collect::<String>();
    match text {
        "" => short(code),
        text => format!("{} ({})", short(text), short(code)),
    }
}

/// Returns the code and the text that the service has sent, or `None` if the message of OpenDAL is
/// something else. Both are escaped, so that they have no quotes that are not escaped.
fn answered(message: &str) -> Option<(&str, &str)> {
    let (code, rest) = message
        .strip_prefix(ANSWER)?
        .split_once("\", message: \"")?;
    let (text, _) = rest.split_once("\", resource: \"")?;
    Some((code, text))
}

/// Returns the error for a failure that OpenDAL does not classify. If an I/O error caused it, as in
/// a store in a directory, the kind comes from that error. Otherwise the kind is `Unavailable`.
fn unexpected(error: &opendal::Error) -> Error {
    if let Some(error) = Error::of_system(error) {
        return error;
    }
    if answered(error.message()).is_some() || error.message().is_empty() {
        return Error::unavailable(format!(
            "the service failed: {}; try again later",
            said(error.message())
        ));
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
    let message = shortened(error.message());
    if last == error.message() {
        Error::new(kind, message)
    } else {
        Error::new(kind, format!("{message}: {}", shortened(&last)))
    }
}

/// Returns a message of OpenDAL or of its causes. A message that is long may be a whole page that
/// the service has sent, so only an excerpt of it is returned.
fn shortened(message: &str) -> String {
    match message.len() > 3 * TEXT {
        true => excerpt(message),
        false => message.to_owned(),
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
            (
                opendal::Error::new(opendal::ErrorKind::Unexpected, "signing http request"),
                ErrorKind::InvalidArgument,
            ),
        ];
        for (error, kind) in expected {
            let shown = error.to_string();
            assert_eq!(classify(error, "read", "x").kind(), kind, "{shown}");
        }
    }

    #[test]
    fn an_answer_of_the_service_is_told_in_words_and_shortened() {
        let answer = |code: &str, text: &str| {
            format!("S3Error {{ code: {code:?}, message: {text:?}, resource: \"r\" }}")
        };
        let long = "m".repeat(50_000);
        for (message, expected) in [
            (
                answer("AccessDenied", "Access Denied"),
                "Access Denied (AccessDenied)".to_owned(),
            ),
            (answer("X\u{1b}", ""), r"X\u{1b}".to_owned()),
            (
                answer("A", r#"say ", resource: "q" "#),
                r#"say \", resource: \"q\"  (A)"#.to_owned(),
            ),
            (answer("A", &long), format!("{} (A)", "m".repeat(TEXT))),
            (long.clone(), format!("{}… (50000 bytes)", "m".repeat(100))),
            (String::new(), "the service gave no reason".to_owned()),
        ] {
            assert_eq!(said(&message), expected);
            let error = opendal::Error::new(opendal::ErrorKind::Unexpected, message);
            let shown = classify(error, "read", "x").to_string();
            assert!(shown.len() < 500, "{shown}");
        }
    }

    #[test]
    fn a_service_that_denies_access_differs_from_this_machine() {
        let error = || opendal::Error::new(opendal::ErrorKind::PermissionDenied, "");
        let local = io::Error::from_raw_os_error(13);
        for (error, backend) in [(error(), Some(SERVICE)), (error().set_source(local), None)] {
            let found = classify(error, "read", "x");
            assert_eq!(found.kind(), ErrorKind::Denied, "{found}");
            assert_eq!(found.answered_by(), backend, "{found}");
        }
    }

    #[test]
    fn a_list_that_is_not_found_means_a_missing_bucket() {
        let error = opendal::Error::new(opendal::ErrorKind::NotFound, "x");
        let found = of_list(error, "");
        assert_eq!(found.kind(), ErrorKind::FailedPrecondition);
        assert_eq!(
            found.to_string(),
            format!("list all objects: {BUCKET_ABSENT}")
        );
    }
}
