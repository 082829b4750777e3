//! `cas aci`: App Container images by the verbs of rkt's image store.

use std::fs;
use std::path::{Path, PathBuf};

use cas::{Algorithm, Digest};
use serde_json::Value;
use testkit::aci::{aci, manifest, versioned};

use super::Shelf;

/// Returns the key of an archive as rkt writes it.
fn key_of(archive: &[u8]) -> String {
    let digest = Digest::of(Algorithm::Sha512, archive);
    format!("sha512-{}", &digest.hex()[..64])
}

/// Writes an ACI into the directory of the shelf, and imports it. Returns its key.
fn import(shelf: &Shelf, name: &str, version: &str) -> String {
    let archive = aci(&versioned(name, version));
    let key = key_of(&archive);
    fs::write(shelf.path("a.aci"), archive).unwrap();
    assert_eq!(shelf.ok(&["aci", "import", "a.aci"]), format!("{key}\n"));
    key
}

fn names(listed: &[Value]) -> Vec<&str> {
    listed
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect()
}

#[test]
fn an_aci_is_imported_listed_shown_and_removed() {
    let shelf = Shelf::new();
    let before = shelf.blobs();
    let key = import(&shelf, "example.com/app", "1.0");
    let listed = shelf.json(&["aci", "ls"]);
    let whole = listed[0]["key"].as_str().unwrap();
    assert!(whole.starts_with(&key) && whole.len() == 7 + 128);
    assert_eq!(listed[0]["name"], "example.com/app");
    assert_eq!(listed[0]["remotes"], serde_json::json!([]));
    let table = shelf.ok(&["aci", "ls"]);
    assert!(table.contains(&key[..19]) && !table.contains(&key[..20]));
    let text = versioned("example.com/app", "1.0");
    for aci in [
        &key[..12],
        whole,
        "example.com/app",
        "example.com/app:1.0",
        "example.com/app,version=1.0",
    ] {
        assert_eq!(shelf.ok(&["aci", "cat-manifest", aci]), text, "{aci}");
    }
    // A collection keeps the ACI, and its blobs cannot be removed.
    shelf.ok(&["gc"]);
    let digest = listed[0]["blob"].as_str().unwrap();
    shelf.fails(&["blob", "rm", digest], 5);
    let removed = shelf.ok(&["aci", "rm", &key[..20]]);
    assert_eq!(removed, format!("removed {key}\n"));
    assert!(shelf.json(&["aci", "ls"]).is_empty());
    assert_eq!(shelf.blobs(), before);
}

#[test]
fn acis_are_sorted_by_any_field_in_either_direction() {
    let shelf = Shelf::new();
    for (name, version) in [("c", "1"), ("a", "long-version"), ("b", "2")] {
        import(&shelf, name, version);
    }
    let sorted = |arguments: &[&str]| {
        let listed = shelf.json(&[&["aci", "ls"], arguments].concat());
        names(&listed).concat()
    };
    assert_eq!(sorted(&[]), "abc");
    assert_eq!(sorted(&["--reverse"]), "cba");
    assert_eq!(sorted(&["--sort", "imported"]), "cab");
    assert_eq!(sorted(&["--sort", "used", "--reverse"]), "bac");
    assert_eq!(sorted(&["--sort", "latest,name"]), "abc");
    assert_eq!(sorted(&["--sort", "tree,imported"]), "cab");
    for field in ["key", "size", "packed"] {
        let (forth, back) = (
            sorted(&["--sort", field]),
            sorted(&["--sort", field, "--reverse"]),
        );
        assert_eq!(forth.len(), back.len());
    }
    assert_eq!(sorted(&["b"]), "b");
    let said = shelf.fails(&["aci", "ls", "--sort", "colour"], 2);
    assert!(said.contains("imported"), "{said}");
}

