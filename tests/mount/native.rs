//! Images whose layers are EROFS images: variants of images whose layers are tars.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cas::Digest;
use cas::blocking::Cas;
use serde_json::{Value, json};
use testkit::archive::{Header, Tar};

use crate::common::docker::{PROGRAM, Registry};
use crate::common::layout::{layout, layout_typed};
use crate::common::tree::differences;
use crate::common::{can, cas, fails, mounting_snapshotters, ok, real_image};
use crate::imported;

const TYPE: &str = "application/vnd.erofs.layer.v1";
const NATIVE: &str = "erofs://?native=true";
const VARIANT: &str = "linux(+erofs)/amd64";

fn is_possible() -> bool {
    let made = Command::new("mkfs.erofs").arg("--help").output().is_ok();
    if !made {
        eprintln!("SKIPPED: no mkfs.erofs; run `cargo xtask setup` as the superuser");
    }
    made && mounting_snapshotters().contains(&"erofs")
}

/// Three layers that add, hide and replace files and directories.
fn tars() -> Vec<Tar> {
    let device = Header::new(b'3', "dir/null").device(1, 3).mode(0o666);
    let setuid = Header::new(b'0', "dir/su").mode(0o4755).owner(0, 9);
    let low = Tar::new()
        .dir("dir/")
        .file("dir/gone", "gone")
        .file("dir/kept", vec![b'k'; 70_000])
        .hardlink("dir/same", "dir/kept")
        .symlink("link", "dir/kept")
        .member(device, "")
        .member(setuid.size(2), "su")
        .pax(&[("SCHILY.xattr.user.key", b"value"), ("mtime", b"7.5")])
        .file("attributes", "with")
        .dir("opaque/")
        .file("opaque/old", "old")
        .dir("swapped/")
        .file("swapped/in", "in")
        .file("turned", "a file");
    let middle = Tar::new()
        .file("dir/.wh.gone", "")
        .dir("opaque/")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/young", "young")
        .file("swapped", "a file now")
        .dir("turned/")
        .file("turned/in", "in");
    // Without this member, the root would have the time at which each tree was made.
    let top = Tar::new()
        .dir("./")
        .file("dir/gone", "back")
        .file(".wh.link", "")
        .file("opaque/.wh.young", "");
    vec![low, middle, top]
}

/// Returns the layers of a layout as EROFS images: those of the trees that overlayfs stacks. Unpacks
/// the layout to the directory `plain`.
fn natives(scratch: &Path, layout: &Path) -> Vec<Vec<u8>> {
    let image = scratch.join("image");
    let (root, name) = imported(scratch, "overlay", layout);
    ok(cas(&root).args(["mount", &name]).arg(scratch.join("mnt")));
    ok(cas(&root).arg("umount").arg(scratch.join("mnt")));
    ok(cas(&root)
        .args(["unpack", &name])
        .arg(scratch.join("plain")));
    let trees = root.join("snapshots/overlay/snapshots");
    let count = fs::read_dir(&trees).unwrap().count();
    let made = |number: usize| {
        let tree = trees.join(format!("{number}/fs"));
        let mut mkfs = Command::new("mkfs.erofs");
        mkfs.args(["-Eforce-inode-extended", "--quiet"]);
        ok(mkfs.arg(&image).arg(tree));
        fs::read(&image).unwrap()
    };
    (1..=count).map(made).collect()
}

fn digests(layers: &[Vec<u8>]) -> Vec<Digest> {
    layers.iter().map(|layer| Digest::sha256(layer)).collect()
}

