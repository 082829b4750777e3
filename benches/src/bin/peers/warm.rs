//! Touches memory before the first run.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::Result;

/// Bytes that are written and removed first, so that no run pays for the first use of memory.
const WARM: usize = 3 << 30;

/// Writes and removes a large file, so that the page cache reuses memory.
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
