//! `cas` and skopeo with a common registry: digests and trees stay the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cas::Digest;
use serde_json::Value;

use super::cas;
use crate::common::docker::{PROGRAM, Registry};
use crate::common::shop::{ALL, GZIP, MULTI, Shop, names, skopeo};
use crate::common::{can, fails, ok, real_image, tree};

/// Returns the name of the shop's image `name` in a registry.
fn there(registry: &Registry, name: &str) -> String {
    registry.at(name.split_once('/').unwrap().1)
}

fn inspect(root: &Path, name: &str) -> Value {
    let inspected = ok(crate::common::cas(root).args(["inspect", name, "--json"]));
    serde_json::from_str(&inspected).unwrap()
}

#[test]
fn what_is_pushed_is_pulled_with_equal_digests_and_trees() {
    if !can(&["skopeo", PROGRAM]) {
        return;
    }
    let shop = Shop::open();
    let registry = Registry::open(shop.scratch.path());
    let tool = |root: &str| cas(&shop.path(root), shop.scratch.path());
    for (name, digest) in shop.own(&ALL) {
        let there = there(&registry, &name);
        let pushed = ok(tool("root").args(["push", &name, &there]));
        assert_eq!(pushed.trim(), format!("{name} -> {there}"));
        let pulled = ok(tool("empty").args(["pull", "--all-platforms", &there]));
        assert_eq!(pulled.trim(), there);
        assert_eq!(names(&shop.path("empty"))[&there], digest);
        for (root, image) in [("root", &name), ("empty", &there)] {
            ok(tool(root)
                .args(["unpack", image])
                .arg(shop.path(&format!("{root}-tree"))));
        }
        let trees = ["root-tree", "empty-tree"].map(|one| tree::scan(&shop.path(one)));
        // The image does not describe the root directory.
        let below = trees.map(|mut tree| {
            tree.remove(Path::new(""));
            tree
        });
        assert!(below[0].len() > 10 && below[0] == below[1]);
        for tree in ["root-tree", "empty-tree"] {
            fs::remove_dir_all(shop.path(tree)).unwrap();
        }
    }
    let collected = ok(tool("empty").args(["gc", "--json"]));
    assert!(!collected.contains("sha256:"), "{collected}");
}

#[test]
fn skopeo_pulls_what_we_push_and_we_what_it_pushes() {
    if !can(&["skopeo", PROGRAM]) {
        return;
    }
    let shop = Shop::open();
    let registry = Registry::open(shop.scratch.path());
    let tool = |root: &str| cas(&shop.path(root), shop.scratch.path());
    let copy = ["copy", "-q", "--all", "--preserve-digests"];
    let plain = ["--src-tls-verify=false", "--dest-tls-verify=false"];
    for (name, digest) in shop.own(&ALL) {
        let ours = there(&registry, &format!("x/ours/{name}"));
        ok(tool("root").args(["push", &name, &ours]));
        let from = format!("docker://{ours}");
        let raw = skopeo(&["inspect", "--raw", "--tls-verify=false", &from]);
        assert_eq!(Digest::sha256(raw.as_bytes()), digest, "{name}");
        let theirs = there(&registry, &format!("x/theirs/{name}"));
        let to = format!("docker://{theirs}");
        skopeo(&[&copy[..], &plain, &[&from, &to]].concat());
        let out = tool("back")
            .args(["pull", "--all-platforms", &theirs])
            .output();
        assert!(out.unwrap().status.success());
        assert_eq!(names(&shop.path("back"))[&theirs], digest);
        let whole = ok(tool("back").args(["tree", &theirs]));
        assert!(!whole.contains("MISSING"), "{whole}");
    }
}

#[test]
fn a_platform_is_chosen_and_the_rest_may_come_later() {
    if !can(&["skopeo", PROGRAM]) {
        return;
    }
    let shop = Shop::open();
    let registry = Registry::open(shop.scratch.path());
    let tool = |root: &str| cas(&shop.path(root), shop.scratch.path());
    let multi = there(&registry, MULTI);
    ok(tool("root").args(["push", MULTI, &multi]));
    let missing = |root: &str| {
        let tree = ok(tool(root).args(["tree", &multi]));
        tree.matches("MISSING").count()
    };
    ok(tool("one").args(["pull", &multi, "--unpack"]));
    assert_eq!(missing("one"), 1);
    let said = fails(
        tool("one").args(["pull", &multi, "--platform", "linux/riscv64"]),
        3,
    );
    assert!(said.contains("linux/s390x"), "{said}");
    // An incomplete image is pushed as the manifest for this machine, with a warning.
    let single = registry.at("single:1");
    let out = tool("one")
        .args(["push", &multi, &single])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).contains("the store does not have all platforms"));
    assert!(out.status.success());
    let said = fails(
        tool("one").args(["push", "--all-platforms", &multi, &single]),
        3,
    );
    assert!(said.contains("sha256:") && said.contains(&single), "{said}");
    let manifest = inspect(&shop.path("one"), &multi)["manifest"].clone();
    ok(tool("two").args([
        "pull",
        &single,
        "--platform",
        &cas::Platform::host().to_string(),
    ]));
    assert_eq!(inspect(&shop.path("two"), &single)["manifest"], manifest);
    let said = fails(
        tool("two").args(["pull", &single, "--platform", "linux/s390x"]),
        3,
    );
    assert!(said.contains("is for"), "{said}");
    ok(tool("one").args(["pull", &multi, "--platform", "linux/s390x"]));
    assert_eq!(missing("one"), 0);
    ok(tool("one").args(["tag", &multi, "again:1"]));
}