#[test]
fn a_bad_aci_key_name_or_store_is_told_and_changes_nothing() {
    let shelf = Shelf::new();
    let key = import(&shelf, "example.com/app", "1.0");
    let before = (shelf.blobs(), shelf.json(&["aci", "ls"]));
    fs::write(shelf.path("text"), "no ACI").unwrap();
    let other = format!("sha512-{}", "0".repeat(64));
    for (arguments, code, said) in [
        (&["import", "absent"][..], 3, "absent"),
        (
            &["import", "text"],
            2,
            "text: expected the archive of an ACI",
        ),
        (
            &["import", "/dev/null"],
            2,
            "expected the archive of an ACI",
        ),
        (&["import", "a.aci", "--name", "other"], 4, "called other"),
        (&["import", "a.aci", "--key", &other], 4, "expected an ACI"),
        (&["import", "a.aci", "--key", "sha256-00"], 2, "sha512-"),
        (&["cat-manifest", "sha512-00"], 3, "cas aci ls"),
        (
            &["cat-manifest", "example.com/app:2"],
            3,
            "stored versions: 1.0;",
        ),
        (&["cat-manifest", "example.com/app,os"], 2, "LABEL=VALUE"),
        (&["cat-manifest", "Not a name"], 2, "invalid name"),
        (&["rm", "sha512-00"], 3, "cas aci ls"),
        (&["rm", "example.com/other"], 3, "cas aci ls"),
        (&["rm", "example.com/app:9"], 3, "stored versions: 1.0;"),
        (&["rm", "example.com/app,os"], 2, "LABEL=VALUE"),
        (&["rm", "Not a name"], 2, "invalid name"),
        (&["to-image", "example.com/app:9", "x:1"], 3, "version=9"),
        (&["to-image", &key[..9], "Not/A/Name"], 2, "Not/A/Name"),
        (&["import-store", "absent"], 3, "absent"),
        (&["gc", "--dry-run"], 2, "--older-than"),
        (&["gc", "--older-than", "soon"], 2, "--older-than"),
    ] {
        let shown = shelf.fails(&[&["aci"], arguments].concat(), code);
        assert!(shown.contains(said), "{arguments:?}: {shown}");
    }
    let again = format!("{}0", &key[..20]);
    shelf.fails(&["aci", "cat-manifest", &again], 3);
    assert_eq!((shelf.blobs(), shelf.json(&["aci", "ls"])), before);
}

/// As in rkt, but an ambiguous name removes nothing.
#[test]
fn an_aci_is_removed_by_a_name_that_only_it_has() {
    let shelf = Shelf::new();
    let keys = ["1.0", "2.0", "3.0"].map(|version| import(&shelf, "example.com/app", version));
    import(&shelf, "example.com/other", "1.0");
    let said = shelf.fails(&["aci", "rm", "example.com/app"], 2);
    assert!(keys.iter().all(|key| said.contains(&**key)), "{said}");
    assert_eq!(shelf.json(&["aci", "ls"]).len(), 4);
    for (name, key) in [
        ("example.com/app:2.0", &keys[1]),
        ("example.com/app,version=1.0", &keys[0]),
        ("example.com/app", &keys[2]),
    ] {
        let removed = shelf.ok(&["aci", "rm", name]);
        assert_eq!(removed, format!("removed {key}\n"), "{name}");
    }
    assert_eq!(names(&shelf.json(&["aci", "ls"])), ["example.com/other"]);
}

#[test]
fn an_image_is_made_of_an_aci() {
    let shelf = Shelf::new();
    import(&shelf, "example.com/app", "1.0");
    let made = shelf.ok(&["aci", "to-image", "example.com/app:1.0", "aci:1"]);
    assert_eq!(made, "aci:1\n");
    shelf.ok(&["unpack", "aci:1", "tree"]);
    let hello = fs::read_to_string(shelf.path("tree/hello")).unwrap();
    assert_eq!(hello, "hello\n");
    // The image can be removed without the ACI.
    shelf.ok(&["rmi", "aci:1"]);
    shelf.ok(&["gc"]);
    shelf.ok(&["aci", "cat-manifest", "example.com/app"]);
}

