//! One member of an archive, for example of a layer, after its extension headers are merged into
//! it.

/// A member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path as written in the archive: bytes, possibly absolute, possibly with `..`.
    pub path: Vec<u8>,
    /// The type of the member.
    pub kind: EntryKind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Id of the owner. Never `u32::MAX`, which means "unchanged" to the kernel.
    pub uid: u32,
    /// Id of the group. Never `u32::MAX`.
    pub gid: u32,
    /// Time of the last modification.
    pub mtime: Time,
    /// Extended attributes, name and value, ordered by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Size of the file in bytes, including holes. Zero for everything that is not a file.
    pub size: u64,
    /// The stored regions of a sparse file, in order. All other bytes of the file are zeros. `None`
    /// if the member is not a sparse file.
    pub regions: Option<Vec<Region>>,
}

impl Entry {
    /// Returns a member that belongs to the superuser, was modified at the Unix epoch, and has no
    /// extended attributes. `size` is in bytes.
    pub fn plain(path: impl Into<Vec<u8>>, kind: EntryKind, mode: u32, size: u64) -> Self {
        Entry {
            path: path.into(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: Time {
                seconds: 0,
                nanoseconds: 0,
            },
            xattrs: Vec::new(),
            size,
            regions: None,
        }
    }
}

/// The type of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A hard link to the file at this path.
    Hardlink(Vec<u8>),
    /// A character device.
    Char(Device),
    /// A block device.
    Block(Device),
    /// A named pipe.
    Fifo,
}

/// The numbers of a device, within the limits of Linux: 12 bits for the major number, and 20 bits
/// for the minor number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// A time, as seconds and nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Whole seconds, negative before 1970.
    pub seconds: i64,
    /// Nanoseconds, from 0 to 999,999,999. They are added to the seconds, even if the seconds are
    /// negative.
    pub nanoseconds: u32,
}

/// A run of stored bytes in a sparse file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}
