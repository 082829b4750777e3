//! Applies the members of a layer, with the same result as `cas_layer::apply` in a directory, apart
//! from the differences that the documentation of this crate lists.

use cas_core::{Context, Error, Result};
use cas_layer::apply::path::{clean, split};
use cas_layer::apply::{Action, CAPABILITY, WHITEOUT_DEVICE, Whiteout, check_capability, is_set};
use cas_layer::tar::{Device, Entry, EntryKind, Excerpt};

use super::Tree;
use super::node::{Content, Id, Kind, Node, ROOT};
use super::resolve::Purpose;
use crate::acl::{self, Effect};
use crate::attributes::{Attribute, SetId};

/// The mode and the extended attributes that a member gives to its node.
struct Description {
    mode: u16,
    attributes: SetId,
}

impl Tree {
    /// Applies one member of the current layer. `content` states where the bytes of a file are.
    /// [`Entry::check`] must accept the member, as it accepts all members that a reader of tars
    /// returns: an image cannot store other names and values.
    ///
    /// # Errors
    /// `Corrupt` for a member that cannot be applied; `OutOfRange` if a bound is exceeded.
    pub(crate) fn apply(&mut self, entry: &Entry, content: Content) -> Result<()> {
        self.cost.count_entry();
        let applied = self.apply_member(entry, content);
        applied.during("apply", Excerpt(&entry.path))
    }

    fn apply_member(&mut self, entry: &Entry, content: Content) -> Result<()> {
        let path = clean(&entry.path);
        self.cost.allow_lookups(&path);
        let (parent, name) = match Action::of(entry, &path)? {
            Action::Root => return self.describe_directory(ROOT, entry),
            Action::Hide { parent, whiteout } => return self.apply_whiteout(parent, &whiteout),
            Action::Add { parent, name } => (parent, name),
        };
        let target = match &entry.kind {
            EntryKind::Symlink(target) => target.len(),
            _ => 0,
        };
        let tail = content.tail.as_ref().map_or(0, |tail| tail.len());
        self.count_bytes(name.len() + target + tail)?;
        let kind = match &entry.kind {
            EntryKind::Directory => return self.apply_directory(entry, parent, name),
            EntryKind::Hardlink(target) => return self.apply_hardlink(target, parent, name),
            EntryKind::Char(Device { major: 0, minor: 0 }) => {
                self.warn(WHITEOUT_DEVICE);
                return Ok(());
            }
            EntryKind::File => Kind::File(content),
            EntryKind::Symlink(target) if target.is_empty() => {
                return Err(Error::corrupt(
                    "the symbolic link has no target; build the image again",
                ));
            }
            EntryKind::Symlink(target) => Kind::Symlink(target[..].into()),
            EntryKind::Char(device) => Kind::Char(encode(*device)),
            EntryKind::Block(device) => Kind::Block(encode(*device)),
            EntryKind::Fifo => Kind::Fifo,
        };
        let description = self.describe(entry)?;
        let parent = self.parent(parent)?;
        let node = node(kind, entry, &description);
        self.replace(parent, name, |tree| tree.insert(node))
    }

    fn apply_whiteout(&mut self, parent: &[u8], whiteout: &Whiteout<'_>) -> Result<()> {
        // There is nothing to hide in a directory that does not exist.
        let Some(directory) = self.directory(parent, Purpose::Lookup)? else {
            return Ok(());
        };
        match whiteout {
            Whiteout::Opaque => self.purge(directory),
            Whiteout::Name(name) => self.hide(directory, name),
        }
        Ok(())
    }

    fn apply_directory(&mut self, entry: &Entry, parent: &[u8], name: &[u8]) -> Result<()> {
        let parent = self.parent(parent)?;
        let there = self.child(parent, name);
        let id = match there {
            Some(id) if matches!(self.node(id).kind, Kind::Directory(_)) => id,
            there => {
                if there.is_some() {
                    self.unlink(parent, name);
                }
                self.make_directory(parent, name)?
            }
        };
        self.keep(id);
        self.describe_directory(id, entry)
    }

    fn describe_directory(&mut self, id: Id, entry: &Entry) -> Result<()> {
        let description = self.describe(entry)?;
        let described = &mut self.nodes[id as usize];
        described.mode = description.mode;
        described.attributes = description.attributes;
        (described.uid, described.gid) = (entry.uid, entry.gid);
        described.mtime = entry.mtime;
        Ok(())
    }

