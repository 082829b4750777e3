//! The error type of `cas`. The kind of an error shows what the caller can do about the error.

mod message;

use std::borrow::Cow;
use std::fmt;

pub(crate) use self::message::beginning;
pub use self::message::{excerpt, shortened, url_excerpt};

/// `Result` with the [`Error`] of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of an error, chosen by what the caller can do about it. The exit codes of the tool for
/// the kinds are in `src/cli/exit.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Something that the operation needs does not exist, such as a blob, a name or a file.
    NotFound,
    /// What the operation would create exists already, and is not overwritten.
    AlreadyExists,
    /// Another writer changed the same data first; load the data again and retry.
    Conflict,
    /// Something that the operation needs is in use, for example by a writer, an image, an owner or
    /// a process; retry later.
    Busy,
    /// An argument is invalid, whatever the state of the store.
    InvalidArgument,
    /// The store, or what the operation works on, is in a state that does not allow the operation.
    FailedPrecondition,
    /// An offset, size or count is outside its bound, or a limit of the system is reached, such as
    /// the number of open files.
    OutOfRange,
    /// Stored or received bytes do not match their digest, size or format.
    Corrupt,
    /// The backend, or this build, does not support the operation.
    Unsupported,
    /// Permission was refused, or the store is read-only.
    Denied,
    /// The device is full, a quota is used up, or a file would exceed the maximum size of files.
    Full,
    /// A device or a service failed, perhaps only temporarily; retry.
    Unavailable,
    /// The operation was abandoned because its caller no longer waits for it, or because a related
    /// operation, such as the import of another blob of the image, failed or ended.
    Cancelled,
    /// A defect in `cas`, or a failure that could not be classified.
    Internal,
}

impl ErrorKind {
    /// Returns the kind in words, for messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "not found",
            ErrorKind::AlreadyExists => "already exists",
            ErrorKind::Conflict => "conflict",
            ErrorKind::Busy => "busy",
            ErrorKind::InvalidArgument => "invalid argument",
            ErrorKind::FailedPrecondition => "failed precondition",
            ErrorKind::OutOfRange => "out of range",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::Denied => "denied",
            ErrorKind::Full => "full",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::Internal => "internal error",
        }
    }
}

/// An error has a kind and a message. It may also have the operation that failed, the subject of
/// the operation, the advice that follows the message, the backend and the cause.
///
/// An `Error` is as large as one pointer, so that `Result<T>` stays small.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    advice: Option<Cow<'static, str>>,
    operation: Option<&'static str>,
    subject: Option<String>,
    backend: Option<&'static str>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident),* $(,)?) => {$(
        $(#[$doc])*
        pub fn $name(message: impl Into<Cow<'static, str>>) -> Self {
            Self::new(ErrorKind::$kind, message)
        }
    )*};
}

