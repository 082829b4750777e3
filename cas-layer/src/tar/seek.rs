//! Skipping members of an archive that supports seeking.

use std::io::{BufRead, Seek};

use cas_core::Result;

use super::Reader;

impl<R: BufRead + Seek> Reader<R> {
    /// Skips the rest of the current member's body by seeking. Returns the position in the input
    /// at which the skipped bytes begin.
    ///
    /// This function does not fail if the input ends before the end of the body. The caller must
    /// compare the end of the body with the length of the input.
    ///
    /// # Errors
    /// Errors of `input`.
    pub fn skip_body_seek(&mut self) -> Result<u64> {
        let position = self.input.stream_position()?;
        self.input.seek_relative(self.body.cast_signed())?;
        self.body = 0;
        Ok(position)
    }
}