    fn apply_hardlink(&mut self, target: &[u8], parent: &[u8], name: &[u8]) -> Result<()> {
        let path = clean(target);
        self.cost.allow_lookups(&path);
        let (target_parent, target_name) = split(&path);
        let missing = || {
            Error::corrupt(format!(
                "the target {} of the hard link does not exist or is a directory; build the image \
                 again",
                Excerpt(target)
            ))
        };
        let from = self.directory(target_parent, Purpose::Lookup)?;
        let from = from.ok_or_else(missing)?;
        let parent = self.parent(parent)?;
        // The target is looked up after the old node is removed, because the old node may be the
        // target or a directory that contains it.
        self.replace(parent, name, |tree| {
            let Kind::Directory(from) = &tree.node(from).kind else {
                return Err(missing());
            };
            let found = from.children.get(target_name).map(|child| child.id);
            let found = found.filter(|&id| !matches!(tree.node(id).kind, Kind::Directory(_)));
            found.ok_or_else(missing)
        })
    }

    /// Removes a name and everything below it, and then gives the name to the node that `make`
    /// returns.
    fn replace(
        &mut self,
        parent: Id,
        name: &[u8],
        make: impl FnOnce(&mut Tree) -> Result<Id>,
    ) -> Result<()> {
        self.unlink(parent, name);
        let id = make(self)?;
        self.link(parent, name, id);
        Ok(())
    }

    /// Returns the parent directory of a member. Makes it if it does not exist.
    fn parent(&mut self, path: &[u8]) -> Result<Id> {
        let found = self.directory(path, Purpose::Member)?;
        let id = found
            .ok_or_else(|| Error::internal("a parent directory was not made; please report it"))?;
        self.keep(id);
        Ok(id)
    }

    /// Removes what lower layers added at a name of a directory, and below it.
    fn hide(&mut self, directory: Id, name: &[u8]) {
        let Some(&child) = self.directory_at(directory).children.get(name) else {
            return;
        };
        let kept = match &self.node(child.id).kind {
            Kind::Directory(below) if below.kept == self.layer => return self.purge(child.id),
            Kind::Directory(_) => false,
            _ => child.added == self.layer,
        };
        if !kept {
            self.unlink(directory, name);
        }
    }

    /// Removes everything that lower layers added below a directory. The rest belongs to this
    /// layer, so a second call for the same directory and layer does nothing.
    fn purge(&mut self, directory: Id) {
        let layer = self.layer;
        let purged = &mut self.directory_mut(directory).purged;
        if std::mem::replace(purged, layer) == layer {
            return;
        }
        let names: Vec<_> = self
            .directory_at(directory)
            .children
            .keys()
            .cloned()
            .collect();
        for name in names {
            self.hide(directory, &name);
        }
    }

    /// Returns the mode and the attributes that a member gives to its node. Warns of attributes
    /// that are left out.
    fn describe(&mut self, entry: &Entry) -> Result<Description> {
        let mut mode = entry.mode as u16;
        let mut attributes = Vec::new();
        let is_directory = entry.kind == EntryKind::Directory;
        let is_plain = is_directory || entry.kind == EntryKind::File;
        let is_link = matches!(entry.kind, EntryKind::Symlink(_));
        for (name, value) in &entry.xattrs {
            let reason = match &name[..] {
                name if !is_set(name) => {
                    let shown = Excerpt(name);
                    self.warn(&format!(
                        "the xattr {shown} is left out, because layers may not set it"
                    ));
                    continue;
                }
                b"system.posix_acl_access" => match acl::access(value, &mut mode, is_link)? {
                    Effect::Stored => None,
                    Effect::Dropped => continue,
                    Effect::LeftOut(reason) => Some(reason),
                },
                b"system.posix_acl_default" => match acl::default(value, is_directory)? {
                    Effect::Stored => None,
                    Effect::Dropped => continue,
                    Effect::LeftOut(reason) => Some(reason),
                },
                CAPABILITY => {
                    check_capability(value)?;
                    None
                }
                name if name.starts_with(b"user.") && !is_plain => {
                    Some("only files and directories can have it")
                }
                _ => None,
            };
            match (reason, Attribute::new(name, value)) {
                (None, Some(attribute)) => attributes.push(attribute),
                (reason, _) => {
                    let reason = reason
                        .unwrap_or("EROFS cannot store an xattr with this name or of this size");
                    let (name, path) = (Excerpt(name), Excerpt(&entry.path));
                    self.warn(&format!("the xattr {name} of {path} is left out: {reason}"));
                }
            }
        }
        let size = attributes.iter().map(Attribute::size).sum();
        let known = self.sets.len();
        let attributes = self.sets.insert(attributes);
        if self.sets.len() > known {
            self.count_bytes(size)?;
        }
        Ok(Description { mode, attributes })
    }
}

fn node(kind: Kind, entry: &Entry, description: &Description) -> Node {
    // The kernel gives links this mode.
    let mode = match kind {
        Kind::Symlink(_) => 0o777,
        _ => description.mode,
    };
    Node {
        kind,
        mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        attributes: description.attributes,
        links: 0,
    }
}

/// Returns the number of a device as the kernel encodes it on disks.
fn encode(device: Device) -> u32 {
    let Device { major, minor } = device;
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}
