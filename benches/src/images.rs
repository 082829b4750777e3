//! Images for the benches, as OCI layouts: made from a given image, or from nothing.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use flate2::bufread::MultiGzDecoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::process::finish;

/// An image: a tag in an OCI layout.
pub struct Image {
    /// The directory of the layout.
    pub layout: PathBuf,
    /// The tag.
    pub tag: String,
}

impl Image {
    /// Returns the image that `text` names as `LAYOUT:TAG`.
    ///
    /// # Errors
    /// If `text` has no colon, or the layout does not exist.
    pub fn parse(text: &str) -> Result<Self> {
        let (layout, tag) = text
            .rsplit_once(':')
            .with_context(|| format!("expected LAYOUT:TAG, found {text:?}"))?;
        let layout = Path::new(layout).canonicalize().with_context(|| {
            format!(
                "the layout {layout} does not exist; `cargo xtask long` makes the default one, see \
                 CONTRIBUTING.md"
            )
        })?;
        Ok(Image {
            layout,
            tag: tag.to_owned(),
        })
    }

    /// Returns the name that `skopeo` uses for the image.
    pub fn source(&self) -> String {
        format!("oci:{}:{}", self.layout.display(), self.tag)
    }

    /// Writes the image to an OCI archive.
    ///
    /// # Errors
    /// If `skopeo` cannot be started, or fails.
    pub fn archive(&self, path: &Path) -> Result<()> {
        let target = format!("oci-archive:{}:{}", path.display(), self.tag);
        finish(Command::new("skopeo").args(["copy", "-q", &self.source(), &target]))
    }

    /// Returns the paths of the layers of the image.
    ///
    /// # Errors
    /// If the layout cannot be read or does not have the tag, or the tag does not name an image
    /// manifest.
    pub fn layers(&self) -> Result<Vec<PathBuf>> {
        let index = self.json(Path::new("index.json"))?;
        let named = |entry: &&Value| {
            entry["annotations"]["org.opencontainers.image.ref.name"] == self.tag.as_str()
        };
        let entries = index["manifests"].as_array();
        let entry = entries.and_then(|all| all.iter().find(named));
        let entry = entry.with_context(|| {
            let layout = self.layout.display();
            format!("the layout {layout} does not have the tag {}", self.tag)
        })?;
        let manifest = self.json(&blob(&entry["digest"])?)?;
        let layers = manifest["layers"].as_array();
        let layers = layers
            .with_context(|| format!("the tag {} does not name an image manifest", self.tag))?;
        let path = |layer: &Value| Ok(self.layout.join(blob(&layer["digest"])?));
        layers.iter().map(path).collect()
    }

    fn json(&self, path: &Path) -> Result<Value> {
        let path = self.layout.join(path);
        let data = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(serde_json::from_slice(&data)?)
    }
}

fn blob(digest: &Value) -> Result<PathBuf> {
    let digest = digest
        .as_str()
        .context("a descriptor in the layout has no digest")?;
    Ok(Path::new("blobs").join(digest.replace(':', "/")))
}

/// Writes an image of one layer to `layout`, and returns the image. The layer has all members of
/// the layers of `image` except the whiteouts. The layers of `image` must be compressed by gzip.
///
/// # Errors
/// Errors of the file system and of [`Image::layers`]; an error if a layer of `image` cannot be
/// decoded.
pub fn fat(image: &Image, layout: &Path) -> Result<Image> {
    let mut made = Layout::new(layout)?;
    made.layer(|out| {
        let mut tar = tar::Builder::new(out);
        for layer in image.layers()? {
            let layer = MultiGzDecoder::new(BufReader::new(File::open(layer)?));
            for member in tar::Archive::new(layer).entries()?.raw(true) {
                let mut member = member?;
                // In containerd, a whiteout also hides files of its own layer.
                let path = member.path()?.into_owned();
                let name = path.file_name().unwrap_or_default();
                if name.as_encoded_bytes().starts_with(b".wh.") {
                    continue;
                }
                tar.append(&member.header().clone(), &mut member)?;
            }
        }
        Ok(tar.finish()?)
    })?;
    made.finish()
}

/// Writes to `layout` an image of `layers` layers, each of which has one file. Returns the image.
///
/// # Errors
/// Errors of the file system.
pub fn tall(layers: usize, layout: &Path) -> Result<Image> {
    let mut made = Layout::new(layout)?;
    for layer in 0..layers {
        made.layer(|out| {
            let mut tar = tar::Builder::new(out);
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            header.set_mode(0o644);
            tar.append_data(&mut header, format!("file-{layer}"), &b"x"[..])?;
            Ok(tar.finish()?)
        })?;
    }
    made.finish()
}

