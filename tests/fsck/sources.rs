//! Where a repair gets blobs from, and what imports repair by themselves.

use std::fs;
use std::os::unix::fs::symlink;

use crate::common::{ENGINES, cas, fails, ok};
use crate::scene::Scene;

#[test]
fn a_repair_takes_blobs_from_a_root_a_layout_and_the_url_of_a_store() {
    let scene = Scene::new("fs");
    let source = scene.source();
    let layout = source.join("store");
    let url = format!("fs://{}", layout.display());
    // The path of a root may have the mark before the name of an image.
    let marked = scene.scratch.path().join("source#1");
    symlink(&source, &marked).unwrap();
    let table = "\n[stores.fast]\nkind = \"fs\"\n";
    let settings = scene.root.join("cas.toml");
    let text = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, text + table).unwrap();
    ok(cas(&scene.root).args(["copy", "app:1", "fast#app:2"]));
    let places = [&source, &layout, &marked].map(|path| path.display().to_string());
    for place in places.iter().chain([&url]) {
        repairs_from(&scene, place);
        repairs_from(&scene, &format!("{place}#app:1"));
        repairs_from(&scene, &format!("{place}#"));
    }
    repairs_from(&scene, "fast#app:2");
}

fn repairs_from(scene: &Scene, from: &str) {
    scene.flip(&scene.layer());
    let (code, found) = scene.fsck(&["--read-data", "--repair", "--from", from]);
    assert_eq!(code, 0, "from {from}: {found:#?}");
    scene.works();
}

#[test]
fn a_path_that_is_not_a_source_is_explained() {
    let scene = Scene::new("redb");
    let at = |name: &str| scene.scratch.path().join(name).display().to_string();
    fs::create_dir(at("empty")).unwrap();
    fs::write(at("file"), "").unwrap();
    let (neither, own) = (
        "neither a root nor an image layout",
        "is the store that is checked",
    );
    for (from, code, expected) in [
        (at("absent"), 3, "nothing exists at this path"),
        (at("empty"), 2, neither),
        (at("file"), 2, neither),
        (at("root"), 2, own),
        (format!("redb://{}", at("root/store")), 2, own),
        (
            format!("{}#app:1", at("absent")),
            3,
            "nothing exists at this path",
        ),
        (format!("{}#app:1", at("empty")), 2, neither),
        (format!("{}#app:1", at("root")), 2, own),
        ("redb#app:1".to_owned(), 2, own),
        ("no/root#app:1".to_owned(), 3, "nothing exists at this path"),
        ("#app:1".to_owned(), 2, "before #"),
        (
            format!("fs://{}", at("absent")),
            3,
            "no store exists at this path",
        ),
        (format!("redb://{}?cache=1MiB", at("root/store")), 2, own),
    ] {
        let said = fails(
            cas(&scene.root).args(["fsck", "--repair", "--from", &from]),
            code,
        );
        let is_named = said.contains(expected) && said.contains(&from);
        assert!(is_named, "{from}: {said}");
    }
    let absent = format!("{}#other:1", at("source"));
    for (from, code, expected) in [
        (&*absent, 3, "the store does not have this image"),
        ("nowhere#app:1", 2, "compiled in"),
        ("docker://app:1", 2, "leave out the scheme"),
        ("https://x.test/app:1", 2, "leave out the scheme"),
    ] {
        let said = fails(
            cas(&scene.root).args(["fsck", "--repair", "--from", from]),
            code,
        );
        assert!(said.contains(expected), "{from}: {said}");
    }
    assert!(!scene.scratch.path().join("absent").exists());
}

#[test]
fn text_that_is_not_a_source_is_refused_with_a_list_of_the_forms() {
    let scene = Scene::new("redb");
    fs::create_dir(scene.scratch.path().join("empty")).unwrap();
    fs::write(scene.scratch.path().join("file"), "").unwrap();
    for from in [
        "",
        "a b",
        "#app:1",
        "redb:x",
        "redb:/srv/x#app:1",
        "redb:./x#",
        "oci:layout",
        "docker-archive:file",
        "file",
        "empty",
        "empty#app:1",
        "./empty#app:1",
        "file:///srv/x#app:1",
        "nowhere#app:1",
    ] {
        let mut repair = cas(&scene.root);
        repair.current_dir(scene.scratch.path());
        let said = fails(
            repair.args(["fsck", "--repair", &format!("--from={from}")]),
            2,
        );
        assert!(
            said.contains("DIR#NAME") && said.contains("HOST/NAME:TAG"),
            "{from}: {said}"
        );
    }
    // Docker Hub could have an image of this name.
    let said = fails(
        cas(&scene.root).args(["fsck", "--repair", "--from=redb"]),
        2,
    );
    assert!(said.contains("docker.io/library"), "{said}");
}

