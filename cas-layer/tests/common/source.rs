//! Small layouts and archives, valid and invalid.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use cas_core::{Descriptor, Digest, Index, Manifest, MediaType};
use cas_layer::import::Source;
use serde_json::json;

/// A member of an archive: its bytes, or the target of a link.
#[derive(Clone)]
pub enum Member {
    File(Vec<u8>),
    Link(String),
}

/// The files of a source, in order.
#[derive(Clone, Default)]
pub struct Files(pub Vec<(String, Member)>);

pub fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// Size in bytes of the layer that only one image has. It is read in more than one piece.
pub const OWN: usize = (1 << 20) + 70_000;

/// Returns bytes that look random.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

impl Files {
    /// Begins a layout.
    pub fn layout() -> Self {
        let mut files = Files::default();
        files.add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        files
    }

    pub fn add(&mut self, path: &str, data: &[u8]) {
        self.0.push((path.to_owned(), Member::File(data.to_vec())));
    }

    pub fn link(&mut self, path: &str, target: &str) {
        self.0
            .push((path.to_owned(), Member::Link(target.to_owned())));
    }

    pub fn blob(&mut self, kind: MediaType, data: &[u8]) -> Descriptor {
        let descriptor = Descriptor::of(kind, data);
        let path = blob_path(&descriptor.digest);
        if self.0.iter().all(|(known, _)| *known != path) {
            self.add(&path, data);
        }
        descriptor
    }

    pub fn manifest(&mut self, config: Descriptor, layers: Vec<Descriptor>) -> Descriptor {
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(MediaType::OCI_MANIFEST),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: None,
        };
        let data = serde_json::to_vec(&manifest).unwrap();
        self.blob(MediaType::OCI_MANIFEST, &data)
    }

    /// Adds an image of two layers. One of them is the same for all images.
    pub fn image(&mut self, seed: u64, architecture: &str) -> Descriptor {
        let own = noise(seed, OWN);
        let layers = vec![
            self.blob(MediaType::OCI_LAYER, &noise(0, 70_000)),
            self.blob(MediaType::OCI_LAYER, &own),
        ];
        let diff_ids: Vec<String> = layers
            .iter()
            .map(|layer| layer.digest.to_string())
            .collect();
        let config = json!({
            "os": "linux", "architecture": architecture, "seed": seed,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = self.blob(MediaType::OCI_CONFIG, config.to_string().as_bytes());
        self.manifest(config, layers)
    }

    pub fn index(&mut self, manifests: Vec<Descriptor>) -> Descriptor {
        let data = index(manifests);
        self.blob(MediaType::OCI_INDEX, &data)
    }

    /// Completes a layout with its `index.json`.
    pub fn entries(&mut self, entries: &[(Option<&str>, &Descriptor)]) {
        let named = entries.iter().map(|(name, target)| {
            let mut target = (*target).clone();
            let key = "org.opencontainers.image.ref.name".to_owned();
            target
                .annotations
                .extend(name.map(|name| (key, name.to_owned())));
            target
        });
        let data = index(named.collect());
        self.add("index.json", &data);
    }

    pub fn file(&mut self, path: &str) -> &mut Vec<u8> {
        let found = self.0.iter_mut().find(|(known, _)| known == path);
        match &mut found.unwrap().1 {
            Member::File(data) => data,
            Member::Link(target) => panic!("{path} is a link to {target}"),
        }
    }

    pub fn remove(&mut self, path: &str) {
        let before = self.0.len();
        self.0.retain(|(known, _)| known != path);
        assert_eq!(self.0.len() + 1, before, "{path}");
    }

    pub fn write(&self, directory: &Path) {
        for (path, member) in &self.0 {
            let path = directory.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match member {
                Member::File(data) => fs::write(path, data).unwrap(),
                Member::Link(target) => std::os::unix::fs::symlink(target, path).unwrap(),
            }
        }
    }

    pub fn tar(&self) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, member) in &self.0 {
            let (mut header, data) = match member {
                Member::File(data) => (header(path, data.len() as u64), data.as_slice()),
                Member::Link(target) => {
                    let mut header = header(path, 0);
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_link_name(target).unwrap();
                    (header, &[][..])
                }
            };
            header.set_cksum();
            archive.append(&header, data).unwrap();
        }
        archive.into_inner().unwrap()
    }
}

/// Returns a header with any path, including paths that `tar` would refuse.
pub fn header(path: &str, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    header
}

fn index(manifests: Vec<Descriptor>) -> Vec<u8> {
    let index = Index {
        schema_version: 2,
        media_type: None,
        artifact_type: None,
        manifests,
        subject: None,
        annotations: None::<BTreeMap<String, String>>,
    };
    serde_json::to_vec(&index).unwrap()
}

pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(data: &[u8]) -> Vec<u8> {
    zstd::encode_all(data, 1).unwrap()
}

/// Writes these bytes to a file in `directory`, as a source.
pub fn in_file(directory: &Path, data: &[u8]) -> Source {
    let path = directory.join("archive");
    fs::write(&path, data).unwrap();
    Source::Path(path)
}

/// Returns a source that does not support seeking.
pub fn in_stream(data: &[u8]) -> Source {
    Source::Stream(Box::new(std::io::Cursor::new(data.to_vec())))
}
