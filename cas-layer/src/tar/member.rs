//! Merges a header and its extensions into one member.

use std::io::BufRead;

use cas_core::{Error, Result, limit};

use super::entry::{Device, Entry, EntryKind, Time};
use super::header::Header;
use super::message::{Excerpt, shown};
use super::pax::Pax;
use super::sparse::{self, Map};
use super::{Extensions, Reader};

/// The largest size in eleven octal digits. Some writers put it into the header of a file that is
/// larger and has its size in a pax record.
pub(super) const OCTAL: u64 = 0o777_7777_7777;

impl<R: BufRead> Reader<R> {
    /// Returns the member of `header`. Its body becomes the current body.
    pub(super) fn member(&mut self, header: &Header, waiting: Extensions) -> Result<Entry> {
        self.entries += 1;
        if self.entries > limit::ENTRIES {
            return Err(Error::out_of_range(format!(
                "the layer has more than the {} members allowed; build the image with fewer files",
                limit::ENTRIES
            )));
        }
        let mut pax = waiting.pax.unwrap_or_default();
        for odd in &pax.odd {
            self.warn(odd);
        }
        let sparse_name = pax.sparse.name.take();
        if let (Some(name), Some(path)) = (&sparse_name, &pax.path)
            && name != path
            && !path
                .split(|&byte| byte == b'/')
                .any(|part| part.starts_with(b"GNUSparseFile."))
        {
            self.warn(
                "the pax records of a sparse file give two names; GNU.sparse.name is used, but \
                 some readers use path",
            );
        }
        let path = match agreed("name", waiting.path, sparse_name.or(pax.path.take()))? {
            Some(path) => path,
            None => {
                let (path, warning) = header.path()?;
                warning.inspect(|warning| self.warn(warning));
                path
            }
        };
        let link = agreed("link target", waiting.link, pax.link.take())?;
        let link = link.unwrap_or_else(|| header.link().to_vec());
        check_path(&path)?;
        match header.type_flag() {
            b'0' if path.ends_with(b"/") => {
                self.warn("the name of a file ends with a slash; some readers make it a directory");
            }
            b'7' => {
                self.warn("a contiguous file is read as a regular file; some readers refuse it");
            }
            0 if path.ends_with(b"/") != header.has_slash() => {
                self.warn(
                    "the type flag of a member is a NUL, so the member is a directory if its name \
                     ends with a slash; only one of its full name and the name in its header ends \
                     with a slash; the full name is used, but some readers use the other name",
                );
            }
            _ => {}
        }
        let named = |error: Error| error.subject(Excerpt(&path));
        let kind = kind(header, &path, link).map_err(named)?;
        if pax.sparse.map.is_some() && pax.sparse.count.is_none() {
            self.warn("a sparse file does not state its number of regions; some readers refuse it");
        }
        for name in &pax.left_out {
            let path = Excerpt(&path);
            self.warn(&format!(
                "the xattr {name} of {path} is left out: Linux does not allow its name, or the \
                 length of its name or value"
            ));
        }
        let stored = self.stored(header, pax.size, &kind).map_err(named)?;
        let map = self.map(header, &pax, stored).map_err(named)?;
        if map.is_some() && kind != EntryKind::File {
            return Err(named(Error::corrupt(
                "the member has a sparse map, but is not a regular file; create the archive again",
            )));
        }
        if let Some(map) = &map {
            self.warn_of_sparse(header, map);
        }
        let (size, regions) = match map {
            Some(map) => (map.size, Some(map.regions)),
            None => (stored, None),
        };
        let number = |field, what| header.number(field, what).map_err(named);
        Ok(Entry {
            mode: (number(100..108, "mode")? & 0o7777) as u32,
            uid: id("owner", pax.uid, number(108..116, "uid")?).map_err(named)?,
            gid: id("group", pax.gid, number(116..124, "gid")?).map_err(named)?,
            mtime: match pax.mtime {
                Some(time) => time,
                None => Time {
                    seconds: number(136..148, "mtime")?,
                    nanoseconds: 0,
                },
            },
            path,
            kind,
            xattrs: pax.xattrs.into_iter().collect(),
            size,
            regions,
        })
    }

