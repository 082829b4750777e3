//! The rootfs of an ACI as a layer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::{Arc, Weak};

use cas_core::content::{Sink, Writer};
use cas_core::error::excerpt;
use cas_core::{Algorithm, Digest, Error, Hasher, Result};
use cas_layer::apply::Whiteout;
use cas_layer::tar::{self, Entry, EntryKind, Reader};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::whitelist::Whitelist;
use crate::archive::{Place, place_of, rootfs_path};

/// Number of bytes that are read in one piece.
const PIECE: usize = 256 << 10;

/// Writes the rootfs in `archive` as a gzip layer, without the paths that a whitelist leaves out.
/// Returns the writer and the diff ID.
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
    let sink = Sink::new(writer, waiter);
    let mut layer = tar::Writer::new(Hashed {
        out: GzEncoder::new(sink, Compression::default()),
        hasher: Hasher::new(Algorithm::Sha256),
    });
    let mut reader = Reader::new(BufReader::with_capacity(PIECE, archive));
    while let Some(entry) = reader.next_entry()? {
        if let Place::Rootfs(path) = place_of(&entry)? {
            let copied = copy(&mut layer, &mut reader, &entry, path, whitelists);
            copied
                .map_err(|error| error.subject(excerpt(&String::from_utf8_lossy(&entry.path))))?;
        }
    }
    let hashed = layer.finish()?;
    let writer = hashed.out.finish()?.finish()?;
    Ok((writer, hashed.hasher.finish()))
}

fn copy(
    layer: &mut tar::Writer<impl Write>,
    reader: &mut Reader<impl BufRead>,
    entry: &Entry,
    path: Vec<u8>,
    whitelists: &[Arc<Whitelist>],
) -> Result<()> {
    let is_allowed = |path: &[u8], is_directory| {
        whitelists
            .iter()
            .all(|list| list.allows(path, is_directory))
    };
    if !is_allowed(&path, entry.kind == EntryKind::Directory) {
        return Ok(());
    }
    check_expressible(entry, &path)?;
    let kind = match &entry.kind {
        EntryKind::Hardlink(target) => {
            let target = rootfs_path(target)?;
            if !is_allowed(&target, false) {
                return Err(Error::unsupported(
                    "the pathWhitelist has a hard link but not its target; list both",
                ));
            }
            EntryKind::Hardlink(target)
        }
        kind => kind.clone(),
    };
    let path = if path.is_empty() {
        b"./".to_vec()
    } else {
        path
    };
    let member = Entry {
        path,
        kind,
        ..entry.clone()
    };
    layer.append(&member, reader)
}

fn check_expressible(entry: &Entry, path: &[u8]) -> Result<()> {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    Whiteout::check_file(name)?;
    if entry.regions.is_some() {
        return Err(Error::unsupported(
            "the ACI has a sparse file; build it again without sparse files",
        ));
    }
    Ok(())
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