#[test]
fn a_source_of_another_kind_is_refused_and_an_absent_one_is_not_created() {
    let scene = Scene::new("redb");
    let scratch = scene.scratch.path();
    let at = |name: &str| scratch.join(name).display().to_string();
    fs::create_dir(at("empty")).unwrap();
    fs::write(at("file"), "").unwrap();
    let (other, absent) = ("has no store of the kind", "no store exists at this path");
    for (url, code, expected) in [
        (format!("redb://{}", at("source/store")), 2, other),
        (format!("redb://{}", at("source")), 2, other),
        (format!("fs://{}", at("root/local")), 2, other),
        (
            format!("fs://{}", at("file")),
            2,
            "expected the directory of a store",
        ),
        (format!("redb://{}", at("empty")), 3, absent),
        (format!("fs://{}", at("empty")), 3, absent),
        ("redb://absent".to_owned(), 3, absent),
    ] {
        for image in ["", "#app:1"] {
            let from = format!("{url}{image}");
            let repair = ["fsck", "--repair", "--from", &from];
            let said = fails(cas(&scene.root).current_dir(scratch).args(repair), code);
            assert!(
                said.contains(expected) && said.contains(&url),
                "{from}: {said}"
            );
        }
        let copy = ["copy", &format!("{url}#app:1"), "app:2"];
        let said = fails(cas(&scene.root).current_dir(scratch).args(copy), code);
        assert!(said.contains(expected), "{url}: {said}");
    }
    assert_eq!(fs::read_dir(at("empty")).unwrap().count(), 0);
    assert!(!scratch.join("absent").exists());
}

#[test]
fn a_source_that_is_damaged_too_repairs_nothing_and_loses_nothing() {
    let scene = Scene::new("fs");
    let layer = scene.layer();
    scene.flip(&layer);
    let damaged = scene.root.join("store/blobs/sha256").join(layer.hex());
    let copy = scene.source().join("store/blobs/sha256").join(layer.hex());
    let bytes = fs::read(&damaged).unwrap();
    crate::scene::overwrite(&copy, &bytes);
    assert_eq!(scene.repair_from_source().0, 4);
    let aside = cas::Digest::sha256(&bytes);
    let kept = scene.root.join("store/blobs/sha256").join(aside.hex());
    assert_eq!(
        fs::read(kept).unwrap(),
        bytes,
        "the damaged bytes are set aside"
    );
}

#[test]
fn an_import_replaces_damaged_blobs_of_every_kind() {
    for store in ENGINES {
        let scene = Scene::new(store);
        let archive = scene.scratch.path().join("demo.tar");
        let layout = scene.source().join("store");
        for source in [archive, layout] {
            let mut damaged = vec![scene.layer()];
            if scene.keeps_documents_apart() {
                damaged.extend([scene.manifest_digest, scene.manifest.config.digest]);
            }
            for digest in damaged {
                scene.flip(&digest);
                ok(cas(&scene.root)
                    .args(["import", "--name", "app:1"])
                    .arg(&source));
                assert_eq!(
                    scene.fsck(&["--read-data"]),
                    (0, Vec::new()),
                    "{digest} on {store}"
                );
                scene.works();
            }
        }
    }
}

#[test]
fn damage_that_was_noticed_or_that_keeps_the_times_is_replaced_too() {
    let scene = Scene::new("fs");
    let layer = scene.layer();
    let file = scene.root.join("store/blobs/sha256").join(layer.hex());
    let archive = scene.scratch.path().join("demo.tar");
    let import = || {
        ok(cas(&scene.root)
            .args(["import", "--name", "app:1"])
            .arg(&archive))
    };
    // Each import records the version of the file that it verified. The import after the damage
    // must find that the version has changed.
    for _ in 0..2 {
        import();
        let modified = file.metadata().unwrap().modified().unwrap();
        scene.flip(&layer);
        fs::File::open(&file)
            .unwrap()
            .set_modified(modified)
            .unwrap();
        import();
        scene.works();
    }
    scene.flip(&layer);
    let out = scene.scratch.path().join("out");
    fails(cas(&scene.root).args(["unpack", "app:1"]).arg(out), 4);
    import();
    scene.works();
}

#[test]
fn blob_add_replaces_a_damaged_blob() {
    for store in ENGINES {
        let scene = Scene::new(store);
        let layer = scene.layer();
        let right = scene.scratch.path().join("right");
        fs::write(&right, scene.bytes(&layer)).unwrap();
        scene.flip(&layer);
        ok(cas(&scene.root).args(["blob", "add"]).arg(&right));
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "on {store}");
    }
}
