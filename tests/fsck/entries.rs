//! Entries of `index.json` that another program wrote with missing or wrong members, beside a sound
//! image.

use std::fs;
use std::process::Command;

use cas::records::{Batch, Expect, Table};
use cas::{Algorithm, Digest};
use serde_json::{Value, json};

use crate::common::{can, cas, fails, ok};
use crate::scene::{Scene, has};

const NAME: &str = "org.opencontainers.image.ref.name";

/// Damages an entry.
type Fault = fn(&mut Value);

const FAULTS: &[(&str, Fault)] = &[
    ("no type", |entry| remove(entry, "mediaType")),
    ("null type", |entry| entry["mediaType"] = Value::Null),
    ("empty type", |entry| entry["mediaType"] = json!("")),
    ("number for a type", |entry| entry["mediaType"] = json!(7)),
    ("type of a layer", |entry| {
        entry["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+gzip");
    }),
    ("type of something else", |entry| {
        entry["mediaType"] = json!("application/xml");
    }),
    ("type of an index", |entry| {
        entry["mediaType"] = json!("application/vnd.oci.image.index.v1+json");
    }),
    ("another size", |entry| entry["size"] = json!(7)),
    ("larger size than any document", |entry| {
        entry["size"] = json!(1_u64 << 40);
    }),
    ("other data", |entry| entry["data"] = json!("e30=")),
    ("data that is not base64", |entry| {
        entry["data"] = json!("?");
    }),
    ("no size", |entry| remove(entry, "size")),
    ("null size", |entry| entry["size"] = Value::Null),
    ("text for a size", |entry| entry["size"] = json!("100")),
    ("negative size", |entry| entry["size"] = json!(-1)),
    ("list of annotations", |entry| {
        entry["annotations"] = json!([1])
    }),
    ("number for annotations", |entry| {
        entry["annotations"] = json!(7)
    }),
    ("annotation that is a number", |entry| {
        entry["annotations"]["x"] = json!(7)
    }),
    ("wrong platform", |entry| entry["platform"] = json!("linux")),
    ("nothing but a digest", |entry| {
        *entry = json!({"digest": entry["digest"]})
    }),
];

fn remove(entry: &mut Value, member: &str) {
    entry.as_object_mut().unwrap().remove(member);
}

/// Stores a manifest with the layers of `app:1`, as another program does: without a record. Returns
/// its bytes and its entry.
fn manifest(scene: &Scene, algorithm: Algorithm, case: &str) -> (Vec<u8>, Value) {
    let mut manifest = serde_json::to_value(&scene.manifest).unwrap();
    manifest["annotations"] = json!({"case": case});
    let data = manifest.to_string().into_bytes();
    let digest = Digest::of(algorithm, &data);
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let entry = json!({"mediaType": media_type, "digest": digest, "size": data.len()});
    (data, entry)
}

fn write_blob(scene: &Scene, data: &[u8], entry: &Value) {
    let path = entry["digest"].as_str().unwrap().replace(':', "/");
    let path = scene.root.join("store/blobs").join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, data).unwrap();
}

