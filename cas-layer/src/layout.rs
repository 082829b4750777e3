//! Names of files and annotations that imports and exports use, and that the OCI image layout does
//! not define.

/// The file that lists the images of a docker archive. In a directory of skopeo, the file with this
/// name is the manifest or index of the image.
pub(crate) const DOCKER_MANIFEST: &str = "manifest.json";
/// The annotation in which containerd and podman expect the name of an entry of `index.json`.
pub const IMAGE_NAME: &str = "io.containerd.image.name";
