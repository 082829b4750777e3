//! Reads zTOCs, and checks that their values are consistent.

use std::collections::BTreeMap;

use cas_core::{Algorithm, Digest, Error, Result, error::excerpt, limit};

use super::encode::VERSION;
use super::{BLOCK, FileKind, FileMetadata, Ztoc, time};
use crate::checkpoint;
use crate::flatbuffer::Table;

/// The number that stands for gzip as the algorithm of compression. A zTOC that does not state an
/// algorithm means gzip.
const GZIP: i8 = 1;
/// Bytes that a text takes in memory, in addition to its length.
const TEXT: u64 = 24;

pub(super) fn decode(bytes: &[u8]) -> Result<Ztoc> {
    if bytes.len() as u64 > limit::ZTOC {
        return Err(Error::out_of_range(format!(
            "the zTOC has {} bytes; at most {} are allowed; create it with larger spans",
            bytes.len(),
            limit::ZTOC
        )));
    }
    let root = Table::root(bytes)?;
    let version = root.bytes(0)?;
    if version != VERSION {
        return Err(Error::unsupported(format!(
            "the zTOC has the version \"{}\"; only 0.9 is supported; create it again",
            version
                .escape_ascii()
                .take(40)
                .map(char::from)
                .collect::<String>()
        )));
    }
    let mut texts = Texts { left: limit::ZTOC };
    let build_tool = String::from_utf8_lossy(&texts.take(root.bytes(1)?)?).into_owned();
    let (contents, compression) = root
        .table(4)?
        .zip(root.table(5)?)
        .ok_or_else(|| damaged("it has no table of contents or no spans"))?;
    if compression.i8(0, GZIP)? != GZIP {
        return Err(Error::unsupported(
            "the zTOC does not belong to a gzip layer; only zTOCs of gzip layers are supported",
        ));
    }
    let (span_size, checkpoints) = checkpoint::decode(compression.bytes(3)?)?;
    let digests = compression.texts(2)?;
    let spans = checkpoints.len();
    if digests.len() != spans || i64::from(compression.i32(1)?) + 1 != spans as i64 {
        return Err(damaged(
            "the numbers of spans, digests and checkpoints differ",
        ));
    }
    let ztoc = Ztoc {
        build_tool,
        compressed_size: number(root.i64(2)?)?,
        decompressed_size: number(root.i64(3)?)?,
        files: files(&contents, &mut texts)?,
        span_size,
        checkpoints,
        span_digests: digests.map(|text| digest(text?)).collect::<Result<_>>()?,
    };
    check(&ztoc)?;
    Ok(ztoc)
}

/// Checks the spans and the order of the members against the sizes.
fn check(ztoc: &Ztoc) -> Result<()> {
    let last = ztoc.checkpoints.last();
    if last.is_none_or(|last| last.compressed >= ztoc.compressed_size) {
        return Err(damaged("a span begins at or after the end of the layer"));
    }
    let mut next_header = 0;
    for file in &ztoc.files {
        // At least one header precedes the body.
        if file.offset % BLOCK != 0 || file.offset < next_header + BLOCK {
            return Err(overlap(file));
        }
        if file.offset + file.size > ztoc.decompressed_size {
            return Err(damaged(
                "the data of a member continues past the end of the tar",
            ));
        }
        next_header = file.next_header();
    }
    Ok(())
}

fn files(contents: &Table<'_>, texts: &mut Texts) -> Result<Vec<FileMetadata>> {
    let tables = contents.tables(0)?;
    let count = tables.len() as u64;
    if count > limit::ENTRIES {
        return Err(Error::out_of_range(format!(
            "the zTOC has {count} members; at most {} are allowed; build the image with fewer \
             files",
            limit::ENTRIES
        )));
    }
    let files = tables.map(|table| file(&table?, texts));
    let mut files: Vec<FileMetadata> = files.collect::<Result<_>>()?;
    files.sort_by_key(|file| file.offset);
    Ok(files)
}

fn file(from: &Table<'_>, texts: &mut Texts) -> Result<FileMetadata> {
    texts.charge(size_of::<FileMetadata>() as u64 / 4)?;
    let name = texts.take(from.bytes(0)?)?;
    if name.is_empty() || name.len() > limit::PATH || name.contains(&0) {
        return Err(damaged("a name is empty, too long, or has a NUL"));
    }
    let stated = from.bytes(1)?;
    let kind = FileKind::ALL.into_iter().find(|kind| kind.name() == stated);
    let kind = kind.ok_or_else(|| damaged("a member has an unknown type"))?;
    let mut records = BTreeMap::new();
    for record in from.tables(13)? {
        let record = record?;
        records.insert(texts.take(record.bytes(0)?)?, texts.take(record.bytes(1)?)?);
    }
    let link = texts.take(from.bytes(4)?)?;
    if link.len() > limit::PATH || link.contains(&0) {
        return Err(damaged("the target of a link is too long or has a NUL"));
    }
    Ok(FileMetadata {
        name,
        kind,
        offset: number(from.i64(2)?)?,
        // Some writers give a link the size of its target, but no bytes follow.
        size: match kind {
            FileKind::File => number(from.i64(3)?)?,
            _ => 0,
        },
        link,
        mode: from.i64(5)?,
        uid: from.u32(6)?,
        gid: from.u32(7)?,
        user: texts.take(from.bytes(8)?)?,
        group: texts.take(from.bytes(9)?)?,
        modified: modified(from.bytes(10)?)?,
        device: (from.i64(11)?, from.i64(12)?),
        records,
    })
}

fn modified(text: &[u8]) -> Result<Option<cas_layer::tar::Time>> {
    if text.is_empty() {
        return Ok(None);
    }
    let time = time::parse(text).ok_or_else(|| damaged("a time is not of the form of RFC 3339"))?;
    Ok(Some(time))
}

fn digest(text: &[u8]) -> Result<Digest> {
    let digest = str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    let digest = digest.filter(|digest: &Digest| digest.algorithm() == Algorithm::Sha256);
    digest.ok_or_else(|| damaged("a digest of a span is not a SHA-256 digest"))
}

/// Returns a size or an offset.
fn number(stored: i64) -> Result<u64> {
    let number = u64::try_from(stored)
        .ok()
        .filter(|&number| number <= limit::LAYER);
    number.ok_or_else(|| damaged("a size or an offset is out of range"))
}

/// The number of bytes that further texts may take in memory. A small zTOC can have large texts in
/// memory: many of its places may refer to the same text, and each of them gets a copy.
struct Texts {
    left: u64,
}

impl Texts {
    fn take(&mut self, text: &[u8]) -> Result<Vec<u8>> {
        self.charge(text.len() as u64 + TEXT)?;
        Ok(text.to_vec())
    }

    fn charge(&mut self, amount: u64) -> Result<()> {
        let left = self.left.checked_sub(amount);
        self.left = left.ok_or_else(|| {
            Error::out_of_range(format!(
                "the names and values in the zTOC take more than the {} bytes of memory allowed; \
                 build the image with fewer files",
                limit::ZTOC
            ))
        })?;
        Ok(())
    }
}

fn overlap(file: &FileMetadata) -> Error {
    let name = excerpt(&file.name.escape_ascii().to_string());
    damaged("two members overlap, or a member does not begin at a block boundary").subject(name)
}

fn damaged(what: &str) -> Error {
    Error::corrupt(format!("the zTOC is damaged: {what}; create it again"))
}
