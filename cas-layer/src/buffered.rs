//! A helper to implement `Read` for types that implement `BufRead`.

use std::io::{self, BufRead};

/// Copies as many buffered bytes of `input` as fit into `out`, and fills the buffer first if it is
/// empty. Returns the number of copied bytes, which is 0 at the end of `input`.
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
