//! Writes `manifest.json`. `docker load` can read an archive of an OCI layout that has this file.
//!
//! The file lists the paths of the configurations and layers in the layout. Compressed layers stay
//! compressed: docker, containerd, podman and skopeo decompress them while reading. A reader that
//! uses `index.json` instead reads the original manifests. Since version 25, `docker save` writes
//! both files, too.

use std::collections::BTreeMap;

use bytes::Bytes;
use cas_core::image::{FullName, Reference};
use cas_core::layout::blob_path;
use cas_core::progress::Progress;
use cas_core::{Descriptor, Digest, Error, Manifest, Result, Store, image};
use serde::Serialize;

use super::Chosen;
use super::plan::Plan;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

/// Returns the file that lists the images, one entry per manifest, in the order of their first
/// names.
///
/// # Errors
/// `Unsupported` for a manifest that is not an image of layers, or that has a layer that is an
/// EROFS image; `Corrupt` if a manifest and its configuration do not match; `NotFound` if the
/// archive lacks the configuration or a layer of a manifest; errors of [`image::image_config`].
pub(super) async fn manifest(
    store: &Store,
    chosen: &BTreeMap<Reference, Chosen>,
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<Bytes> {
    let mut indexes: BTreeMap<Digest, usize> = BTreeMap::new();
    let mut entries: Vec<Entry> = Vec::new();
    for (name, one) in chosen {
        let Some(manifest) = &one.manifest else {
            let message = "no manifest was chosen for docker; please report it";
            return Err(Error::internal(message).subject(name));
        };
        let digest = one.target.digest;
        let index = match indexes.get(&digest) {
            Some(index) => *index,
            None => {
                let entry = entry(store, manifest, plan).await;
                entries.push(entry.map_err(|error| error.within(name))?);
                indexes.insert(digest, entries.len() - 1);
                entries.len() - 1
            }
        };
        match repo_tag(name) {
            _ if *name == Reference::from(digest) => {}
            Some(tag) => entries[index].repo_tags.push(tag),
            None => progress.warn(&format!(
                "docker does not accept the name {name}; it will load the image without that name"
            )),
        }
    }
    serde_json::to_vec(&entries)
        .map(Bytes::from)
        .map_err(|error| {
            Error::internal("a list of images could not be serialized; please report it")
                .source(error)
        })
}

async fn entry(store: &Store, manifest: &Manifest, plan: &Plan) -> Result<Entry> {
    let config = image::image_config(&*store.content, &manifest.config).await?;
    let layers = image::layers(manifest, &config)?;
    let path = |(layer, _): &(Descriptor, Digest)| -> Result<String> {
        if !layer.media_type.may_be_layer() || layer.media_type.is_erofs() {
            return Err(Error::unsupported(format!(
                "docker does not support layers of type {:.200}; export with --format oci",
                layer.media_type
            ))
            .subject(layer.digest));
        }
        if !plan.has(&layer.digest) {
            return Err(Error::not_found(
                "the layer is not in the store or not selected, and docker needs all layers; \
                 export with --format oci",
            )
            .subject(layer.digest));
        }
        Ok(blob_path(&layer.digest))
    };
    if !plan.has(&manifest.config.digest) {
        return Err(Error::not_found(
            "the configuration is not selected, and docker needs it; export with --format oci",
        )
        .subject(manifest.config.digest));
    }
    Ok(Entry {
        config: blob_path(&manifest.config.digest),
        repo_tags: Vec::new(),
        layers: layers.iter().map(path).collect::<Result<_>>()?,
    })
}

/// Returns the name as docker's `repository:tag` in full, because podman reads a short name as a
/// name at the registry `localhost`. Returns `None` if docker would refuse the name, because docker
/// would then refuse the whole archive.
fn repo_tag(name: &Reference) -> Option<String> {
    let full = FullName::of(name).filter(|full| full.digest().is_none())?;
    Some(full.name().to_string())
}

#[cfg(test)]
mod tests {
    use cas_core::limit;

    use super::*;

    #[test]
    fn names_are_tags_where_docker_takes_them() {
        for (name, expected) in [
            ("small", Some("docker.io/library/small:latest")),
            (
                "docker.io/library/small:1",
                Some("docker.io/library/small:1"),
            ),
            ("me/small", Some("docker.io/me/small:latest")),
            ("a/b--c/d_e:V1.0-x", Some("docker.io/a/b--c/d_e:V1.0-x")),
            ("Host.test:5000/a/b", Some("Host.test:5000/a/b:latest")),
            ("localhost/a:1", Some("localhost/a:1")),
            ("[::1]:5000/a__b:1", Some("[::1]:5000/a__b:1")),
            ("Upper:1", None),
            ("x.test/Upper:1", None),
            ("x.test:port/a:1", None),
            ("a:1@sha256:ab", None),
            ("a@b", None),
            ("a+b:1", None),
            ("a:1+2", None),
            ("example.com/app~1", None),
        ] {
            let name = name.parse().unwrap();
            assert_eq!(repo_tag(&name).as_deref(), expected, "{name}");
        }
        let digest = Digest::sha256(b"x");
        assert_eq!(repo_tag(&format!("a:1@{digest}").parse().unwrap()), None);
        let id = "ab".repeat(32);
        assert_eq!(repo_tag(&id.parse().unwrap()), None);
        let long = format!("a:{}", "t".repeat(limit::TAG + 1));
        assert_eq!(repo_tag(&long.parse().unwrap()), None);
    }
}
