//! Checks members that were not read from an archive.

use cas_core::{Error, Result, limit};

use super::entry::{Device, Entry, EntryKind};
use super::member::{check_device, check_id, check_path, check_size, target};
use super::message::Excerpt;
use super::pax::{check_xattrs, is_storable};

impl Entry {
    /// Checks a member that does not come from a [`Reader`](super::Reader), but for example from a
    /// table of contents. It must have only values that a `Reader` can return. All members that a
    /// `Reader` returns pass this check. The size and the regions of a sparse file are not checked.
    ///
    /// # Errors
    /// `OutOfRange` if a path, a name in it, an extended attribute, an owner, a device number, a
    /// mode, a time or a size is not within the bounds of [`limit`] and of Linux; `Corrupt` for a
    /// NUL byte in a path, a link target or the name of an attribute, for a link target that is
    /// empty or too long, and for a size of something that is not a file.
    pub fn check(&self) -> Result<()> {
        self.check_values()
            .map_err(|error| error.subject(Excerpt(&self.path)))
    }

    fn check_values(&self) -> Result<()> {
        check_path(&self.path)?;
        check_nul("path", &self.path)?;
        match &self.kind {
            EntryKind::Symlink(link) | EntryKind::Hardlink(link) => {
                target(link)?;
                check_nul("link target", link)?;
            }
            EntryKind::Char(Device { major, minor })
            | EntryKind::Block(Device { major, minor }) => {
                check_device(i64::from(*major), i64::from(*minor))?;
            }
            EntryKind::File | EntryKind::Directory | EntryKind::Fifo => {}
        }
        check_id("owner", i128::from(self.uid))?;
        check_id("group", i128::from(self.gid))?;
        if self.mode > 0o7777 {
            return Err(Error::out_of_range(format!(
                "the mode is {:o}; at most 7777 is allowed; build the image again",
                self.mode
            )));
        }
        if self.mtime.nanoseconds > 999_999_999 {
            return Err(Error::out_of_range(format!(
                "the time has {} nanoseconds; at most 999999999 are allowed; build the image again",
                self.mtime.nanoseconds
            )));
        }
        match (&self.kind, &self.regions) {
            (EntryKind::File, Some(_)) => {}
            (EntryKind::File, None) => check_size(self.size)?,
            _ if self.size > 0 => {
                return Err(Error::corrupt(
                    "a member that is not a file has a size; build the image again",
                ));
            }
            _ => {}
        }
        for (name, value) in &self.xattrs {
            check_nul("xattr name", name)?;
            if name.is_empty() || !is_storable(name, value) {
                return Err(Error::out_of_range(format!(
                    "the xattr {} has a name that Linux does not allow, a name of more than {} \
                     bytes, or a value of more than {} bytes; build the image without it",
                    Excerpt(name),
                    limit::COMPONENT,
                    limit::XATTR
                )));
            }
        }
        check_xattrs(
            self.xattrs
                .iter()
                .map(|(name, value)| (&name[..], &value[..])),
        )
    }
}

fn check_nul(what: &str, text: &[u8]) -> Result<()> {
    match text.contains(&0) {
        true => Err(Error::corrupt(format!(
            "the {what} contains a NUL byte; build the image again"
        ))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use cas_core::ErrorKind::{self, Corrupt, OutOfRange};

    use super::*;
    use crate::tar::Time;

    fn file(path: &[u8]) -> Entry {
        Entry::plain(path, EntryKind::File, 0o644, 3)
    }

    fn of_kind(kind: EntryKind) -> Entry {
        Entry::plain("name", kind, 0o644, 0)
    }

    fn device(major: u32, minor: u32) -> Entry {
        of_kind(EntryKind::Char(Device { major, minor }))
    }

    fn xattr(name: &[u8], value: usize) -> Entry {
        Entry {
            xattrs: vec![(name.to_vec(), vec![0; value])],
            ..file(b"name")
        }
    }

    fn at(seconds: i64, nanoseconds: u32) -> Entry {
        Entry {
            mtime: Time {
                seconds,
                nanoseconds,
            },
            ..file(b"name")
        }
    }

    #[test]
    fn the_largest_values_that_a_reader_returns_pass() {
        let longest = b"n".repeat(limit::COMPONENT);
        let name = [b"user.", &b"a".repeat(limit::COMPONENT - 5)[..]].concat();
        for entry in [
            file(&longest),
            file(&b"d/".repeat(limit::PATH_DEPTH)),
            file(b"/../a/./b"),
            of_kind(EntryKind::Symlink(b"t".repeat(limit::PATH - 1))),
            device(0xfff, 0xf_ffff),
            xattr(&name, limit::XATTR),
            at(i64::MIN, 999_999_999),
            Entry {
                uid: u32::MAX - 1,
                gid: u32::MAX - 1,
                mode: 0o7777,
                size: limit::LAYER,
                ..file(b"name")
            },
        ] {
            entry.check().unwrap();
        }
    }

    #[test]
    fn values_that_no_reader_returns_are_refused() {
        let refused = |kind: ErrorKind, entry: Entry| {
            let error = entry.check().unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
        };
        refused(OutOfRange, file(&b"n".repeat(limit::COMPONENT + 1)));
        refused(OutOfRange, file(&b"d/".repeat(limit::PATH_DEPTH + 1)));
        refused(OutOfRange, file(&b"long/".repeat(limit::PATH / 5 + 1)));
        refused(Corrupt, file(b"a\0b"));
        for kind in [EntryKind::Symlink, EntryKind::Hardlink] {
            refused(Corrupt, of_kind(kind(Vec::new())));
            refused(Corrupt, of_kind(kind(b"t".repeat(limit::PATH))));
            refused(Corrupt, of_kind(kind(b"a\0b".to_vec())));
        }
        refused(OutOfRange, device(0x1000, 0));
        refused(OutOfRange, device(0, 0x10_0000));
        refused(OutOfRange, at(0, 1_000_000_000));
        for (uid, gid, mode, size) in [
            (u32::MAX, 0, 0, 0),
            (0, u32::MAX, 0, 0),
            (0, 0, 0o10_000, 0),
            (0, 0, 0, limit::LAYER + 1),
        ] {
            let entry = Entry {
                uid,
                gid,
                mode,
                size,
                ..file(b"name")
            };
            refused(OutOfRange, entry);
        }
        let sized = Entry {
            size: 1,
            ..of_kind(EntryKind::Fifo)
        };
        refused(Corrupt, sized);
        refused(OutOfRange, xattr(b"", 1));
        refused(OutOfRange, xattr(b"user.", 1));
        refused(OutOfRange, xattr(&b"n".repeat(limit::COMPONENT + 1), 1));
        refused(OutOfRange, xattr(b"user.a", limit::XATTR + 1));
        refused(Corrupt, xattr(b"user.a\0b", 1));
        let all = (0..5).map(|n: u8| (vec![b'u', b'0' + n], vec![0; limit::XATTR]));
        let many = Entry {
            xattrs: all.collect(),
            ..file(b"name")
        };
        refused(OutOfRange, many);
    }
}
