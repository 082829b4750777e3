//! Applies one member of a layer at its path.

use std::io::BufRead;
use std::os::fd::AsFd;
use std::rc::Rc;

use cas_core::{Error, ErrorKind, Result};
use cas_host::calls;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::action::{Action, WHITEOUT_DEVICE};
use super::dirs::{DIRECTORY, Dir};
use super::meta::own;
use super::path::{clean, split};
use super::remove::{Removed, remove};
use super::seen::Fact;
use super::standalone::Origin;
use super::times::timestamps;
use super::walk::Purpose;
use super::{Layer, denied, os};
use crate::tar::{Device, Entry, EntryKind, Excerpt, Reader};

impl Layer {
    /// Applies one member. Its body is read from `reader`.
    pub(super) fn apply_member<R: BufRead>(
        &mut self,
        entry: &Entry,
        reader: &mut Reader<R>,
    ) -> Result<()> {
        self.dirs.close_excess()?;
        self.cost.count_entry();
        let path = clean(&entry.path);
        self.cost.allow_lookups(&path);
        let (parent, name) = match Action::of(entry, &path)? {
            Action::Root => return self.apply_root(entry),
            Action::Hide { parent, whiteout } => return self.apply_whiteout(parent, &whiteout),
            Action::Add { parent, name } => (parent, name),
        };
        match &entry.kind {
            EntryKind::Directory => self.apply_directory(entry, parent, name),
            EntryKind::File => self.apply_file(entry, parent, name, reader),
            EntryKind::Hardlink(target) => self.apply_hardlink(entry, target, parent, name),
            EntryKind::Symlink(target) => self.apply_node(entry, parent, name, |dir| {
                calls::symlinkat(&target[..], &dir.fd, name)
            }),
            EntryKind::Char(Device { major: 0, minor: 0 }) => {
                self.warn(WHITEOUT_DEVICE);
                Ok(())
            }
            EntryKind::Char(device) => {
                self.apply_special(entry, parent, name, FileType::CharacterDevice, *device)
            }
            EntryKind::Block(device) => {
                self.apply_special(entry, parent, name, FileType::BlockDevice, *device)
            }
            EntryKind::Fifo => {
                let none = Device { major: 0, minor: 0 };
                self.apply_special(entry, parent, name, FileType::Fifo, none)
            }
        }
    }

    fn apply_root(&mut self, entry: &Entry) -> Result<()> {
        let root = self.dirs.root();
        self.seen.insert(&Fact::Described(root.inode));
        if !self.private {
            return self.describe_directory(&root, entry, false);
        }
        let stat = os(fs::fstat(&root.fd))?;
        let mut closed = entry.clone();
        (closed.uid, closed.gid, closed.mode) = (stat.st_uid, stat.st_gid, 0o700);
        // An access list could open the root directory again.
        let is_access = |name: &[u8]| name.starts_with(b"system.posix_acl");
        closed.xattrs.retain(|(name, _)| !is_access(name));
        self.describe_directory(&root, &closed, false)
    }

