//! Converts the members that a table of contents describes to entries of a tar.

use cas_core::{Error, Result, limit};
use cas_layer::apply::path::clean;
use cas_layer::apply::{Action, CAPABILITY, check_capability};
use cas_layer::tar::{Device, Entry, EntryKind, Excerpt, Reader, Time};

use super::Member;
use crate::layer_toc::{LayerFile, LayerToc};
use crate::ztoc::{BLOCK, FileKind, FileMetadata, Ztoc};

/// Maximum number of bytes of the headers of one member. A pax header of [`limit::PAX`] bytes, long
/// names and the other headers fit, with their padding.
const HEADERS: u64 = 4 * limit::PAX;

const XATTR: &[u8] = b"SCHILY.xattr.";
/// Permission bits with setuid, setgid and sticky.
const MODE: i64 = 0o7777;
/// The id that means "unchanged" to the kernel.
const UNCHANGED: u32 = u32::MAX;

pub(super) fn of_ztoc(ztoc: &Ztoc) -> Result<Vec<Member>> {
    let mut header = 0;
    let members = ztoc.files.iter().map(|file| {
        if file.offset - header > HEADERS {
            return Err(unusable("the length of the headers").subject(Excerpt(&file.name)));
        }
        header = file.next_header();
        let entry = entry_of_ztoc(file).and_then(checked);
        let entry = entry.map_err(|error| error.subject(Excerpt(&file.name)))?;
        let offset = file.offset;
        Ok(Member { entry, offset })
    });
    members.collect()
}

fn entry_of_ztoc(file: &FileMetadata) -> Result<Entry> {
    let number = |stated: i64| u32::try_from(stated).map_err(|_| unusable("the device number"));
    let device = Device {
        major: number(file.device.0)?,
        minor: number(file.device.1)?,
    };
    let xattrs = file.records.iter().filter_map(|(key, value)| {
        let name = key.strip_prefix(XATTR).filter(|_| !value.is_empty())?;
        Some((name.to_vec(), value.clone()))
    });
    Ok(Entry {
        path: file.name.clone(),
        kind: kind(file.kind, file.link.clone(), device),
        mode: (file.mode & MODE) as u32,
        uid: id(file.uid)?,
        gid: id(file.gid)?,
        mtime: file.modified.ok_or_else(|| unusable("the time"))?,
        xattrs: xattrs.collect(),
        size: file.size,
        regions: None,
    })
}

/// Returns the members, whose contents follow one another in the data file, and the length of the
/// data file.
pub(super) fn of_toc(toc: &LayerToc) -> Result<(Vec<Member>, u64)> {
    let mut members = Vec::with_capacity(toc.files.len());
    let mut end = 0_u64;
    for file in &toc.files {
        let entry = entry_of_toc(file).and_then(checked);
        let entry = entry.map_err(|error| error.subject(Excerpt(file.name.as_bytes())))?;
        members.push(Member { entry, offset: end });
        end = (end + file.size).next_multiple_of(BLOCK);
        if end > limit::LAYER {
            return Err(Error::out_of_range(format!(
                "the files of the layer have more than the {} bytes allowed; build the image with \
                 smaller layers",
                limit::LAYER
            )));
        }
    }
    Ok((members, end))
}

fn entry_of_toc(file: &LayerFile) -> Result<Entry> {
    let (major, minor) = file.device;
    let xattrs = file.xattrs.iter();
    Ok(Entry {
        path: file.name.clone().into_bytes(),
        kind: kind(
            file.kind,
            file.link.clone().into_bytes(),
            Device { major, minor },
        ),
        mode: (file.mode & MODE) as u32,
        uid: id(file.uid)?,
        gid: id(file.gid)?,
        mtime: file.modified.unwrap_or(Time {
            seconds: 0,
            nanoseconds: 0,
        }),
        xattrs: xattrs
            .map(|(name, value)| (name.clone().into_bytes(), value.clone()))
            .collect(),
        size: file.size,
        regions: None,
    })
}

fn kind(kind: FileKind, link: Vec<u8>, device: Device) -> EntryKind {
    match kind {
        FileKind::File => EntryKind::File,
        FileKind::Directory => EntryKind::Directory,
        FileKind::Symlink => EntryKind::Symlink(link),
        FileKind::Hardlink => EntryKind::Hardlink(link),
        FileKind::Char => EntryKind::Char(device),
        FileKind::Block => EntryKind::Block(device),
        FileKind::Fifo => EntryKind::Fifo,
    }
}

/// Returns a member if it can be a member of a tar, and if a layer with it can be applied. The layers
/// below, and the other members of the layer, are not considered.
fn checked(entry: Entry) -> Result<Entry> {
    entry.check()?;
    Action::of(&entry, &clean(&entry.path))?;
    for (_, value) in entry.xattrs.iter().filter(|(name, _)| name == CAPABILITY) {
        check_capability(value)?;
    }
    Ok(entry)
}

fn id(stated: u32) -> Result<u32> {
    match stated {
        UNCHANGED => Err(unusable("the owner")),
        id => Ok(id),
    }
}

fn unusable(what: &str) -> Error {
    Error::unsupported(format!(
        "{what} of a member is missing or out of range, so the layer cannot be read on demand; \
         pull the image without loading it on demand"
    ))
}

/// Returns whether the headers of a tar describe another member than `stated`.
///
/// # Errors
/// `Corrupt` if the headers are damaged; `OutOfRange` if a bound of [`limit`] is exceeded, or an
/// owner or a device number is out of range.
pub(super) fn header_differs(header: &[u8], stated: &Entry) -> Result<bool> {
    let found = Reader::new(header).next_entry()?;
    Ok(found.as_ref() != Some(stated))
}
