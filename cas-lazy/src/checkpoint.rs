//! Checkpoints: places in a gzip stream from which it can be inflated.

use cas_core::{Error, Result, limit};
use cas_layer::codec::inflate::WINDOW;

/// Size in bytes of the two numbers before the checkpoints: how many there are, and the span size.
const HEAD: usize = 12;
/// Size in bytes of a stored checkpoint: two offsets, a number of bits, and the window.
const STORED: usize = 17 + WINDOW;
/// Length in bytes of the header of gzip that old versions of SOCI assume.
const PLAIN_HEADER: u64 = 10;

/// A place before a block of a gzip stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Number of compressed bytes before the block. If the block begins within a byte, the number
    /// includes this byte.
    pub compressed: u64,
    /// Number of decompressed bytes before the block.
    pub decompressed: u64,
    /// If the block begins within a byte, the number of bits of this byte that belong to the block,
    /// from 1 to 7. They are the high bits of the byte. 0 if the block begins with a whole byte.
    pub bits: u8,
    /// The last [`WINDOW`] decompressed bytes before the block. If there are fewer, zeros precede
    /// them.
    pub window: Box<[u8]>,
}

impl Checkpoint {
    /// Returns the offset of the first compressed byte of the block. If the block begins within a
    /// byte, returns the offset of this byte.
    pub fn start(&self) -> u64 {
        self.compressed - u64::from(self.bits != 0)
    }
}

/// Returns checkpoints as SOCI stores them, all integers with the lowest byte first.
pub(crate) fn encode(span_size: u64, checkpoints: &[Checkpoint]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + checkpoints.len() * STORED);
    bytes.extend((checkpoints.len() as u32).to_le_bytes());
    bytes.extend(span_size.to_le_bytes());
    for checkpoint in checkpoints {
        bytes.extend(checkpoint.compressed.to_le_bytes());
        bytes.extend(checkpoint.decompressed.to_le_bytes());
        bytes.push(checkpoint.bits);
        bytes.extend(&checkpoint.window);
    }
    bytes
}

/// Returns the span size and the checkpoints. Old versions of SOCI do not store the first
/// checkpoint. It is then after a gzip header of ten bytes.
///
/// # Errors
/// `Corrupt` if the length, the span size or a checkpoint is not valid, or if the checkpoints are
/// not in order; `OutOfRange` for more than [`limit::SPANS`] checkpoints.
pub(crate) fn decode(bytes: &[u8]) -> Result<(u64, Vec<Checkpoint>)> {
    let (count, rest) = bytes.split_first_chunk().ok_or_else(cut)?;
    let (span_size, rest) = rest.split_first_chunk().ok_or_else(cut)?;
    let (count, span_size) = (u32::from_le_bytes(*count), u64::from_le_bytes(*span_size));
    let count = count as usize;
    if count > limit::SPANS {
        return Err(Error::out_of_range(format!(
            "the zTOC has {count} checkpoints; at most {} are allowed; create it with larger spans",
            limit::SPANS
        )));
    }
    let (stored, partial) = rest.as_chunks::<STORED>();
    let mut checkpoints = Vec::with_capacity(count);
    if stored.len() + 1 == count {
        checkpoints.push(Checkpoint {
            compressed: PLAIN_HEADER,
            decompressed: 0,
            bits: 0,
            window: vec![0; WINDOW].into(),
        });
    } else if stored.len() != count || count == 0 {
        return Err(cut());
    }
    if !partial.is_empty() || !(1..=limit::LAYER).contains(&span_size) {
        return Err(cut());
    }
    checkpoints.extend(stored.iter().map(read));
    let ordered = checkpoints.is_sorted_by(|before, after| {
        before.compressed < after.compressed && before.decompressed <= after.decompressed
    });
    let sound =
        |one: &Checkpoint| one.bits < 8 && one.compressed > 0 && one.decompressed <= limit::LAYER;
    let begins = checkpoints
        .first()
        .is_some_and(|first| first.decompressed == 0);
    if !ordered || !begins || !checkpoints.iter().all(sound) {
        return Err(Error::corrupt(
            "the checkpoints of the zTOC are out of order or out of range; create the zTOC again",
        ));
    }
    Ok((span_size, checkpoints))
}

fn read(stored: &[u8; STORED]) -> Checkpoint {
    let number = |at: usize| {
        let bytes = std::array::from_fn(|index| stored[at + index]);
        u64::from_le_bytes(bytes)
    };
    Checkpoint {
        compressed: number(0),
        decompressed: number(8),
        bits: stored[16],
        window: stored[17..].into(),
    }
}

fn cut() -> Error {
    Error::corrupt(
        "the zTOC does not have as many whole checkpoints as it states, or its span size is out of \
         range; create the zTOC again",
    )
}

#[cfg(test)]
mod tests {
    use cas_core::ErrorKind;

    use super::*;

    fn at(compressed: u64, decompressed: u64, bits: u8) -> Checkpoint {
        Checkpoint {
            compressed,
            decompressed,
            bits,
            window: vec![7; WINDOW].into(),
        }
    }

    #[test]
    fn both_versions_of_the_list_are_read() {
        let list = [at(20, 0, 0), at(400, 4096, 3)];
        let stored = encode(4096, &list);
        assert_eq!(stored.len(), 12 + 2 * 32_785);
        assert_eq!(
            stored[..20],
            [2, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(decode(&stored).unwrap(), (4096, list.to_vec()));
        let first = [&stored[..12], &stored[12 + 32_785..]].concat();
        let (_, read) = decode(&first).unwrap();
        assert_eq!(
            (read[0].compressed, read[0].start(), read[0].bits),
            (10, 10, 0)
        );
        assert_eq!((&read[1], read[1].start()), (&list[1], 399));
    }

    #[test]
    fn lists_that_lie_are_refused() {
        let refused = |list: &[Checkpoint], why: &str| {
            let error = decode(&encode(4096, list)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{why}: {error}");
        };
        refused(&[], "none");
        refused(&[at(10, 0, 0), at(10, 5, 0)], "the same place twice");
        refused(&[at(10, 0, 0), at(20, 5, 0), at(30, 4, 0)], "backwards");
        refused(&[at(10, 0, 0), at(20, 5, 8)], "a whole byte of bits");
        refused(&[at(10, 1, 0)], "not from the beginning");
        refused(&[at(0, 0, 1)], "a byte before the first");
        refused(&[at(10, 0, 0), at(20, limit::LAYER + 1, 0)], "too far");
        let stored = encode(4096, &[at(10, 0, 0), at(20, 5, 0)]);
        for length in (0..stored.len()).step_by(97) {
            assert!(
                length == 12 + 32_785 || decode(&stored[..length]).is_err(),
                "{length}"
            );
        }
        let mut many = encode(4096, &[]);
        many[..4].copy_from_slice(&(limit::SPANS as u32 + 1).to_le_bytes());
        assert_eq!(decode(&many).unwrap_err().kind(), ErrorKind::OutOfRange);
        many[..4].copy_from_slice(&(limit::SPANS as u32).to_le_bytes());
        assert_eq!(decode(&many).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
