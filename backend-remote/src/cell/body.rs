//! What a cell is in the bucket.
//!
//! ```text
//! NUMBER +\n VALUE \nNUMBER      32 hex digits that never come again; `-` for a mark of deletion
//! ```

use bytes::{Bytes, BytesMut};
use cas_core::{Error, Result};

use crate::place::Object;

/// Length of the number in hex digits.
const NUMBER: usize = 32;
/// What stands around a value.
const HEAD: usize = NUMBER + 3;
const TAIL: usize = NUMBER + 1;
/// A cell as it lies in the bucket; one without a value is a mark of deletion.
pub(super) struct Found {
    pub(super) number: String,
    pub(super) etag: Option<String>,
    pub(super) value: Option<Bytes>,
}

/// The body of a cell; one without a value is a mark.
pub(super) fn encode(number: &str, value: Option<&Bytes>) -> Bytes {
    let kept = value.map_or(&[][..], |value| value);
    let mut body = BytesMut::with_capacity(HEAD + kept.len() + TAIL);
    body.extend_from_slice(number.as_bytes());
    body.extend_from_slice(if value.is_some() { b" +\n" } else { b" -\n" });
    body.extend_from_slice(kept);
    body.extend_from_slice(b"\n");
    body.extend_from_slice(number.as_bytes());
    body.freeze()
}

/// The cell of a body; nothing when its two ends do not agree.
pub(super) fn decode(object: Object) -> Option<Found> {
    let body = object.body;
    let end = body.len().checked_sub(TAIL).filter(|end| *end >= HEAD)?;
    let number = std::str::from_utf8(&body[..NUMBER]).ok()?.to_owned();
    let whole = body[end] == b'\n' && body[end + 1..] == *number.as_bytes();
    let value = match &body[NUMBER..HEAD] {
        b" +\n" => Some(body.slice(HEAD..end)),
        b" -\n" => None,
        _ => return None,
    };
    whole.then_some(Found {
        number,
        etag: object.etag,
        value,
    })
}

/// A number that never comes again.
pub(crate) fn number() -> Result<String> {
    Ok(format!("{:016x}{:016x}", random()?, random()?))
}

/// 64 random bits.
pub(crate) fn random() -> Result<u64> {
    getrandom::u64().map_err(|error| Error::unavailable(format!("no random numbers: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(body: Bytes) -> Object {
        Object { body, etag: None }
    }

    #[test]
    fn what_was_read_over_a_change_is_no_cell() {
        let (one, other) = (number().unwrap(), number().unwrap());
        for value in [None, Some(Bytes::new()), Some(Bytes::from_static(b"a\nb"))] {
            let body = encode(&one, value.as_ref());
            assert_eq!(decode(object(body.clone())).unwrap().value, value);
            let later = encode(&other, value.as_ref());
            let mixed = [&body[..HEAD], &later[HEAD..]].concat();
            assert!(decode(object(mixed.into())).is_none());
            assert!(decode(object(body.slice(..body.len() - 1))).is_none());
        }
    }
}
