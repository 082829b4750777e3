//! The index: a manifest with one zTOC for each layer that can be read lazily.

use std::collections::BTreeMap;

use cas_core::{Descriptor, Digest, Document, Error, Manifest, MediaType, Result, limit};

use super::go_json;

/// Media type of the configuration in a version 1 SOCI index. In a list of referrers, this media
/// type is the artifact type of the SOCI index.
pub const CONFIG_MEDIA_TYPE_V1: &str = "application/vnd.amazon.soci.index.v1+json";
/// Media type of the configuration in a version 2 SOCI index. In an image index, the descriptor of
/// the SOCI index has this media type as its artifact type.
pub const CONFIG_MEDIA_TYPE_V2: &str = "application/vnd.amazon.soci.index.v2+json";
/// Annotation of an image manifest: the digest of the version 2 SOCI index of the image.
pub const INDEX_DIGEST: &str = "com.amazon.soci.index-digest";
/// Annotation of the descriptor that a version 2 SOCI index has in an image index: the digest of
/// the image manifest that the SOCI index belongs to.
pub const IMAGE_MANIFEST_DIGEST: &str = "com.amazon.soci.image-manifest-digest";
/// The configuration of every SOCI index.
pub const CONFIG: &[u8] = b"{}";

const ZTOC: &str = "application/octet-stream";
const PREFETCH: &str = "application/vnd.amazon.soci.prefetch.v1+json";
const LAYER_DIGEST: &str = "com.amazon.soci.image-layer-digest";
const LAYER_MEDIA_TYPE: &str = "com.amazon.soci.image-layer-mediaType";
const SPAN_SIZE: &str = "com.amazon.soci.span-size";
const NO_XATTRS: &str = "com.amazon.soci.disable-xattrs";
const BUILD_TOOL: &str = "com.amazon.soci.build-tool-identifier";

/// How an image and its SOCI index are connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Version {
    /// The index is a referrer of the manifest of the image. The manifest is not changed.
    V1 {
        /// The manifest of the image.
        subject: Box<Descriptor>,
    },
    /// An annotation of the manifest of the image names the index.
    V2,
}

/// A SOCI index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// The version. [`Version::V1`] contains the descriptor of the manifest that the index belongs
    /// to.
    pub version: Version,
    /// The zTOCs, in the order of the layers.
    pub ztocs: Vec<LayerZtoc>,
    /// The artifacts that list the spans to fetch first. A layer may have several.
    pub prefetches: Vec<LayerPrefetch>,
    /// The program that made the index; empty if it is not known.
    pub build_tool: String,
}

/// The zTOC of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerZtoc {
    /// Digest of the zTOC.
    pub digest: Digest,
    /// Size of the zTOC in bytes.
    pub size: u64,
    /// Digest of the compressed layer.
    pub layer: Digest,
    /// Media type of the layer; empty if it is not stated.
    pub layer_media_type: String,
    /// Each span of the layer ends with the first deflate block that makes the span larger than
    /// this number of decompressed bytes. The last span may be smaller. `None` if the index does
    /// not state the number.
    pub span_size: Option<u64>,
    /// Whether the index states that the layer has neither extended attributes nor opaque
    /// directories.
    pub no_xattrs: bool,
}

/// The [prefetch artifact](super::Prefetch) of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerPrefetch {
    /// Digest of the artifact.
    pub digest: Digest,
    /// Size of the artifact in bytes.
    pub size: u64,
    /// Digest of the compressed layer.
    pub layer: Digest,
}

/// Returns whether a manifest with a configuration of this media type is a SOCI index.
pub fn is_index(config: &MediaType) -> bool {
    [CONFIG_MEDIA_TYPE_V1, CONFIG_MEDIA_TYPE_V2].contains(&config.as_str())
}

