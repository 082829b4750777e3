//! Walks to the directory at a path, through links inside the tree.
//!
//! Ordinary directories in a row are opened in one call to the kernel. Links, `..` and missing
//! directories are handled here, one name at a time. The kernel could resolve whole paths, but it
//! refuses paths with `..` while other processes rename or mount something. [`super::dirs::Dirs`]
//! remembers where links lead, so that a link is not resolved again for every member.
//! The number of lookups is bounded by [`LOOKUPS`](cas_core::limit::LOOKUPS),
//! [`LOOKUPS_BY_ENTRY`](cas_core::limit::LOOKUPS_BY_ENTRY) and
//! [`LOOKUPS_BY_NAME`](cas_core::limit::LOOKUPS_BY_NAME).

use std::os::fd::AsFd;
use std::rc::Rc;

use cas_core::Result;
use cas_host::{calls, open_beneath};
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::cost::check_links;
use super::dirs::{DIRECTORY, Dir};
use super::path::{depth, split};
use super::remove::remove;
use super::standalone::Origin;
use super::{Layer, os};

/// Why a directory is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To find something in it.
    Lookup,
    /// To add a member to it. Missing directories are created, also behind links.
    Member,
    /// To record a whiteout in it. Missing directories are created, but this alone is not a reason
    /// to keep them.
    Whiteout,
}

/// What is at a name.
enum Step {
    Into(Rc<Dir>),
    Link,
    /// Nothing that leads further: a directory must be created.
    Missing(Origin),
    /// Nothing that leads further, and no directory may be created.
    Nowhere,
}

/// The state of one walk.
struct Walk {
    purpose: Purpose,
    /// Number of links that were followed.
    links: usize,
}

/// The current place of a walk.
struct Place {
    dir: Rc<Dir>,
    /// Whether this walk created the directory, so that it is empty.
    new: bool,
}

impl Layer {
    /// Returns the directory at a clean path. Returns `None` if the directory does not exist and
    /// the purpose does not require one. Also returns `None` if the path of a whiteout leads
    /// through a file of this layer, or through a name that this layer hides.
    pub(super) fn directory(&mut self, path: &[u8], purpose: Purpose) -> Result<Option<Rc<Dir>>> {
        if let Some(found) = self.dirs.cached(path) {
            return Ok(Some(found.to));
        }
        let (above, name) = split(path);
        let (from, links, rest) = match self.dirs.cached(above) {
            Some(above) => (above.to, above.links, name),
            None => (self.dirs.root(), 0, path),
        };
        let mut walk = Walk { purpose, links };
        let found = self.walk(&mut walk, from, rest)?;
        if let Some(dir) = &found {
            self.dirs.cache(path, walk.links, dir);
        }
        Ok(found)
    }

    /// Walks from a directory along a path. Returns the directory there, or `None` as
    /// [`Layer::directory`] does.
    fn walk(&mut self, walk: &mut Walk, from: Rc<Dir>, path: &[u8]) -> Result<Option<Rc<Dir>>> {
        let names: Vec<&[u8]> = names(path).collect();
        let mut ahead = &names[..];
        let mut here = Place {
            dir: from,
            new: false,
        };
        while !ahead.is_empty() {
            let Some((next, count)) = self.advance(walk, &here, ahead)? else {
                return Ok(None);
            };
            here.dir.restore_times()?;
            here = next;
            ahead = &ahead[count..];
        }
        Ok(Some(here.dir))
    }

    /// Follows one or more of the names `ahead`. Returns the next place and how many names led to
    /// it, or `None` as [`Layer::directory`] does.
    fn advance(
        &mut self,
        walk: &mut Walk,
        here: &Place,
        ahead: &[&[u8]],
    ) -> Result<Option<(Place, usize)>> {
        let found = |dir, count| Ok(Some((Place { dir, new: false }, count)));
        let levels = ahead.iter().take_while(|&&name| name == b"..").count();
        if levels > 0 {
            // The layers below decide whether this directory exists, so that a path can leave it.
            if self.is_only_for_whiteouts(&here.dir) {
                self.require_parents();
            }
            let dir = self.above(&here.dir, levels)?;
            return found(dir, levels);
        }
        let ordinary = ahead.iter().take_while(|&&name| name != b"..").count();
        if !here.new
            && let Some((dir, count)) = self.reach(&here.dir, &ahead[..ordinary])?
        {
            return found(dir, count);
        }
        match self.step(&here.dir, ahead[0], walk.purpose)? {
            Step::Nowhere => Ok(None),
            Step::Into(dir) => found(dir, 1),
            Step::Link => {
                let target = self.follow(walk, &here.dir, ahead[0])?;
                target.map_or(Ok(None), |dir| found(dir, 1))
            }
            Step::Missing(origin) => {
                // Everything below a missing directory is missing.
                if !here.new {
                    self.cost.count_implied(ordinary)?;
                }
                let dir = self.make_implied(&here.dir, ahead[0], origin, walk.purpose)?;
                Ok(Some((Place { dir, new: true }, 1)))
            }
        }
    }

