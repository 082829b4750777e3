//! Writes zTOCs. Each method of [`Builder`] writes its value immediately, so the order of the calls
//! determines the bytes. SOCI's tools write in the same order.

use cas_core::{Error, Result, limit};

use super::{FileMetadata, Ztoc, time};
use crate::checkpoint;
use crate::flatbuffer::{Builder, Place};

/// The version of the format.
pub(super) const VERSION: &[u8] = b"0.9";

pub(super) fn encode(ztoc: &Ztoc) -> Result<Vec<u8>> {
    let size = size(ztoc);
    if size > limit::ZTOC {
        return Err(Error::out_of_range(format!(
            "the zTOC would have about {size} bytes; at most {} are allowed; use larger spans",
            limit::ZTOC
        )));
    }
    let mut to = Builder::default();
    let version = to.text(VERSION);
    let build_tool = to.text(ztoc.build_tool.as_bytes());
    let files: Vec<_> = ztoc
        .files
        .iter()
        .rev()
        .map(|one| file(&mut to, one))
        .collect();
    let files: Vec<_> = files.into_iter().rev().collect();
    let files = to.places(&files);
    to.begin(1);
    to.link(0, files);
    let contents = to.finish_table();
    let checkpoints = to.bytes(&checkpoint::encode(ztoc.span_size, &ztoc.checkpoints));
    let digests = ztoc.span_digests.iter();
    let digests: Vec<_> = digests
        .map(|one| to.text(one.to_string().as_bytes()))
        .collect();
    let digests = to.places(&digests);
    to.begin(4);
    to.i32(1, ztoc.span_digests.len() as i32 - 1);
    to.link(2, digests);
    to.link(3, checkpoints);
    let compression = to.finish_table();
    to.begin(6);
    to.link(0, version);
    to.link(1, build_tool);
    to.link(4, contents);
    to.i64(2, ztoc.compressed_size.cast_signed());
    to.i64(3, ztoc.decompressed_size.cast_signed());
    to.link(5, compression);
    let root = to.finish_table();
    Ok(to.finish(root))
}

fn file(to: &mut Builder, file: &FileMetadata) -> Place {
    let name = to.text(&file.name);
    let kind = to.text(file.kind.name());
    let link = to.text(&file.link);
    let user = to.text(&file.user);
    let group = to.text(&file.group);
    let modified = to.text(&file.modified.and_then(time::format).unwrap_or_default());
    let mut records = Vec::with_capacity(file.records.len());
    for (key, value) in &file.records {
        let (key, value) = (to.text(key), to.text(value));
        to.begin(2);
        to.link(0, key);
        to.link(1, value);
        records.push(to.finish_table());
    }
    let records = to.places(&records);
    to.begin(14);
    to.link(0, name);
    to.link(1, kind);
    to.i64(2, file.offset.cast_signed());
    to.i64(3, file.size.cast_signed());
    to.link(4, link);
    to.i64(5, file.mode);
    to.u32(6, file.uid);
    to.u32(7, file.gid);
    to.link(8, user);
    to.link(9, group);
    to.link(10, modified);
    to.i64(11, file.device.0);
    to.i64(12, file.device.1);
    to.link(13, records);
    to.finish_table()
}

/// Returns an upper bound of the size of the zTOC in bytes.
fn size(ztoc: &Ztoc) -> u64 {
    let record = |(key, value): (&Vec<u8>, &Vec<u8>)| key.len() + value.len() + 48;
    let file = |file: &FileMetadata| {
        let texts = [&file.name, &file.link, &file.user, &file.group];
        let texts: usize = texts.iter().map(|text| text.len()).sum();
        let records: usize = file.records.iter().map(record).sum();
        texts + records + 256
    };
    let files: usize = ztoc.files.iter().map(file).sum();
    let spans = ztoc.checkpoints.len() * (crate::WINDOW + 128);
    (files + spans + ztoc.build_tool.len() + 512) as u64
}