impl Index {
    /// Returns the media type of the configuration.
    pub fn config_media_type(&self) -> &'static str {
        match self.version {
            Version::V1 { .. } => CONFIG_MEDIA_TYPE_V1,
            Version::V2 => CONFIG_MEDIA_TYPE_V2,
        }
    }

    /// Returns the bytes of the manifest. SOCI reads an index, serializes the index again, and
    /// pushes the result under the digest of the index that SOCI has read. Therefore the bytes are
    /// those that Go's `encoding/json` writes, and they contain no artifact type.
    ///
    /// # Errors
    /// `OutOfRange` for more than [`limit::LAYERS`] zTOCs and prefetch artifacts together, or for
    /// more than [`limit::DOCUMENT_WRITE`] bytes; `Internal` if the manifest cannot be serialized.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let config = MediaType::from(self.config_media_type());
        let subject = match &self.version {
            Version::V1 { subject } => Some(Descriptor::clone(subject)),
            Version::V2 => None,
        };
        let tool = (BUILD_TOOL.to_owned(), self.build_tool.clone());
        let annotations = Some(BTreeMap::from([tool])).filter(|_| !self.build_tool.is_empty());
        let ztocs = self.ztocs.iter().map(LayerZtoc::descriptor);
        let prefetches = self.prefetches.iter().map(LayerPrefetch::descriptor);
        let written = go_json::write(&Manifest {
            schema_version: 2,
            media_type: Some(MediaType::OCI_MANIFEST),
            artifact_type: None,
            config: Descriptor::of(config, CONFIG),
            layers: ztocs.chain(prefetches).collect(),
            subject,
            annotations,
        })?;
        let (ztocs, prefetches) = (self.ztocs.len(), self.prefetches.len());
        let bytes = written.len() as u64;
        if ztocs + prefetches > limit::LAYERS || bytes > limit::DOCUMENT_WRITE {
            return Err(Error::out_of_range(format!(
                "the SOCI index would have {ztocs} zTOCs, {prefetches} prefetch artifacts and \
                 {bytes} bytes; at most {} zTOCs and artifacts, and {} bytes are allowed; build \
                 the image with fewer layers, or choose files to prefetch from fewer layers",
                limit::LAYERS,
                limit::DOCUMENT_WRITE
            ))
            .operation("write SOCI index"));
        }
        Ok(written)
    }

    /// Reads the manifest of an index. Ignores layers of the manifest that are neither zTOCs nor
    /// prefetch artifacts.
    ///
    /// # Errors
    /// `Corrupt` if `bytes` is not a valid manifest, if a zTOC or an artifact does not name its
    /// layer, if a span size is not a number above 0, if two zTOCs differ but name the same layer,
    /// or if a version 1 index has no subject; `Unsupported` for a manifest that is not a SOCI
    /// index; `OutOfRange` for a zTOC of more than [`limit::ZTOC`] bytes or an artifact of more
    /// than [`limit::PREFETCH`].
    pub fn decode(bytes: &[u8]) -> Result<Index> {
        decode(bytes).map_err(|error| error.operation("read SOCI index"))
    }

    /// Returns the zTOC of a layer, or `None` if the index does not have one.
    pub fn of_layer(&self, layer: &Digest) -> Option<&LayerZtoc> {
        self.ztocs.iter().find(|ztoc| ztoc.layer == *layer)
    }
}

impl LayerZtoc {
    /// Returns the descriptor of the zTOC. The annotations of the descriptor state all fields
    /// except the digest and the size of the zTOC.
    pub fn descriptor(&self) -> Descriptor {
        let ztoc = MediaType::from(ZTOC);
        let mut descriptor = Descriptor::new(ztoc, self.digest, self.size);
        let mut annotate = |key: &str, value: String| {
            descriptor.annotations.insert(key.to_owned(), value);
        };
        annotate(LAYER_DIGEST, self.layer.to_string());
        if !self.layer_media_type.is_empty() {
            annotate(LAYER_MEDIA_TYPE, self.layer_media_type.clone());
        }
        if let Some(size) = self.span_size {
            annotate(SPAN_SIZE, size.to_string());
        }
        if self.no_xattrs {
            annotate(NO_XATTRS, "true".to_owned());
        }
        descriptor
    }

    fn read(from: &Descriptor) -> Result<Self> {
        let stated = |key: &str| from.annotations.get(key).map(String::as_str);
        let layer = layer_of(from, "a zTOC")?;
        let span_size = stated(SPAN_SIZE).map(|text| {
            let size = text.parse().ok().filter(|size| *size > 0);
            size.ok_or_else(|| damaged("a span size is not a number above 0").subject(from.digest))
        });
        if from.size > limit::ZTOC {
            return Err(Error::out_of_range(format!(
                "the zTOC has {} bytes; at most {} are allowed; create it with larger spans",
                from.size,
                limit::ZTOC
            ))
            .subject(from.digest));
        }
        Ok(LayerZtoc {
            digest: from.digest,
            size: from.size,
            layer,
            layer_media_type: stated(LAYER_MEDIA_TYPE).unwrap_or_default().to_owned(),
            span_size: span_size.transpose()?,
            no_xattrs: stated(NO_XATTRS) == Some("true"),
        })
    }
}

