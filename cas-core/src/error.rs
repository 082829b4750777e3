//! One error for the whole house, sorted by what the caller must do.

use std::borrow::Cow;
use std::fmt;

/// `Result` with the [`Error`] of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by what the caller does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The thing does not exist.
    NotFound,
    /// The thing exists and would be clobbered.
    AlreadyExists,
    /// A compare-and-swap was lost; load again and retry.
    Conflict,
    /// Another writer or owner holds the thing.
    Busy,
    /// The argument can never be right.
    InvalidArgument,
    /// The state does not allow the operation now.
    FailedPrecondition,
    /// An offset, size or count is outside its bound.
    OutOfRange,
    /// Stored or received bytes are not what their name says.
    Corrupt,
    /// The backend, or this build, cannot do it.
    Unsupported,
    /// Permission was refused.
    Denied,
    /// No space, or a quota is used up.
    Full,
    /// A passing fault of a device or a service; retry.
    Unavailable,
    /// The operation was given up because its caller or a sibling ended.
    Cancelled,
    /// A defect of ours, or one that could not be told apart.
    Internal,
}

impl ErrorKind {
    /// The kind in words, for messages.
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

/// An error: its kind, what was tried on which thing by whom, and the cause.
///
/// One word wide, so that `Result<T>` stays small.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
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
    /// An error of `kind`. The message says what was expected, what was found and what to do.
    #[cold]
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            operation: None,
            subject: None,
            backend: None,
            source: None,
        }))
    }

    constructors! {
        /// [`ErrorKind::NotFound`].
        not_found => NotFound,
        /// [`ErrorKind::AlreadyExists`].
        already_exists => AlreadyExists,
        /// [`ErrorKind::Conflict`].
        conflict => Conflict,
        /// [`ErrorKind::Busy`].
        busy => Busy,
        /// [`ErrorKind::InvalidArgument`].
        invalid => InvalidArgument,
        /// [`ErrorKind::FailedPrecondition`].
        precondition => FailedPrecondition,
        /// [`ErrorKind::OutOfRange`].
        out_of_range => OutOfRange,
        /// [`ErrorKind::Corrupt`].
        corrupt => Corrupt,
        /// [`ErrorKind::Unsupported`].
        unsupported => Unsupported,
        /// [`ErrorKind::Unavailable`].
        unavailable => Unavailable,
        /// [`ErrorKind::Cancelled`].
        cancelled => Cancelled,
        /// [`ErrorKind::Internal`].
        internal => Internal,
    }

    /// The same error with the operation that failed.
    #[must_use]
    pub fn operation(mut self, operation: &'static str) -> Self {
        self.0.operation.get_or_insert(operation);
        self
    }

    /// The same error with the thing it is about: a digest, a name, a path.
    #[must_use]
    pub fn subject(mut self, subject: impl fmt::Display) -> Self {
        self.0.subject.get_or_insert_with(|| subject.to_string());
        self
    }

    /// The same error with what its subject is a part of: a layer, a directory.
    #[must_use]
    pub fn within(mut self, whole: impl fmt::Display) -> Self {
        self.0.subject = Some(match self.0.subject {
            Some(part) => format!("{part} in {whole}"),
            None => whole.to_string(),
        });
        self
    }

    /// The same error with the backend that answered.
    #[must_use]
    pub fn backend(mut self, backend: &'static str) -> Self {
        self.0.backend.get_or_insert(backend);
        self
    }

    /// The same error with its cause.
    #[must_use]
    pub fn source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync + 'static>>,
    ) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What the caller must do about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The backend that answered, where that is said.
    pub fn answered_by(&self) -> Option<&'static str> {
        self.0.backend
    }

    /// Whether the same call may succeed later without any change by the caller.
    pub fn retry(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Busy | ErrorKind::Unavailable)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(operation) = self.0.operation {
            write!(f, "{operation} ")?;
        }
        if let Some(subject) = &self.0.subject {
            write!(f, "{subject}: ")?;
        } else if self.0.operation.is_some() {
            write!(f, "failed: ")?;
        }
        write!(f, "{}", self.0.message)?;
        if let Some(backend) = self.0.backend {
            write!(f, " ({backend})")?;
        }
        Ok(())
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

/// Too many symbolic links, or one where none is followed; as Linux numbers it.
const ELOOP: i32 = 40;

impl From<std::io::Error> for Error {
    /// Sorts an I/O error by its kind; an [`Error`] that travelled inside comes out as it was.
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        if error.get_ref().is_some_and(|inner| inner.is::<Error>()) {
            if let Some(Ok(ours)) = error.into_inner().map(|inner| inner.downcast::<Error>()) {
                return *ours;
            }
            return Error::internal("an error was lost");
        }
        let kind = match error.kind() {
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
            // The standard library has no stable name for it.
            _ if error.raw_os_error() == Some(ELOOP) => ErrorKind::FailedPrecondition,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, error.to_string()).source(error)
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        std::io::Error::other(error)
    }
}

/// Adds what was tried, on which thing, to the error of a result.
pub trait Context<T> {
    /// Names the operation and its subject.
    ///
    /// # Errors
    /// The same failure, named.
    fn during(self, operation: &'static str, subject: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn during(self, operation: &'static str, subject: impl fmt::Display) -> Result<T> {
        self.map_err(|error| error.into().operation(operation).subject(subject))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_wide() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }

    #[test]
    fn names_thing_and_operation() {
        let error = Error::not_found("no such blob")
            .operation("open")
            .subject("sha256:ab");
        assert_eq!(error.to_string(), "open sha256:ab: no such blob");
        let error = error.within("store x").operation("ignored");
        assert_eq!(error.to_string(), "open sha256:ab in store x: no such blob");
    }

    /// A retry is advised only where it may help.
    #[test]
    fn errors_of_the_system_are_sorted_by_what_to_do() {
        let sorted = [
            ("EINTR", 4, ErrorKind::Unavailable),
            ("EIO", 5, ErrorKind::Unavailable),
            ("EAGAIN", 11, ErrorKind::Busy),
            ("EXDEV", 18, ErrorKind::Unsupported),
            ("EMFILE", 24, ErrorKind::Unavailable),
            ("EMLINK", 31, ErrorKind::FailedPrecondition),
            ("ENAMETOOLONG", 36, ErrorKind::InvalidArgument),
            ("ENOTEMPTY", 39, ErrorKind::FailedPrecondition),
            ("ELOOP", ELOOP, ErrorKind::FailedPrecondition),
            ("ETIMEDOUT", 110, ErrorKind::Unavailable),
        ];
        for (name, number, kind) in sorted {
            let error = Error::from(std::io::Error::from_raw_os_error(number));
            assert_eq!(error.kind(), kind, "{name}");
        }
    }

    #[test]
    fn survives_a_trip_through_io() {
        let io: std::io::Error = Error::corrupt("bad digest").subject("x").into();
        let back = Error::from(io);
        assert_eq!(
            (back.kind(), back.to_string().as_str()),
            (ErrorKind::Corrupt, "x: bad digest")
        );
    }
}