impl Error {
    /// Returns an error of `kind`. The message must say what was expected, what was found and what
    /// to do, unless [`advice`](Self::advice) adds what to do.
    #[cold]
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            advice: None,
            operation: None,
            subject: None,
            backend: None,
            source: None,
        }))
    }

    constructors! {
        /// Returns an error of the kind [`ErrorKind::NotFound`].
        not_found => NotFound,
        /// Returns an error of the kind [`ErrorKind::AlreadyExists`].
        already_exists => AlreadyExists,
        /// Returns an error of the kind [`ErrorKind::Conflict`].
        conflict => Conflict,
        /// Returns an error of the kind [`ErrorKind::Busy`].
        busy => Busy,
        /// Returns an error of the kind [`ErrorKind::InvalidArgument`].
        invalid => InvalidArgument,
        /// Returns an error of the kind [`ErrorKind::FailedPrecondition`].
        precondition => FailedPrecondition,
        /// Returns an error of the kind [`ErrorKind::OutOfRange`].
        out_of_range => OutOfRange,
        /// Returns an error of the kind [`ErrorKind::Corrupt`].
        corrupt => Corrupt,
        /// Returns an error of the kind [`ErrorKind::Unsupported`].
        unsupported => Unsupported,
        /// Returns an error of the kind [`ErrorKind::Unavailable`].
        unavailable => Unavailable,
        /// Returns an error of the kind [`ErrorKind::Cancelled`].
        cancelled => Cancelled,
        /// Returns an error of the kind [`ErrorKind::Internal`].
        internal => Internal,
    }

    /// Returns the error for a store, a database or a file in the format `found`. `expected` is the
    /// newest format that this version of `cas` supports. The kind of the error is
    /// [`ErrorKind::FailedPrecondition`].
    #[cold]
    pub fn newer_format(expected: impl fmt::Display, found: impl fmt::Display) -> Self {
        Self::precondition(format!(
            "expected format {expected}, found {found}: written by a newer version of cas; use \
             that version"
        ))
    }

    /// Returns the error for an attempt to change a store that this process can only read. The kind
    /// of the error is [`ErrorKind::Denied`].
    #[cold]
    pub fn read_only() -> Self {
        Self::new(
            ErrorKind::Denied,
            "the store is read-only; make its directory writable",
        )
    }

    /// Adds what to do about the error. The text of the error then has `; ` and the advice after
    /// the message. An earlier advice is dropped.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<Cow<'static, str>>) -> Self {
        self.0.advice = Some(advice.into());
        self
    }

    /// Adds the operation that failed, unless the error names one already.
    #[must_use]
    pub fn operation(mut self, operation: &'static str) -> Self {
        self.0.operation.get_or_insert(operation);
        self
    }

    /// Adds the thing that the error is about, such as a digest, a name or a path, unless the error
    /// names one already.
    #[must_use]
    pub fn subject(mut self, subject: impl fmt::Display) -> Self {
        self.0.subject.get_or_insert_with(|| subject.to_string());
        self
    }

    /// Adds `whole`, the thing that the subject is a part of, such as a layer or a directory. For
    /// example, the subject `f` becomes `f in layer x`. If the error has no subject, `whole`
    /// becomes the subject. The subject does not change if it and `whole` are equal, or if one of
    /// them ends with the other as a separate word: the subject `layer x` does not change if
    /// `whole` is `x`, and the subject `x` does not change if `whole` is `layer x`.
    #[must_use]
    pub fn within(mut self, whole: impl fmt::Display) -> Self {
        let whole = whole.to_string();
        self.0.subject = Some(match self.0.subject {
            Some(part) if names(&whole, &part) || names(&part, &whole) => part,
            Some(part) => format!("{part} in {whole}"),
            None => whole,
        });
        self
    }

    /// Adds the backend that reported the error, unless the error names one already.
    #[must_use]
    pub fn backend(mut self, backend: &'static str) -> Self {
        self.0.backend.get_or_insert(backend);
        self
    }

    /// Sets the cause. An earlier cause is dropped.
    #[must_use]
    pub fn source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync + 'static>>,
    ) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the backend that reported the error, if the error names one.
    pub fn answered_by(&self) -> Option<&'static str> {
        self.0.backend
    }

    /// Returns the text of the error without what [`advice`](Self::advice) has added, for a report
    /// that states by itself what was done, or what to do.
    pub fn without_advice(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text, None);
        text
    }

    fn write(&self, out: &mut dyn fmt::Write, advice: Option<&str>) -> fmt::Result {
        if let Some(operation) = self.0.operation {
            write!(out, "{operation} ")?;
        }
        if let Some(subject) = &self.0.subject {
            write!(out, "{subject}: ")?;
        } else if self.0.operation.is_some() {
            write!(out, "failed: ")?;
        }
        write!(out, "{}", self.0.message)?;
        if let Some(advice) = advice {
            write!(out, "; {advice}")?;
        }
        if let Some(backend) = self.0.backend {
            write!(out, " ({backend})")?;
        }
        Ok(())
    }

    /// Returns whether the same call may succeed later without any change by the caller.
    pub fn retry(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Busy | ErrorKind::Unavailable)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, self.0.advice.as_deref())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.0.kind.as_str())?;
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// Returns whether `subject` is `thing` or ends with it as a separate word: `layer sha256:…` ends
/// with `sha256:…`.
fn names(subject: &str, thing: &str) -> bool {
    let before = subject.strip_suffix(thing);
    before.is_some_and(|before| before.is_empty() || before.ends_with(' '))
}

/// The `errno` of "too many symbolic links" in Linux. The kernel also reports it for a symbolic
/// link where none may be followed.
const ELOOP: i32 = 40;
/// The `errno` of "too many open files in system".
const ENFILE: i32 = 23;
/// The `errno` of "resource temporarily unavailable". For example, the kernel reports it if a limit
/// on the number of threads is reached.
pub(crate) const EAGAIN: i32 = 11;
/// The `errno` of "too many open files" in this process.
const EMFILE: i32 = 24;

