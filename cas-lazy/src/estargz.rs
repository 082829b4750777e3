//! eStargz: a layer of gzip members. Each member contains a file, a chunk of a file or several
//! small files. The last file of the tar is a table of contents. A footer states the offset of this
//! file.

use std::io::{BufReader, Read};

use cas_core::{Digest, Error, Result, limit};
use cas_layer::codec::{Compression, Decoder};
use cas_layer::tar::{Entry, EntryKind, Reader};

use crate::build::Counted;
use crate::layer_toc::{self, LayerToc, damaged};

/// Size in bytes of the footer, the last bytes of the layer.
pub const FOOTER: usize = 51;
/// Annotation of a layer's descriptor: the digest of the decompressed table of contents.
pub const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";

const NAME: &[u8] = b"stargz.index.json";
/// A gzip header with an extra field of 26 bytes, and that field's name and length.
const HEAD: [u8; 4] = [0x1f, 0x8b, 8, 4];
const EXTRA: [u8; 6] = [26, 0, b'S', b'G', 22, 0];
/// A last block without bytes, and the checksum and the length of its bytes, both zero.
const TAIL: [u8; 13] = [1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];

/// Reads the footer of a layer. `size` is the size of the layer in bytes. Returns the offset of the
/// table of contents in bytes, or `None` if the layer is not an eStargz layer.
///
/// # Errors
/// `Corrupt` if the offset in the footer is not before the footer.
pub fn footer(bytes: &[u8; FOOTER], size: u64) -> Result<Option<u64>> {
    let digits = str::from_utf8(&bytes[16..32]).ok();
    let digits = digits.filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let offset = digits.and_then(|text| u64::from_str_radix(text, 16).ok());
    let framed = bytes[..4] == HEAD && bytes[10..16] == EXTRA;
    let offset = offset.filter(|_| framed && &bytes[32..38] == b"STARGZ" && bytes[38..] == TAIL);
    match offset {
        Some(offset) if offset.saturating_add(FOOTER as u64) >= size => {
            Err(damaged("it does not begin before the footer").operation("read eStargz footer"))
        }
        offset => Ok(offset),
    }
}

/// Reads a table of contents. `compressed` contains the bytes of the layer from `offset`, which the
/// footer states, to the footer. `expected` is the digest in the annotation [`TOC_DIGEST`].
///
/// # Errors
/// `Corrupt` if the table is damaged, does not have the digest, or contradicts itself;
/// `Unsupported` if the version of the table is not 1; `OutOfRange` if the table has more bytes or
/// entries than [`limit`] allows.
pub fn decode(compressed: &[u8], offset: u64, expected: &Digest) -> Result<LayerToc> {
    table(compressed, offset, expected).map_err(|error| error.operation("read eStargz table"))
}

fn table(compressed: &[u8], offset: u64, expected: &Digest) -> Result<LayerToc> {
    own_file(compressed, offset, expected).map(|(toc, _)| toc)
}

/// The file in the tar whose content is the table of contents. The table does not list this file.
pub(crate) struct OwnFile {
    pub(crate) entry: Entry,
    /// Where the JSON begins in the decompressed bytes.
    pub(crate) inner: u64,
}

impl OwnFile {
    /// Checks the header of the file. No digest that is verified here covers the header: only the
    /// digest of the whole layer does. So the header must be the one that the writers of eStargz
    /// layers write: mode 0, owner 0, the beginning of 1970, and no attributes.
    ///
    /// # Errors
    /// `Unsupported` for any other header.
    pub(crate) fn check(&self) -> Result<()> {
        if self.entry == Entry::plain(NAME, EntryKind::File, 0, self.entry.size) {
            return Ok(());
        }
        Err(Error::unsupported(
            "no digest covers the tar header of stargz.index.json, so the header must describe a \
             regular file with the mode, owner, group and modification time 0, and without \
             extended attributes, but this header has other values; pull the whole layer, or \
             build the layer with another tool",
        ))
    }
}

/// Reads a table of contents as [`decode`] does. Returns the table and the file that contains it.
pub(crate) fn own_file(
    compressed: &[u8],
    offset: u64,
    expected: &Digest,
) -> Result<(LayerToc, OwnFile)> {
    let gzip = Decoder::with_budget(compressed, Compression::Gzip, limit::LAYER_TOC + 4096)?;
    let mut tar = Reader::new(Counted::new(BufReader::new(gzip)));
    let entry = tar.next_entry()?.filter(|entry| entry.path == NAME);
    let entry = entry.ok_or_else(|| damaged("it is not at the offset in the footer"))?;
    let inner = tar.get_ref().position();
    let json = bounded(&mut tar, entry.size)?;
    let found = Digest::of(expected.algorithm(), &json);
    if found != *expected {
        return Err(Error::corrupt(format!(
            "the table of contents has the digest {found}, expected {expected}; fetch it again"
        )));
    }
    let toc = layer_toc::decode(&json, offset)?;
    Ok((toc, OwnFile { entry, inner }))
}

/// Reads the JSON of a table that was declared to have `size` bytes.
pub(crate) fn bounded(from: &mut impl Read, size: u64) -> Result<Vec<u8>> {
    if size > limit::LAYER_TOC {
        return Err(Error::out_of_range(format!(
            "the table of contents has {size} bytes; at most {} are allowed; build the image with \
             fewer files",
            limit::LAYER_TOC
        )));
    }
    let mut json = Vec::new();
    from.take(limit::LAYER_TOC + 1).read_to_end(&mut json)?;
    match json.len() as u64 == size {
        true => Ok(json),
        false => Err(damaged("it does not have the declared size")),
    }
}
