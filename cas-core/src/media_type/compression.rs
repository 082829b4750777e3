//! The compression that the media type of a layer states, and whether the layer is wrapped in
//! something other than compression, such as encryption.

use super::MediaType;
use crate::error::{Error, Result};

/// The compression that the media type of a layer states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiffCompression {
    /// No compression. The layer is a plain tar, or it is wrapped in something other than gzip or
    /// zstd, such as encryption (see [`MediaType::diff_compression`]).
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
    /// The type does not state the compression. The first bytes of the layer show it.
    Unknown,
}

impl MediaType {
    /// Returns the compression that the media type of a layer states. If an OCI type has several
    /// suffixes, as in `tar+gzip+encrypted`, only the suffix that is last in alphabetical order
    /// counts. The result is [`DiffCompression::None`] for an OCI type if this suffix is neither
    /// `gzip` nor `zstd`, or if the type has no suffix. For a Docker type, the result is
    /// [`DiffCompression::None`] if the type has a suffix.
    ///
    /// # Errors
    /// `Unsupported` if the media type is not the type of a tar layer.
    pub fn diff_compression(&self) -> Result<DiffCompression> {
        if let Some(stated) = self.docker_layer() {
            let is_wrapped = self.suffixes().next().is_some();
            return Ok(if is_wrapped {
                DiffCompression::None
            } else {
                stated
            });
        }
        let tars = [Self::OCI_LAYER, Self::OCI_LAYER_NON_DISTRIBUTABLE];
        if !tars.iter().any(|tar| tar.0 == self.base()) {
            return Err(Error::unsupported(
                "not the media type of a tar layer; expected an OCI or Docker type of a tar layer",
            )
            .operation("diff compression")
            .subject(self));
        }
        Ok(match self.suffixes().max() {
            Some("gzip") => DiffCompression::Gzip,
            Some("zstd") => DiffCompression::Zstd,
            _ => DiffCompression::None,
        })
    }

    /// Returns whether the layer is wrapped in something other than compression, such as
    /// encryption. Docker's types state their compression without a suffix, so any suffix of a
    /// Docker type means that the layer is wrapped.
    pub(crate) fn is_wrapped(&self) -> bool {
        let wraps = |suffix| !["gzip", "zstd"].contains(&suffix) || self.docker_layer().is_some();
        self.suffixes().any(wraps)
    }

    /// Returns the compression of Docker's layer types, whatever their suffixes, or `None` for
    /// another type.
    pub(super) fn docker_layer(&self) -> Option<DiffCompression> {
        let types = [
            (Self::DOCKER_LAYER, DiffCompression::Unknown),
            (Self::DOCKER_LAYER_GZIP, DiffCompression::Gzip),
            (Self::DOCKER_LAYER_ZSTD, DiffCompression::Zstd),
            (Self::DOCKER_LAYER_FOREIGN, DiffCompression::Unknown),
            (Self::DOCKER_LAYER_FOREIGN_GZIP, DiffCompression::Gzip),
        ];
        let known = types.into_iter().find(|(known, _)| known.0 == self.base());
        known.map(|(_, stated)| stated)
    }

    /// Returns the text before the first `+`.
    pub(super) fn base(&self) -> &str {
        self.0.split('+').next().unwrap_or_default()
    }

    /// Returns the parts after the base, which are separated by `+`.
    pub(crate) fn suffixes(&self) -> impl Iterator<Item = &str> {
        self.0.split('+').skip(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_layer_type_states_its_compression() {
        use DiffCompression::{Gzip, None, Unknown, Zstd};
        for (media_type, expected) in [
            (MediaType::OCI_LAYER, None),
            (MediaType::OCI_LAYER_GZIP, Gzip),
            (MediaType::OCI_LAYER_ZSTD, Zstd),
            (MediaType::OCI_LAYER_NON_DISTRIBUTABLE, None),
            (MediaType::DOCKER_LAYER, Unknown),
            (MediaType::DOCKER_LAYER_FOREIGN, Unknown),
            (MediaType::DOCKER_LAYER_GZIP, Gzip),
            (MediaType::DOCKER_LAYER_FOREIGN_GZIP, Gzip),
            (MediaType::DOCKER_LAYER_ZSTD, Zstd),
        ] {
            let found = media_type.diff_compression().unwrap();
            assert_eq!(found, expected, "{media_type}");
            assert!(!media_type.is_wrapped(), "{media_type}");
        }
        let oci = "application/vnd.oci.image.layer.";
        let docker = "application/vnd.docker.image.rootfs.diff.tar";
        for (prefix, rest, expected) in [
            (oci, "v1.tar+gzip+encrypted", Gzip),
            (oci, "v1.tar+encrypted+gzip", Gzip),
            (oci, "v1.tar+zstd+encrypted", Zstd),
            (oci, "v1.tar+encrypted", None),
            (oci, "nondistributable.v1.tar+encrypted+zstd", Zstd),
            (docker, "+encrypted", None),
            (docker, ".gzip+encrypted", None),
            (docker, ".zstd+encrypted", None),
        ] {
            let media_type = MediaType::from(format!("{prefix}{rest}"));
            let found = media_type.diff_compression().unwrap();
            assert_eq!(found, expected, "{media_type}");
            assert!(media_type.is_wrapped(), "{media_type}");
        }
        for other in [
            MediaType::OCI_CONFIG,
            MediaType::OCI_MANIFEST,
            "application/vnd.oci.image.layer.v1.squashfs".into(),
            "application/vnd.oci.image.layer.v1.tar.gzip".into(),
            "application/vnd.erofs.layer.v1".into(),
            "x/y+gzip".into(),
        ] {
            let error = other.diff_compression().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{other}");
        }
    }
}
