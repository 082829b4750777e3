//! Maps of sparse files: old GNU blocks, and the map that pax 1.0 stores before the data.

use cas_core::{Error, Result, limit};

use super::entry::Region;
use super::header::{BLOCK, Header, is_odd, number};
use super::pax::{decimal, push};

/// A map as the archive declares it, and the size of the file including holes.
pub(super) struct Map {
    pub(super) regions: Vec<Region>,
    pub(super) size: u64,
}

impl Map {
    /// Returns the map if its regions are in order, inside the file, and cover exactly `stored`
    /// bytes.
    pub(super) fn check(self, stored: u64) -> Result<Self> {
        let fail = |why: &str| {
            Error::corrupt(format!(
                "invalid sparse map: {why}; create the archive again"
            ))
        };
        if self.size > limit::LAYER {
            return Err(Error::out_of_range(format!(
                "the sparse file has {} bytes; at most {} are allowed; split it",
                self.size,
                limit::LAYER
            )));
        }
        let (mut end, mut sum) = (0, 0u64);
        for region in &self.regions {
            let next = region.offset.checked_add(region.length);
            let next = next.filter(|&next| next <= self.size);
            let Some(next) = next.filter(|_| region.offset >= end) else {
                return Err(fail(
                    "a region begins before the end of the previous one, or ends after the end of \
                     the file",
                ));
            };
            end = next;
            sum += region.length;
        }
        if sum != stored {
            return Err(fail(&format!(
                "its regions have {sum} bytes, but {stored} bytes are stored"
            )));
        }
        Ok(self)
    }
}

/// Reads the old GNU format: four regions in the header, 21 in each block that follows.
pub(super) fn old_gnu(
    header: &Header,
    mut next: impl FnMut() -> Result<[u8; BLOCK]>,
) -> Result<Map> {
    let size = only_number(&header.0[483..495]);
    let size = size.ok_or_else(|| {
        Error::corrupt(
            "the size of the sparse file is not a valid number; create the archive again",
        )
    })?;
    let mut regions = Vec::new();
    let mut more = table(&header.0[386..482], &mut regions)? && header.0[482] != 0;
    while more {
        let block = next()?;
        more = table(&block[..504], &mut regions)? && block[504] != 0;
    }
    Ok(Map { regions, size })
}

/// Returns the number in a field. Returns `None` if there is none, or if some readers find another
/// number or none in the field. They would give the file other bytes.
fn only_number(field: &[u8]) -> Option<u64> {
    let found = number(field).filter(|_| field[0] != 0 && !is_odd(field))?;
    u64::try_from(found).ok()
}

/// Reads a table of offsets and lengths. Returns `false` if a slot is empty, which ends the map.
fn table(slots: &[u8], regions: &mut Vec<Region>) -> Result<bool> {
    for slot in slots.chunks_exact(24) {
        if slot == [0; 24] {
            return Ok(false);
        }
        let Some((offset, length)) = only_number(&slot[..12]).zip(only_number(&slot[12..])) else {
            return Err(Error::corrupt(
                "a sparse region is not a pair of valid numbers; create the archive again",
            ));
        };
        push(regions, offset, length)?;
    }
    Ok(true)
}

/// Reads the pax 1.0 format: the number of regions, then the offset and the length of each region.
/// Each is a decimal number in a line of its own. Padding after the last line fills the block.
pub(super) fn in_body(size: u64, mut next: impl FnMut() -> Result<[u8; BLOCK]>) -> Result<Map> {
    const KEY: &[u8] = b"GNU.sparse.map";
    let mut block = next()?;
    let mut at = 0;
    let mut line = || {
        let mut digits = Vec::new();
        loop {
            if at == BLOCK {
                block = next()?;
                at = 0;
            }
            let byte = block[at];
            at += 1;
            if byte == b'\n' {
                return decimal(KEY, &digits);
            }
            digits.push(byte);
            if digits.len() > 20 {
                return decimal(KEY, &digits).and(Err(Error::corrupt(
                    "a number of the sparse map is too long; create the archive again",
                )));
            }
        }
    };
    let mut regions = Vec::new();
    for _ in 0..line()? {
        push(&mut regions, line()?, line()?)?;
    }
    Ok(Map { regions, size })
}
