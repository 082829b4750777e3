//! Writes compressed layers: plain gzip, eStargz and zstd:chunked.

use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;

use cas::Digest;
use cas::layer::tar::{Entry, EntryKind, Reader};
use serde_json::{Value, json};
use testkit::archive::{Header, Tar};

use super::layout::layout_of;

/// Size in bytes of the chunks of a file.
const CHUNK: usize = 50_001;

/// A layer, with what its descriptor and the configuration state.
pub(crate) struct Chunked {
    pub(crate) bytes: Vec<u8>,
    pub(crate) diff_id: Digest,
    pub(crate) media_type: &'static str,
    pub(crate) annotations: Value,
}

/// A layer while it is written.
struct Writer {
    layer: Vec<u8>,
    /// The decompressed layer.
    tar: Vec<u8>,
    entries: Vec<Value>,
    compress: fn(&[u8]) -> Vec<u8>,
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// Returns a layer that is compressed with gzip, and has no table of contents.
pub(crate) fn plain(tar: &[u8]) -> Chunked {
    Chunked {
        bytes: gzip(tar),
        diff_id: Digest::sha256(tar),
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip",
        annotations: json!({}),
    }
}

/// Returns an eStargz layer with the members of `tar`.
pub(crate) fn estargz(tar: &[u8]) -> Chunked {
    let mut writer = Writer::new(gzip);
    writer.members(tar);
    let json = json!({"version": 1, "entries": writer.entries}).to_string();
    let offset = writer.layer.len();
    let mut header = Header::new(b'0', "stargz.index.json").mode(0);
    header.octal(136..148, 0);
    let table = Tar::new().member(header.size(json.len() as u64), &json);
    writer.stream(&table.end());
    let mut footer = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0".to_vec();
    footer.extend(format!("{offset:016x}STARGZ").as_bytes());
    footer.extend(b"\x01\0\0\xff\xff\0\0\0\0\0\0\0\0");
    writer.layer.extend(footer);
    let digest = Digest::sha256(json.as_bytes()).to_string();
    let annotations = json!({"containerd.io/snapshot/stargz/toc.digest": digest});
    writer.finish("application/vnd.oci.image.layer.v1.tar+gzip", annotations)
}

/// Returns a zstd:chunked layer with the members of `tar`.
pub(crate) fn zstd_chunked(tar: &[u8]) -> Chunked {
    let mut writer = Writer::new(zstd);
    let end = writer.members(tar);
    writer.stream(&tar[end..]);
    let json = json!({"version": 1, "entries": writer.entries}).to_string();
    let table = zstd(json.as_bytes());
    let skippable = |bytes: &[u8]| {
        let mut frame = 0x184D_2A50_u32.to_le_bytes().to_vec();
        frame.extend((bytes.len() as u32).to_le_bytes());
        frame.extend(bytes);
        frame
    };
    let offset = writer.layer.len() + 8;
    writer.layer.extend(skippable(&table));
    let numbers = [offset, table.len(), json.len(), 1];
    let mut footer: Vec<u8> = numbers
        .iter()
        .flat_map(|n| (*n as u64).to_le_bytes())
        .collect();
    footer.resize(56, 0);
    footer.extend(b"GNUlInUx");
    writer.layer.extend(skippable(&footer));
    let position = numbers.map(|number| number.to_string()).join(":");
    let prefix = "io.github.containers.zstd-chunked";
    let annotations = json!({
        format!("{prefix}.manifest-checksum"): Digest::sha256(&table).to_string(),
        format!("{prefix}.manifest-position"): position,
    });
    writer.finish("application/vnd.oci.image.layer.v1.tar+zstd", annotations)
}

impl Writer {
    fn new(compress: fn(&[u8]) -> Vec<u8>) -> Self {
        Writer {
            layer: Vec::new(),
            tar: Vec::new(),
            entries: Vec::new(),
            compress,
        }
    }

    /// Appends the bytes as a compressed stream of their own. Returns its offset in the layer.
    fn stream(&mut self, bytes: &[u8]) -> usize {
        let begin = self.layer.len();
        self.layer.extend((self.compress)(bytes));
        self.tar.extend(bytes);
        begin
    }

    /// Writes the members of a tar, except those that [`is_stated`] does not allow. Returns the
    /// offset in the tar at which the last member ends.
    fn members(&mut self, tar: &[u8]) -> usize {
        let mut reader = Reader::new(Cursor::new(tar));
        let mut end = 0;
        while let Some(entry) = reader.next_entry().unwrap() {
            let begin = reader.get_ref().position() as usize;
            if !is_stated(&entry) {
                self.padding(tar, end);
                end = (begin + stored_size(&entry)).next_multiple_of(512);
                continue;
            }
            self.stream(&tar[end..begin]);
            let data = &tar[begin..begin + entry.size as usize];
            self.member(&entry, data);
            end = begin + data.len();
        }
        self.padding(tar, end)
    }

