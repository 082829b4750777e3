//! Media types, and the parts of an image that they stand for.

mod compression;

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use compression::DiffCompression;

/// A media type, kept exactly as it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MediaType(Cow<'static, str>);

macro_rules! media_types {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {$(
        $(#[$doc])*
        pub const $name: MediaType = MediaType(Cow::Borrowed($text));
    )*};
}

impl MediaType {
    media_types! {
        /// Any bytes: the type states nothing about the content.
        BYTES = "application/octet-stream";
        /// OCI index.
        OCI_INDEX = "application/vnd.oci.image.index.v1+json";
        /// OCI manifest.
        OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json";
        /// OCI image configuration.
        OCI_CONFIG = "application/vnd.oci.image.config.v1+json";
        /// The empty JSON document of OCI artifacts.
        OCI_EMPTY = "application/vnd.oci.empty.v1+json";
        /// OCI layer, plain tar.
        OCI_LAYER = "application/vnd.oci.image.layer.v1.tar";
        /// OCI layer, gzip.
        OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip";
        /// OCI layer, zstd.
        OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd";
        /// OCI layer that is not distributed, plain tar.
        OCI_LAYER_NON_DISTRIBUTABLE =
            "application/vnd.oci.image.layer.nondistributable.v1.tar";
        /// Docker schema 2 manifest list.
        DOCKER_MANIFEST_LIST = "application/vnd.docker.distribution.manifest.list.v2+json";
        /// Docker schema 2 manifest.
        DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json";
        /// Docker schema 1 manifest, signed. `cas` does not read manifests of this type.
        DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        /// Docker schema 2 image configuration.
        DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json";
        /// Docker layer. The type does not state its compression.
        DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar";
        /// Docker layer, gzip.
        DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        /// Docker layer, zstd.
        DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd";
        /// Docker layer that is not distributed.
        DOCKER_LAYER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar";
        /// Docker layer that is not distributed, gzip.
        DOCKER_LAYER_FOREIGN_GZIP = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        /// containerd checkpoint: process state.
        CONTAINERD_CHECKPOINT = "application/vnd.containerd.container.criu.checkpoint.criu.tar";
        /// containerd checkpoint: memory of an earlier dump.
        CONTAINERD_CHECKPOINT_PRE_DUMP =
            "application/vnd.containerd.container.criu.checkpoint.predump.tar";
        /// containerd checkpoint: resources.
        CONTAINERD_RESOURCE = "application/vnd.containerd.container.resource.tar";
        /// containerd checkpoint: writable layer.
        CONTAINERD_RW = "application/vnd.containerd.container.rw.tar";
        /// containerd checkpoint: configuration.
        CONTAINERD_CHECKPOINT_CONFIG =
            "application/vnd.containerd.container.checkpoint.config.v1+proto";
        /// containerd checkpoint: options.
        CONTAINERD_CHECKPOINT_OPTIONS =
            "application/vnd.containerd.container.checkpoint.options.v1+proto";
        /// containerd checkpoint: name of the runtime.
        CONTAINERD_CHECKPOINT_RUNTIME_NAME =
            "application/vnd.containerd.container.checkpoint.runtime.name";
        /// containerd checkpoint: options of the runtime.
        CONTAINERD_CHECKPOINT_RUNTIME_OPTIONS =
            "application/vnd.containerd.container.checkpoint.runtime.options+proto";
        /// Places in a layer from which `cas` decompresses it in parallel. They only save time.
        LAYER_CHECKPOINTS = "application/vnd.cas.layer.checkpoints.v1";
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether this is an OCI index or a Docker manifest list.
    pub fn is_index(&self) -> bool {
        [Self::OCI_INDEX, Self::DOCKER_MANIFEST_LIST].contains(self)
    }

    /// Returns whether this is a manifest. Docker's schema 1 does not count.
    pub fn is_manifest(&self) -> bool {
        [Self::OCI_MANIFEST, Self::DOCKER_MANIFEST].contains(self)
    }

    /// Returns whether content of this type is a document that lists other content: an index or a
    /// manifest.
    pub fn is_document(&self) -> bool {
        self.is_index() || self.is_manifest()
    }

    /// Returns whether this is an image configuration. Configurations of containerd's checkpoints
    /// do not count.
    pub fn is_config(&self) -> bool {
        [Self::OCI_CONFIG, Self::DOCKER_CONFIG].contains(self)
    }

    /// Returns whether containerd counts this type as a configuration. containerd counts the types
    /// of image configurations, and two types of its checkpoints: the process state and the
    /// configuration.
    pub fn is_known_config(&self) -> bool {
        let checkpoints = [
            Self::CONTAINERD_CHECKPOINT,
            Self::CONTAINERD_CHECKPOINT_CONFIG,
        ];
        self.is_config() || checkpoints.contains(self)
    }

    /// Returns whether this is the type of a file system layer. The layer may be compressed, or
    /// wrapped in something else, such as encryption.
    pub fn is_layer(&self) -> bool {
        self.0.starts_with("application/vnd.oci.image.layer.")
            || self.is_erofs()
            || self.docker_layer().is_some()
    }

    /// Returns whether this is the type of a layer that is an EROFS image, compressed or not. Such
    /// types are `application/vnd.erofs.layer.…` of containerd, `application/vnd.erofs` of the
    /// later specification of EROFS layers, and older types that end with `.erofs`.
    pub fn is_erofs(&self) -> bool {
        let base = self.base();
        let layer = "application/vnd.erofs.layer.";
        base == "application/vnd.erofs" || base.starts_with(layer) || base.ends_with(".erofs")
    }

    /// Returns whether content of this type may be a file system layer. Returns true for
    /// [types of layers](Self::is_layer). For other types, returns true unless the type is JSON,
    /// text or [the type of a vendor](Self::is_vendor). Artifacts usually list their content as
    /// layers with types of vendors, for which this returns false.
    pub fn may_be_layer(&self) -> bool {
        let is_text = self.0.contains("json") || self.0.starts_with("text/");
        self.is_layer() || !is_text && !self.is_vendor()
    }

    /// Returns whether this is one of Docker's types.
    pub fn is_docker(&self) -> bool {
        self.0.starts_with("application/vnd.docker.")
    }

    /// Returns whether this is the type of a vendor (`application/vnd.…`). Such a type stands for
    /// one kind of content, and any other type may stand for content of any kind. Docker's types of
    /// image configurations do not count as types of a vendor.
    pub fn is_vendor(&self) -> bool {
        self.0.starts_with("application/vnd.")
            && !self
                .0
                .starts_with("application/vnd.docker.container.image.")
    }

    /// Returns whether this is a layer that registries do not distribute.
    pub fn is_non_distributable(&self) -> bool {
        let oci = "application/vnd.oci.image.layer.nondistributable.";
        let docker = "application/vnd.docker.image.rootfs.foreign.";
        self.0.starts_with(oci) || self.0.starts_with(docker)
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<String> for MediaType {
    fn from(text: String) -> Self {
        MediaType(Cow::Owned(text))
    }
}

impl From<&str> for MediaType {
    fn from(text: &str) -> Self {
        MediaType(Cow::Owned(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns seven answers, in this order: whether `text` is the type of an index, a manifest, an
    /// image configuration, a configuration that containerd knows, and a layer; whether it is one
    /// of Docker's types; and whether it is the type of a layer that is not distributed.
    fn answers(text: &str) -> [bool; 7] {
        let media_type = MediaType::from(text);
        [
            media_type.is_index(),
            media_type.is_manifest(),
            media_type.is_config(),
            media_type.is_known_config(),
            media_type.is_layer(),
            media_type.is_docker(),
            media_type.is_non_distributable(),
        ]
    }

    /// The values are those of containerd's documentation.
    #[test]
    fn the_constants_have_the_values_of_containerd() {
        for (media_type, of, rest) in [
            (MediaType::DOCKER_LAYER, "docker", "image.rootfs.diff.tar"),
            (
                MediaType::DOCKER_LAYER_FOREIGN,
                "docker",
                "image.rootfs.foreign.diff.tar",
            ),
            (
                MediaType::DOCKER_LAYER_GZIP,
                "docker",
                "image.rootfs.diff.tar.gzip",
            ),
            (
                MediaType::DOCKER_LAYER_FOREIGN_GZIP,
                "docker",
                "image.rootfs.foreign.diff.tar.gzip",
            ),
            (
                MediaType::DOCKER_CONFIG,
                "docker",
                "container.image.v1+json",
            ),
            (
                MediaType::DOCKER_MANIFEST,
                "docker",
                "distribution.manifest.v2+json",
            ),
            (
                MediaType::DOCKER_MANIFEST_LIST,
                "docker",
                "distribution.manifest.list.v2+json",
            ),
            (
                MediaType::DOCKER_SCHEMA1,
                "docker",
                "distribution.manifest.v1+prettyjws",
            ),
            (
                MediaType::CONTAINERD_CHECKPOINT,
                "containerd",
                "container.criu.checkpoint.criu.tar",
            ),
            (
                MediaType::CONTAINERD_CHECKPOINT_PRE_DUMP,
                "containerd",
                "container.criu.checkpoint.predump.tar",
            ),
            (
                MediaType::CONTAINERD_RESOURCE,
                "containerd",
                "container.resource.tar",
            ),
            (MediaType::CONTAINERD_RW, "containerd", "container.rw.tar"),
            (
                MediaType::CONTAINERD_CHECKPOINT_CONFIG,
                "containerd",
                "container.checkpoint.config.v1+proto",
            ),
            (
                MediaType::CONTAINERD_CHECKPOINT_OPTIONS,
                "containerd",
                "container.checkpoint.options.v1+proto",
            ),
            (
                MediaType::CONTAINERD_CHECKPOINT_RUNTIME_NAME,
                "containerd",
                "container.checkpoint.runtime.name",
            ),
            (
                MediaType::CONTAINERD_CHECKPOINT_RUNTIME_OPTIONS,
                "containerd",
                "container.checkpoint.runtime.options+proto",
            ),
        ] {
            assert_eq!(media_type.as_str(), format!("application/vnd.{of}.{rest}"));
        }
    }

    #[test]
    fn every_type_is_classified() {
        let docker = "application/vnd.docker.";
        let oci = "application/vnd.oci.image.";
        let containerd = "application/vnd.containerd.container.";
        for (prefix, rest, expected) in [
            (oci, "index.v1+json", "i______"),
            (docker, "distribution.manifest.list.v2+json", "i____d_"),
            (oci, "manifest.v1+json", "_m_____"),
            (docker, "distribution.manifest.v2+json", "_m___d_"),
            (docker, "distribution.manifest.v1+prettyjws", "_____d_"),
            (oci, "config.v1+json", "__ck___"),
            (docker, "container.image.v1+json", "__ck_d_"),
            (containerd, "criu.checkpoint.criu.tar", "___k___"),
            (containerd, "criu.checkpoint.predump.tar", "_______"),
            (containerd, "checkpoint.config.v1+proto", "___k___"),
            (containerd, "checkpoint.options.v1+proto", "_______"),
            (containerd, "rw.tar", "_______"),
            (oci, "layer.v1.tar+zstd", "____l__"),
            (oci, "layer.v1.tar+gzip+encrypted", "____l__"),
            (oci, "layer.v1.squashfs", "____l__"),
            (oci, "layer.nondistributable.v1.tar+gzip", "____l_n"),
            (docker, "image.rootfs.diff.tar.gzip", "____ld_"),
            (docker, "image.rootfs.diff.tar.gzip+encrypted", "____ld_"),
            (docker, "image.rootfs.diff.tar+zstd+encrypted", "____ld_"),
            (docker, "image.rootfs.diff.tarball", "_____d_"),
            (docker, "image.rootfs.foreign.diff.tar.gzip", "____ldn"),
            (docker, "image.rootfs.foreign.diff.tar+encrypted", "____ldn"),
            (docker, "image.rootfs.foreign.diff.tar.zstd", "_____dn"),
            ("", "application/vnd.erofs.layer.v1", "____l__"),
            ("", "application/vnd.erofs.layer.v1+zstd", "____l__"),
            ("", "application/vnd.erofs", "____l__"),
            ("", "application/vnd.erofs+zstd", "____l__"),
            (oci, "layer.v1.erofs", "____l__"),
            ("", "application/vnd.example.layer.erofs", "____l__"),
            ("", "application/vnd.erofs.chunk-index.v1", "_______"),
            ("", "application/octet-stream", "_______"),
            ("", "", "_______"),
        ] {
            let text = format!("{prefix}{rest}");
            let expected: Vec<bool> = expected.chars().map(|c| c != '_').collect();
            assert_eq!(answers(&text).as_slice(), expected, "{text}");
        }
    }
}