    fn apply_directory(&mut self, entry: &Entry, parent: &[u8], name: &[u8]) -> Result<()> {
        let dir = self.parent(parent)?;
        let real = dir.child(name)?;
        // Until its mode is set, the directory is open to its owner, who may have no privileges.
        let mode = Mode::from_raw_mode(entry.mode & 0o777 | 0o700);
        let origin = match calls::mkdirat(&dir.fd, name, mode) {
            Err(Errno::EXIST) => {
                let stat = os(calls::statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW))?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => Origin::Found,
                    _ => {
                        self.clear(&dir, name)?;
                        os(calls::mkdirat(&dir.fd, name, mode))?;
                        Origin::Replaces
                    }
                }
            }
            made => os(made).map(|()| Origin::New)?,
        };
        let fd = os(calls::openat(&dir.fd, name, DIRECTORY, Mode::empty()))?;
        let own = self.dirs.insert(fd, real)?;
        match origin {
            Origin::Found => self.seen.insert(&Fact::Described(own.inode)),
            _ => self.record_directory(&dir, name, own.inode, origin),
        }
        self.mark_kept(own.inode);
        own.kept.set(true);
        let fresh = origin != Origin::Found && !dir.default_acl.get();
        self.describe_directory(&own, entry, fresh)
    }

    fn describe_directory(&mut self, dir: &Dir, entry: &Entry, fresh: bool) -> Result<()> {
        let stat = os(calls::fstat(&dir.fd))?;
        let mode = self.mode_for_now(dir.inode, entry.mode)?;
        own(dir.fd.as_fd(), &stat, entry.uid, entry.gid, mode)?;
        self.set_xattrs(dir.fd.as_fd(), entry, fresh)?;
        dir.refresh();
        dir.set_times(timestamps(entry.mtime));
        Ok(())
    }

    fn apply_file<R: BufRead>(
        &mut self,
        entry: &Entry,
        parent: &[u8],
        name: &[u8],
        reader: &mut Reader<R>,
    ) -> Result<()> {
        self.reserve(entry)?;
        let dir = self.parent(parent)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let file = self.fresh(&dir, name, || calls::openat(&dir.fd, name, flags, mode))?;
        self.applied.bytes += super::body::write(file.as_fd(), entry, reader)?;
        // Writing removes capabilities, so the metadata is set after the bytes are written.
        self.describe_file(file.as_fd(), entry, !dir.default_acl.get())?;
        os(calls::futimens(&file, &timestamps(entry.mtime)))
    }

    /// Refuses a file that would fill the file system, before any of its bytes are written.
    fn reserve(&mut self, entry: &Entry) -> Result<()> {
        let stored = match &entry.regions {
            Some(regions) => regions.iter().map(|region| region.length).sum(),
            None => entry.size,
        };
        let Some(budget) = self.budget.checked_sub(stored) else {
            return Err(Error::new(
                ErrorKind::Full,
                format!(
                    "a file of {stored} bytes does not fit into the free space, of which the layer \
                     may still use {} bytes; free some space and retry",
                    self.budget
                ),
            ));
        };
        self.budget = budget;
        Ok(())
    }

    fn apply_hardlink(
        &mut self,
        entry: &Entry,
        target: &[u8],
        parent: &[u8],
        name: &[u8],
    ) -> Result<()> {
        let path = clean(target);
        self.cost.allow_lookups(&path);
        let (target_parent, target_name) = split(&path);
        let missing = || {
            Error::corrupt(format!(
                "the target {} of the hard link does not exist, is a directory, or may not be \
                 linked; build the image again",
                Excerpt(target)
            ))
        };
        let from = self.directory(target_parent, Purpose::Lookup)?;
        let Some(from) = from else {
            return self.require_parents_or(missing);
        };
        let dir = self.parent(parent)?;
        let linked = self.fresh(&dir, name, || {
            calls::linkat(&from.fd, target_name, &dir.fd, name, AtFlags::empty())
        });
        match linked {
            Err(_) if self.is_left_out(&from, target_name) => {
                self.leave_out_device(&dir, name, &entry.path)
            }
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Denied) => {
                self.require_parents_or(|| missing().source(error))
            }
            linked => linked,
        }
    }

    fn apply_special(
        &mut self,
        entry: &Entry,
        parent: &[u8],
        name: &[u8],
        kind: FileType,
        device: Device,
    ) -> Result<()> {
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let device = fs::makedev(device.major, device.minor);
        let dir = self.parent(parent)?;
        if self.rootless.is_some() && kind != FileType::Fifo {
            return self.leave_out_device(&dir, name, &entry.path);
        }
        let made = self.fresh(&dir, name, || {
            calls::mknodat(&dir.fd, name, kind, mode, device)
        });
        match made {
            Err(error) if denied::device(kind, &error) => {
                self.leave_out_device(&dir, name, &entry.path)
            }
            made => made.and_then(|()| self.describe_node(&dir, name, entry)),
        }
    }

    fn apply_node(
        &mut self,
        entry: &Entry,
        parent: &[u8],
        name: &[u8],
        make: impl Fn(&Rc<Dir>) -> rustix::io::Result<()>,
    ) -> Result<()> {
        let dir = self.parent(parent)?;
        self.fresh(&dir, name, || make(&dir))?;
        self.describe_node(&dir, name, entry)
    }

    /// Creates something at `name` by calling `make`. First removes what exists there. Returns the
    /// result of `make`.
    fn fresh<T>(
        &mut self,
        dir: &Rc<Dir>,
        name: &[u8],
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T> {
        let made = match make() {
            Err(Errno::EXIST) => {
                self.clear(dir, name)?;
                make()
            }
            made => made,
        };
        let made = os(made)?;
        self.seen.insert(&Fact::Added(dir.inode, name));
        Ok(made)
    }

    /// Removes what is at `name`.
    pub(super) fn clear(&mut self, dir: &Dir, name: &[u8]) -> Result<()> {
        match remove(dir.fd.as_fd(), name)? {
            Removed::Nothing | Removed::Leaf => {}
            Removed::Link => self.dirs.forget_paths(),
            Removed::Tree => {
                self.dirs.forget_tree(dir, name);
                self.require_parents();
            }
        }
        Ok(())
    }
}
