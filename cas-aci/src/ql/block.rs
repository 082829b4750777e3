//! The blocks of a ql file, in the format of the Go package lldb, which is the storage layer of ql.

use std::borrow::Cow;
use std::cell::Cell;

use cas_core::{Result, limit};

use super::damaged;
use super::value::{Value, values};
use super::zappy;

/// The first bytes of a file.
const MAGIC: &[u8] = b"\x60\xdbql";
/// Size of an atom in bytes. The header, which begins with the magic number, has the same size.
const ATOM: usize = 16;
/// Number of atoms between the header and the atom that would have handle 0. The seven atoms after
/// the header are the table of free blocks. Then the first block begins, which has handle 1.
const FREE_LISTS: usize = 6;
/// The first byte of a block whose content is too long for a length of one byte.
const LONG: u8 = 0xfc;
/// The first byte of a block that has only the handle of the block with the content.
const MOVED: u8 = 0xfd;

/// The blocks of a file.
pub(super) struct Blocks<'a> {
    blocks: &'a [u8],
    /// Maximum number of bytes of memory for the values that were not read yet.
    left: Cell<u64>,
}

impl<'a> Blocks<'a> {
    pub(super) fn new(file: &'a [u8]) -> Result<Self> {
        match file.get(ATOM..) {
            Some(blocks) if file.starts_with(MAGIC) => Ok(Blocks {
                blocks,
                left: Cell::new(limit::QL_TABLES),
            }),
            _ => Err(damaged("it does not begin with the header of a ql file")),
        }
    }

    /// Returns the values in a block. The values of all calls together may take at most
    /// [`limit::QL_TABLES`] bytes. So a caller that follows a circular chain of blocks receives an
    /// error in the end.
    pub(super) fn values(&self, handle: u64) -> Result<Vec<Value>> {
        let content = self.content(handle)?;
        let values = values(&content)?;
        let taken = content.len() + values.len() * size_of::<Value>();
        let left = self.left.get().checked_sub(taken as u64);
        self.left.set(
            left.ok_or_else(|| damaged("its tables are too large, or a block list is circular"))?,
        );
        Ok(values)
    }

    /// Returns the content of a block, decompressed.
    fn content(&self, handle: u64) -> Result<Cow<'a, [u8]>> {
        let mut block = self.block(handle)?;
        if let [MOVED, to @ ..] = block
            && let Some(to) = to.first_chunk::<7>()
        {
            let to = to
                .iter()
                .fold(0, |handle, byte| handle << 8 | u64::from(*byte));
            block = self.block(to)?;
        }
        let (header, length) = match *block {
            [short @ 0..LONG, ..] => (1, usize::from(short)),
            [LONG, high, low, ..] => {
                let length = usize::from(u16::from_be_bytes([high, low]));
                // Lengths from 252 to 65,787, of which the lower 16 bits are stored.
                let wraps = length < usize::from(LONG);
                (3, if wraps { length + (1 << 16) } else { length })
            }
            _ => {
                return Err(damaged(
                    "a handle names a block that is free or was moved twice",
                ));
            }
        };
        let atoms = (header + length) / ATOM + 1;
        let whole = block.get(..atoms * ATOM);
        let whole = whole.ok_or_else(|| damaged("a block ends after the end of the file"))?;
        let content = &whole[header..header + length];
        match whole[whole.len() - 1] {
            0 => Ok(Cow::Borrowed(content)),
            1 => zappy::decode(content).map(Cow::Owned),
            _ => Err(damaged("a block has an unknown compression")),
        }
    }

    /// Returns the bytes of the file from the beginning of a block.
    fn block(&self, handle: u64) -> Result<&'a [u8]> {
        let atom = usize::try_from(handle).ok().filter(|handle| *handle > 0);
        let offset = atom
            .and_then(|atom| atom.checked_add(FREE_LISTS))
            .and_then(|atom| atom.checked_mul(ATOM));
        let block = offset.and_then(|offset| self.blocks.get(offset..));
        block
            .filter(|block| block.len() >= ATOM)
            .ok_or_else(|| damaged("a handle does not name a block of the file"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_of_all_blocks_together_are_bounded() {
        let blocks = Blocks::new(include_bytes!("../../tests/fixtures/ql/v7.ql")).unwrap();
        blocks.values(1).unwrap();
        let taken = limit::QL_TABLES - blocks.left.get();
        assert!(taken > 0);
        blocks.left.set(taken);
        blocks.values(1).unwrap();
        assert_eq!(blocks.left.get(), 0);
        blocks.left.set(taken - 1);
        let error = blocks.values(1).unwrap_err();
        assert_eq!(error.kind(), cas_core::ErrorKind::Corrupt);
        assert!(error.to_string().contains("too large"), "{error}");
    }
}