impl From<std::io::Error> for Error {
    /// Classifies an I/O error by its kind. If no other kind fits, the error is
    /// [`ErrorKind::Unavailable`]. An [`Error`] that was wrapped in an I/O error is unwrapped
    /// unchanged.
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        if error.get_ref().is_some_and(|inner| inner.is::<Error>()) {
            if let Some(Ok(ours)) = error.into_inner().map(|inner| inner.downcast::<Error>()) {
                return *ours;
            }
            return Error::internal(
                "expected an error inside the I/O error, found none; please report it",
            );
        }
        let advice = match error.raw_os_error() {
            Some(EMFILE) => "; raise the limit with `ulimit -n`",
            Some(EAGAIN) => {
                "; if there are too many threads, raise the limit with `ulimit -u`, or the limit \
                 `pids.max` of the control group"
            }
            Some(ENFILE) => "; raise the limit with `sysctl fs.file-max`",
            _ if matches!(error.kind(), Io::StorageFull | Io::QuotaExceeded) => {
                "; free some space, for example with `cas gc`"
            }
            _ if error.kind() == Io::FileTooLarge => {
                "; raise the limit on the size of files with `ulimit -f`"
            }
            _ => "",
        };
        let kind = match error.kind() {
            _ if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) => ErrorKind::OutOfRange,
            Io::NotFound => ErrorKind::NotFound,
            Io::AlreadyExists => ErrorKind::AlreadyExists,
            Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::Denied,
            Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => ErrorKind::Full,
            Io::UnexpectedEof | Io::InvalidData => ErrorKind::Corrupt,
            Io::InvalidInput | Io::InvalidFilename | Io::ArgumentListTooLong => {
                ErrorKind::InvalidArgument
            }
            Io::Unsupported | Io::CrossesDevices | Io::NotSeekable => ErrorKind::Unsupported,
            Io::WouldBlock | Io::ResourceBusy | Io::ExecutableFileBusy => ErrorKind::Busy,
            Io::DirectoryNotEmpty | Io::NotADirectory | Io::IsADirectory | Io::TooManyLinks => {
                ErrorKind::FailedPrecondition
            }
            // The standard library has no stable name for this kind.
            _ if error.raw_os_error() == Some(ELOOP) => ErrorKind::FailedPrecondition,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, format!("{error}{advice}")).source(error)
    }
}

impl Error {
    /// Returns the first system error among `error` and its causes, or `None` if there is none. Use
    /// it for errors of libraries, because these often do not show which system error caused them.
    pub fn of_system(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut cause = Some(error);
        while let Some(inner) = cause {
            let io = inner.downcast_ref::<std::io::Error>();
            if let Some(number) = io.and_then(std::io::Error::raw_os_error) {
                return Some(std::io::Error::from_raw_os_error(number).into());
            }
            cause = inner.source();
        }
        None
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        std::io::Error::other(error)
    }
}

/// Adds the operation and its subject to the error of a result.
pub trait Context<T> {
    /// Adds the operation that was tried, and its subject, to the error of the result. The error
    /// keeps an operation or a subject that it already has.
    ///
    /// # Errors
    /// The error of the result.
    fn during(self, operation: &'static str, subject: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn during(self, operation: &'static str, subject: impl fmt::Display) -> Result<T> {
        self.map_err(|error| error.into().operation(operation).subject(subject))
    }
}

/// What to do about a stored blob with wrong bytes. Only a check that reads all data finds changed
/// bytes.
pub const REPAIR_BYTES: &str =
    "run `cas fsck --read-data --repair`, or pull or import the image again";

/// What to do about a blob that the store has lost.
pub const FETCH_AGAIN: &str =
    "run `cas fsck --repair`, if needed with `--from SOURCE`, or pull or import the image again";

