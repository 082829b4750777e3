//! File names in an OCI image layout and in a docker archive, for import and export.

use cas_core::Digest;

/// The file with the version of the layout.
pub(crate) const LAYOUT: &str = "oci-layout";
/// The only supported version of the layout.
pub(crate) const VERSION: &str = "1.0.0";
/// The file that lists the images.
pub(crate) const INDEX: &str = "index.json";
/// The file that lists the images of a docker archive.
pub(crate) const DOCKER_MANIFEST: &str = "manifest.json";
/// The annotation in which containerd and podman expect the name of an entry of `index.json`.
pub const IMAGE_NAME: &str = "io.containerd.image.name";
/// The annotation of the image-spec for the same purpose. skopeo and umoci use it.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Returns the path of a blob.
pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}
