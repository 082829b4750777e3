//! The table of contents inside a layer in the format eStargz or zstd:chunked. It is JSON. A file
//! that is not empty has one chunk or several. Each chunk has a digest, except chunks of zeros. If
//! a file has only one chunk, the table may state the digest of the file instead of the chunk's.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cas_core::{Algorithm, Digest, Error, Result, error::malformed, limit};
use cas_layer::tar::Time;
use serde::Deserialize;

use crate::FileKind;
use crate::ztoc::parse_time;

/// A table of contents of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerToc {
    /// The members of the tar, in the order of the table. The file that contains the table is not
    /// one of them.
    pub files: Vec<LayerFile>,
}

/// A member of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerFile {
    /// The path as written in the table.
    pub name: String,
    /// The type of the member.
    pub kind: FileKind,
    /// Size of the file in bytes; zero for everything that is not a file.
    pub size: u64,
    /// The target of a symbolic or a hard link.
    pub link: String,
    /// The mode, as in the tar header.
    pub mode: i64,
    /// Id of the owner.
    pub uid: u32,
    /// Id of the group.
    pub gid: u32,
    /// Time of the last modification, if it is known.
    pub modified: Option<Time>,
    /// Major and minor number of a device; without meaning for everything that is not a device.
    pub device: (u32, u32),
    /// Extended attributes, name and value.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// Digest of the whole file, if the table has it.
    pub digest: Option<Digest>,
    /// The chunks of the file, in order. Together they cover the whole file. An empty file has no
    /// chunks.
    pub chunks: Vec<Chunk>,
}

