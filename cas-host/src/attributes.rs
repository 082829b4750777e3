//! Extended attributes of files, of directories, and of entries that cannot be opened, such as
//! symbolic links.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

use cas_core::limit;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::calls;
use crate::tree::proc_path_of;

/// The name and the value of an extended attribute.
pub type Attribute = (Vec<u8>, Vec<u8>);

/// Returns the names and values of the extended attributes of the entry `name` of a directory,
/// ordered by name. Does not follow a symbolic link. Returns an empty list if the file system does
/// not support extended attributes.
///
/// # Errors
/// Errors of the file system.
pub fn attributes(dir: BorrowedFd<'_>, name: &CStr) -> Result<Vec<Attribute>, Errno> {
    let mut found = Attributes::named(dir, name)?.read(|_| true)?;
    found.sort_unstable();
    Ok(found)
}

/// The file whose extended attributes are read or written.
pub(crate) enum Attributes<'a> {
    Open(BorrowedFd<'a>),
    /// A path. A link is not followed.
    Named(CString),
}

impl Attributes<'_> {
    pub(crate) fn named(dir: BorrowedFd<'_>, name: &CStr) -> Result<Self, Errno> {
        CString::new(proc_path_of(dir, name.to_bytes()))
            .map(Attributes::Named)
            .map_err(|_| Errno::INVAL)
    }

    /// Copies the attributes whose names `wanted` accepts.
    pub(crate) fn copy_to(
        &self,
        to: &Attributes<'_>,
        wanted: fn(&[u8]) -> bool,
    ) -> Result<(), Errno> {
        for (name, value) in self.read(wanted)? {
            to.set(&name, &value)?;
        }
        Ok(())
    }

    /// Returns the names and values of the attributes whose names `wanted` accepts.
    fn read(&self, wanted: fn(&[u8]) -> bool) -> Result<Vec<Attribute>, Errno> {
        let names = self.names(wanted)?.into_iter();
        let read = |name: Vec<u8>| self.value(&name).map(|value| (name, value));
        names.map(read).collect()
    }

    /// Returns the names of the attributes whose names `wanted` accepts, in any order. Returns an
    /// empty list if the file system does not support extended attributes.
    pub(crate) fn names(&self, wanted: fn(&[u8]) -> bool) -> Result<Vec<Vec<u8>>, Errno> {
        let names = match self.list() {
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            names => names?,
        };
        let names = names.split(|byte| *byte == 0);
        let names = names.filter(|name| !name.is_empty() && wanted(name));
        Ok(names.map(<[u8]>::to_vec).collect())
    }

    fn list(&self) -> Result<Vec<u8>, Errno> {
        read_all(|buffer| match self {
            Attributes::Open(fd) => calls::flistxattr(fd, buffer),
            Attributes::Named(path) => calls::llistxattr(path, buffer),
        })
    }

    /// Returns the value of an attribute.
    pub(crate) fn value(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        read_all(|buffer| match self {
            Attributes::Open(fd) => calls::fgetxattr(fd, name, buffer),
            Attributes::Named(path) => calls::lgetxattr(path, name, buffer),
        })
    }

    fn set(&self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        match self {
            Attributes::Open(fd) => calls::fsetxattr(fd, name, value, XattrFlags::empty()),
            Attributes::Named(path) => calls::lsetxattr(path, name, value, XattrFlags::empty()),
        }
    }
}

/// Returns what `read` writes: a list of names, or a value. Most results are short, and none has
/// more than [`limit::XATTR`] bytes.
fn read_all(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 256];
    let length = match read(&mut buffer) {
        Err(Errno::RANGE) => {
            buffer.resize(limit::XATTR, 0);
            read(&mut buffer)?
        }
        length => length?,
    };
    buffer.truncate(length);
    Ok(buffer)
}
