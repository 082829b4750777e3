//! The rootfs of an ACI as a layer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use cas_core::content::Writer;
use cas_core::error::excerpt;
use cas_core::{Algorithm, Digest, Error, Hasher, Result, pool};
use cas_layer::tar::{Entry, EntryKind, Reader, Time};
use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};

use super::whitelist::Whitelist;
use crate::archive::{Place, place_of, rootfs_path};

/// Number of bytes that are stored in one piece.
const PIECE: usize = 256 << 10;
/// Maximum length in bytes of a name in the header of a tar.
const NAME: usize = 100;

/// Writes the rootfs in `archive` as a gzip layer, without the paths that a whitelist leaves out.
/// Returns the writer and the diff id.
///
/// # Errors
/// `Unsupported` for what a layer cannot express; `Cancelled` if `waiter` can no longer be
/// upgraded; errors of the archive and of the store.
pub(super) fn write(
    archive: impl Read,
    whitelists: &[Arc<Whitelist>],
    writer: Writer,
    waiter: Weak<()>,
) -> Result<(Writer, Digest)> {
    let sink = Sink {
        writer,
        waiter,
        buffer: Vec::with_capacity(PIECE),
    };
    let mut layer = Builder::new(Hashed {
        out: GzEncoder::new(sink, Compression::default()),
        hasher: Hasher::new(Algorithm::Sha256),
    });
    let mut reader = Reader::new(BufReader::with_capacity(PIECE, archive));
    while let Some(entry) = reader.next_entry()? {
        if let Place::Rootfs(path) = place_of(&entry)? {
            let copied = copy(&mut layer, &mut reader, &entry, &path, whitelists);
            copied
                .map_err(|error| error.subject(excerpt(&String::from_utf8_lossy(&entry.path))))?;
        }
    }
    let hashed = layer.into_inner()?;
    let mut sink = hashed.out.finish()?;
    sink.flush()?;
    Ok((sink.writer, hashed.hasher.finish()))
}

fn copy(
    layer: &mut Builder<impl Write>,
    reader: &mut Reader<impl BufRead>,
    entry: &Entry,
    path: &[u8],
    whitelists: &[Arc<Whitelist>],
) -> Result<()> {
    let is_allowed = |path: &[u8], is_directory| {
        whitelists
            .iter()
            .all(|list| list.allows(path, is_directory))
    };
    if !is_allowed(path, entry.kind == EntryKind::Directory) {
        return Ok(());
    }
    check_expressible(entry, path)?;
    let link = match &entry.kind {
        EntryKind::Hardlink(target) => {
            let target = rootfs_path(target)?;
            if !is_allowed(&target, false) {
                return Err(Error::unsupported(
                    "the pathWhitelist has a hard link but not its target; list both",
                ));
            }
            target
        }
        EntryKind::Symlink(target) => target.clone(),
        _ => Vec::new(),
    };
    let path = if path.is_empty() { &b"./"[..] } else { path };
    let mut pax = Pax::default();
    let mut header = header(entry);
    pax.put_long("path", path, &mut header.as_old_mut().name);
    pax.put_long("linkpath", &link, &mut header.as_old_mut().linkname);
    pax.put_time(entry.mtime, &mut header);
    for (name, value) in &entry.xattrs {
        pax.put_xattr(name, value)?;
    }
    let records = pax
        .records
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_slice()));
    if !pax.records.is_empty() {
        layer.append_pax_extensions(records)?;
    }
    header.set_cksum();
    if entry.kind == EntryKind::File {
        layer.append(&header, reader)?;
    } else {
        layer.append(&header, io::empty())?;
    }
    Ok(())
}

fn check_expressible(entry: &Entry, path: &[u8]) -> Result<()> {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    if name.starts_with(b".wh.") {
        return Err(Error::unsupported(
            "the name of a file begins with .wh., which a layer takes for a whiteout; rename it",
        ));
    }
    if entry.regions.is_some() {
        return Err(Error::unsupported(
            "the ACI has a sparse file; build it again without sparse files",
        ));
    }
    Ok(())
}

fn header(entry: &Entry) -> Header {
    let mut header = Header::new_ustar();
    header.set_mode(entry.mode);
    header.set_uid(u64::from(entry.uid));
    header.set_gid(u64::from(entry.gid));
    header.set_size(entry.size);
    let device = match &entry.kind {
        EntryKind::Char(device) | EntryKind::Block(device) => Some(*device),
        _ => None,
    };
    if let (Some(device), Some(ustar)) = (device, header.as_ustar_mut()) {
        ustar.set_device_major(device.major);
        ustar.set_device_minor(device.minor);
    }
    header.set_entry_type(match entry.kind {
        EntryKind::File => EntryType::Regular,
        EntryKind::Directory => EntryType::Directory,
        EntryKind::Symlink(_) => EntryType::Symlink,
        EntryKind::Hardlink(_) => EntryType::Link,
        EntryKind::Char(_) => EntryType::Char,
        EntryKind::Block(_) => EntryType::Block,
        EntryKind::Fifo => EntryType::Fifo,
    });
    header
}

/// The records of a pax header.
#[derive(Default)]
struct Pax {
    records: Vec<(String, Vec<u8>)>,
}

impl Pax {
    /// Writes a name into a field of the header, or into a record if it is too long.
    fn put_long(&mut self, key: &str, name: &[u8], field: &mut [u8; NAME]) {
        let length = name.len().min(NAME);
        field[..length].copy_from_slice(&name[..length]);
        if name.len() > NAME {
            self.records.push((key.to_owned(), name.to_vec()));
        }
    }

    /// Writes a time into the header, or into a record if it is not in whole seconds since 1970.
    fn put_time(&mut self, time: Time, header: &mut Header) {
        header.set_mtime(u64::try_from(time.seconds).unwrap_or(0));
        if time.seconds >= 0 && time.nanoseconds == 0 {
            return;
        }
        let nanoseconds = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
        let (sign, size) = (
            if nanoseconds < 0 { "-" } else { "" },
            nanoseconds.unsigned_abs(),
        );
        let text = format!("{sign}{}.{:09}", size / 1_000_000_000, size % 1_000_000_000);
        self.records.push(("mtime".to_owned(), text.into_bytes()));
    }

    fn put_xattr(&mut self, name: &[u8], value: &[u8]) -> Result<()> {
        let name = str::from_utf8(name).ok().filter(|name| !name.contains('='));
        let name = name.ok_or_else(|| {
            Error::unsupported(
                "the name of an extended attribute has a = or is not UTF-8; rename it",
            )
        })?;
        self.records
            .push((format!("SCHILY.xattr.{name}"), value.to_vec()));
        Ok(())
    }
}

/// Stores what is written.
struct Sink {
    writer: Writer,
    waiter: Weak<()>,
    buffer: Vec<u8>,
}

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(data);
        if self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.waiter.strong_count() == 0 {
            return Err(Error::cancelled("the caller no longer waits for the image").into());
        }
        let piece = Bytes::from(std::mem::take(&mut self.buffer));
        if !piece.is_empty() {
            pool::wait(self.writer.write(piece))?;
        }
        Ok(())
    }
}

/// Hashes what is written.
struct Hashed<W> {
    out: W,
    hasher: Hasher,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.out.write(data)?;
        self.hasher.update(&data[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