/// A part of a file, compressed on its own or in one stream with other chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Offset in the layer at which the compressed stream with the chunk begins. `None` for a chunk
    /// that has only zeros.
    pub compressed: Option<u64>,
    /// Number of bytes before the chunk in the decompressed stream.
    pub inner: u64,
    /// Offset of the chunk in the file in bytes.
    pub offset: u64,
    /// Size of the chunk in bytes.
    pub size: u64,
    /// Digest of the decompressed bytes. `None` for a chunk that has only zeros.
    pub digest: Option<Digest>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Stored {
    version: i64,
    #[serde(default)]
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
struct Entry {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    size: u64,
    #[serde(default, rename = "modtime")]
    modified: Option<String>,
    #[serde(default)]
    link_name: String,
    #[serde(default)]
    mode: i64,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
    #[serde(default)]
    dev_major: u32,
    #[serde(default)]
    dev_minor: u32,
    #[serde(default)]
    xattrs: Option<BTreeMap<String, String>>,
    #[serde(default)]
    digest: String,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    inner_offset: u64,
    #[serde(default)]
    chunk_offset: u64,
    #[serde(default)]
    chunk_size: u64,
    #[serde(default)]
    chunk_digest: String,
    #[serde(default)]
    chunk_type: String,
}

/// Reads the JSON of a table. `end` is an offset in the layer. The compressed streams of all chunks
/// must begin before it.
///
/// # Errors
/// `Corrupt` if the JSON does not parse, or has an invalid name, size, offset or digest;
/// `Unsupported` for another version; `OutOfRange` for more than [`limit::ENTRIES`] entries.
pub(crate) fn decode(json: &[u8], end: u64) -> Result<LayerToc> {
    let stored: Stored = serde_json::from_slice(json)
        .map_err(|error| malformed("not a valid table of contents", &error))?;
    if stored.version != 1 {
        return Err(Error::unsupported(format!(
            "the table of contents has the version {}; only 1 is supported; build the layer again",
            stored.version
        )));
    }
    if stored.entries.len() as u64 > limit::ENTRIES {
        return Err(Error::out_of_range(format!(
            "the table of contents has {} entries; at most {} are allowed; build the image with \
             fewer files",
            stored.entries.len(),
            limit::ENTRIES
        )));
    }
    let mut files: Vec<LayerFile> = Vec::new();
    for entry in stored.entries {
        match entry.kind.as_str() {
            "chunk" => {
                let last = files.last_mut().filter(|file| file.name == entry.name);
                let file = last.ok_or_else(|| damaged("a chunk does not follow its file"))?;
                push(file, &entry, end)?;
            }
            _ => {
                files.last().map_or(Ok(()), complete)?;
                files.push(file(&entry, end)?);
            }
        }
    }
    files.last().map_or(Ok(()), complete)?;
    Ok(LayerToc { files })
}

/// Returns the member that an entry describes. The entry must not have the type `chunk`. If the
/// member is a file that is not empty, the same entry describes its first chunk.
fn file(entry: &Entry, end: u64) -> Result<LayerFile> {
    let known = FileKind::ALL.into_iter();
    let kind = known
        .clone()
        .find(|kind| kind.name() == entry.kind.as_bytes());
    let kind = kind.ok_or_else(|| damaged("a member has an unknown type"))?;
    let (name, link) = (&entry.name, &entry.link_name);
    if name.is_empty() || name.len().max(link.len()) > limit::PATH {
        return Err(damaged("a path is empty or too long"));
    }
    if name.contains('\0') || link.contains('\0') {
        return Err(damaged("a path contains a NUL byte"));
    }
    let modified = entry.modified.as_deref().filter(|text| !text.is_empty());
    let modified = modified.map(|text| {
        let time = parse_time(text.as_bytes());
        time.ok_or_else(|| damaged("a time is not of the form of RFC 3339"))
    });
    let mut file = LayerFile {
        name: name.clone(),
        kind,
        size: match kind {
            FileKind::File => entry.size,
            _ => 0,
        },
        link: link.clone(),
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        modified: modified.transpose()?,
        device: (entry.dev_major, entry.dev_minor),
        xattrs: xattrs(entry)?,
        digest: digest(&entry.digest)?,
        chunks: Vec::new(),
    };
    if file.size > limit::LAYER {
        return Err(damaged("a size is out of range"));
    }
    if file.size > 0 {
        push(&mut file, entry, end)?;
    }
    Ok(file)
}

/// Returns the extended attributes, whose values are stored in base64.
fn xattrs(entry: &Entry) -> Result<BTreeMap<String, Vec<u8>>> {
    let decoded = |(name, value): (&String, &String)| {
        let value = STANDARD.decode(value);
        let value = value.map_err(|_| damaged("an extended attribute is not in base64"))?;
        Ok((name.clone(), value))
    };
    entry.xattrs.iter().flatten().map(decoded).collect()
}

/// Adds a chunk to a file. A chunk without a size extends to the end of the file.
fn push(file: &mut LayerFile, entry: &Entry, end: u64) -> Result<()> {
    let offset = covered(file);
    let left = file.size - offset;
    let size = match entry.chunk_size {
        0 => left,
        size => size,
    };
    if file.kind != FileKind::File || entry.chunk_offset != offset || size == 0 || size > left {
        return Err(damaged(
            "the chunks of a file overlap, leave gaps, or extend beyond the end of the file",
        ));
    }
    let zeros = match entry.chunk_type.as_str() {
        "" => false,
        "zeros" => true,
        _ => return Err(damaged("a chunk has an unknown type")),
    };
    let stated = digest(&entry.chunk_digest)?;
    let whole = file.digest.filter(|_| size == file.size);
    let chunk = Chunk {
        compressed: (!zeros).then_some(entry.offset),
        inner: entry.inner_offset,
        offset,
        size,
        digest: stated.or(whole).filter(|_| !zeros),
    };
    if !zeros && chunk.digest.is_none() {
        return Err(damaged("a chunk has no digest"));
    }
    if !zeros && entry.offset >= end || entry.inner_offset > limit::LAYER {
        return Err(damaged("the offset of a chunk is out of range"));
    }
    file.chunks.push(chunk);
    Ok(())
}

/// Checks that the chunks of a file together have its size.
fn complete(file: &LayerFile) -> Result<()> {
    if covered(file) != file.size {
        return Err(damaged("the chunks of a file do not cover the whole file"));
    }
    Ok(())
}

/// Returns how many bytes of a file are in the chunks that were added so far.
fn covered(file: &LayerFile) -> u64 {
    file.chunks.last().map_or(0, |last| last.offset + last.size)
}

fn digest(text: &str) -> Result<Option<Digest>> {
    if text.is_empty() {
        return Ok(None);
    }
    let digest = Digest::from_text_or_hex(text).ok();
    let digest = digest.filter(|digest| digest.algorithm() == Algorithm::Sha256);
    digest
        .map(Some)
        .ok_or_else(|| damaged("a digest is not a SHA-256 digest"))
}

pub(crate) fn damaged(what: &str) -> Error {
    Error::corrupt(format!(
        "the table of contents is damaged: {what}; build the layer again"
    ))
}