impl LayerPrefetch {
    /// Returns the descriptor of the artifact, with the digest of the layer as an annotation.
    pub fn descriptor(&self) -> Descriptor {
        let media_type = MediaType::from(PREFETCH);
        let mut descriptor = Descriptor::new(media_type, self.digest, self.size);
        let layer = self.layer.to_string();
        descriptor
            .annotations
            .insert(LAYER_DIGEST.to_owned(), layer);
        descriptor
    }

    fn read(from: &Descriptor) -> Result<Self> {
        let layer = layer_of(from, "a prefetch artifact")?;
        if from.size > limit::PREFETCH {
            return Err(Error::out_of_range(format!(
                "the prefetch artifact has {} bytes; at most {} are allowed; create it with fewer \
                 files",
                from.size,
                limit::PREFETCH
            ))
            .subject(from.digest));
        }
        Ok(LayerPrefetch {
            digest: from.digest,
            size: from.size,
            layer,
        })
    }
}

/// Returns the layer that an annotation of `from` names.
fn layer_of(from: &Descriptor, what: &str) -> Result<Digest> {
    let named = from.annotations.get(LAYER_DIGEST);
    named.and_then(|text| text.parse().ok()).ok_or_else(|| {
        let why = format!("{what} has no annotation with a valid digest of its layer");
        damaged(&why).subject(from.digest)
    })
}

fn decode(bytes: &[u8]) -> Result<Index> {
    let Document::Manifest(manifest) = Document::parse(&MediaType::OCI_MANIFEST, bytes)? else {
        return Err(damaged("it is not a manifest"));
    };
    let config = manifest.config.media_type.as_str();
    let version = match (config, manifest.subject) {
        (CONFIG_MEDIA_TYPE_V1, Some(subject)) => Version::V1 {
            subject: Box::new(subject),
        },
        (CONFIG_MEDIA_TYPE_V1, None) => return Err(damaged("it has no subject")),
        (CONFIG_MEDIA_TYPE_V2, _) => Version::V2,
        _ => {
            return Err(Error::unsupported(format!(
                "the manifest is not a SOCI index: its configuration has the type {config:.100}"
            )));
        }
    };
    let of_type = |wanted: &'static str| {
        let listed = manifest.layers.iter();
        listed.filter(move |layer| layer.media_type.as_str() == wanted)
    };
    let prefetches = of_type(PREFETCH).map(LayerPrefetch::read);
    let prefetches = prefetches.collect::<Result<_>>()?;
    let mut ztocs: Vec<LayerZtoc> = Vec::new();
    for ztoc in of_type(ZTOC).map(LayerZtoc::read) {
        let ztoc = ztoc?;
        let known = ztocs.iter().find(|known| known.layer == ztoc.layer);
        if known.is_some_and(|known| *known != ztoc) {
            return Err(damaged("two different zTOCs name the same layer").subject(ztoc.layer));
        }
        ztocs.push(ztoc);
    }
    let mut annotations = manifest.annotations.unwrap_or_default();
    Ok(Index {
        version,
        ztocs,
        prefetches,
        build_tool: annotations.remove(BUILD_TOOL).unwrap_or_default(),
    })
}

fn damaged(what: &str) -> Error {
    Error::corrupt(format!(
        "the SOCI index is damaged: {what}; create it again"
    ))
}

#[cfg(test)]
mod tests {
    use cas_core::ErrorKind;

    use super::*;

    fn example(version: Version) -> Index {
        Index {
            version,
            ztocs: vec![LayerZtoc {
                digest: Digest::sha256(b"ztoc"),
                size: 4,
                layer: Digest::sha256(b"layer"),
                layer_media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
                span_size: Some(4_194_304),
                no_xattrs: false,
            }],
            prefetches: Vec::new(),
            build_tool: "a <tool> & more".to_owned(),
        }
    }

