//! `cas blob rm` and `cas blob label`.

use std::fs;

use super::Shelf;

#[test]
fn a_blob_is_removed_however_its_digest_is_typed() {
    let shelf = Shelf::new();
    let image = shelf.blobs();
    for (number, typed) in [
        |digest: &str| digest.to_owned(),
        |digest: &str| digest[7..].to_owned(),
        |digest: &str| digest[..19].to_owned(),
        |digest: &str| digest[7..19].to_owned(),
        |digest: &str| digest.to_uppercase(),
        |digest: &str| digest[7..27].to_uppercase(),
    ]
    .into_iter()
    .enumerate()
    {
        let digest = shelf.blob(&format!("blob {number}"));
        let gone = shelf.json(&["blob", "rm", &typed(&digest)]).remove(0);
        assert_eq!(
            (&gone["removed"], &gone["size"]),
            (&digest.clone().into(), &6.into())
        );
        assert_eq!(shelf.blobs(), image);
        shelf.fails(&["blob", "rm", &digest], 3);
    }
    let (one, two) = (shelf.blob("one"), shelf.blob("two"));
    let gone = shelf.json(&["blob", "rm", &one, &two, &one]);
    assert_eq!(gone.len(), 2);
    for (bad, code) in [
        (&["blob", "rm"][..], 2),
        (&["blob", "rm", "-"], 2),
        (&["blob", "rm", ""], 2),
        (&["blob", "rm", "app:1"], 2),
        (&["blob", "rm", "md5:abc"], 2),
        (&["blob", "rm", &two], 3),
    ] {
        shelf.fails(bad, code);
    }
    assert_eq!(shelf.blobs(), image);
}

#[test]
fn a_blob_in_use_is_refused_with_what_uses_it() {
    let shelf = Shelf::new();
    let (layer, target) = (shelf.layer(), shelf.target());
    let free = shelf.blob("free");
    let said = shelf.fails(&["blob", "rm", &free, &layer], 5);
    assert!(said.contains("app:1") && said.contains(&target), "{said}");
    let leased = shelf.blob("leased");
    shelf.ok(&["lease", "create", "--id", "audit"]);
    shelf.ok(&["lease", "add", "audit", &leased[7..15]]);
    let said = shelf.fails(&["blob", "rm", &leased], 5);
    assert!(said.contains("the lease audit"), "{said}");
    // A snapshot refers to a blob by a label, as containerd's do.
    let snapshots = shelf.blob("of a snapshot");
    shelf.ok(&["snapshot", "prepare", "work"]);
    let key = "containerd.io/gc.bref.snapshot.native=work";
    shelf.ok(&["blob", "label", &snapshots, key]);
    let said = shelf.fails(&["blob", "rm", &snapshots], 5);
    assert!(said.contains("snapshots/native/work"), "{said}");
    assert!(shelf.blobs().contains(&free));

    shelf.ok(&["blob", "rm", "--force", &layer, &leased]);
    assert!(!shelf.blobs().contains(&layer));
    assert!(shelf.ok(&["tree", "app:1"]).contains("MISSING"));
    // What was removed comes back with the image.
    let archive = shelf.text("demo.tar");
    shelf.ok(&["import", &archive, "--name", "app:1"]);
    assert!(shelf.blobs().contains(&layer));
}

#[test]
fn labels_are_set_removed_and_decide_what_is_kept() {
    let shelf = Shelf::new();
    let blob = shelf.blob("labelled");
    let short = &blob[7..15];
    let shown = shelf.ok(&["blob", "label", short, "note=mine", "a.b/c=x=y"]);
    assert_eq!(shown, format!("{blob}\n  a.b/c=x=y\n  note=mine\n"));
    let shown = shelf.json(&["blob", "label", short, "note=", "absent="]);
    assert_eq!(shown[0]["labels"], serde_json::json!({"a.b/c": "x=y"}));
    let info = shelf.json(&["blob", "info", short]).remove(0);
    assert_eq!(info["labels"], shown[0]["labels"]);

    let root = "containerd.io/gc.root";
    shelf.ok(&["blob", "label", short, &format!("{root}=yes")]);
    let why = shelf.ok(&["why", &blob]);
    assert!(why.contains("label: "), "{why}");
    shelf.fails(&["blob", "rm", &blob], 5);
    shelf.ok(&["blob", "label", short, &format!("{root}=")]);

    let absent = format!("containerd.io/gc.ref.content=sha256:{}", "0".repeat(64));
    let out = shelf
        .cas(&["blob", "label", short, &absent])
        .output()
        .unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(
        out.status.success() && said.contains("once it is stored"),
        "{said}"
    );
    for bad in [
        "x",
        "=x",
        "containerd.io/gc.flat=1",
        "containerd.io/gc.ref.content=sha256:1",
    ] {
        shelf.fails(&["blob", "label", short, bad], 2);
    }
    shelf.fails(&["blob", "label", short], 2);
    shelf.fails(&["blob", "label", "00", "a=b"], 3);
    shelf.ok(&["blob", "rm", &blob]);
}

#[test]
fn a_file_that_states_no_size_is_added_whole() {
    let shelf = Shelf::new();
    let version = fs::read("/proc/version").unwrap();
    fs::write(shelf.path("empty"), "").unwrap();
    for (file, data) in [("/proc/version", &version[..]), ("empty", b"")] {
        let added = shelf.ok(&["blob", "add", file]);
        assert_eq!(added.trim(), cas::Digest::sha256(data).to_string());
    }
}

#[test]
fn a_digest_that_is_expected_may_be_typed_without_its_algorithm() {
    let shelf = Shelf::new();
    let digest = shelf.blob("text");
    let file = shelf.text("text");
    for typed in [&digest[..], &digest[7..]] {
        let added = shelf.ok(&["blob", "add", &file, "--digest", typed]);
        assert_eq!(added.trim(), digest);
    }
    let other = "0".repeat(64);
    shelf.fails(&["blob", "add", &file, "--digest", &other], 4);
    for garbage in ["", "sha256:", "../../x", &digest[8..]] {
        shelf.fails(&["blob", "add", &file, "--digest", garbage], 2);
    }
}
