//! File names in an OCI image layout and in a docker archive, for import and export.

use cas_core::Digest;

/// The file with the version of the layout.
pub(crate) const LAYOUT: &str = "oci-layout";
/// The only version that is read and written.
pub(crate) const VERSION: &str = "1.0.0";
/// The file that lists the images.
pub(crate) const INDEX: &str = "index.json";
/// The file that lists the images of a docker archive.
pub(crate) const DOCKER_MANIFEST: &str = "manifest.json";
/// Annotations that name an entry of the index, best first: the one of containerd, which podman
/// reads too, and the one of the specification, which skopeo and umoci use.
pub(crate) const NAMES: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

/// Returns the path of a blob.
pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}
