//! The path of a blob's cell, and its value, which points to the parts with the blob's bytes.

use std::ops::Range;

use cas_core::content::{Stat, Version};
use cas_core::{Digest, Error, Result, limit};
use serde::{Deserialize, Serialize};

/// The folder of the cells.
pub(crate) const FOLDER: &str = "blobs/";
/// Length of every part but the last, in bytes.
pub(crate) const PART_SIZE: usize = 8 << 20;
/// Minimum accepted part size in bytes. Smaller parts would need a request for every few bytes.
const MIN_PART_SIZE: u64 = 64 << 10;

/// Returns the path of a blob's cell.
pub(crate) fn cell_path(digest: &Digest) -> String {
    format!("{FOLDER}{}/{}", digest.algorithm().name(), digest.hex())
}

/// Points to the parts of a blob. Stored as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pointer {
    pub(crate) version: u64,
    /// Length of the blob in bytes.
    pub(crate) size: u64,
    /// Length of every part but the last, in bytes.
    #[serde(rename = "part")]
    part_size: u64,
    /// The result of [`etags_digest`] for the written parts. In a directory, the inode and the time
    /// of change of a part take the place of its ETag. `None` if the service did not return all
    /// ETags, and in the pointers of older releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) etags: Option<Digest>,
    /// The digest of the blob. A cell that was replaced by the cell of another blob is thus
    /// recognized. `None` in the pointers of older releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) blob: Option<Digest>,
}

/// Returns the SHA-256 of the ETags of a blob's parts, each followed by a line feed, or `None` if
/// the service did not return all of them.
pub(crate) fn etags_digest<'a>(etags: impl IntoIterator<Item = Option<&'a str>>) -> Option<Digest> {
    let mut lines = String::new();
    for etag in etags {
        lines.push_str(etag?);
        lines.push('\n');
    }
    Some(Digest::sha256(lines.as_bytes()))
}

impl Pointer {
    pub(crate) fn new(version: u64, size: u64) -> Self {
        Pointer {
            version,
            size,
            part_size: PART_SIZE as u64,
            etags: None,
            blob: None,
        }
    }

    /// Parses the value of the cell of the blob `digest`.
    ///
    /// # Errors
    /// `Corrupt` if the value is not a pointer or the pointer of another blob, if the size of its
    /// parts is below the minimum or above [`limit::PART`], or if there are more than
    /// [`limit::PARTS`] parts.
    pub(crate) fn parse(value: &[u8], digest: &Digest) -> Result<Self> {
        let pointer = serde_json::from_slice(value).ok();
        let pointer = pointer.filter(|pointer: &Pointer| {
            let sizes = MIN_PART_SIZE..=limit::PART;
            sizes.contains(&pointer.part_size) && pointer.parts() <= limit::PARTS
        });
        let why = match pointer {
            Some(pointer) if pointer.blob.is_none_or(|blob| blob == *digest) => return Ok(pointer),
            Some(_) => "the object lists the parts of another blob",
            None => "the object does not list the parts of a blob",
        };
        Err(Error::corrupt(why)
            .advice("run `cas fsck --repair`")
            .operation("read")
            .subject(cell_path(digest)))
    }

    pub(crate) fn stat(&self, digest: &Digest) -> Stat {
        Stat {
            digest: *digest,
            size: self.size,
            version: Version(self.version),
        }
    }

    /// Returns the number of parts.
    pub(super) fn parts(&self) -> u64 {
        self.size.div_ceil(self.part_size)
    }

    /// Returns the number and the length of the last part, or `None` if the blob is empty.
    pub(super) fn last_part(&self) -> Option<(u64, u64)> {
        let last = self.parts().checked_sub(1)?;
        Some((last, self.size - last * self.part_size))
    }

    /// Returns the numbers of the parts that hold a range of the blob, and the range in each part.
    pub(crate) fn pieces(
        &self,
        range: Range<u64>,
    ) -> impl Iterator<Item = (u64, Range<u64>)> + use<> {
        let part_size = self.part_size;
        (range.start / part_size..range.end.div_ceil(part_size)).map(move |number| {
            let begin = number * part_size;
            let from = range.start.max(begin) - begin;
            (number, from..range.end.min(begin + part_size) - begin)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise, the arithmetic overflows, and a removal sends a request for each of 2^48 parts.
    #[test]
    fn a_pointer_to_too_many_or_too_large_parts_is_damaged() {
        let (most, part) = (limit::PARTS * limit::PART, limit::PART);
        for (size, part_size, is_right) in [
            (0, MIN_PART_SIZE, true),
            (most, part, true),
            (most + 1, part, false),
            (limit::PARTS * MIN_PART_SIZE, MIN_PART_SIZE, true),
            (limit::PARTS * MIN_PART_SIZE + 1, MIN_PART_SIZE, false),
            (1, part + 1, false),
            (1, MIN_PART_SIZE - 1, false),
            (u64::MAX, u64::MAX, false),
            (u64::MAX, MIN_PART_SIZE, false),
        ] {
            let value = format!("{{\"version\":1,\"size\":{size},\"part\":{part_size}}}");
            let parsed = Pointer::parse(value.as_bytes(), &Digest::sha256(b"blob"));
            assert_eq!(parsed.is_ok(), is_right, "{value}");
            if let Ok(pointer) = parsed {
                assert!(pointer.pieces(0..size).count() as u64 <= limit::PARTS);
            }
        }
    }

    #[test]
    fn pieces_make_up_the_range() {
        let part = PART_SIZE as u64;
        let pointer = Pointer::new(1, 3 * part - 5);
        let pieces = |range| pointer.pieces(range).collect::<Vec<_>>();
        assert_eq!(pieces(0..1), [(0, 0..1)]);
        assert_eq!(pieces(part - 1..part + 1), [(0, part - 1..part), (1, 0..1)]);
        assert_eq!(pieces(part..2 * part), [(1, 0..part)]);
        assert_eq!(pieces(2 * part..pointer.size), [(2, 0..part - 5)]);
        assert_eq!((pointer.parts(), Pointer::new(1, 0).parts()), (3, 0));
        assert_eq!(pointer.last_part(), Some((2, part - 5)));
    }
}