/// The store of an earlier release, or another program, has a name in its short form.
#[test]
fn an_image_of_an_aci_takes_every_spelling_of_its_name() {
    let shelf = Shelf::new();
    let before = shelf.target();
    let store = cas::blocking::Cas::open(shelf.path("root")).unwrap();
    store
        .create_image("aci:1", &before.parse().unwrap())
        .unwrap();
    drop(store);
    import(&shelf, "example.com/app", "1.0");
    shelf.ok(&["aci", "to-image", "example.com/app", "aci:1"]);
    let shown = shelf.json(&["inspect", "aci:1"]);
    assert_ne!(shown[0]["target"]["digest"], before.as_str());
}

#[test]
fn gc_removes_acis_that_were_not_read_for_long() {
    let shelf = Shelf::new();
    import(&shelf, "example.com/app", "1.0");
    let said = shelf.ok(&["aci", "gc", "--older-than", "1h"]);
    assert!(said.starts_with("removed 0 ACIs and 0 leftovers"), "{said}");
    let dry = shelf.ok(&["aci", "gc", "--older-than", "0s", "--dry-run"]);
    assert!(dry.contains("example.com/app") && dry.contains("would remove 1 ACI"));
    assert_eq!(shelf.json(&["aci", "ls"]).len(), 1);
    let done = shelf.json(&["aci", "gc", "--older-than", "0s"]);
    assert_eq!(done[0]["name"], "example.com/app");
    assert_eq!(done[1]["total"]["acis"], 1);
    assert!(shelf.json(&["aci", "ls"]).is_empty());
    // Content that is younger than a day stays for now.
    assert!(shelf.ok(&["aci", "gc"]).contains("0 blobs"));
}

/// Returns a directory of rkt with the database of its last version, which lists two ACIs.
fn store_of_rkt(shelf: &Shelf) -> PathBuf {
    let root = shelf.path("rkt");
    let database = Path::new(env!("CARGO_MANIFEST_DIR")).join("cas-aci/tests/fixtures/ql/v7.ql");
    fs::create_dir_all(root.join("db")).unwrap();
    fs::copy(database, root.join("db/ql.db")).unwrap();
    for name in ["example.com/image0", "example.com/image1"] {
        let archive = aci(&manifest(name, ""));
        let key = key_of(&archive);
        let directory = root.join("blob/sha512").join(&key[7..9]);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(key), archive).unwrap();
    }
    root
}

#[test]
fn one_command_brings_over_a_store_of_rkt() {
    let shelf = Shelf::new();
    let root = store_of_rkt(&shelf);
    let mut imported = shelf.json(&["aci", "import-store", "rkt"]);
    imported[..2].sort_by_key(|one| one["name"].to_string());
    assert_eq!(
        names(&imported[..2]),
        ["example.com/image0", "example.com/image1"]
    );
    assert_eq!(imported[0]["importedAt"], "1970-01-01T00:01:40Z");
    assert_eq!(imported[0]["usedAt"], "1970-01-01T00:03:20Z");
    assert_eq!(imported[2]["total"]["remotes"], 2);
    let listed = shelf.json(&["aci", "ls", "example.com/image0"]);
    let remote = &listed[0]["remotes"][0];
    assert_eq!(remote["url"], "https://host/a.aci");
    assert_eq!(
        (&remote["etag"], &remote["maxAge"]),
        (&"etag".into(), &60.into())
    );
    // rkt was killed while it removed one, and another archive is damaged.
    let archives = |root: &Path| -> Vec<PathBuf> {
        let parts = fs::read_dir(root.join("blob/sha512")).unwrap();
        let files = parts.flat_map(|part| fs::read_dir(part.unwrap().path()).unwrap());
        files.map(|file| file.unwrap().path()).collect()
    };
    let [gone, damaged] = <[PathBuf; 2]>::try_from(archives(&root)).unwrap();
    fs::remove_file(&gone).unwrap();
    let whole = fs::read(&damaged).unwrap();
    fs::write(&damaged, &whole[..whole.len() - 2000]).unwrap();
    let said = shelf.fails(&["aci", "import-store", "rkt"], 4);
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(said.contains(&name(&gone)) && said.contains("archive is gone"));
    assert!(said.contains(&name(&damaged)) && said.contains("1 of the archives"));
    assert_eq!(shelf.json(&["aci", "ls"]).len(), 2, "what is there stays");
}
