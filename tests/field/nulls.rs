//! Writers in Go write an empty list as `null` or leave it out. Others leave out the version of
//! the schema, or everything of a platform. Each of these means its empty value.

use serde_json::{Value, json};

use crate::common::{fails, ok};
use crate::scene::{CONFIG, Files, INDEX, LAYER, MANIFEST, Place, config, hello, host};

/// Returns the layout of an image whose configuration and manifest were changed.
fn changed(layers: &[&[u8]], config_of: fn(&mut Value), manifest_of: fn(&mut Value)) -> Files {
    let mut files = Files::layout();
    let mut config = config(&host(), layers);
    config_of(&mut config);
    let config = files.document(CONFIG, &config);
    let layers: Vec<Value> = layers
        .iter()
        .map(|layer| files.blob(LAYER, layer))
        .collect();
    let mut manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
    manifest_of(&mut manifest);
    let manifest = files.document(MANIFEST, &manifest);
    files.lists(&manifest);
    files
}

fn remove(value: &mut Value, key: &str) {
    value.as_object_mut().unwrap().remove(key).unwrap();
}

type Change = fn(&mut Value);
/// A name, whether there is a layer, and changes of the configuration and the manifest.
type Case = (&'static str, bool, Change, Change);

#[test]
fn documents_of_an_image_with_nulls_and_without_members_are_read() {
    const CASES: &[Case] = &[
        ("layers-null", false, |_| (), |m| m["layers"] = Value::Null),
        ("layers-absent", false, |_| (), |m| remove(m, "layers")),
        (
            "version-absent",
            true,
            |_| (),
            |m| remove(m, "schemaVersion"),
        ),
        (
            "version-null",
            true,
            |_| (),
            |m| m["schemaVersion"] = Value::Null,
        ),
        (
            "all-optional-null",
            true,
            |_| (),
            |m| {
                for key in ["annotations", "subject", "mediaType", "artifactType"] {
                    m[key] = Value::Null;
                }
                for key in ["annotations", "urls", "platform", "data", "artifactType"] {
                    m["config"][key] = Value::Null;
                    m["layers"][0][key] = Value::Null;
                }
            },
        ),
        (
            "annotation-null",
            true,
            |_| (),
            |m| m["annotations"] = json!({"a": null}),
        ),
        (
            "diff-ids-null",
            false,
            |c| c["rootfs"]["diff_ids"] = Value::Null,
            |m| m["layers"] = Value::Null,
        ),
        (
            "diff-ids-absent",
            false,
            |c| remove(&mut c["rootfs"], "diff_ids"),
            |_| (),
        ),
        ("rootfs-null", false, |c| c["rootfs"] = Value::Null, |_| ()),
        ("rootfs-absent", false, |c| remove(c, "rootfs"), |_| ()),
        (
            "type-null",
            true,
            |c| c["rootfs"]["type"] = Value::Null,
            |_| (),
        ),
        (
            "type-absent",
            true,
            |c| remove(&mut c["rootfs"], "type"),
            |_| (),
        ),
        (
            "platform-null",
            true,
            |c| {
                for key in ["os", "architecture", "variant", "os.version", "os.features"] {
                    c[key] = Value::Null;
                }
            },
            |_| (),
        ),
        (
            "platform-absent",
            true,
            |c| {
                remove(c, "os");
                remove(c, "architecture");
            },
            |_| (),
        ),
        (
            "config-null",
            true,
            |c| {
                c["config"] = Value::Null;
                c["history"] = Value::Null;
            },
            |_| (),
        ),
        (
            "process-null",
            true,
            |c| {
                c["config"] = json!({"Env": null, "Cmd": null, "Entrypoint": null, "User": null,
                    "WorkingDir": null, "Labels": {"a": null}, "ExposedPorts": null});
            },
            |_| (),
        ),
    ];
    let place = Place::new();
    let layer = hello();
    for (case, has_layer, config_of, manifest_of) in CASES {
        let layers = &[&layer[..]][..usize::from(*has_layer)];
        let source = changed(layers, *config_of, *manifest_of).write(&place.path(case));
        let name = format!("{case}:1");
        place.import(&source, &name);
        let expected: &[&str] = if *has_layer { &["hello"] } else { &[] };
        assert_eq!(place.unpack(&name).0, expected, "{case}");
        ok(place.cas().args(["inspect", &name]));
        ok(place
            .cas()
            .args(["bundle", &name])
            .arg(place.path(&format!("bundle-{case}"))));
    }
}

#[test]
fn entries_of_an_index_with_nulls_and_without_members_are_read() {
    const CASES: &[(&str, Change)] = &[
        ("absent", |entry| remove(entry, "platform")),
        ("null", |entry| entry["platform"] = Value::Null),
        ("empty", |entry| entry["platform"] = json!({})),
        (
            "nulls",
            |entry| entry["platform"] = json!({"os": null, "architecture": null, "variant": null}),
        ),
        ("texts", |entry| {
            entry["platform"] = json!({"os": "", "architecture": "", "variant": ""})
        }),
        ("features", |entry| {
            entry["platform"]["os.features"] = Value::Null
        }),
        ("type", |entry| remove(entry, "mediaType")),
        ("type-null", |entry| entry["mediaType"] = Value::Null),
    ];
    let place = Place::new();
    for (case, entry_of) in CASES {
        let mut files = Files::layout();
        let mut entry = files.image(&host(), &hello());
        entry["platform"] = json!({"os": "linux", "architecture": host()});
        entry_of(&mut entry);
        let index = files.document(INDEX, &json!({"manifests": [entry], "annotations": null}));
        files.lists(&index);
        let source = files.write(&place.path(case));
        let name = format!("{case}:1");
        place.import(&source, &name);
        assert_eq!(place.unpack(&name).0, ["hello"], "{case}");
        let platform = format!("linux/{}", host());
        let import = ["--name", "platform:1", "--platform", &platform];
        ok(place.cas().arg("import").arg(&source).args(import));
    }
}

/// A source that lists no image gives the exit code and the message of an empty list.
#[test]
fn an_index_that_lists_nothing_is_empty_however_it_says_so() {
    let place = Place::new();
    let mut said = Vec::new();
    for (case, index) in [
        ("list", r#"{"schemaVersion":2,"manifests":[]}"#),
        ("null", r#"{"schemaVersion":2,"manifests":null}"#),
        ("absent", r#"{"schemaVersion":2}"#),
        ("bare", "{}"),
    ] {
        let mut files = Files::layout();
        files.add("index.json", index);
        let source = files.write(&place.path(case));
        let error = place.import_fails(&source, "x:1", 2);
        said.push(error.replace(source.to_str().unwrap(), ""));
    }
    for (case, listing) in [("docker-list", "[]"), ("docker-null", "null")] {
        let mut files = Files::default();
        files.add("manifest.json", listing);
        let source = files.write(&place.path(case));
        let error = place.import_fails(&source, "x:1", 2);
        said.push(error.replace(source.to_str().unwrap(), ""));
    }
    said.dedup();
    assert_eq!(said.len(), 1, "{said:?}");
}

#[test]
fn a_nested_index_without_entries_is_empty() {
    let place = Place::new();
    for (case, index) in [("list", json!([])), ("null", Value::Null)] {
        let mut files = Files::layout();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": index});
        let index = files.document(INDEX, &index);
        files.lists(&index);
        place.import(&files.write(&place.path(case)), &format!("{case}:1"));
    }
}

#[test]
fn the_listing_of_docker_with_nulls_is_read() {
    let place = Place::new();
    let layer = hello();
    let names = ("config.json", "layer.tar");
    let with_layer = config(&host(), &[&layer]);
    let mut empty = config(&host(), &[]);
    empty["rootfs"]["diff_ids"] = Value::Null;
    let mut bare = config(&host(), &[]);
    remove(&mut bare, "rootfs");
    let mut nowhere = with_layer.clone();
    nowhere["os"] = Value::Null;
    nowhere["architecture"] = Value::Null;
    nowhere["os.features"] = Value::Null;
    for (case, config, entry, expected) in [
        (
            "tags-null",
            &with_layer,
            json!({"RepoTags": null, "Layers": [names.1]}),
            1,
        ),
        (
            "tags-absent",
            &with_layer,
            json!({"Layers": [names.1], "Parent": null}),
            1,
        ),
        (
            "layers-null",
            &empty,
            json!({"RepoTags": null, "Layers": null}),
            0,
        ),
        ("layers-absent", &empty, json!({"RepoTags": []}), 0),
        ("rootfs-absent", &bare, json!({"Layers": []}), 0),
        ("platform-null", &nowhere, json!({"Layers": [names.1]}), 1),
    ] {
        let mut entry = entry;
        entry["Config"] = names.0.into();
        let mut files = Files::default();
        files.add(names.0, config.to_string());
        files.add(names.1, &layer);
        files.add("manifest.json", json!([entry]).to_string());
        let source = place.file(case, files.tar());
        let name = format!("{case}:1");
        place.import(&source, &name);
        assert_eq!(place.unpack(&name).0.len(), expected, "{case}");
    }
}

#[test]
fn a_layout_without_a_version_is_of_the_first() {
    let place = Place::new();
    for (case, version) in [
        ("absent", "{}"),
        ("null", r#"{"imageLayoutVersion":null}"#),
        ("empty", r#"{"imageLayoutVersion":""}"#),
    ] {
        let mut files = Files::default();
        files.add("oci-layout", version);
        let image = files.image(&host(), &hello());
        files.lists(&image);
        place.import(&files.write(&place.path(case)), "app:1");
        assert_eq!(place.unpack("app:1").0, ["hello"], "{case}");
    }
    let mut files = Files::default();
    files.add("oci-layout", r#"{"imageLayoutVersion":"2.0.0"}"#);
    let image = files.image(&host(), &hello());
    files.lists(&image);
    let said = place.import_fails(&files.write(&place.path("two")), "app:2", 2);
    assert!(said.contains("2.0.0"), "{said}");
}

/// An absent member that has no empty value is still an error.
#[test]
fn a_manifest_without_configuration_is_damaged() {
    let place = Place::new();
    for (case, config) in [("null", Value::Null), ("empty", json!({}))] {
        let mut files = Files::layout();
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": []});
        let manifest = files.document(MANIFEST, &manifest);
        files.lists(&manifest);
        let source = files.write(&place.path(case));
        let mut import = place.cas();
        fails(import.arg("import").arg(source).args(["--name", "x:1"]), 4);
    }
}