    /// The text was written by Go 1.19, from a struct with the fields of SOCI's manifest.
    #[test]
    fn an_index_has_the_bytes_that_go_writes() {
        let subject = Box::new(Descriptor::of(MediaType::OCI_MANIFEST, b"image"));
        let index = example(Version::V1 { subject });
        let go = include_str!("index_v1.json").trim_end();
        assert_eq!(String::from_utf8(index.encode().unwrap()).unwrap(), go);
        assert_eq!(Index::decode(go.as_bytes()).unwrap(), index);
        let second = example(Version::V2);
        let written = second.encode().unwrap();
        let go = include_str!("index_v2.json").trim_end();
        assert_eq!(String::from_utf8(written).unwrap(), go);
        assert_eq!(Index::decode(go.as_bytes()).unwrap(), second);
        assert_eq!(
            second.of_layer(&Digest::sha256(b"layer")),
            second.ztocs.first()
        );
        assert_eq!(second.of_layer(&Digest::sha256(b"other")), None);
    }

    #[test]
    fn an_index_that_is_written_can_be_read() {
        let layer = |number: usize| Digest::sha256(&number.to_le_bytes());
        let with = |ztocs: usize, prefetches: usize| {
            let mut index = example(Version::V2);
            let first = index.ztocs.remove(0);
            index.ztocs.extend((0..ztocs).map(|number| LayerZtoc {
                layer: layer(number),
                ..first.clone()
            }));
            index
                .prefetches
                .extend((0..prefetches).map(|number| LayerPrefetch {
                    digest: Digest::sha256(b"prefetch"),
                    size: 8,
                    layer: layer(number),
                }));
            index
        };
        for (ztocs, prefetches) in [(limit::LAYERS, 0), (limit::LAYERS - 100, 100)] {
            let index = with(ztocs, prefetches);
            assert_eq!(Index::decode(&index.encode().unwrap()).unwrap(), index);
            let more = with(ztocs, prefetches + 1);
            assert_eq!(more.encode().unwrap_err().kind(), ErrorKind::OutOfRange);
        }
    }

    #[test]
    fn indexes_that_lie_are_refused() {
        let text = String::from_utf8(example(Version::V2).encode().unwrap()).unwrap();
        let kind = |text: &str| Index::decode(text.as_bytes()).unwrap_err().kind();
        assert_eq!(
            kind(&text.replace("index.v2", "index.v1")),
            ErrorKind::Corrupt
        );
        assert_eq!(
            kind(&text.replace("soci.index.v2", "other")),
            ErrorKind::Unsupported
        );
        assert_eq!(
            kind(&text.replace(LAYER_DIGEST, "other")),
            ErrorKind::Corrupt
        );
        assert_eq!(kind(&text.replace("4194304", "0")), ErrorKind::Corrupt);
        assert_eq!(kind(&text.replace("4194304", "-1")), ErrorKind::Corrupt);
        let size = |size: u64| text.replace("\"size\":4,", &format!("\"size\":{size},"));
        assert!(Index::decode(size(limit::ZTOC).as_bytes()).is_ok());
        assert_eq!(kind(&size(limit::ZTOC + 1)), ErrorKind::OutOfRange);
        let mut first = example(Version::V2);
        first.prefetches.push(LayerPrefetch {
            digest: Digest::sha256(b"prefetch"),
            size: 1234,
            layer: Digest::sha256(b"layer"),
        });
        let text = String::from_utf8(first.encode().unwrap()).unwrap();
        assert_eq!(Index::decode(text.as_bytes()).unwrap(), first);
        let large = text.replace("1234", &(limit::PREFETCH + 1).to_string());
        assert_eq!(kind(&large), ErrorKind::OutOfRange);
        let (ztoc, prefetch) = text.split_at(text.rfind(LAYER_DIGEST).unwrap());
        let nameless = format!("{ztoc}{}", prefetch.replacen(LAYER_DIGEST, "other", 1));
        assert_eq!(kind(&nameless), ErrorKind::Corrupt);
        let mut twice = example(Version::V2);
        twice.ztocs.push(twice.ztocs[0].clone());
        assert!(Index::decode(&twice.encode().unwrap()).is_ok());
        twice.ztocs[1].digest = Digest::sha256(b"other");
        let twice = String::from_utf8(twice.encode().unwrap()).unwrap();
        assert_eq!(kind(&twice), ErrorKind::Corrupt);
        for length in 0..text.len() {
            assert!(
                Index::decode(&text.as_bytes()[..length]).is_err(),
                "{length}"
            );
        }
    }
}