    /// Writes the padding after a member that ends at `end`. A tar may end without it. Returns where
    /// it ends in the tar.
    fn padding(&mut self, tar: &[u8], end: usize) -> usize {
        let padded = end.next_multiple_of(512);
        let mut padding = tar[end..padded.min(tar.len())].to_vec();
        padding.resize(padded - end, 0);
        self.stream(&padding);
        padded.min(tar.len())
    }

    fn member(&mut self, entry: &Entry, data: &[u8]) {
        let name = String::from_utf8(entry.path.clone()).unwrap();
        let (kind, link) = match &entry.kind {
            EntryKind::File => ("reg", &b""[..]),
            EntryKind::Directory => ("dir", &b""[..]),
            EntryKind::Symlink(target) => ("symlink", &target[..]),
            EntryKind::Hardlink(target) => ("hardlink", &target[..]),
            EntryKind::Char(_) => ("char", &b""[..]),
            EntryKind::Block(_) => ("block", &b""[..]),
            EntryKind::Fifo => ("fifo", &b""[..]),
        };
        let mut described = json!({
            "name": name, "type": kind, "mode": entry.mode, "uid": entry.uid, "gid": entry.gid,
            "modtime": humantime::format_rfc3339_nanos(time(entry)).to_string(),
            "linkName": String::from_utf8(link.to_vec()).unwrap(),
        });
        if let EntryKind::Char(device) | EntryKind::Block(device) = &entry.kind {
            described["devMajor"] = device.major.into();
            described["devMinor"] = device.minor.into();
        }
        for (name, value) in &entry.xattrs {
            use base64::Engine;
            let value = base64::engine::general_purpose::STANDARD.encode(value);
            described["xattrs"][String::from_utf8(name.clone()).unwrap()] = value.into();
        }
        if data.is_empty() {
            self.entries.push(described);
            return;
        }
        described["size"] = data.len().into();
        described["digest"] = Digest::sha256(data).to_string().into();
        for (at, chunk) in data.chunks(CHUNK).enumerate() {
            let mut part = match at {
                0 => described.clone(),
                _ => json!({"name": name, "type": "chunk"}),
            };
            part["offset"] = self.stream(chunk).into();
            part["chunkOffset"] = (at * CHUNK).into();
            part["chunkSize"] = chunk.len().into();
            part["chunkDigest"] = Digest::sha256(chunk).to_string().into();
            self.entries.push(part);
        }
    }

    fn finish(self, media_type: &'static str, annotations: Value) -> Chunked {
        Chunked {
            diff_id: Digest::sha256(&self.tar),
            bytes: self.layer,
            media_type,
            annotations,
        }
    }
}

/// Returns whether these tables can state a member: they have neither names that are not UTF-8 nor
/// sparse files. [`humantime`] does not write times before 1970.
fn is_stated(entry: &Entry) -> bool {
    let is_stated =
        str::from_utf8(&entry.path).is_ok() && entry.regions.is_none() && entry.mtime.seconds >= 0;
    if !is_stated {
        let path = String::from_utf8_lossy(&entry.path);
        eprintln!("left out of tables in JSON: {path}");
    }
    is_stated
}

/// Returns the number of bytes of a member in its tar, without headers and padding.
fn stored_size(entry: &Entry) -> usize {
    let regions = entry.regions.as_ref();
    let size = regions.map_or(entry.size, |regions| {
        regions.iter().map(|region| region.length).sum()
    });
    size as usize
}

fn time(entry: &Entry) -> std::time::SystemTime {
    let since = std::time::Duration::new(entry.mtime.seconds as u64, entry.mtime.nanoseconds);
    std::time::SystemTime::UNIX_EPOCH + since
}

/// Writes a layout with an image of these layers.
pub(crate) fn layout(path: &Path, layers: Vec<Chunked>) {
    let bytes: Vec<_> = layers.iter().map(|layer| layer.bytes.clone()).collect();
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id).collect();
    layout_of(path, &bytes, &diff_ids);
    let read = |name: &Path| serde_json::from_slice::<Value>(&fs::read(name).unwrap()).unwrap();
    let blob = |value: &Value| {
        let digest = value["digest"].as_str().unwrap();
        path.join("blobs").join(digest.replace(':', "/"))
    };
    let mut index = read(&path.join("index.json"));
    let mut manifest = read(&blob(&index["manifests"][0]));
    for (at, layer) in layers.iter().enumerate() {
        manifest["layers"][at]["mediaType"] = layer.media_type.into();
        manifest["layers"][at]["annotations"] = layer.annotations.clone();
    }
    let text = manifest.to_string();
    let own = &mut index["manifests"][0];
    own["digest"] = Digest::sha256(text.as_bytes()).to_string().into();
    own["size"] = text.len().into();
    fs::write(blob(own), text).unwrap();
    fs::write(path.join("index.json"), index.to_string()).unwrap();
}
