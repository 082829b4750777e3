//! The image of the demo: an OCI archive of three gzip layers, the last with whiteouts.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::path::Path;

use cas::{Descriptor, Digest, MediaType, Platform};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

/// What the archive contains, and its size in bytes.
pub(super) struct Made {
    pub(super) layers: usize,
    pub(super) files: usize,
    pub(super) bytes: u64,
}

/// The third layer deletes each file whose number is a multiple of this.
const DELETED: usize = 10;

/// Writes the archive, with `files` files in its first layer. Returns what it contains.
pub(super) fn write(path: &Path, files: usize) -> Result<Made> {
    let layers = [base(files)?, application()?, deletions(files)?];
    let mut archive = Builder::new(File::create_new(path)?);
    let mut put = |data: &[u8], media_type| -> Result<Descriptor> {
        let descriptor = Descriptor::of(media_type, data);
        let name = format!("blobs/sha256/{}", descriptor.digest.hex());
        file(&mut archive, &name, data)?;
        Ok(descriptor)
    };
    let mut descriptors = Vec::new();
    let mut diff_ids = Vec::new();
    for layer in &layers {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(layer)?;
        descriptors.push(put(&packed.finish()?, MediaType::OCI_LAYER_GZIP)?);
        diff_ids.push(Digest::sha256(layer));
    }
    let host = Platform::host();
    let config = bytes(&json!({
        "os": host.os, "architecture": host.architecture, "variant": host.variant,
        "config": {"Cmd": ["/app/run"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }))?;
    let config = put(&config, MediaType::OCI_CONFIG)?;
    let manifest = bytes(&json!({
        "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
        "config": config, "layers": descriptors,
    }))?;
    let manifest = put(&manifest, MediaType::OCI_MANIFEST)?;
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    file(
        &mut archive,
        "oci-layout",
        br#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    file(&mut archive, "index.json", &bytes(&index)?)?;
    archive.into_inner()?.sync_all()?;
    let bytes = std::fs::metadata(path)?.len();
    Ok(Made {
        layers: layers.len(),
        files: files + 1,
        bytes,
    })
}

/// Checks the unpacked tree of an archive with `files` files in its first layer. Returns the number
/// of files in the tree.
pub(super) fn check(root: &Path, files: usize) -> Result<usize> {
    let mut found = 0;
    for number in 0..files {
        match File::open(root.join(path(number))) {
            Ok(mut file) => {
                let mut data = Vec::new();
                file.read_to_end(&mut data)?;
                if data != content(number) {
                    let path = path(number);
                    return Err(Error::other(format!("{path} differs from the archive")));
                }
                found += 1;
            }
            Err(error) if error.kind() == ErrorKind::NotFound && number % DELETED == 0 => {}
            Err(error) => {
                let path = path(number);
                return Err(Error::other(format!("{path} cannot be read: {error}")));
            }
        }
    }
    let expected = files - files.div_ceil(DELETED);
    if found != expected {
        return Err(Error::other(format!(
            "number of files that are still there although the third layer deletes them: {}",
            found - expected
        )));
    }
    if !root.join("app/run").exists() {
        return Err(Error::other("app/run of the second layer is missing"));
    }
    Ok(found + 1)
}

fn base(files: usize) -> Result<Vec<u8>> {
    let mut layer = Builder::new(Vec::new());
    for number in 0..files {
        file(&mut layer, &path(number), &content(number))?;
    }
    layer.into_inner()
}

fn application() -> Result<Vec<u8>> {
    let mut layer = Builder::new(Vec::new());
    file(&mut layer, "app/run", b"#!/bin/sh\necho hello\n")?;
    let mut link = Header::new_gnu();
    link.set_entry_type(EntryType::Symlink);
    link.set_size(0);
    link.set_mode(0o777);
    layer.append_link(&mut link, "app/latest", "run")?;
    layer.into_inner()
}

fn deletions(files: usize) -> Result<Vec<u8>> {
    let mut layer = Builder::new(Vec::new());
    for number in (0..files).step_by(DELETED) {
        let path = path(number);
        let (directory, name) = path.split_once('/').unwrap_or(("", &path));
        file(&mut layer, &format!("{directory}/.wh.{name}"), b"")?;
    }
    layer.into_inner()
}

fn path(number: usize) -> String {
    format!("data{}/file-{number:05}", number % 20)
}

/// Returns the content of the file with this number: at most 32 KiB of one repeated line, which is
/// different for each file.
fn content(number: usize) -> Vec<u8> {
    let line = format!("{number:08x} {}\n", Digest::sha256(&number.to_le_bytes()));
    line.repeat(1 + number % 390).into_bytes()
}

fn file<W: Write>(archive: &mut Builder<W>, name: &str, data: &[u8]) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(1_700_000_000);
    archive.append_data(&mut header, name, data)
}

fn bytes(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(Error::other)
}
