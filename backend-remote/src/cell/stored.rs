//! How a cell is stored in an object.
//!
//! ```text
//! NONCE" +\n"VALUE"\n"NONCE    a nonce is 32 random hex digits; each write has a new nonce
//! NONCE" -\n\n"NONCE           a deleted cell has no value
//! ```
//! Text in quotes is stored literally. NONCE and VALUE stand for their bytes.

use bytes::{Bytes, BytesMut};
use cas_core::Result;
use cas_core::records::Revision;

use crate::error::foreign_object;
use crate::nonce::NONCE;
use crate::prefix::{Object, Prefix};

/// Number of bytes before a value.
const HEAD: usize = NONCE + 3;
/// Number of bytes after a value.
const TAIL: usize = NONCE + 1;
/// Number of bytes of a deleted cell.
#[cfg(feature = "s3")]
pub(super) const DELETED: usize = HEAD + TAIL;
/// Maximum number of reads of an object before it counts as damaged. An object that changes while
/// it is read looks damaged, too.
const READS: usize = 3;

/// A cell with a value.
pub(crate) struct Cell {
    pub(crate) value: Bytes,
    pub(crate) revision: Revision,
}

/// The content of an object.
pub(super) struct StoredCell {
    pub(super) nonce: String,
    /// `None` if the cell was deleted.
    pub(super) value: Option<Bytes>,
}

/// Reads a cell and its object. Returns `None` if the object does not exist.
///
/// # Errors
/// `Corrupt` if the object is not a cell, or changes during each of [`READS`] reads; errors of the
/// service.
pub(super) async fn read(prefix: &Prefix, path: &str) -> Result<Option<(StoredCell, Object)>> {
    for _ in 0..READS {
        let Some(object) = prefix.get(path).await? else {
            return Ok(None);
        };
        if let Some(cell) = decode(&object.body) {
            return Ok(Some((cell, object)));
        }
    }
    Err(foreign_object(path))
}

/// Returns the body of a cell. If `value` is `None`, returns the body of a deleted cell.
pub(super) fn encode(nonce: &str, value: Option<&Bytes>) -> Bytes {
    let kept = value.map_or(&[][..], |value| value);
    let mut body = BytesMut::with_capacity(HEAD + kept.len() + TAIL);
    body.extend_from_slice(nonce.as_bytes());
    body.extend_from_slice(if value.is_some() { b" +\n" } else { b" -\n" });
    body.extend_from_slice(kept);
    body.extend_from_slice(b"\n");
    body.extend_from_slice(nonce.as_bytes());
    body.freeze()
}

/// Decodes a cell. Returns `None` if the body is not a cell. If the object changed while it was
/// read, the nonces at both ends differ, and this function returns `None`, too.
pub(super) fn decode(body: &Bytes) -> Option<StoredCell> {
    let end = body.len().checked_sub(TAIL).filter(|end| *end >= HEAD)?;
    let nonce = std::str::from_utf8(&body[..NONCE]).ok()?.to_owned();
    let whole = body[end] == b'\n' && body[end + 1..] == *nonce.as_bytes();
    let value = match &body[NONCE..HEAD] {
        b" +\n" => Some(body.slice(HEAD..end)),
        b" -\n" if end == HEAD => None,
        _ => return None,
    };
    whole.then_some(StoredCell { nonce, value })
}

#[cfg(test)]
mod tests {
    use crate::nonce::nonce;

    use super::*;

    #[test]
    fn a_body_read_across_a_change_is_not_a_cell() {
        let (one, other) = (nonce().unwrap(), nonce().unwrap());
        for value in [None, Some(Bytes::new()), Some(Bytes::from_static(b"a\nb"))] {
            let body = encode(&one, value.as_ref());
            assert_eq!(decode(&body).unwrap().value, value);
            let later = encode(&other, value.as_ref());
            let mixed = [&body[..HEAD], &later[HEAD..]].concat();
            assert!(decode(&mixed.into()).is_none());
            assert!(decode(&body.slice(..body.len() - 1)).is_none());
        }
    }

    /// Found by fuzzing. If damage turns the `+` of a cell into a `-`, the cell must not count as
    /// deleted.
    #[test]
    fn a_deleted_cell_with_a_value_is_damaged() {
        let nonce = nonce().unwrap();
        let body = encode(&nonce, Some(&Bytes::from_static(b"value")));
        let mut damaged = body.to_vec();
        damaged[NONCE + 1] = b'-';
        assert!(decode(&damaged.into()).is_none());
    }
}