/// Returns the error for data that a parser refuses. The kind of the error is
/// [`ErrorKind::Corrupt`]. The message of the error is `what`, followed by the message of the
/// parser.
///
/// A parser may repeat whole values of the data in its message. If the message of the parser has
/// more than 300 characters, only its first 150 and its last 150 characters are kept, as by
/// [`shortened`].
pub fn malformed(what: &str, error: &impl fmt::Display) -> Error {
    const END: usize = 150;
    let said = error.to_string();
    let said = shortened(&said, END, END, said.len());
    Error::corrupt(format!("{what}: {said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_word_wide() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }

    #[test]
    fn a_message_names_the_operation_and_the_thing() {
        let error = Error::not_found("no such blob")
            .operation("open")
            .subject("sha256:ab");
        assert_eq!(error.to_string(), "open sha256:ab: no such blob");
        let error = error.within("store x").operation("ignored");
        assert_eq!(error.to_string(), "open sha256:ab in store x: no such blob");
        for (subject, whole, expected) in [
            ("sha256:ab", "layer sha256:ab", "sha256:ab"),
            ("layer sha256:ab", "sha256:ab", "layer sha256:ab"),
            ("f in layer x", "layer x", "f in layer x"),
            ("x", "x", "x"),
            ("b", "ab", "b in ab"),
        ] {
            let error = Error::not_found("gone").subject(subject).within(whole);
            assert_eq!(error.to_string(), format!("{expected}: gone"));
        }
    }

    #[test]
    fn the_advice_follows_the_message_and_can_be_left_out() {
        let error = Error::corrupt("the file is damaged")
            .advice("restore it")
            .subject("f")
            .backend("fs");
        assert_eq!(error.to_string(), "f: the file is damaged; restore it (fs)");
        assert_eq!(error.without_advice(), "f: the file is damaged (fs)");
        let error = Error::corrupt("damaged; restore it");
        assert_eq!(error.without_advice(), error.to_string());
    }

    /// A retry is advised only if it may help.
    #[test]
    fn system_errors_are_classified_by_what_the_caller_can_do() {
        let classified = [
            ("EINTR", 4, ErrorKind::Unavailable),
            ("EIO", 5, ErrorKind::Unavailable),
            ("EAGAIN", 11, ErrorKind::Busy),
            ("EROFS", 30, ErrorKind::Denied),
            ("ENOSPC", 28, ErrorKind::Full),
            ("EDQUOT", 122, ErrorKind::Full),
            ("EXDEV", 18, ErrorKind::Unsupported),
            ("ENFILE", ENFILE, ErrorKind::OutOfRange),
            ("EMFILE", EMFILE, ErrorKind::OutOfRange),
            ("EMLINK", 31, ErrorKind::FailedPrecondition),
            ("ENAMETOOLONG", 36, ErrorKind::InvalidArgument),
            ("ENOTEMPTY", 39, ErrorKind::FailedPrecondition),
            ("ELOOP", ELOOP, ErrorKind::FailedPrecondition),
            ("ETIMEDOUT", 110, ErrorKind::Unavailable),
        ];
        for (name, number, kind) in classified {
            let error = Error::from(std::io::Error::from_raw_os_error(number));
            assert_eq!(error.kind(), kind, "{name}");
        }
    }

    #[test]
    fn too_many_open_files_and_a_full_disk_come_with_advice() {
        let files = "Too many open files";
        for (number, cause, advice) in [
            (EMFILE, files, "ulimit -n"),
            (ENFILE, files, "fs.file-max"),
            (28, "No space left on device", "cas gc"),
            (122, "Disk quota exceeded", "cas gc"),
        ] {
            let error = Error::from(std::io::Error::from_raw_os_error(number));
            let said = error.to_string();
            assert!(said.starts_with(cause), "{said}");
            assert!(said.contains(advice), "{said}");
            assert!(!error.retry());
        }
    }

    #[test]
    fn an_error_survives_a_trip_through_an_io_error() {
        let io: std::io::Error = Error::corrupt("bad digest").subject("x").into();
        let back = Error::from(io);
        assert_eq!(
            (back.kind(), back.to_string().as_str()),
            (ErrorKind::Corrupt, "x: bad digest")
        );
    }

    #[test]
    fn the_message_of_a_parser_keeps_its_beginning_and_its_end() {
        let short = malformed("not a list", &"expected `]` at line 1");
        assert_eq!(short.to_string(), "not a list: expected `]` at line 1");
        let long = format!("found {}, expected a list", "\u{e9}".repeat(9999));
        let long = malformed("not a list", &long).to_string();
        assert!(long.starts_with("not a list: found \u{e9}"), "{long}");
        let size = "found , expected a list".len() + 2 * 9999;
        let end = format!("\u{e9}, expected a list ({size} bytes)");
        assert!(long.ends_with(&end), "{long}");
        assert!(long.chars().count() < 400, "{long}");
    }
}
