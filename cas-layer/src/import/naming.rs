//! The paths of the blobs of a source.

use cas_core::Digest;
use cas_core::layout::blob_path;

use crate::layout::DOCKER_MANIFEST;

/// How a source names its blobs.
pub(super) enum Naming {
    /// As an OCI layout.
    Layout,
    /// As skopeo's directories.
    SkopeoDir {
        /// The digest of the manifest or index, whose file has another name.
        root: Digest,
    },
}

impl Naming {
    /// Returns the paths at which a blob may be.
    pub(super) fn paths(&self, digest: &Digest) -> Vec<String> {
        match self {
            Naming::Layout => vec![blob_path(digest)],
            Naming::SkopeoDir { root } if root == digest => vec![DOCKER_MANIFEST.to_owned()],
            Naming::SkopeoDir { .. } => {
                let (algorithm, hex) = (digest.algorithm().name(), digest.hex());
                // Newer versions of skopeo leave out the algorithm only if it is SHA-256.
                vec![
                    hex.to_string(),
                    format!("{hex}.manifest.json"),
                    format!("{algorithm}-{hex}"),
                    format!("{algorithm}-{hex}.manifest.json"),
                ]
            }
        }
    }
}