    /// Warns of a sparse file that some readers refuse or read differently.
    fn warn_of_sparse(&mut self, header: &Header, map: &Map) {
        let last = map.regions.last();
        if last.map(|last| last.offset + last.length) != Some(map.size) {
            self.warn(
                "the map of a sparse file does not reach the end of the file; some readers end the \
                 file with the map, or refuse it",
            );
        }
        if header.type_flag() == 0 {
            self.warn("the type flag of a sparse file is a NUL, not \"0\"; some readers refuse it");
        }
    }

    /// Returns the number of bytes stored for a member. The same number locates the next header.
    /// For a file, a size in a pax record takes precedence over the size in the header.
    ///
    /// Only files have bytes. Some writers give a link the size of its target, or a directory its
    /// size on disk, but no bytes follow.
    fn stored(&mut self, header: &Header, pax: Option<u64>, kind: &EntryKind) -> Result<u64> {
        if *kind != EntryKind::File {
            let declared = header.number(124..136, "size")?;
            // Without a record, all readers ignore the size of a hard link or a directory.
            let is_harmless = declared == 0 || matches!(header.type_flag(), b'1' | b'5');
            if !is_harmless || pax.is_some_and(|size| size != 0) {
                self.warn(
                    "a member that is not a file has a size, which is ignored; some readers skip \
                     that many bytes",
                );
            }
            return Ok(0);
        }
        let declared = header.size()?;
        let size = pax.unwrap_or(declared);
        if ![0, OCTAL, size].contains(&declared) {
            self.warn(
                "a pax record and a header give two sizes; the record is used, but some readers \
                 use the header",
            );
        }
        check_size(size)?;
        Ok(size)
    }

    /// Makes the stored bytes the current body. Returns the map of a sparse file, or `None` for
    /// any other member. If the stored bytes begin with the map, it is read and does not belong to
    /// the body.
    fn map(&mut self, header: &Header, pax: &Pax, stored: u64) -> Result<Option<Map>> {
        if header.type_flag() == b'S' {
            if pax.sparse.is_some() {
                return Err(Error::corrupt(
                    "the file has sparse maps of two formats; create the archive again",
                ));
            }
            let map = sparse::old_gnu(header, || match self.block()? {
                Some(block) => Ok(block),
                None => Err(Error::corrupt(
                    "the archive ends in a sparse map; get an intact copy, or create it again",
                )),
            })?;
            self.begin(stored);
            return map.check(stored).map(Some);
        }
        self.begin(stored);
        if !pax.sparse.is_some() {
            return Ok(None);
        }
        let size = pax.sparse.size;
        let size = size.ok_or_else(|| {
            Error::corrupt(
                "the pax records of the sparse file do not give its full size; create the archive \
                 again",
            )
        })?;
        let map = match &pax.sparse.map {
            None if pax.sparse.in_body => sparse::in_body(size, || self.body_block())?,
            Some(regions) if !pax.sparse.in_body => Map {
                regions: regions.clone(),
                size,
            },
            None if stored == 0 => Map {
                regions: Vec::new(),
                size,
            },
            _ => {
                return Err(Error::corrupt(
                    "the sparse file must have exactly one map; create the archive again",
                ));
            }
        };
        let count = map.regions.len() as u64;
        if let Some(declared) = pax.sparse.count.filter(|declared| *declared != count) {
            return Err(Error::corrupt(format!(
                "the declared number of sparse regions is {declared}, but the sparse map has \
                 {count}; create the archive again"
            )));
        }
        map.check(self.body).map(Some)
    }
}

/// Returns the value of the GNU or the pax extension. If there are both, they must agree.
fn agreed(what: &str, gnu: Option<Vec<u8>>, pax: Option<Vec<u8>>) -> Result<Option<Vec<u8>>> {
    match (gnu, pax) {
        (Some(gnu), Some(pax)) if gnu != pax => Err(Error::corrupt(format!(
            "the {what} of a member is {} in a GNU extension and {} in a pax extension; create \
             the archive again",
            shown(&gnu),
            shown(&pax)
        ))),
        (gnu, pax) => Ok(pax.or(gnu)),
    }
}