/// Writes to `layout` an image with one layer for each of `sizes`. Returns the image. A layer has
/// one incompressible file, whose size in MiB is the number in `sizes`.
///
/// # Errors
/// Errors of the file system.
pub fn random(sizes: &[u64], layout: &Path) -> Result<Image> {
    let mut made = Layout::new(layout)?;
    for (number, size) in sizes.iter().enumerate() {
        made.layer_as("zstd", |out| {
            let mut tar = tar::Builder::new(out);
            let mut header = tar::Header::new_gnu();
            header.set_size(size << 20);
            header.set_mode(0o644);
            let data = Random(number as u64 + 1).take(size << 20);
            tar.append_data(&mut header, format!("file-{number}"), data)?;
            Ok(tar.finish()?)
        })?;
    }
    made.finish()
}

/// Endless bytes of a generator (xorshift) with this state.
struct Random(u64);

impl Read for Random {
    fn read(&mut self, data: &mut [u8]) -> io::Result<usize> {
        for part in data.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            part.copy_from_slice(&self.0.to_le_bytes()[..part.len()]);
        }
        Ok(data.len())
    }
}

/// Writes to `layout` an image that has the layers of `image`, but compressed by zstd at level 3,
/// which is zstd's default. Returns the new image. The configuration of the new image has only the
/// OS, the architecture and the diff IDs. The layers of `image` must be compressed by gzip.
///
/// # Errors
/// Errors of the file system and of [`Image::layers`]; an error if a layer of `image` cannot be
/// decoded.
pub fn zstd(image: &Image, layout: &Path) -> Result<Image> {
    let mut made = Layout::new(layout)?;
    for layer in image.layers()? {
        let mut layer = MultiGzDecoder::new(BufReader::new(File::open(layer)?));
        made.layer_as("zstd", |out| Ok(io::copy(&mut layer, out).map(|_| ())?))?;
    }
    made.finish()
}

/// A layout that is being written.
struct Layout {
    path: PathBuf,
    layers: Vec<Value>,
    diff_ids: Vec<String>,
}

impl Layout {
    fn new(path: &Path) -> Result<Self> {
        fs::create_dir_all(path.join("blobs/sha256"))?;
        Ok(Layout {
            path: path.to_owned(),
            layers: Vec::new(),
            diff_ids: Vec::new(),
        })
    }

    fn layer(&mut self, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
        self.layer_as("gzip", fill)
    }

    fn layer_as(
        &mut self,
        compression: &str,
        fill: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        let path = self.path.join("layer");
        let file = File::create(&path)?;
        let diff_id = match compression {
            "gzip" => {
                let gzip = flate2::write::GzEncoder::new(file, flate2::Compression::default());
                let mut hashed = Hashed::new(gzip);
                fill(&mut hashed)?;
                hashed.end(|gzip| gzip.finish().map(drop))?
            }
            _ => {
                let mut hashed = Hashed::new(zstd::Encoder::new(file, 3)?);
                fill(&mut hashed)?;
                hashed.end(|zstd| zstd.finish().map(drop))?
            }
        };
        let mut hash = Hashed::new(io::sink());
        let size = io::copy(&mut File::open(&path)?, &mut hash)?;
        let digest = hash.end(|_| Ok(()))?;
        fs::rename(&path, self.path.join("blobs/sha256").join(&digest))?;
        let kind = format!("application/vnd.oci.image.layer.v1.tar+{compression}");
        self.layers.push(json!({
            "mediaType": kind, "digest": format!("sha256:{digest}"), "size": size
        }));
        self.diff_ids.push(format!("sha256:{diff_id}"));
        Ok(())
    }

    fn document(&self, kind: &str, value: &Value) -> Result<Value> {
        let data = serde_json::to_vec(value)?;
        let digest = hex(&Sha256::digest(&data));
        fs::write(self.path.join("blobs/sha256").join(&digest), &data)?;
        Ok(json!({
            "mediaType": kind, "digest": format!("sha256:{digest}"), "size": data.len()
        }))
    }

    fn finish(self) -> Result<Image> {
        let config = json!({
            "os": "linux", "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids}
        });
        let config = self.document("application/vnd.oci.image.config.v1+json", &config)?;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": self.layers
        });
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let mut manifest = self.document(kind, &manifest)?;
        manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "bench"});
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        fs::write(self.path.join("index.json"), serde_json::to_vec(&index)?)?;
        let version = r#"{"imageLayoutVersion":"1.0.0"}"#;
        fs::write(self.path.join("oci-layout"), version)?;
        Ok(Image {
            layout: self.path,
            tag: "bench".to_owned(),
        })
    }
}

/// A writer that hashes what passes through it.
struct Hashed<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Hashed<W> {
    fn new(inner: W) -> Self {
        Hashed {
            inner,
            hash: Sha256::new(),
        }
    }

    fn end(self, end: impl FnOnce(W) -> io::Result<()>) -> Result<String> {
        end(self.inner)?;
        Ok(hex(&self.hash.finalize()))
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(data)?;
        self.hash.update(&data[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