#[test]
fn a_pull_by_digest_checks_the_digest() {
    if !can(&["skopeo", PROGRAM]) {
        return;
    }
    let shop = Shop::open();
    let registry = Registry::open(shop.scratch.path());
    let tool = |root: &str| cas(&shop.path(root), shop.scratch.path());
    let digest = shop.own(&[GZIP])[GZIP];
    let by_digest = registry.at(&format!("app@{digest}"));
    ok(tool("root").args(["push", GZIP, &by_digest]));
    ok(tool("empty").args(["pull", &by_digest]));
    assert_eq!(
        names(&shop.path("empty")),
        BTreeMap::from([(by_digest.clone(), digest)])
    );
    // Without another name, the image is pushed to its own name.
    ok(tool("empty").args(["push", &by_digest]));
    let said = fails(tool("root").args(["push", MULTI, &by_digest]), 2);
    assert!(said.contains("leave the digest out"), "{said}");
    for absent in [
        "app:absent",
        "absent:1",
        &format!("app@{}", Digest::sha256(b"absent")),
    ] {
        let absent = registry.at(absent);
        let said = fails(tool("empty").args(["pull", &absent]), 3);
        assert!(said.contains(&absent) && said.contains("404"), "{said}");
    }
}

#[test]
fn a_pull_of_a_blob_damaged_in_the_registry_names_no_image() {
    if !can(&["skopeo", PROGRAM]) {
        return;
    }
    let shop = Shop::open();
    let registry = Registry::open(shop.scratch.path());
    let tool = |root: &str| cas(&shop.path(root), shop.scratch.path());
    let there = there(&registry, GZIP);
    ok(tool("root").args(["push", GZIP, &there]));
    let image = inspect(&shop.root, GZIP);
    let layer = image["manifest"]["layers"][0]["digest"].as_str().unwrap();
    let file = registry.blob(layer);
    let good = fs::read(&file).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    fs::write(&file, bad).unwrap();
    let said = fails(tool("empty").args(["pull", &there]), 4);
    assert!(said.contains(layer) && said.contains(&there), "{said}");
    assert!(names(&shop.path("empty")).is_empty());
    fails(tool("empty").args(["blob", "info", layer]), 3);
    fs::write(&file, good).unwrap();
    ok(tool("empty").args(["pull", &there, "--unpack"]));
}

/// The real image: its whole tree is compared.
#[test]
fn a_real_image_goes_there_and_back() {
    let Some(layout) = real_image("small").filter(|_| can(&["skopeo", PROGRAM])) else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let registry = Registry::open(scratch.path());
    let at = |name: &str| scratch.path().join(name);
    let there = registry.at("team/small:1");
    let from = format!("oci:{}:small", layout.display());
    let to = format!("docker://{there}");
    skopeo(&[
        "copy",
        "-q",
        "--preserve-digests",
        "--dest-tls-verify=false",
        &from,
        &to,
    ]);
    ok(cas(&at("one"), scratch.path()).args(["pull", &there]));
    ok(cas(&at("two"), scratch.path())
        .arg("import")
        .arg(&layout)
        .args(["--name", "small"]));
    let images = names(&at("two"));
    let imported = images.keys().next().unwrap();
    for (root, name) in [("one", &there), ("two", imported)] {
        let tree = at(&format!("{root}-tree"));
        ok(cas(&at(root), scratch.path())
            .args(["unpack", name])
            .arg(tree));
    }
    let differences = tree::differences(&at("one-tree"), &at("two-tree"));
    assert_eq!(differences, Vec::<String>::new());

    // Layers that are unpacked during the pull give the same tree, after a kill at any time.
    let pull = || {
        let mut command = cas(&at("three"), scratch.path());
        command.args(["-q", "pull", "--unpack", &there]);
        command
    };
    for tenths in 1..8 {
        let mut killed = pull().spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100 * tenths));
        killed.kill().unwrap();
        killed.wait().unwrap();
    }
    ok(&mut pull());
    std::fs::create_dir(at("mounted")).unwrap();
    let tool = || cas(&at("three"), scratch.path());
    ok(tool().args(["mount", &there]).arg(at("mounted")));
    let differences = tree::differences(&at("one-tree"), &at("mounted"));
    ok(tool().arg("umount").arg(at("mounted")));
    assert_eq!(differences, Vec::<String>::new());
}
