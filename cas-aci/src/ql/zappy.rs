//! Decompression of zappy, the variant of snappy that lldb uses.

use cas_core::Result;

use super::damaged;

/// Maximum number of decompressed bytes of a block.
const MOST: u64 = 65_787;

/// Returns the decompressed bytes: literals, and copies of earlier decompressed bytes.
pub(super) fn decode(mut data: &[u8]) -> Result<Vec<u8>> {
    let length = unsigned(&mut data)?;
    if length > MOST {
        return Err(damaged("a compressed block states too large a length"));
    }
    let length = usize::try_from(length).unwrap_or_default();
    let mut out = Vec::with_capacity(length);
    while !data.is_empty() {
        let code = unsigned(&mut data)?;
        // Even codes are literals, and odd codes are copies. Codes 0 and 1 mean one byte, codes 2
        // and 3 mean two bytes, and so on.
        let count = code / 2 + 1;
        let count = usize::try_from(count)
            .ok()
            .filter(|count| *count <= length - out.len());
        let count = count.ok_or_else(|| damaged("a decompressed block is longer than stated"))?;
        if code % 2 == 0 {
            let literal = data.get(..count);
            out.extend(literal.ok_or_else(|| damaged("a compressed block ends too early"))?);
            data = &data[count..];
            continue;
        }
        let offset = usize::try_from(unsigned(&mut data)?).unwrap_or(usize::MAX);
        let from = out.len().checked_sub(offset).filter(|_| offset > 0);
        let from =
            from.ok_or_else(|| damaged("a compressed block copies bytes that do not exist"))?;
        // A copy may overlap with what it copies.
        for at in from..from + count {
            out.push(out[at]);
        }
    }
    if out.len() == length {
        return Ok(out);
    }
    Err(damaged("a decompressed block is shorter than stated"))
}

/// Reads a number that is split into groups of seven bits, one in each byte, lowest bits first.
fn unsigned(data: &mut &[u8]) -> Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = data
            .split_first()
            .ok_or_else(|| damaged("a compressed block ends too early"))?;
        *data = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(damaged("a number in a compressed block is too long"))
}