fn kind(header: &Header, path: &[u8], link: Vec<u8>) -> Result<EntryKind> {
    Ok(match header.type_flag() {
        0 if path.ends_with(b"/") => EntryKind::Directory,
        0 | b'0' | b'7' => EntryKind::File,
        b'S' if header.is_gnu() => EntryKind::File,
        b'1' => EntryKind::Hardlink(target(&link).map(|()| link)?),
        b'2' => EntryKind::Symlink(target(&link).map(|()| link)?),
        b'3' => EntryKind::Char(device(header)?),
        b'4' => EntryKind::Block(device(header)?),
        b'5' => EntryKind::Directory,
        b'6' => EntryKind::Fifo,
        other => {
            return Err(Error::corrupt(format!(
                "unknown tar type flag {}; create the archive without such members",
                shown(&[other])
            )));
        }
    })
}

/// Checks the length of the target of a link.
pub(super) fn target(link: &[u8]) -> Result<()> {
    if link.is_empty() || link.len() >= limit::PATH {
        return Err(Error::corrupt(format!(
            "the link target has {} bytes; 1 to {} are allowed; use another target",
            link.len(),
            limit::PATH - 1
        )));
    }
    Ok(())
}

fn device(header: &Header) -> Result<Device> {
    let (major, minor) = header.device()?;
    check_device(major, minor)
}

/// Returns the device with these numbers, if Linux allows them.
pub(super) fn check_device(major: i64, minor: i64) -> Result<Device> {
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major @ 0..=0xfff), Ok(minor @ 0..=0xf_ffff)) => Ok(Device { major, minor }),
        _ => Err(Error::out_of_range(format!(
            "the device number is {major}:{minor}; at most 4095:1048575 is allowed; build the \
             image without the device"
        ))),
    }
}

fn id(what: &str, pax: Option<u64>, header: i64) -> Result<u32> {
    check_id(what, pax.map_or(i128::from(header), i128::from))
}

/// Returns a user or group id, if Linux allows it. The largest 32-bit number means "unchanged" to
/// the kernel.
pub(super) fn check_id(what: &str, found: i128) -> Result<u32> {
    let id = u32::try_from(found).ok().filter(|&id| id != u32::MAX);
    id.ok_or_else(|| {
        Error::out_of_range(format!(
            "the {what} is {found}; 0 to 4294967294 are allowed; build the image with other ids"
        ))
    })
}

/// Checks the size of a file that is not sparse.
pub(super) fn check_size(size: u64) -> Result<()> {
    if size > limit::LAYER {
        return Err(Error::out_of_range(format!(
            "the file has {size} bytes; at most {} are allowed; split it",
            limit::LAYER
        )));
    }
    Ok(())
}

/// Checks the length of a path, the lengths of its names, and their number.
pub(super) fn check_path(path: &[u8]) -> Result<()> {
    let fail = |why: String| Err(Error::out_of_range(why).subject(Excerpt(path)));
    if path.len() > limit::PATH {
        return fail(format!(
            "the path has {} bytes; at most {} are allowed; use a shorter path",
            path.len(),
            limit::PATH
        ));
    }
    let names = || {
        path.split(|&byte| byte == b'/')
            .filter(|name| !matches!(*name, b"" | b"."))
    };
    if let Some(name) = names().find(|name| name.len() > limit::COMPONENT) {
        return fail(format!(
            "a component of the path has {} bytes; at most {} are allowed; use a shorter name",
            name.len(),
            limit::COMPONENT
        ));
    }
    if names().count() > limit::PATH_DEPTH {
        return fail(format!(
            "the path has more than the {} components allowed; use fewer nested directories",
            limit::PATH_DEPTH
        ));
    }
    Ok(())
}