/// Writes a layout whose index lists these variants of an image: layers, their type, and the platform.
fn index(path: &Path, variants: &[(&[Vec<u8>], &str, Value)]) {
    let mut manifests = Vec::new();
    for (layers, media_type, platform) in variants {
        layout_typed(path, layers, &digests(layers), media_type);
        let listed = fs::read(path.join("index.json")).unwrap();
        let mut listed: Value = serde_json::from_slice(&listed).unwrap();
        listed["manifests"][0]["platform"] = platform.clone();
        manifests.push(listed["manifests"][0].take());
    }
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": manifests}).to_string();
    let digest = Digest::sha256(index.as_bytes());
    fs::write(path.join("blobs/sha256").join(digest.hex()), &index).unwrap();
    let descriptor = json!({"mediaType": kind, "digest": digest.to_string(), "size": index.len()});
    let outer = json!({"schemaVersion": 2, "manifests": [descriptor]}).to_string();
    fs::write(path.join("index.json"), outer).unwrap();
}

fn platform(features: &[&str]) -> Value {
    json!({"os": "linux", "architecture": "amd64", "os.features": features})
}

fn new_root(scratch: &Path, name: &str, snapshotter: &str) -> PathBuf {
    let root = scratch.join(name);
    ok(cas(&root).args(["--snapshotter", snapshotter, "init"]));
    root
}

/// Imports an image, and compares its mount with a tree.
fn compare(scratch: &Path, layout: &Path, plain: &Path) {
    let root = new_root(scratch, "native", NATIVE);
    let mut import = cas(&root);
    ok(import
        .args(["import", "--name", "app:1", "--unpack"])
        .arg(layout));
    let target = scratch.join("mnt");
    for options in [&["mount", "app:1"][..], &["mount", "--rw", "app:1"]] {
        fs::create_dir_all(&target).unwrap();
        ok(cas(&root).args(options).arg(&target));
        let found = differences(plain, &target);
        ok(cas(&root).arg("umount").arg(&target));
        assert!(found.is_empty(), "{options:?}: {found:#?}");
    }
    ok(cas(&root).args(["fsck", "--read-data"]));
    let mounts = root.join("snapshots/erofs/mounts");
    assert_eq!(fs::read_dir(mounts).unwrap().count(), 0);
}