/// Adds entries to `index.json`.
fn add(scene: &Scene, entries: impl IntoIterator<Item = Value>) {
    let file = scene.root.join("store/index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    index["manifests"].as_array_mut().unwrap().extend(entries);
    fs::write(&file, index.to_string()).unwrap();
}

/// Adds an entry for each fault, every second one with a name. Returns the digests.
fn add_faults(scene: &Scene, algorithm: Algorithm) -> Vec<String> {
    let mut digests = Vec::new();
    for (number, (case, fault)) in FAULTS.iter().enumerate() {
        let (data, mut entry) = manifest(scene, algorithm, case);
        write_blob(scene, &data, &entry);
        digests.push(entry["digest"].as_str().unwrap().to_owned());
        if number % 2 == 0 {
            entry["annotations"] = json!({NAME: format!("odd:{number}")});
        }
        fault(&mut entry);
        add(scene, [entry]);
    }
    digests
}

fn run(scene: &Scene, arguments: &[&str]) -> String {
    ok(cas(&scene.root).args(arguments))
}

#[test]
fn entries_with_faults_keep_their_content_and_do_not_disturb_others_and_are_corrected() {
    for algorithm in Algorithm::ALL {
        let scene = Scene::new("fs");
        let digests = add_faults(&scene, algorithm);
        // Every command works, and a collection keeps what the entries list.
        let listed = run(&scene, &["images", "--json"]);
        assert!(listed.contains(r#""app:1""#), "{listed}");
        for digest in &digests {
            assert!(listed.contains(digest), "{digest}: {listed}");
        }
        run(&scene, &["tag", "app:1", "other:1"]);
        run(&scene, &["rmi", "other:1", "app:1"]);
        run(&scene, &["gc"]);
        run(&scene, &["df"]);
        let layer = scene
            .root
            .join("store/blobs/sha256")
            .join(scene.layer().hex());
        assert!(layer.exists());

        let (code, mut found) = scene.fsck(&[]);
        // Before the repair, a blob also counts as damaged if it does not have the stated size.
        found.retain(|one| one["problem"] != "blob-damaged");
        // No image has a record any more, so the blobs without records count as damage, too.
        assert_eq!((code, found.len()), (4, 2 * FAULTS.len()), "{found:#?}");
        for (digest, (case, _)) in digests.iter().zip(FAULTS) {
            let names = |one: &Value| {
                one["subject"] == "index.json entries"
                    && one["detail"].as_str().unwrap().contains(digest)
            };
            assert!(found.iter().any(names), "{case}: {found:#?}");
        }
        let (code, repaired) = scene.fsck(&["--repair"]);
        assert_eq!(code, 0, "{repaired:#?}");
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()));
        let out = scene.scratch.path().join("out");
        for (digest, (case, _)) in digests.iter().zip(FAULTS) {
            ok(cas(&scene.root).args(["unpack", digest]).arg(&out));
            assert!(fs::read_dir(&out).unwrap().next().is_some(), "{case}");
            fs::remove_dir_all(&out).unwrap();
            run(&scene, &["rmi", digest]);
        }
        let listed = run(&scene, &["images", "--json"]);
        assert_eq!(listed, "");
    }
}

/// Returns the exit code of `unpack` before a repair, if the entry states another type, another size
/// or other data than its content has.
fn refused(case: &str) -> Option<i32> {
    match case {
        "type of a layer" | "type of something else" => Some(2),
        "larger size than any document" => Some(6),
        "type of an index" | "another size" | "other data" | "data that is not base64" => Some(4),
        _ => None,
    }
}

/// Everything that a user does with a sound image also works with an entry that has a fault, except
/// that content that differs from its descriptor is refused before a repair.
#[test]
fn an_entry_with_a_fault_can_be_tagged_copied_imported_and_removed() {
    let scene = Scene::new("fs");
    let digests = add_faults(&scene, Algorithm::Sha256);
    let other = scene.scratch.path().join("other");
    let archive = scene.scratch.path().join("demo.tar");
    for (digest, (case, _)) in digests.iter().zip(FAULTS) {
        if let Some(code) = refused(case) {
            let out = scene.scratch.path().join("out");
            fails(cas(&scene.root).args(["unpack", digest]).arg(out), code);
            run(&scene, &["rmi", digest]);
            continue;
        }
        run(&scene, &["tag", digest, "back:1"]);
        run(
            &scene,
            &["copy", "back:1", &format!("{}#", other.display())],
        );
        ok(cas(&other).args(["inspect", "back:1"]));
        run(&scene, &["rmi", "back:1"]);
        run(&scene, &["rmi", digest]);
    }
    ok(cas(&scene.root)
        .args(["import", "--name", "new:1"])
        .arg(archive));
    let listed = run(&scene, &["images", "--json"]);
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert_eq!(scene.fsck(&["--repair"]).0, 0);
    assert_eq!(scene.fsck(&[]), (0, Vec::new()));
}

/// Without the content of an entry, nothing tells its size.
#[test]
fn an_entry_whose_content_is_missing_is_corrected_once_it_is_there() {
    for algorithm in Algorithm::ALL {
        let scene = Scene::new("fs");
        let (data, mut entry) = manifest(&scene, algorithm, "missing");
        remove(&mut entry, "size");
        remove(&mut entry, "mediaType");
        add(&scene, [entry.clone()]);
        for arguments in [
            &["images"][..],
            &["tag", "app:1", "other:1"],
            &["rmi", "other:1"],
            &["gc"],
        ] {
            run(&scene, arguments);
        }
        for _ in 0..2 {
            let (code, found) = scene.fsck(&["--repair"]);
            assert_eq!(code, 4, "{found:#?}");
            assert!(
                has(&found, "store-damaged", "index.json entries"),
                "{found:#?}"
            );
            assert!(has(&found, "blob-missing", ""), "{found:#?}");
        }
        write_blob(&scene, &data, &entry);
        assert_eq!(scene.fsck(&["--repair"]).0, 0);
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()));
        scene.works();
    }
}

