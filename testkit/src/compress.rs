//! Compression of test data.

use std::io::Write;

use lzma_rust2::{XzOptions, XzWriter};

/// Returns bytes as an xz stream.
pub fn xz(data: &[u8]) -> Vec<u8> {
    xz_with_dictionary(data, 1 << 20)
}

/// Returns bytes as an xz stream whose header states a dictionary of `size` bytes.
pub fn xz_with_dictionary(data: &[u8], size: u32) -> Vec<u8> {
    let mut options = XzOptions::with_preset(1);
    options.lzma_options.dict_size = size;
    let mut writer = XzWriter::new(Vec::new(), options).unwrap();
    writer.write_all(data).unwrap();
    writer.finish().unwrap()
}

/// Returns bytes as a bzip2 stream.
pub fn bzip2(data: &[u8]) -> Vec<u8> {
    let mut writer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    writer.write_all(data).unwrap();
    writer.finish().unwrap()
}
