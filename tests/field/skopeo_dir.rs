//! Directories of skopeo's transport `dir:`, written by hand and by skopeo.

use std::fs;
use std::process::Command;

use cas::{Algorithm, Digest};
use serde_json::{Value, json};

use crate::common::{can, ok};
use crate::scene::{CONFIG, Files, INDEX, LAYER, MANIFEST, Place, config, hello, host};

const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Moves the blobs of a layout to where skopeo puts them. `top` becomes `manifest.json`.
fn as_directory(layout: Files, top: &Value, documents: &[&Value]) -> Files {
    let hex = |descriptor: &Value| descriptor["digest"].as_str().unwrap()[7..].to_owned();
    let mut files = Files::default();
    files.add("version", "Directory Transport Version: 1.1\n");
    for (path, data) in layout.0 {
        let Some(name) = path.strip_prefix("blobs/sha256/") else {
            continue;
        };
        if name == hex(top) {
            files.add("manifest.json", data);
        } else if documents.iter().any(|document| hex(document) == name) {
            files.add(&format!("{name}.manifest.json"), data);
        } else {
            files.add(name, data);
        }
    }
    files
}

fn digest(place: &Place, image: &str) -> Value {
    let shown = ok(place.cas().args(["--json", "inspect", image]));
    serde_json::from_str::<Value>(&shown).unwrap()["target"]["digest"].clone()
}

#[test]
fn manifests_of_both_families_are_imported() {
    let place = Place::new();
    for (case, media_type, stated) in [
        ("oci", MANIFEST, true),
        ("bare", MANIFEST, false),
        ("docker", DOCKER, true),
    ] {
        let mut files = Files::default();
        let config = files.document(CONFIG, &config(&host(), &[&hello()]));
        let layer = files.blob(LAYER, hello());
        let mut manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
        if stated {
            manifest["mediaType"] = media_type.into();
        }
        let top = files.document(media_type, &manifest);
        let directory = as_directory(files, &top, &[]);
        place.import(&directory.write(&place.path(case)), "app:1");
        assert_eq!(place.unpack("app:1").0, ["hello"], "{case}");
        assert_eq!(digest(&place, "app:1"), top["digest"], "{case}");
        // The same directory in an archive.
        place.import(&place.file("archive.tar", directory.tar()), "app:2");
        assert_eq!(digest(&place, "app:2"), top["digest"], "{case}");
    }
}

#[test]
fn indexes_are_imported_with_all_their_manifests_or_some() {
    let place = Place::new();
    for (case, media_type) in [("oci", INDEX), ("docker", DOCKER_LIST)] {
        for absent in [false, true] {
            let mut files = Files::default();
            let entries = [host(), "s390x".to_owned()].map(|processor| {
                let mut entry = files.image(&processor, &hello());
                entry["platform"] = json!({"os": "linux", "architecture": processor});
                entry
            });
            let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries});
            let top = files.document(media_type, &index);
            let mut directory = as_directory(files, &top, &[&entries[0], &entries[1]]);
            if absent {
                let name = &entries[1]["digest"].as_str().unwrap()[7..];
                directory.0.retain(|(path, _)| !path.starts_with(name));
            }
            let source = directory.write(&place.path(&format!("{case}-{absent}")));
            place.import(&source, "app:1");
            assert_eq!(place.unpack("app:1").0, ["hello"], "{case}");
            assert_eq!(digest(&place, "app:1"), top["digest"], "{case}");
        }
    }
}

#[test]
fn blobs_of_other_algorithms_are_found() {
    let place = Place::new();
    for with_algorithm in [false, true] {
        let mut files = Files::default();
        let layer = hello();
        let hex = Digest::of(Algorithm::Sha512, &layer).hex().to_string();
        let prefix = if with_algorithm { "sha512-" } else { "" };
        files.add(&format!("{prefix}{hex}"), &layer);
        let config = config(&host(), &[&layer]).to_string();
        let config_digest = Digest::sha256(config.as_bytes());
        files.add(&config_digest.hex().to_string(), &config);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": config_digest, "size": config.len()},
            "layers": [{"mediaType": LAYER, "digest": format!("sha512:{hex}"), "size": layer.len()}],
        });
        files.add("manifest.json", manifest.to_string());
        place.import(
            &files.write(&place.path(&with_algorithm.to_string())),
            "app:1",
        );
        assert_eq!(place.unpack("app:1").0, ["hello"], "{with_algorithm}");
    }
}

#[test]
fn incomplete_and_damaged_directories_say_so() {
    let place = Place::new();
    let mut files = Files::default();
    let top = files.image(&host(), &hello());
    let directory = as_directory(files, &top, &[]);
    for at in 1..3 {
        let source = directory.write(&place.path(&format!("absent-{at}")));
        fs::remove_file(source.join(&directory.0[at].0)).unwrap();
        place.import_fails(&source, "app:1", 3);
        fs::write(source.join(&directory.0[at].0), "other").unwrap();
        place.import_fails(&source, "app:1", 4);
    }
    let mut old = Files::default();
    old.add(
        "manifest.json",
        r#"{"schemaVersion":1,"name":"a","tag":"b","fsLayers":[]}"#,
    );
    let said = place.import_fails(&old.write(&place.path("old")), "app:1", 4);
    assert!(said.contains("schema 1"), "{said}");
}

#[test]
fn a_directory_that_skopeo_writes_is_imported() {
    if !can(&["skopeo"]) {
        return;
    }
    let place = Place::new();
    let mut files = Files::layout();
    let mut entry = files.image(&host(), &hello());
    entry["platform"] = json!({"os": "linux", "architecture": host()});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
    let index = files.document(INDEX, &index);
    files.lists(&index);
    let layout = files.write(&place.path("layout"));
    for (case, options, expected) in [("one", &[][..], &entry), ("all", &["--all"], &index)] {
        let directory = place.path(case);
        let mut copy = Command::new("skopeo");
        copy.args(["--insecure-policy", "copy", "--preserve-digests"])
            .args(options);
        copy.arg(format!("oci:{}", layout.display()));
        ok(copy.arg(format!("dir:{}", directory.display())));
        place.import(&directory, "app:1");
        assert_eq!(digest(&place, "app:1"), expected["digest"], "{case}");
        assert_eq!(place.unpack("app:1").0, ["hello"], "{case}");
    }
}
