//! Memory that was touched before.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::Result;

/// Bytes written and removed first, so that no run pays the first touch of memory.
const WARM: usize = 3 << 30;

/// Writes and removes a large file, so that the page cache is no fresh memory.
pub(super) fn touch_memory(directory: &Path) -> Result<()> {
    let path = directory.join("warm");
    let mut file = File::create(&path)?;
    let piece = vec![1; 1 << 20];
    for _ in 0..WARM >> 20 {
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    std::fs::remove_file(path)?;
    Ok(())
}