    /// Opens a directory along ordinary names, without following links. If the path of all names
    /// does not lead to a directory, tries again without the last name, then without the last 2, 4
    /// and so on, to need few calls. Returns the directory and how many names led to it, or `None`
    /// if no attempt finds one.
    fn reach(&mut self, from: &Dir, names: &[&[u8]]) -> Result<Option<(Rc<Dir>, usize)>> {
        let mut left_out = 0;
        while left_out < names.len() {
            let count = names.len() - left_out;
            self.cost.count_lookups(count)?;
            let path = names[..count].join(&b'/');
            match open_beneath(&from.fd, &path, DIRECTORY) {
                Ok(fd) => {
                    let dir = self.dirs.handle(fd, from.child(&path)?)?;
                    self.dirs.cache_on_the_way(&dir);
                    return Ok(Some((dir, count)));
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => {
                    left_out = (left_out * 2).max(1);
                }
                Err(errno) => return os(Err(errno)),
            }
        }
        Ok(None)
    }

    /// Returns what is at one name. For a member, first removes anything that is neither a
    /// directory nor a link.
    fn step(&mut self, dir: &Rc<Dir>, name: &[u8], purpose: Purpose) -> Result<Step> {
        self.cost.count_lookups(1)?;
        #[cfg(test)]
        if let Some(fd) = super::plant::follow(dir, name)? {
            return Ok(Step::Into(self.dirs.handle(fd, dir.child(name)?)?));
        }
        let found = match calls::statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => None,
            stat => Some(FileType::from_raw_mode(os(stat)?.st_mode)),
        };
        Ok(match (found, purpose) {
            (Some(FileType::Directory), _) => {
                let fd = os(open_beneath(&dir.fd, name, DIRECTORY))?;
                Step::Into(self.dirs.handle(fd, dir.child(name)?)?)
            }
            (Some(FileType::Symlink), _) => Step::Link,
            (_, Purpose::Lookup) | (Some(_), Purpose::Whiteout) => Step::Nowhere,
            (None, Purpose::Whiteout) if self.hides(dir, name) => Step::Nowhere,
            (Some(_), Purpose::Member) => {
                dir.mark_changed();
                remove(dir.fd.as_fd(), name)?;
                Step::Missing(Origin::Replaces)
            }
            (None, _) => Step::Missing(Origin::Implied),
        })
    }

    /// Walks to the directory that a link leads to. Returns it, or `None` as [`Layer::directory`]
    /// does.
    fn follow(&mut self, walk: &mut Walk, dir: &Rc<Dir>, name: &[u8]) -> Result<Option<Rc<Dir>>> {
        let link = dir.child(name)?;
        if let Some(known) = self.dirs.link(&link) {
            self.count_links(walk, known.links)?;
            return self.real(&known.to).map(Some);
        }
        self.count_links(walk, 1)?;
        let before = walk.links - 1;
        let target = os(calls::readlinkat(&dir.fd, name))?.into_bytes();
        let from = match target.first() {
            Some(b'/') => self.dirs.root(),
            _ => dir.clone(),
        };
        let found = self.walk(walk, from, &target)?;
        if let Some(to) = &found {
            self.dirs.remember_link(link, walk.links - before, to);
        }
        Ok(found)
    }

    /// Counts links that were followed. The layers below a standalone layer may have something else
    /// at the names that led there.
    fn count_links(&mut self, walk: &mut Walk, links: usize) -> Result<()> {
        walk.links += links;
        check_links(walk.links).inspect_err(|_| self.require_parents())
    }

    /// Opens the directory that is `levels` levels above another. The root is its own parent.
    fn above(&mut self, dir: &Dir, levels: usize) -> Result<Rc<Dir>> {
        let mut path = &dir.path[..];
        for _ in 0..levels {
            path = split(path).0;
        }
        self.real(path)
    }

    /// Opens the directory at a clean path without links.
    fn real(&mut self, path: &[u8]) -> Result<Rc<Dir>> {
        if let Some(found) = self.dirs.cached(path) {
            return Ok(found.to);
        }
        self.cost.count_lookups(depth(path))?;
        self.dirs.open(path)
    }
}

