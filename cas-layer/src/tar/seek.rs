//! Leaping over members where the archive can be sought in.

use std::io::{BufRead, Seek};

use cas_core::Result;

use super::Reader;

impl<R: BufRead + Seek> Reader<R> {
    /// Leaps over what is left of the current member; where in the input that began.
    ///
    /// The input may end before the member does: compare with its length.
    ///
    /// # Errors
    /// Those of `input`.
    pub fn skip_body_seek(&mut self) -> Result<u64> {
        let position = self.input.stream_position()?;
        self.input.seek_relative(self.body.cast_signed())?;
        self.body = 0;
        Ok(position)
    }
}