/// A repair that corrects an entry has lost no name. So it does not keep images that a user has
/// removed.
#[test]
fn a_corrected_entry_does_not_bring_removed_images_back() {
    let scene = Scene::new("fs");
    add_faults(&scene, Algorithm::Sha256);
    let manifests = || {
        let listed = run(&scene, &["images", "--json"]);
        listed.lines().count()
    };
    let before = manifests();
    run(&scene, &["rmi", "app:1"]);
    assert_eq!(manifests(), before - 1);
    assert_eq!(scene.fsck(&["--repair"]).0, 0);
    assert_eq!(
        run(&scene, &["lease", "ls"]).matches("recovered").count(),
        0
    );
    assert_eq!(manifests(), before - 1);
}

/// A layout may list content of any type. A person is told, and everything else is listed.
#[test]
fn content_that_is_not_an_image_is_listed_beside_images() {
    let scene = Scene::new("fs");
    let layer = scene.layer();
    let size = scene.bytes(&layer).len();
    let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
    let entry = json!({"mediaType": media_type, "digest": layer, "size": size});
    let mut named = entry.clone();
    named["annotations"] = json!({NAME: "layer:1"});
    add(&scene, [entry, named]);
    let layout = scene.root.join("store");
    let other = scene.scratch.path().join("other");
    for store in crate::common::ENGINES {
        let root = other.join(store);
        ok(cas(&root).args(["--store", store, "init"]));
        ok(cas(&root).arg("import").arg(&layout));
    }
    let others = crate::common::ENGINES.iter().map(|store| other.join(store));
    for root in others.chain([scene.root.clone()]) {
        let out = cas(&root).arg("images").output().unwrap();
        let [listed, said] = [&out.stdout, &out.stderr].map(|text| crate::common::text(text));
        assert!(out.status.success(), "{said}");
        assert!(
            listed.contains("app:1") && listed.contains("not an image"),
            "{listed}"
        );
        assert!(
            said.contains("layer:1") && said.contains(media_type),
            "{said}"
        );
        ok(cas(&root).args(["rmi", "layer:1", "app:1"]));
        ok(cas(&root).args(["gc"]));
        ok(cas(&root).args(["fsck", "--read-data"]));
    }
}

/// A full index cannot be made longer, but can still be read, and everything else is repaired.
#[test]
fn an_index_that_cannot_be_corrected_is_left_as_it_was_and_the_rest_is_repaired() {
    let scene = Scene::new("fs");
    let (data, mut entry) = manifest(&scene, Algorithm::Sha256, "full");
    write_blob(&scene, &data, &entry);
    remove(&mut entry, "size");
    add(&scene, [entry]);
    let file = scene.root.join("store/index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let length = |index: &Value| index.to_string().len();
    index["x"] = json!("");
    let left = (4 << 20) - length(&index);
    index["x"] = json!("x".repeat(left));
    fs::write(&file, index.to_string()).unwrap();
    let before = fs::read(&file).unwrap();
    let layer = scene.layer();
    scene.flip(&layer);
    let (code, found) = scene.repair_from_source();
    assert_eq!(code, 4, "{found:#?}");
    let outcome = |subject: &str| {
        let about = |one: &&Value| one["subject"].as_str().unwrap().contains(subject);
        let one = found
            .iter()
            .find(about)
            .unwrap_or_else(|| panic!("{found:#?}"));
        (one["repaired"] == true, one["detail"].as_str().unwrap())
    };
    assert!(outcome(&layer.to_string()).0, "{found:#?}");
    let (is_repaired, why) = outcome("index.json");
    assert!(
        !is_repaired && why.contains("at most 4194304"),
        "{found:#?}"
    );
    assert!(fs::read(&file).unwrap() == before);
    run(&scene, &["images"]);
}

/// A text with a line break does not look like a further line of the check.
#[test]
fn several_entries_of_a_name_count_as_one_or_are_reported() {
    let scene = Scene::new("fs");
    let file = scene.root.join("store/index.json");
    let index: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let entry = index["manifests"][0].clone();
    add(&scene, [entry.clone()]);
    assert_eq!(scene.fsck(&[]), (0, Vec::new()));
    run(&scene, &["tag", "app:1", "app:2"]);
    let (data, mut other) = manifest(&scene, Algorithm::Sha256, "other");
    write_blob(&scene, &data, &other);
    other["annotations"] = entry["annotations"].clone();
    add(&scene, [other]);
    for arguments in [&[][..], &["--repair"]] {
        let (code, found) = scene.fsck(arguments);
        assert!(
            code == 4 && has(&found, "store-damaged", "index.json entries"),
            "{found:#?}"
        );
    }
    run(&scene, &["rmi", "app:1"]);
    assert_eq!(scene.fsck(&[]).0, 0);
    run(&scene, &["tag", "app:2", "app:1"]);
    scene.works();
}

#[test]
fn an_entry_forges_no_line_of_the_check() {
    let scene = Scene::new("fs");
    let (data, mut entry) = manifest(&scene, Algorithm::Sha256, "forged");
    write_blob(&scene, &data, &entry);
    let forged = "checked 9 images: 0 problems left";
    entry["mediaType"] = json!(format!("a/b\n{forged}\r{forged}"));
    add(&scene, [entry]);
    let said = cas(&scene.root).arg("fsck").output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains(forged), "{said}");
    assert!(!said.lines().any(|line| line.starts_with(forged)), "{said}");
    assert!(!said.contains('\r'), "{said}");
}

