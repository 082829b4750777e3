//! Makes the host of a virtual machine provide memory before the first run.

use std::fs;
use std::hint::black_box;

use anyhow::{Context, Result};

/// Writes to nine tenths of the free memory, and frees it. A virtual machine receives a page of
/// memory from its host when it first uses the page, which takes four times as long as later uses.
/// Without this, only some of the runs would include that time.
pub(super) fn touch_memory() -> Result<()> {
    let info = fs::read_to_string("/proc/meminfo")?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemFree:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next());
    let free: usize = kibibytes.context("no MemFree in /proc/meminfo")?.parse()?;
    black_box(vec![1_u8; free / 10 * 9 * 1024]);
    Ok(())
}
