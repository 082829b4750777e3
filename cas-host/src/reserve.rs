//! A file that reserves space on the disk, and is removed when the disk is full.
//!
//! Even a removal needs free space or a free inode before it frees anything: for the log of a
//! database, or for the new content of a file that is replaced.

use cas_core::{ErrorKind, Result};
use rustix::fs::{FallocateFlags, OFlags};

use crate::calls;
use crate::sync::syncfs;
use crate::{Dir, Place};

const NAME: &str = "reserve";
/// Size of the file in bytes. It is enough for the log of a few removals. Each removal frees more
/// space than its log takes.
const SIZE: u64 = 256 << 10;
/// If the file does not fit on the disk, its size is reduced by this many bytes until it fits.
const STEP: u64 = 16 << 10;

/// The file `reserve` in a directory. The file occupies the reserved space.
#[derive(Clone, Copy, Debug)]
pub struct Reserve<'a>(pub &'a Dir);

impl Reserve<'_> {
    /// Allocates the file if it is absent, and enlarges it if it is too small: to 256 KiB, or less
    /// on an almost full disk. Leaves no file on a full disk. Does nothing if something else, such
    /// as a pipe, is in the place of the file. Ignores errors.
    pub fn allocate(self) {
        if !matches!(Place::File(NAME).misplaced(self.0), Ok(None)) {
            return;
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK;
        let Ok(found) = self.0.stat(NAME) else {
            return;
        };
        // A process that was killed here left an empty file.
        let length = found.map_or(0, |stat| stat.st_size.unsigned_abs());
        if length < SIZE
            && let Ok(file) = self.0.open_file(NAME, flags, 0o600)
        {
            let mut size = SIZE;
            while calls::fallocate(&file, FallocateFlags::empty(), 0, size).is_err() {
                size = size.saturating_sub(STEP);
                if size <= length {
                    if length == 0 {
                        self.release();
                    }
                    return;
                }
            }
        }
    }

    /// Calls `work`, which removes something, and returns its result. If the disk is full and the
    /// file exists, removes the file, calls `work` again, and then allocates the file again.
    ///
    /// # Errors
    /// Errors of `work`.
    pub fn remove_with<T>(self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        match work() {
            Err(error) if error.kind() == ErrorKind::Full && self.release() => {
                let outcome = work();
                // btrfs gives what was freed to others only after it is durable.
                let _ = syncfs(self.0);
                self.allocate();
                outcome
            }
            outcome => outcome,
        }
    }

    /// Removes the file. Returns whether there was one.
    fn release(self) -> bool {
        let removed = self.0.remove(NAME).unwrap_or(false);
        if removed {
            // btrfs gives the space to others only after the removal is durable.
            let _ = syncfs(self.0);
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use cas_core::Error;
    use rustix::fs::{FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn a_reserve_that_is_empty_or_too_small_is_enlarged() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join(NAME);
        for length in [0, STEP, SIZE - 1, SIZE] {
            std::fs::write(&file, vec![0; length as usize]).unwrap();
            Reserve(&Dir::open(temp.path()).unwrap()).allocate();
            assert_eq!(file.metadata().unwrap().len(), SIZE, "{length}");
        }
    }

    #[test]
    fn what_is_in_the_place_of_the_reserve_is_not_waited_for_and_stays() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let mode = Mode::from_raw_mode(0o600);
        mknodat(&dir, NAME, FileType::Fifo, mode, 0).unwrap();
        Reserve(&dir).allocate();
        let found = Place::File(NAME).misplaced(&dir).unwrap();
        let found = found.map(|found| found.to_string());
        assert_eq!(found.as_deref(), Some("expected a file, found a pipe"));
    }

    #[test]
    fn a_removal_gets_what_was_reserved_once() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let file = temp.path().join(NAME);
        let reserve = Reserve(&dir);
        reserve.allocate();
        assert_eq!(file.metadata().unwrap().len(), SIZE);
        let full = || Error::new(ErrorKind::Full, "full");
        // A removal that needs the whole reserve succeeds, and one that needs more fails.
        let needs = |left: bool| {
            if file.exists() || left {
                Err(full())
            } else {
                Ok(7)
            }
        };
        assert_eq!(reserve.remove_with(|| needs(false)).unwrap(), 7);
        assert!(file.exists());
        let mut calls = 0;
        let error = reserve.remove_with(|| {
            calls += 1;
            needs(true)
        });
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Full);
        assert_eq!(calls, 2);
        // Other errors do not remove the file.
        let denied = reserve.remove_with::<()>(|| {
            assert!(file.exists());
            Err(Error::read_only())
        });
        assert_eq!(denied.unwrap_err().kind(), ErrorKind::Denied);
    }
}