/// `oras attach` on the directory of the store lists a referrer without a name.
#[test]
fn a_referrer_without_a_name_belongs_to_its_subject() {
    let scene = Scene::new("fs");
    let (data, entry) = manifest(&scene, Algorithm::Sha256, "attached");
    let mut attached: Value = serde_json::from_slice(&data).unwrap();
    attached["artifactType"] = json!("application/vnd.example.sbom");
    attached["subject"] = json!({
        "mediaType": entry["mediaType"],
        "digest": scene.manifest_digest,
        "size": scene.bytes(&scene.manifest_digest).len(),
    });
    let data = attached.to_string().into_bytes();
    let digest = Digest::sha256(&data).to_string();
    let entry = json!({"mediaType": entry["mediaType"], "digest": digest, "size": data.len()});
    write_blob(&scene, &data, &entry);
    add(&scene, [entry]);
    let listed = run(&scene, &["images", "--json"]);
    assert!(!listed.contains(&digest), "{listed}");
    for shows in [&["tree", "app:1", "--json"][..], &["inspect", "app:1"]] {
        let said = run(&scene, shows);
        assert!(said.contains(&digest), "{shows:?}: {said}");
    }
    run(&scene, &["gc"]);
    assert!(run(&scene, &["tree", "app:1", "--json"]).contains(&digest));
    // Without its subject, it is an image again, and an entry keeps it.
    run(&scene, &["rmi", "app:1"]);
    run(&scene, &["gc"]);
    assert!(run(&scene, &["blob", "ls", "--json"]).contains(&digest));
}

/// Such images work without records, and an image of `cas` whose record was lost is still reported.
#[test]
fn what_another_program_has_stored_is_not_damage() {
    let scene = Scene::new("fs");
    for name in [Some("foreign:1"), None] {
        let case = name.unwrap_or("without a name");
        let (data, mut entry) = manifest(&scene, Algorithm::Sha256, case);
        write_blob(&scene, &data, &entry);
        if let Some(name) = name {
            entry["annotations"] = json!({NAME: name});
        }
        add(&scene, [entry]);
    }
    assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()));
    let said = run(&scene, &["fsck"]);
    assert!(said.contains("not recorded: 2 blobs"), "{said}");
    let layer = scene.layer();
    scene.open(async |store| {
        let mut batch = Batch::new();
        batch.delete(Table::Blobs, layer.to_string(), Expect::Any);
        store.records.commit(&batch).await.unwrap();
    });
    let (code, found) = scene.fsck(&[]);
    assert_eq!((code, found.len()), (4, 1), "{found:#?}");
    assert!(has(&found, "record-missing", layer.hex()), "{found:#?}");
    let said = run(&scene, &["fsck", "--repair"]);
    // A repair first records the names in the index, so only the image without a name is foreign.
    assert!(said.contains("\nrecorded: 1 blob "), "{said}");
    let said = run(&scene, &["fsck"]);
    assert!(!said.contains("recorded"), "{said}");
}

#[test]
fn an_image_that_skopeo_copies_into_a_store_is_not_damage() {
    if !can(&["skopeo"]) {
        return;
    }
    let scene = Scene::new("fs");
    let root = scene.scratch.path().join("empty");
    ok(cas(&root).args(["--snapshotter", "native", "init"]));
    // Without any record of an image, the records count as lost.
    let own = crate::common::small_archive(scene.scratch.path());
    ok(cas(&root).args(["import", "--name", "own:1"]).arg(own));
    let store = scene.source().join("store");
    let from = format!("oci:{}:docker.io/library/app:1", store.display());
    let to = format!("oci:{}/store:copied:1", root.display());
    ok(Command::new("skopeo").args(["copy", "-q", &from, &to]));
    for arguments in [&["fsck"][..], &["fsck", "--read-data"], &["gc"], &["fsck"]] {
        ok(cas(&root).args(arguments));
    }
    let out = scene.scratch.path().join("out");
    ok(cas(&root).args(["unpack", "copied:1"]).arg(out));
}
