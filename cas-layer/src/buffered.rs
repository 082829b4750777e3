//! The implementation of `Read` for what implements `BufRead`.

use std::io::{self, BufRead};

/// Reads what `input` has buffered into `out`. Returns the number of bytes, which is 0 at the end.
///
/// # Errors
/// Errors of `input`.
pub fn read_buffered(input: &mut impl BufRead, out: &mut [u8]) -> io::Result<usize> {
    let available = input.fill_buf()?;
    let amount = available.len().min(out.len());
    out[..amount].copy_from_slice(&available[..amount]);
    input.consume(amount);
    Ok(amount)
}
