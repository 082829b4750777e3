//! The bytes of a disk in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Size of a page in bytes.
const PAGE: usize = 4096;

type Page = [u8; PAGE];

/// The pages of a disk that are not all zeros, by their number. A clone and its original share each
/// page until one of them writes to this page.
#[derive(Clone, Default)]
pub(crate) struct Pages(BTreeMap<u64, Arc<Page>>);

impl Pages {
    /// Fills `buffer` with the bytes at `offset`.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) {
        let mut rest = buffer;
        let mut at = offset;
        while !rest.is_empty() {
            let (number, from) = place(at);
            let length = rest.len().min(PAGE - from);
            let (now, later) = rest.split_at_mut(length);
            match self.0.get(&number) {
                Some(page) => now.copy_from_slice(&page[from..from + length]),
                None => now.fill(0),
            }
            rest = later;
            at += length as u64;
        }
    }

    /// Writes `data` at `offset`.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        let mut rest = data;
        let mut at = offset;
        while !rest.is_empty() {
            let (number, from) = place(at);
            let (now, later) = rest.split_at(rest.len().min(PAGE - from));
            let page = self.0.entry(number).or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(page)[from..from + now.len()].copy_from_slice(now);
            if page.iter().all(|byte| *byte == 0) {
                self.0.remove(&number);
            }
            rest = later;
            at += now.len() as u64;
        }
    }

    /// Writes the disk, which has `size` bytes, to an empty file.
    pub(crate) fn save(&self, file: &File, size: u64) -> std::io::Result<()> {
        file.set_len(size)?;
        for (number, page) in &self.0 {
            file.write_all_at(&**page, number * PAGE as u64)?;
        }
        Ok(())
    }
}

/// Returns the number of the page that contains the byte at `offset`, and the index of the byte in
/// this page.
fn place(offset: u64) -> (u64, usize) {
    let page = PAGE as u64;
    (offset / page, (offset % page) as usize)
}
