//! Configurations of other types, as images of 2015 and 2016 have them. The content decides whether
//! a blob is a configuration. Charts, models, plugins and signatures are artifacts, and are stored
//! as artifacts.

use serde_json::{Value, json};

use crate::common::{fails, ok};
use crate::scene::{Files, INDEX, Place, config, hello, host};

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// Adds a manifest of docker's whose configuration has this type and content.
fn image(files: &mut Files, media_type: &str, config: &Value) -> Value {
    let config = files.document(media_type, config);
    let layer = files.blob(DOCKER_LAYER, hello());
    let manifest = json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": config,
        "layers": [layer]});
    files.document(DOCKER_MANIFEST, &manifest)
}

fn inspected(place: &Place, image: &str) -> Value {
    serde_json::from_str(&ok(place.cas().args(["--json", "inspect", image]))).unwrap()
}

const TYPES: [&str; 7] = [
    "application/octet-stream",
    "application/json",
    "text/plain",
    "",
    "application/vnd.docker.container.image.v0+json",
    "application/vnd.docker.container.image.rootfs.config+json",
    "application/vnd.example.unknown.v1+json",
];

#[test]
fn an_image_is_one_whatever_the_type_of_its_configuration() {
    let place = Place::new();
    for media_type in TYPES {
        let mut files = Files::layout();
        let mut config = config(&host(), &[&hello()]);
        config["config"]["Cmd"] = json!(["/hello", "there"]);
        let top = image(&mut files, media_type, &config);
        files.lists(&top);
        let scratch = tempfile::tempdir_in(place.scratch.path()).unwrap();
        let source = files.write(&scratch.path().join("source"));
        place.import(&source, "app:1");
        assert_eq!(place.unpack("app:1").0, ["hello"], "{media_type}");
        let platform = format!("linux/{}", host());
        assert_eq!(
            inspected(&place, "app:1")["platforms"],
            json!([platform]),
            "{media_type}"
        );
        let bundle = scratch.path().join("bundle");
        ok(place.cas().args(["bundle", "app:1"]).arg(&bundle));
        let process = std::fs::read(bundle.join("config.json")).unwrap();
        let process: Value = serde_json::from_slice(&process).unwrap();
        assert_eq!(
            process["process"]["args"],
            json!(["/hello", "there"]),
            "{media_type}"
        );
        let tree = ok(place.cas().args(["tree", "app:1"]));
        assert!(
            tree.contains("config sha256:") && tree.contains("layer sha256:"),
            "{tree}"
        );
        let archive = scratch.path().join("docker.tar");
        let export = ["export", "app:1", "--format", "docker", "-o"];
        ok(place.cas().args(export).arg(&archive));
        ok(place
            .cas()
            .arg("import")
            .arg(&archive)
            .args(["--name", "again:1"]));
        assert_eq!(place.unpack("again:1").0, ["hello"], "{media_type}");
        let unpacked = Place::new();
        let import = ["--name", "app:1", "--unpack"];
        ok(unpacked.cas().arg("import").arg(&source).args(import));
        let other = ["--name", "other:1", "--platform", "linux/s390x"];
        let said = fails(place.cas().arg("import").arg(&source).args(other), 3);
        assert!(said.contains(&format!("it has: {platform}")), "{said}");
    }
}

/// If an index states no platforms, the platforms of the configurations count.
#[test]
fn a_manifest_is_chosen_by_a_configuration_of_another_type() {
    let place = Place::new();
    for (case, media_type) in TYPES.into_iter().enumerate() {
        let mut files = Files::layout();
        let entries: Vec<Value> = ["s390x", &host(), "riscv64"]
            .into_iter()
            .map(|processor| image(&mut files, media_type, &config(processor, &[&hello()])))
            .collect();
        let index = files.document(INDEX, &json!({"schemaVersion": 2, "manifests": entries}));
        files.lists(&index);
        place.import(&files.write(&place.path(&case.to_string())), "app:1");
        let shown = inspected(&place, "app:1");
        assert_eq!(
            shown["descriptor"]["digest"], entries[1]["digest"],
            "{media_type}"
        );
        assert_eq!(
            shown["platforms"].as_array().unwrap().len(),
            3,
            "{media_type}"
        );
    }
}

#[test]
fn artifacts_stay_what_they_are() {
    let place = Place::new();
    let root = json!({"type": "layers", "diff_ids": []});
    for (case, media_type, content) in [
        (
            "chart",
            "application/vnd.cncf.helm.config.v1+json",
            json!({"name": "chart", "version": "1.0.0", "apiVersion": "v2"}),
        ),
        ("empty", "application/vnd.oci.empty.v1+json", json!({})),
        (
            "plugin",
            "application/vnd.docker.plugin.v1+json",
            json!({"Interface": {}, "Entrypoint": ["/p"], "rootfs": root}),
        ),
        (
            "model",
            "application/vnd.docker.ai.model.config.v0.1+json",
            json!({"config": {"format": "gguf"}, "descriptor": {}, "rootfs": root}),
        ),
        (
            "wasm",
            "application/vnd.wasm.config.v0+json",
            json!({"architecture": "wasm", "os": "wasip2", "layerDigests": []}),
        ),
        ("list", "application/octet-stream", json!([1, 2])),
        (
            "object",
            "application/octet-stream",
            json!({"os": "linux", "a": "b"}),
        ),
    ] {
        let mut files = Files::layout();
        let top = image(&mut files, media_type, &content);
        files.lists(&top);
        let source = files.write(&place.path(case));
        place.import(&source, "art:1");
        let said = place.unpack_fails("art:1", 2);
        assert!(said.contains(media_type), "{case}: {said}");
        assert_eq!(inspected(&place, "art:1")["platforms"], json!([]), "{case}");
        // An artifact is for every platform.
        let import = ["--name", "art:2", "--platform", "linux/s390x"];
        ok(place.cas().arg("import").arg(&source).args(import));
        let archive = place.path("art.tar");
        ok(place.cas().args(["export", "art:1", "-o"]).arg(&archive));
        ok(place
            .cas()
            .arg("import")
            .arg(&archive)
            .args(["--name", "art:3"]));
    }
}

/// If the type is that of a configuration, the content must be a configuration.
#[test]
fn a_configuration_that_is_none_is_damaged() {
    let place = Place::new();
    let mut files = Files::layout();
    let top = image(&mut files, crate::scene::CONFIG, &json!(["no", "object"]));
    files.lists(&top);
    place.import(&files.write(&place.path("source")), "app:1");
    place.unpack_fails("app:1", 4);
}
