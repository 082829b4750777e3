//! The FUSE file system of a disk. One thread answers its requests, one after the other.

use std::ffi::OsStr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request,
    WriteFlags,
};

use super::{Event, Fault, Shared};

/// The name of the file that is the disk.
pub(super) const DISK: &str = "disk";
/// The name of the file of marks.
pub(super) const MARKS: &str = "marks";

const DISK_NODE: INodeNo = INodeNo(2);
const MARKS_NODE: INodeNo = INodeNo(3);
/// How long the kernel may keep names and attributes, which never change.
const VALID: Duration = Duration::from_secs(3600);
/// The modes of `fallocate` that make bytes zero: PUNCH_HOLE and ZERO_RANGE.
const ZEROS: i32 = 0x02 | 0x10;

pub(super) struct Files {
    shared: Arc<Mutex<Shared>>,
    /// Size of the disk in bytes.
    size: u64,
}

impl Files {
    pub(super) fn new(shared: Arc<Mutex<Shared>>, size: u64) -> Self {
        Files { shared, size }
    }

    fn attributes(&self, node: INodeNo) -> FileAttr {
        let (kind, perm, size) = match node {
            DISK_NODE => (FileType::RegularFile, 0o600, self.size),
            MARKS_NODE => (FileType::RegularFile, 0o600, 0),
            _ => (FileType::Directory, 0o700, 0),
        };
        FileAttr {
            ino: node,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    /// `faults` lists the faults that can hit a request of this kind. If the disk has one of them,
    /// counts the request, and returns the fault if it hits the request with this number. Otherwise
    /// returns `None`. Before returning [`Fault::Slow`], waits for [`Fault::DELAY`].
    fn hit(&self, faults: &[Fault]) -> Option<Fault> {
        let hit = Shared::lock(&self.shared).hit(faults);
        if hit == Some(Fault::Slow) {
            thread::sleep(Fault::DELAY);
        }
        hit
    }

    fn write_disk(&self, offset: u64, data: &[u8]) {
        let mut shared = Shared::lock(&self.shared);
        shared.pages.write(offset, data);
        shared.note(Event::Write(offset, data.into()));
    }
}

impl Filesystem for Files {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let node = match name.to_str() {
            Some(DISK) => DISK_NODE,
            Some(MARKS) => MARKS_NODE,
            _ => return reply.error(Errno::ENOENT),
        };
        reply.entry(&VALID, &self.attributes(node), Generation(0));
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&VALID, &self.attributes(node));
    }

    /// Opens a file without the page cache of the kernel. A write to the file then returns only
    /// after this file system has answered the request.
    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if self.hit(&[Fault::Read]).is_some() {
            return reply.error(Errno::EIO);
        }
        let left = self.size.saturating_sub(offset);
        let mut data = vec![0; left.min(size.into()) as usize];
        Shared::lock(&self.shared).pages.read(offset, &mut data);
        reply.data(&data);
    }

    fn write(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if node == DISK_NODE {
            let made = match self.hit(&[Fault::Write, Fault::Short, Fault::Slow]) {
                Some(Fault::Write) => 0,
                Some(Fault::Short) => data.len() / 2,
                _ => data.len(),
            };
            self.write_disk(offset, &data[..made]);
            if made < data.len() {
                return reply.error(Errno::EIO);
            }
            return reply.written(data.len() as u32);
        }
        let line = String::from_utf8_lossy(data).into_owned();
        Shared::lock(&self.shared).note(Event::Mark(line));
        reply.written(data.len() as u32);
    }

    fn fsync(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        if node == DISK_NODE {
            match self.hit(&[Fault::Flush, Fault::Lie]) {
                Some(Fault::Flush) => return reply.error(Errno::EIO),
                Some(_) => {}
                None => Shared::lock(&self.shared).note(Event::Flush),
            }
        }
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode & ZEROS == 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        self.write_disk(offset, &vec![0; length as usize]);
        reply.ok();
    }
}
