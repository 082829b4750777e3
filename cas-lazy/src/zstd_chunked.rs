//! zstd:chunked: a layer of zstd frames, one for each file or chunk. A skippable frame contains a
//! table of contents. Annotations of the layer's descriptor state the position and the digest of
//! this table. The table is used only if the layer is read on demand. Otherwise, the layer is read
//! as plain zstd.

use std::collections::BTreeMap;

use cas_core::{Digest, Error, Result, limit};
use cas_layer::codec::{Compression, Decoder};
use serde::{Deserialize, Serialize};

use crate::estargz::bounded;
use crate::layer_toc::{self, LayerToc, damaged};

/// Size in bytes of the footer, the last bytes of the layer.
pub const FOOTER: usize = 64;
/// The beginnings of the keys of the annotations. stargz-snapshotter and older releases of podman,
/// buildah and skopeo write the second one.
const PREFIXES: [&str; 2] = [
    "io.github.containers.zstd-chunked",
    "io.containers.zstd-chunked",
];

const MAGIC: &[u8] = b"GNUlInUx";
/// The type of a table of contents that is JSON.
const CRFS: u64 = 1;

/// Returns what the annotations of a layer's descriptor state about its table of contents: the
/// digest of the compressed table, and its [`Position`] in the form `OFFSET:LENGTH:DECOMPRESSED:1`,
/// which is empty if it is missing. The last number is the type of the table: 1 is JSON. Returns
/// `None` if no annotation states a digest.
pub fn annotations(of_layer: &BTreeMap<String, String>) -> Option<(&str, &str)> {
    PREFIXES.iter().find_map(|prefix| {
        let digest = of_layer.get(&format!("{prefix}.manifest-checksum"))?;
        let position = of_layer.get(&format!("{prefix}.manifest-position"));
        Some((&**digest, position.map_or("", String::as_str)))
    })
}

/// The position of the table of contents in the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Offset of the compressed table in the layer, in bytes.
    pub offset: u64,
    /// Size of the compressed table in bytes.
    pub length: u64,
    /// Size of the decompressed table in bytes. Neither this size nor `length` exceeds
    /// [`limit::LAYER_TOC`].
    pub decompressed: u64,
}

impl Position {
    /// Reads `text`, the position that [`annotations`] returns. `size` is the size of the layer in
    /// bytes. Returns the position.
    ///
    /// # Errors
    /// `Corrupt` if the text is not a position in the layer; `Unsupported` if the type of the table
    /// is not 1; `OutOfRange` for a table of more than [`limit::LAYER_TOC`] bytes, compressed or
    /// decompressed.
    pub fn parse(text: &str, size: u64) -> Result<Position> {
        let numbers = text.split(':').map(|number| number.parse().ok());
        let numbers: Option<Vec<u64>> = numbers.collect();
        match numbers.as_deref() {
            Some(&[offset, length, decompressed, kind]) => {
                Position::new(offset, length, decompressed, kind, size)
            }
            _ => Err(damaged(
                "the annotation with its position is not four numbers",
            )),
        }
    }

    /// Reads the footer of a layer. `size` is the size of the layer in bytes. Returns the position
    /// of the table, or `None` if the layer is not in the format zstd:chunked.
    ///
    /// # Errors
    /// `Corrupt` if the position is not in the layer; `Unsupported` if the type of the table is not
    /// 1; `OutOfRange` for a table of more than [`limit::LAYER_TOC`] bytes, compressed or
    /// decompressed.
    pub fn of_footer(bytes: &[u8; FOOTER], size: u64) -> Result<Option<Position>> {
        let (numbers, magic) = bytes.split_at(FOOTER - MAGIC.len());
        if magic != MAGIC {
            return Ok(None);
        }
        let (numbers, _) = numbers.as_chunks::<8>();
        let [offset, length, decompressed, kind] =
            std::array::from_fn(|index| u64::from_le_bytes(numbers[index]));
        Position::new(offset, length, decompressed, kind, size).map(Some)
    }

    fn new(offset: u64, length: u64, decompressed: u64, kind: u64, size: u64) -> Result<Position> {
        if kind != CRFS {
            return Err(Error::unsupported(format!(
                "the table of contents has the type {kind}; only 1 is supported; build the layer \
                 again"
            )));
        }
        if length == 0 || offset.checked_add(length).is_none_or(|end| end > size) {
            return Err(damaged("its position is not in the layer"));
        }
        let larger = length.max(decompressed);
        if larger > limit::LAYER_TOC {
            return Err(Error::out_of_range(format!(
                "the table of contents has {larger} bytes; at most {} are allowed; build the \
                 image with fewer files",
                limit::LAYER_TOC
            )));
        }
        Ok(Position {
            offset,
            length,
            decompressed,
        })
    }
}

/// Reads a table of contents. `compressed` contains the bytes of the layer at `position`.
/// `expected` is the digest that [`annotations`] returns.
///
/// # Errors
/// `Corrupt` if the table is damaged, does not have the digest, or contradicts itself;
/// `Unsupported` if the version of the table is not 1; `OutOfRange` if the table decompresses to
/// more bytes than `position` states, or has more entries than [`limit`] allows.
pub fn decode(compressed: &[u8], position: Position, expected: &Digest) -> Result<LayerToc> {
    table(compressed, position, expected)
        .map_err(|error| error.operation("read zstd:chunked table"))
}

fn table(compressed: &[u8], position: Position, expected: &Digest) -> Result<LayerToc> {
    let found = Digest::of(expected.algorithm(), compressed);
    if found != *expected {
        return Err(Error::corrupt(format!(
            "the table of contents has the digest {found}, expected {expected}; fetch it again"
        )));
    }
    let mut zstd = Decoder::with_budget(compressed, Compression::Zstd, position.decompressed)?;
    let json = bounded(&mut zstd, position.decompressed)?;
    layer_toc::decode(&json, position.offset)
}
