//! `cas copy` between stores and roots.

use std::fs;

use cas::backend::pool::wait;

use super::Shelf;
use crate::common::{cas, fails};

#[test]
fn an_image_goes_from_store_to_store_and_comes_back_the_same() {
    let shelf = Shelf::new();
    let target = shelf.target();
    let redb = format!("redb://{}", shelf.text("x.redb"));
    let other = shelf.text("other");
    let fs = format!("fs://{}", shelf.text("files"));
    let dir = format!("dir://{}", shelf.text("dir"));
    let mut steps = vec![
        ("app:1".to_owned(), redb.clone(), "app:1"),
        (format!("{redb}#app:1"), format!("{redb}#app:2"), "app:2"),
        (format!("{redb}#app:2"), format!("{other}#app:3"), "app:3"),
        (format!("{other}#app:3"), format!("{fs}#"), "app:3"),
        (
            format!("{fs}#{target}"),
            "./third#app:4".to_owned(),
            "app:4",
        ),
        (
            format!("{fs}#{}", &target[7..19]),
            "app:5".to_owned(),
            "app:5",
        ),
        (
            "third#app:4".to_owned(),
            "team/app:6".to_owned(),
            "team/app:6",
        ),
        ("app:1".to_owned(), "app:7".to_owned(), "app:7"),
    ];
    if cfg!(feature = "remote") {
        steps.push(("app:1".to_owned(), dir.clone(), "app:1"));
        steps.push((format!("{dir}#app:1"), "app:8".to_owned(), "app:8"));
    }
    for (from, to, name) in &steps {
        let copied = shelf.json(&["copy", from, to]).remove(0);
        assert_eq!(copied["target"]["digest"], target, "{from} {to}");
        assert_eq!(copied["familiar"], *name, "{from} {to}");
    }
    shelf.ok(&["unpack", "app:5", &shelf.text("tree")]);
    assert!(shelf.path("tree/app/run").exists());
    assert_eq!(
        shelf.ok(&["copy", "app:1", &format!("{other}#app:9")]),
        format!("app:1 -> {other}#app:9\n")
    );
}

#[test]
fn a_table_of_the_root_is_a_store() {
    let shelf = Shelf::new();
    let file = shelf.path("root/cas.toml");
    let mut text = fs::read_to_string(&file).unwrap();
    text.push_str("\n[stores.fast]\nkind = \"redb\"\n");
    fs::write(&file, text).unwrap();
    for absent in ["fast#app:2", "by-size://?small=redb&large=fs#app:2"] {
        let said = shelf.fails(&["copy", absent, "app:3"], 3);
        assert!(said.contains("no store exists at this path"), "{said}");
    }
    let mut copy = cas(&shelf.path("empty"));
    fails(copy.args(["copy", "redb#app:2", &shelf.text("root")]), 3);
    let made = ["root/stores", "empty/store", "empty/stores"];
    assert!(made.iter().all(|made| !shelf.path(made).exists()));
    shelf.ok(&["copy", "app:1", "fast#app:2"]);
    assert!(shelf.ok(&["--store", "fast", "images"]).contains("app:2"));
    shelf.ok(&["copy", "fast#app:2", "app:3"]);
    // With --store, a name is one of that store.
    shelf.ok(&["--store", "fast", "copy", "app:2", "app:4"]);
    assert!(shelf.ok(&["--store", "fast", "images"]).contains("app:4"));
}

#[test]
fn what_cannot_be_copied_is_refused_and_creates_nothing() {
    let shelf = Shelf::new();
    let root = shelf.text("root");
    let own = format!("fs://{root}/store#app:1");
    let absent = format!("{}#app:1", shelf.text("absent"));
    let no_store = format!("redb://{}#app:1", shelf.text("absent"));
    let no_name = format!("fs://{root}/store");
    let layout = format!("{root}/store#app:1");
    for (from, to, code, expected) in [
        ("app:1", "app:1", 2, "same store"),
        ("app:1", "app", 0, ""),
        ("app:1", &*root, 2, "same store"),
        ("app:1", &*own, 2, "same store"),
        ("app:9", "app:2", 3, "app:9"),
        (&*absent, "app:2", 3, "cas.toml"),
        (&*no_store, "app:2", 3, "no store exists"),
        (&*layout, "app:2", 3, "cas import"),
        (&*no_name, "app:2", 2, "URL#NAME"),
        (&*root, "app:2", 2, "DIR#NAME"),
        ("nowhere://x#app:1", "app:2", 2, "compiled in"),
        ("nowhere#app:1", "app:2", 2, "compiled in"),
        ("app:1", "nowhere://x", 2, "compiled in"),
        ("app:1", "fs://x#UPPER", 2, "upper-case"),
        ("app:1", "", 2, "URL#NAME"),
        ("#app:1", "app:2", 2, "before #"),
        ("root", "app:2", 2, "DIR#NAME"),
    ] {
        let arguments = ["copy", from, to];
        if code == 0 {
            shelf.ok(&arguments);
            continue;
        }
        let said = shelf.fails(&arguments, code);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    shelf.fails(&["copy", "app:1"], 2);
    let said = shelf.fails(&["copy", "app:1", "app:2", "--platform", "linux/s390x"], 3);
    assert!(said.contains("s390x"), "{said}");
    assert!(!shelf.path("absent").exists());
    // A foreign directory is not made a root.
    fs::create_dir(shelf.path("foreign")).unwrap();
    fs::write(shelf.path("foreign/mine"), "x").unwrap();
    let said = shelf.fails(&["copy", "app:1", "./foreign"], 2);
    assert!(said.contains("not empty"), "{said}");
}

#[test]
fn an_interrupted_copy_is_resumed() {
    let shelf = Shelf::new();
    let layer = shelf.layer();
    let other = shelf.text("other");
    shelf.ok(&["init", "--root", &other]);
    let blob = fs::read(shelf.path("root/store/blobs").join(layer.replace(':', "/"))).unwrap();
    let cas = cas::blocking::Cas::open(&other).unwrap();
    wait(async {
        let mut ingest = cas.store().content.begin(&layer).await.unwrap();
        let half = blob[..blob.len() / 2].to_vec();
        ingest.append(half.into()).await.unwrap();
    });
    drop(cas);
    assert_eq!(shelf.json(&["ingest", "ls", "--root", &other]).len(), 1);
    let out = shelf.cas(&["copy", "app:1", &other]).output().unwrap();
    assert!(out.status.success());
    let listed = shelf.json(&["ingest", "ls", "--root", &other]);
    assert!(listed.is_empty(), "{listed:?}");
    shelf.ok(&["fsck", "--read-data", "--root", &other]);
}
