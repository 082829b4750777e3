//! Names of members that are longer than the 100 bytes that a tar header has for them, such as the
//! names of blobs with SHA-512 digests.

use std::process::Command;

use cas::Algorithm;
use serde_json::{Value, json};

use crate::common::{can, ok};
use crate::scene::{CONFIG, Files, INDEX, LAYER, MANIFEST, Place, config, hello, host};

const ALL: [Algorithm; 4] = [Algorithm::Sha512; 4];

/// Returns a layout of an index, whose manifest, configuration, layer and index have digests of
/// these algorithms.
fn layout([index, manifest, config_of, layer_of]: [Algorithm; 4]) -> Files {
    let mut files = Files::layout();
    let layer = hello();
    let text = |value: &Value| value.to_string().into_bytes();
    let config = files.blob_of(config_of, CONFIG, &text(&config(&host(), &[&layer])));
    let layer = files.blob_of(layer_of, LAYER, &layer);
    let document = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
    let mut entry = files.blob_of(manifest, MANIFEST, &text(&document));
    entry["platform"] = json!({"os": "linux", "architecture": host()});
    let document = json!({"schemaVersion": 2, "manifests": [entry]});
    let top = files.blob_of(index, INDEX, &text(&document));
    files.lists(&top);
    files
}

/// Returns the descriptors of an image.
fn digests(place: &Place, image: &str) -> [Value; 3] {
    let shown = ok(place.cas().args(["--json", "inspect", image]));
    let shown: Value = serde_json::from_str(&shown).unwrap();
    ["target", "descriptor", "manifest"].map(|key| shown[key].clone())
}

#[test]
fn images_with_long_digests_come_back_from_an_export() {
    use Algorithm::{Sha256, Sha512};
    let place = Place::new();
    for (case, algorithms) in [
        ("all", ALL),
        ("index", [Sha512, Sha256, Sha256, Sha256]),
        ("manifest", [Sha256, Sha512, Sha256, Sha256]),
        ("config", [Sha256, Sha256, Sha512, Sha256]),
        ("layer", [Sha256, Sha256, Sha256, Sha512]),
    ] {
        place.import(&layout(algorithms).write(&place.path(case)), "app:1");
        for format in ["oci", "docker"] {
            let archive = place.path(&format!("{case}.{format}.tar"));
            let mut export = place.cas();
            ok(export
                .args(["export", "app:1", "--format", format, "-o"])
                .arg(&archive));
            let other = Place::new();
            ok(other
                .cas()
                .arg("import")
                .arg(&archive)
                .args(["--name", "app:1"]));
            let [target, found, manifest] = digests(&other, "app:1");
            let [wanted_target, wanted, wanted_manifest] = digests(&place, "app:1");
            assert_eq!(
                (found["digest"].clone(), manifest),
                (wanted["digest"].clone(), wanted_manifest)
            );
            // An archive for docker has one platform.
            assert!(format == "docker" || target == wanted_target, "{case}");
            assert_eq!(other.unpack("app:1").0, ["hello"], "{case} {format}");
        }
    }
}

#[test]
fn other_readers_find_the_whole_names() {
    let python = "import sys, tarfile; print('\\n'.join(tarfile.open(sys.argv[1]).getnames()))";
    let place = Place::new();
    place.import(&layout(ALL).write(&place.path("source")), "app:1");
    let archive = place.path("archive.tar");
    ok(place.cas().args(["export", "app:1", "-o"]).arg(&archive));
    let [target, ..] = digests(&place, "app:1");
    let digest = target["digest"].as_str().unwrap().replace(':', "/");
    for list in [
        &["tar", "-tf"][..],
        &["bsdtar", "-tf"],
        &["python3", "-c", python],
    ] {
        if can(&list[..1]) {
            let names = ok(Command::new(list[0]).args(&list[1..]).arg(&archive));
            assert!(
                names.lines().any(|name| name == format!("blobs/{digest}")),
                "{names}"
            );
            let blobs = names.lines().filter(|name| name.starts_with("blobs/"));
            assert_eq!(blobs.count(), 4, "{names}");
        }
    }
}

#[test]
fn exports_with_long_names_are_reproducible() {
    let place = Place::new();
    place.import(&layout(ALL).write(&place.path("source")), "app:1");
    let archives = [1, 2].map(|number| {
        let archive = place.path(&format!("{number}.tar"));
        ok(place.cas().args(["export", "app:1", "-o"]).arg(&archive));
        std::fs::read(archive).unwrap()
    });
    assert!(archives[0] == archives[1]);
}