#[test]
fn native_layers_show_the_tree_of_the_tars() {
    if !is_possible() || !can(&[]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let [tar_layout, native, plain] =
        ["tars", "natives", "plain"].map(|name| scratch.path().join(name));
    layout(&tar_layout, tars());
    let layers = natives(scratch.path(), &tar_layout);
    assert_eq!(layers.len(), 3);
    layout_typed(&native, &layers, &digests(&layers), TYPE);
    compare(scratch.path(), &native, &plain);
}

#[test]
fn a_real_image_with_native_layers_is_the_same_and_runs() {
    let Some(small) = real_image("small").filter(|_| is_possible() && can(&["chroot"])) else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let [native, plain] = ["natives", "plain"].map(|name| scratch.path().join(name));
    let layers = natives(scratch.path(), &small);
    layout_typed(&native, &layers, &digests(&layers), TYPE);
    compare(scratch.path(), &native, &plain);
    let mut run = cas(&scratch.path().join("native"));
    run.args([
        "run",
        "--runtime",
        "chroot",
        "app:1",
        "--",
        "/bin/busybox",
        "echo",
        "runs",
    ]);
    assert_eq!(ok(&mut run), "runs\n");
}

#[test]
fn a_root_takes_the_variant_that_its_snapshotter_prefers() {
    if !is_possible() || !can(&[]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let [tar_layout, both, target] = ["tars", "both", "mnt"].map(|name| scratch.path().join(name));
    layout(&tar_layout, tars());
    let native = natives(scratch.path(), &tar_layout);
    let plain: Vec<Vec<u8>> = tars().into_iter().map(Tar::end).collect();
    let tar_type = "application/vnd.oci.image.layer.v1.tar";
    let variants = [
        (&plain[..], tar_type, platform(&[])),
        (&native[..], TYPE, platform(&["erofs"])),
    ];
    index(&both, &variants);
    for (name, snapshotter, layers) in [
        ("prefers", NATIVE, &native),
        ("erofs", "erofs", &plain),
        ("overlay-2", "overlay", &plain),
    ] {
        let root = new_root(scratch.path(), name, snapshotter);
        let mut import = cas(&root);
        ok(import
            .args(["import", "--name", "app:1", "--unpack"])
            .arg(&both));
        let bottom = Digest::sha256(&layers[0]).to_string();
        let has = || ok(cas(&root).args(["--json", "snapshot", "ls"])).contains(&bottom);
        assert!(has(), "{snapshotter}");
        ok(cas(&root).args(["mount", "app:1"]).arg(&target));
        assert_eq!(fs::read(target.join("dir/gone")).unwrap(), b"back");
        ok(cas(&root).arg("umount").arg(&target));
        // Trees and disks are made of tars, whatever the snapshotter is.
        ok(cas(&root)
            .args(["unpack", "app:1"])
            .arg(scratch.path().join(format!("tree-{name}"))));
        let disk = scratch.path().join("disk");
        ok(cas(&root).args(["disk", "app:1", "-o"]).arg(&disk));
        let native = |verb: &str| {
            let mut command = cas(&root);
            command.args([verb, "--platform", VARIANT, "app:1"]);
            command
        };
        let mut refused = vec![native("unpack"), native("disk")];
        refused[0].arg(scratch.path().join("no"));
        refused[1].arg("-o").arg(scratch.path().join("no"));
        if snapshotter != NATIVE {
            let mut mount = native("mount");
            mount.arg(&target);
            refused.push(mount);
        }
        for mut command in refused {
            let said = fails(&mut command, 2);
            assert!(
                said.contains("EROFS image of type") && said.contains(NATIVE),
                "{said}"
            );
            assert!(!scratch.path().join("no").exists());
        }
    }
}

#[test]
fn an_image_of_native_layers_alone_is_stored_anywhere_and_stays_as_it_is() {
    if !is_possible() || !can(&[]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let [tar_layout, only, target] = ["tars", "only", "mnt"].map(|name| scratch.path().join(name));
    layout(&tar_layout, tars());
    let native = natives(scratch.path(), &tar_layout);
    index(&only, &[(&native[..], TYPE, platform(&["erofs"]))]);
    let root = new_root(scratch.path(), "stores", "overlay");
    ok(cas(&root).args(["import", "--name", "app:1"]).arg(&only));
    let said = fails(cas(&root).args(["mount", "app:1"]).arg(&target), 3);
    assert!(said.contains(VARIANT) && said.contains(NATIVE), "{said}");
    let archive = scratch.path().join("app.tar");
    let mut docker = cas(&root);
    docker.args([
        "export",
        "--format",
        "docker",
        "--platform",
        VARIANT,
        "app:1",
        "-o",
    ]);
    let said = fails(docker.arg(&archive), 2);
    assert!(said.contains("docker does not support"), "{said}");
    ok(cas(&root).args(["export", "app:1", "-o"]).arg(&archive));
    let other = new_root(scratch.path(), "other", NATIVE);
    ok(cas(&other)
        .args(["import", "--name", "app:1"])
        .arg(&archive));
    for layer in &native {
        let hex = Digest::sha256(layer);
        let blob = other.join("store/blobs/sha256").join(hex.hex());
        assert!(fs::read(blob).unwrap() == *layer);
    }
    ok(cas(&other).args(["mount", "app:1"]).arg(&target));
    assert_eq!(fs::read(target.join("dir/gone")).unwrap(), b"back");
    ok(cas(&other).arg("umount").arg(&target));
    if !can(&[PROGRAM]) {
        return;
    }
    let registry = Registry::open(scratch.path());
    let name = format!("{}/team/app:1", registry.host);
    ok(cas(&root).args(["push", "app:1", &name]));
    let puller = new_root(scratch.path(), "puller", NATIVE);
    ok(cas(&puller).args(["pull", "--unpack", &name]));
    let target_of = |root: &Path, name: &str| Cas::open(root).unwrap().image(name).unwrap().target;
    assert_eq!(
        target_of(&puller, &name).digest,
        target_of(&root, "app:1").digest
    );
    // A root that cannot have such layers does not fetch them.
    let refuses = new_root(scratch.path(), "refuses", "overlay");
    let said = fails(cas(&refuses).args(["pull", "--unpack", &name]), 3);
    assert!(said.contains(VARIANT), "{said}");
    let mut named = cas(&refuses);
    named.args(["pull", "--unpack", "--platform", VARIANT, &name]);
    let said = fails(&mut named, 2);
    assert!(said.contains("EROFS image of type"), "{said}");
    let blobs = fs::read_dir(refuses.join("store/blobs/sha256")).unwrap();
    let lengths = blobs.map(|blob| blob.unwrap().metadata().unwrap().len());
    assert!(lengths.max().unwrap() < 4096, "only documents");
}

/// As the specification of EROFS layers describes compressed layers: without diff IDs in the
/// configuration.
#[test]
fn compressed_native_layers_state_their_diff_ids() {
    if !is_possible() || !can(&["zstd"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let [tar_layout, native, file] =
        ["tars", "natives", "file"].map(|name| scratch.path().join(name));
    layout(&tar_layout, tars());
    let layers = natives(scratch.path(), &tar_layout);
    let compress = |layer: &Vec<u8>| {
        fs::write(&file, layer).unwrap();
        let packed = Command::new("zstd").args(["-q", "-c"]).arg(&file).output();
        packed.unwrap().stdout
    };
    let packed: Vec<Vec<u8>> = layers.iter().map(compress).collect();
    let describe = |role: &str, diff_ids: &[Digest]| {
        layout_typed(&native, &packed, &[], "application/vnd.erofs+zstd");
        let place = |digest: &Value| {
            let hex = digest.as_str().unwrap().replace("sha256:", "");
            native.join("blobs/sha256").join(hex)
        };
        let read =
            |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
        let mut index = read(&native.join("index.json"));
        let mut manifest = read(&place(&index["manifests"][0]["digest"]));
        for (at, diff_id) in diff_ids.iter().enumerate() {
            manifest["layers"][at]["annotations"] = json!({
                "org.erofs.uncompressed-digest": diff_id.to_string(), "org.erofs.role": role});
        }
        let text = manifest.to_string();
        let digest = Digest::sha256(text.as_bytes());
        fs::write(native.join("blobs/sha256").join(digest.hex()), &text).unwrap();
        index["manifests"][0]["digest"] = digest.to_string().into();
        index["manifests"][0]["size"] = text.len().into();
        fs::write(native.join("index.json"), index.to_string()).unwrap();
    };
    let root = new_root(scratch.path(), "native", NATIVE);
    let import = || {
        let mut import = cas(&root);
        import
            .args(["import", "--name", "app:1", "--unpack"])
            .arg(&native);
        import
    };
    describe("overlay-lower", &digests(&packed));
    let said = fails(&mut import(), 4);
    assert!(said.contains("diff ID"), "{said}");
    describe("device", &digests(&layers));
    let said = fails(&mut import(), 2);
    assert!(said.contains("role \"device\""), "{said}");
    describe("overlay-lower", &digests(&layers)[..2]);
    let said = fails(&mut import(), 4);
    assert!(said.contains("diff IDs in the configuration (0)"), "{said}");
    describe("overlay-lower", &digests(&layers));
    ok(&mut import());
    let target = scratch.path().join("mnt");
    ok(cas(&root).args(["mount", "app:1"]).arg(&target));
    assert_eq!(fs::read(target.join("dir/gone")).unwrap(), b"back");
    assert!(!target.join("link").exists());
    ok(cas(&root).arg("umount").arg(&target));
}
