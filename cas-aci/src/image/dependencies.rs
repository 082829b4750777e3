//! The ACIs that an image is built of.

use std::sync::Arc;

use cas_core::{Error, ErrorKind, Result, limit};

use super::whitelist::Whitelist;
use crate::info::AciInfo;
use crate::manifest::{Dependency, ImageManifest};
use crate::store::AciStore;

/// One ACI of an image.
pub(super) struct Part {
    pub(super) info: AciInfo,
    pub(super) manifest: ImageManifest,
    /// The whitelists of this ACI and of all ACIs above it. A path must be in each whitelist.
    pub(super) whitelists: Vec<Arc<Whitelist>>,
}

/// An ACI whose dependencies are being resolved.
struct Open {
    part: Part,
    resolved: usize,
}

/// Returns the ACI with a key and all ACIs that it depends on, lowest first. Of two dependencies of
/// an ACI, the later one is above the earlier one.
pub(super) async fn parts(acis: &AciStore, key: &str) -> Result<Vec<Part>> {
    let (mut parts, mut open) = (Vec::new(), vec![load(acis, key, &[]).await?]);
    while let Some(mut top) = open.pop() {
        let Some(dependency) = top.part.manifest.dependencies.get(top.resolved).cloned() else {
            parts.push(top.part);
            continue;
        };
        top.resolved += 1;
        let next = find(acis, &dependency, &top.part.whitelists).await;
        let next = next.map_err(|error| error.within(format_args!("{}", top.part.info.name)))?;
        open.push(top);
        if open
            .iter()
            .any(|above| above.part.info.key == next.part.info.key)
        {
            return Err(Error::corrupt(
                "the ACI depends on itself through others; build one of them again",
            )
            .subject(&next.part.info.name));
        }
        open.push(next);
        check_bounds(open.len(), parts.len() + open.len())?;
    }
    Ok(parts)
}

fn check_bounds(depth: usize, count: usize) -> Result<()> {
    for (found, allowed, what) in [
        (depth, limit::ACI_DEPTH, "levels"),
        (count, limit::LAYERS, "layers"),
    ] {
        if found > allowed {
            return Err(Error::out_of_range(format!(
                "the ACI and its dependencies have more than {allowed} {what}; build it with fewer \
                 dependencies"
            )));
        }
    }
    Ok(())
}

async fn find(acis: &AciStore, wanted: &Dependency, above: &[Arc<Whitelist>]) -> Result<Open> {
    let key = if wanted.image_id.is_empty() {
        let found = acis.get_aci(&wanted.image_name, &wanted.labels).await;
        found.map_err(|error| missing(error, wanted))?.to_string()
    } else {
        wanted.image_id.clone()
    };
    let open = load(acis, &key, above)
        .await
        .map_err(|error| missing(error, wanted))?;
    let found = &open.part.manifest;
    if found.name != wanted.image_name || !found.has_labels(&wanted.labels) {
        return Err(Error::corrupt(format!(
            "a dependency has the image ID {}, which belongs to the image {}; expected the image \
             {} with the labels of the dependency; build the ACI again",
            wanted.image_id, found.name, wanted.image_name
        )));
    }
    Ok(open)
}

fn missing(error: Error, wanted: &Dependency) -> Error {
    if error.kind() != ErrorKind::NotFound {
        return error;
    }
    Error::not_found("a dependency is not in the catalogue; import it first")
        .subject(&wanted.image_name)
        .source(error)
}

async fn load(acis: &AciStore, key: &str, above: &[Arc<Whitelist>]) -> Result<Open> {
    let info = acis.get_aci_info(key).await?;
    let manifest = acis.manifest_of(&info).await?;
    let own = Whitelist::of(&manifest).map(Arc::new);
    let whitelists = above.iter().cloned().chain(own).collect();
    Ok(Open {
        part: Part {
            info,
            manifest,
            whitelists,
        },
        resolved: 0,
    })
}
