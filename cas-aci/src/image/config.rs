//! The configuration of an OCI image, from the manifest of an ACI.

use std::collections::{BTreeMap, BTreeSet};

use cas_core::{Digest, Error, Platform, Result, limit};
use serde_json::{Map, Value, json};

use crate::manifest::{App, ImageManifest};

/// Returns the configuration as JSON.
///
/// # Errors
/// `Unsupported` if the user or the group is the path of a file, which stands for the owner of the
/// file; `OutOfRange` for more than [`limit::ACI_PORTS`] ports.
pub(super) fn config(manifest: &ImageManifest, diff_ids: &[Digest]) -> Result<Vec<u8>> {
    let platform = platform(manifest);
    let mut config = manifest.app.as_ref().map_or(Ok(Map::new()), process)?;
    let stated = manifest.annotations.iter().chain(&manifest.labels);
    let labels: BTreeMap<&str, &str> = stated.map(|label| (&*label.name, &*label.value)).collect();
    if !labels.is_empty() {
        config.insert("Labels".to_owned(), json!(labels));
    }
    let mut image = json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    if let Some(variant) = platform.variant {
        image["variant"] = json!(variant);
    }
    serde_json::to_vec(&image).map_err(|error| {
        Error::internal("the configuration of the image could not be serialized; please report it")
            .source(error)
    })
}

fn platform(manifest: &ImageManifest) -> Platform {
    let (mut platform, host) = (manifest.platform(), Platform::host());
    if platform.os.is_empty() {
        platform.os = host.os;
    }
    if platform.architecture.is_empty() {
        platform.architecture = host.architecture;
        platform.variant = host.variant;
    }
    platform
}

fn process(app: &App) -> Result<Map<String, Value>> {
    for id in [&app.user, &app.group] {
        if id.starts_with('/') {
            return Err(Error::unsupported(
                "the app runs as the owner of a file, which an OCI image cannot express; build the \
                 ACI again with the name or the id of the user and the group",
            )
            .subject(id));
        }
    }
    let mut config = Map::new();
    let mut set = |name: &str, value: Value| config.insert(name.to_owned(), value);
    set("User", json!(format!("{}:{}", app.user, app.group)));
    if !app.exec.is_empty() {
        set("Entrypoint", json!(app.exec));
    }
    if !app.working_directory.is_empty() {
        set("WorkingDir", json!(app.working_directory));
    }
    let variables = app.environment.iter();
    let variables: Vec<String> = variables
        .map(|one| format!("{}={}", one.name, one.value))
        .collect();
    if !variables.is_empty() {
        set("Env", json!(variables));
    }
    let empty = |keys: BTreeSet<String>| -> BTreeMap<String, Value> {
        keys.into_iter().map(|key| (key, json!({}))).collect()
    };
    if !app.mount_points.is_empty() {
        let paths = app.mount_points.iter().map(|point| point.path.clone());
        set("Volumes", json!(empty(paths.collect())));
    }
    if !app.ports.is_empty() {
        set("ExposedPorts", json!(empty(ports(app)?)));
    }
    Ok(config)
}

fn ports(app: &App) -> Result<BTreeSet<String>> {
    let counts = app.ports.iter().map(|port| usize::from(port.count));
    let (found, allowed) = (counts.sum::<usize>(), limit::ACI_PORTS);
    if found > allowed {
        return Err(Error::out_of_range(format!(
            "the app has {found} ports, at most {allowed} are allowed; build the ACI again with \
             fewer ports"
        )));
    }
    let numbers = app.ports.iter().flat_map(|port| {
        let numbers = (port.port..=u16::MAX).take(usize::from(port.count));
        numbers.map(|number| format!("{number}/{}", port.protocol))
    });
    Ok(numbers.collect())
}