/// Returns the names of a path.
fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let names = path.split(|&byte| byte == b'/');
    names.filter(|name| !matches!(*name, b"" | b"."))
}

#[cfg(test)]
mod tests {
    use cas_core::ErrorKind;
    use cas_core::limit::{LOOKUPS, LOOKUPS_BY_ENTRY, LOOKUPS_BY_NAME};
    use testkit::archive::Tar;

    use super::*;
    use crate::tar::Reader;

    /// Returns the number of lookups for `tar` and 1000 more members, whose paths `path` returns.
    fn lookups(tar: Tar, path: impl Fn(usize) -> String) -> u64 {
        let tar = (0..1000).fold(tar, |tar, n| {
            tar.pax(&[("path", path(n).as_bytes())]).file("x", "")
        });
        let place = tempfile::tempdir_in("/dev/shm").unwrap();
        let tree = crate::apply::Tree::open(place.path()).unwrap();
        let mut layer = Layer::new(&tree).unwrap();
        layer.read(&mut Reader::new(&tar.end()[..])).unwrap();
        layer.cost.lookups
    }

    /// Returns an archive with a file in a directory `depth` levels deep, and the path of the
    /// directory. The archive also has 40 links: the first to the directory, each other one to the
    /// link before it.
    fn deep(depth: usize) -> (Tar, String) {
        let deep = "d/".repeat(depth);
        let tar = Tar::new().pax(&[("path", format!("{deep}file").as_bytes())]);
        let tar = tar.file("x", "").pax(&[("linkpath", deep.as_bytes())]);
        let tar = (2..=40).fold(tar.symlink("l1", "x"), |tar, n| {
            let target = format!("{deep}{}l{}", "../".repeat(depth), n - 1);
            tar.pax(&[("linkpath", target.as_bytes())])
                .symlink(format!("l{n}"), "x")
        });
        (tar, deep)
    }

    #[test]
    fn a_member_costs_a_few_lookups_however_long_the_way_is() {
        let of = |depth, path: &dyn Fn(&str, usize) -> String| {
            let (tar, deep) = deep(depth);
            lookups(tar, |n| path(&deep, n))
        };
        // All links are followed once. Their targets stay known when too many directories are open;
        // only the directories are opened again.
        let links = of(490, &|_, n| format!("l40/{n}/file"));
        assert!(links < 60_000 + 1000 * 20, "{links}");
        let same = of(490, &|_, n| format!("l40/same/{n}"));
        assert!(same < 60_000, "{same}");
        let last = of(500, &|deep, n| format!("{deep}{n}/file"));
        assert!(last < 60_000 + 1000 * 30, "{last}");
        // The path is opened in three calls, because two parents are missing.
        let two = of(500, &|deep, n| format!("{deep}{n}/below/file"));
        assert!(two < 60_000 + 1000 * 4 * 500, "{two}");
        let own = of(2, &|_, n| format!("{n}/a/b/c/d/e/f/file"));
        assert!(own < 1000 * 40, "{own}");
    }

    /// The bound is reached by members of a layer that has used up nearly all lookups.
    #[test]
    fn members_and_targets_of_hard_links_may_need_as_many_lookups_as_are_allowed_and_no_more() {
        for (member, entries, names) in [
            (Tar::new().file("a/b/new", ""), 1, 3),
            (Tar::new().file("a/b/.wh.file", ""), 1, 3),
            (Tar::new().hardlink("link", "a/b/file"), 2, 4),
        ] {
            let allowed = LOOKUPS + entries * LOOKUPS_BY_ENTRY + names * LOOKUPS_BY_NAME;
            let member = member.end();
            // Returns how many lookups the member needs after `before` others.
            let apply = |before| {
                let place = tempfile::tempdir_in("/dev/shm").unwrap();
                let tree = crate::apply::Tree::open(place.path()).unwrap();
                let below = Tar::new().file("a/b/file", "").end();
                let mut layer = Layer::new(&tree).unwrap();
                layer.read(&mut Reader::new(&below[..])).unwrap();
                let mut layer = Layer::new(&tree).unwrap();
                layer.cost.lookups = before;
                let read = layer.read(&mut Reader::new(&member[..]));
                read.map(|()| layer.cost.lookups - before)
            };
            let needed = apply(0).unwrap();
            assert!(needed > 0);
            apply(allowed - needed).unwrap();
            let error = apply(allowed - needed + 1).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
            let said = format!("more than the {allowed} lookups");
            assert!(error.to_string().contains(&said), "{error}");
        }
    }
}
