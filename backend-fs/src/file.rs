//! Reading the documents of a store: `index.json`, `oci-layout` and `format.json`.

use cas_core::{Error, ErrorKind, Result};
use cas_host::Dir;
use rustix::io::Errno;

use crate::index::REPAIR;

/// Returns whether the reason of `error` is a file that is longer than [`read`] allows. If the
/// process has too many open files, the error has the same kind, but comes from the system.
pub(crate) fn is_too_long(error: &Error) -> bool {
    error.kind() == ErrorKind::OutOfRange && Error::of_system(error).is_none()
}

/// Returns the content of a file, or `None` if the file is absent.
///
/// # Errors
/// `Corrupt` for a directory, a symbolic link or a socket; `OutOfRange` for a file of more than
/// `limit` bytes; errors of the file system.
pub(crate) fn read(root: &Dir, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
    root.read(name, limit).map_err(|error| {
        let found = match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::ISDIR) => "a directory",
            Some(Errno::LOOP) => "a symbolic link",
            Some(Errno::NXIO) => "a socket or a device",
            _ => {
                let error = Error::from(error);
                let text = format!("expected at most {limit} bytes in {name}, found more");
                return match is_too_long(&error) {
                    // A report of the error can leave the advice out.
                    true => Error::out_of_range(text).advice("restore the file"),
                    false => error,
                };
            }
        };
        Error::corrupt(format!("expected the file {name}, found {found}")).advice(REPAIR)
    })
}
