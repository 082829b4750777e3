//! The names that an OCI image layout and docker's archive give to their files, for import and
//! export alike.

use cas_core::Digest;

/// The file that says which version of the layout it is.
pub(crate) const LAYOUT: &str = "oci-layout";
/// The version that is read and written.
pub(crate) const VERSION: &str = "1.0.0";
/// The file that lists the images.
pub(crate) const INDEX: &str = "index.json";
/// The file that lists the images of a docker archive.
pub(crate) const DOCKER_MANIFEST: &str = "manifest.json";
/// Annotations that name an entry of the index, best first: containerd's, which podman reads too,
/// and that of the specification, which skopeo and umoci go by.
pub(crate) const NAMES: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

/// The file of a blob.
pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}
