//! The ACIs from which an image is built.

use std::sync::Arc;

use cas_core::{Error, ErrorKind, Result, limit};

use super::whitelist::Whitelist;
use crate::info::AciInfo;
use crate::manifest::{Dependency, ImageManifest, Label};
use crate::store::AciStore;

/// One ACI of an image.
pub(super) struct Part {
    pub(super) info: AciInfo,
    pub(super) manifest: ImageManifest,
    /// The whitelists of this ACI and of each ACI through which the image depends on it. A path
    /// must be in each whitelist.
    pub(super) whitelists: Vec<Arc<Whitelist>>,
}

/// An ACI whose dependencies are being resolved.
struct Open {
    part: Part,
    resolved: usize,
}

/// Returns the ACI with a key and all ACIs that it depends on, lowest first. Of two dependencies of
/// an ACI, the later one is above the earlier one. An ACI on which several others depend is
/// returned once for each of them.
pub(super) async fn parts(acis: &AciStore, key: &str) -> Result<Vec<Part>> {
    let (mut parts, mut open) = (
        Vec::new(),
        vec![load(acis, acis.get_aci_info(key).await?, &[]).await?],
    );
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
                "the ACI depends on itself through other ACIs; build one of these ACIs again \
                 without the dependency that closes the cycle",
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
                "the ACI and its dependencies have more than {allowed} {what}; build the ACI again \
                 with fewer dependencies"
            )));
        }
    }
    Ok(())
}

async fn find(acis: &AciStore, wanted: &Dependency, above: &[Arc<Whitelist>]) -> Result<Open> {
    let info = look_up(acis, wanted).await;
    let info = info.map_err(|error| missing(error, wanted))?;
    let open = load(acis, info, above).await?;
    let found = &open.part.manifest;
    if found.name != wanted.image_name || !found.has_labels(&wanted.labels) {
        return Err(Error::corrupt(format!(
            "the image ID {} of a dependency belongs to {}; expected {}; build the ACI again",
            wanted.image_id,
            labelled(&found.name, &found.labels),
            labelled(&wanted.image_name, &wanted.labels)
        )));
    }
    Ok(open)
}

async fn look_up(acis: &AciStore, wanted: &Dependency) -> Result<AciInfo> {
    if wanted.image_id.is_empty() {
        let key = acis.get_aci(&wanted.image_name, &wanted.labels).await?;
        return acis.get_aci_info(&key.to_string()).await;
    }
    acis.get_aci_info(&wanted.image_id).await
}

fn missing(error: Error, wanted: &Dependency) -> Error {
    if error.kind() != ErrorKind::NotFound {
        return error;
    }
    let wanted_aci = labelled(&wanted.image_name, &wanted.labels);
    let message = match wanted.image_id.as_str() {
        "" => format!("the catalogue has no ACI {wanted_aci}; import this dependency first"),
        id => format!(
            "the catalogue has no ACI {wanted_aci} with the image ID {id}; import this dependency \
             first"
        ),
    };
    Error::not_found(message).source(error)
}

/// Returns a name with its labels, for messages: `example.com/app (version=1.0, os=linux)`.
fn labelled(name: &str, labels: &[Label]) -> String {
    let labels: Vec<String> = labels
        .iter()
        .map(|label| format!("{}={}", label.name, label.value))
        .collect();
    match labels.is_empty() {
        true => name.to_owned(),
        false => format!("{name} ({})", labels.join(", ")),
    }
}

async fn load(acis: &AciStore, info: AciInfo, above: &[Arc<Whitelist>]) -> Result<Open> {
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
