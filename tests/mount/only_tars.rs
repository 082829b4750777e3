//! Roots that keep layers only as tars: `keep = "tar"` in `cas.toml`.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use cas::Digest;
use cas::gc::GcOptions;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use testkit::archive::{Header, Tar};

use crate::common::layout::layout_typed;
use crate::common::platforms::{DAMAGED, SOUND, half_damaged};
use crate::common::tree::differences;
use crate::common::{can, cas, fails, killed_at, mounting_snapshotters, ok};

/// Longer than the lease of a killed job lasts.
const LATER: Duration = Duration::from_secs(3600);

/// Compresses a tar.
pub(crate) type Pack = fn(&[u8]) -> Vec<u8>;

/// The name of files in the directories of snapshots, and a function that damages such a file.
type Damage = (&'static str, fn(&Path));

/// A root that keeps tars, and images for it.
pub(crate) struct Scene {
    scratch: tempfile::TempDir,
    pub(crate) root: PathBuf,
}

impl Scene {
    /// Returns `None` if this machine cannot mount images of EROFS.
    pub(crate) fn new() -> Option<Self> {
        if !mounting_snapshotters().contains(&"erofs") {
            return None;
        }
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("root");
        let scene = Scene { scratch, root };
        let made = ["--snapshotter", "erofs", "init", "--keep-tars"];
        ok(scene.cas().args(made));
        Some(scene)
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub(crate) fn cas(&self) -> Command {
        let mut cas = cas(&self.root);
        cas.arg("-q");
        cas
    }

    /// Writes a layout of these layers. Returns its path.
    pub(crate) fn layout(&self, name: &str, layers: &[(&Tar, Pack)]) -> PathBuf {
        let tars: Vec<Vec<u8>> = layers.iter().map(|(tar, _)| (*tar).clone().end()).collect();
        let diff_ids: Vec<Digest> = tars.iter().map(|tar| Digest::sha256(tar)).collect();
        let packed = layers.iter().zip(&tars).map(|((_, pack), tar)| pack(tar));
        let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
        layout_typed(&self.at(name), &packed.collect::<Vec<_>>(), &diff_ids, kind);
        self.at(name)
    }

    pub(crate) fn import(&self, layout: &Path, name: &str) {
        ok(self.cas().args(["import", "--name", name]).arg(layout));
    }

    /// Returns how many blobs are stored.
    fn blobs(&self) -> usize {
        fs::read_dir(self.root.join("store/blobs/sha256"))
            .unwrap()
            .count()
    }

    pub(crate) fn tree(&self, name: &str) -> Value {
        serde_json::from_str(&ok(self.cas().args(["--json", "tree", name]))).unwrap()
    }

    /// Exports an image into the archive `to`. Returns what the command printed for people.
    pub(crate) fn export(&self, name: &str, to: &str) -> String {
        let mut export = cas(&self.root);
        let out = export
            .args(["export", name, "-o"])
            .arg(self.at(to))
            .output();
        let out = out.unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.success(), "{said}");
        said
    }

    /// Returns the root directory that a root without this choice unpacks from `source`.
    fn plain(&self, source: &Path, name: &str) -> PathBuf {
        let (other, tree) = (self.at(&format!("{name}.root")), self.at(name));
        let init = ["--snapshotter", "native", "init"];
        ok(cas(&other).args(init));
        ok(cas(&other)
            .args(["-q", "import", "--name", "app"])
            .arg(source));
        ok(cas(&other).args(["-q", "unpack", "app"]).arg(&tree));
        tree
    }
}

pub(crate) fn lower() -> Tar {
    let lines: String = (0..20_000).map(|line| format!("line {line}\n")).collect();
    let root = Tar::new().member(Header::new(b'5', "./"), "");
    root.file("etc/lines", lines).file("etc/gone", "x")
}

pub(crate) fn upper() -> Tar {
    Tar::new().file("etc/new", "new").file("etc/.wh.gone", "")
}

/// Compresses as this program does.
pub(crate) fn ours(tar: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(tar).unwrap();
    encoder.finish().unwrap()
}

/// Compresses with a header that this program does not write.
fn foreign(tar: &[u8]) -> Vec<u8> {
    let builder = flate2::GzBuilder::new()
        .mtime(1_700_000_000)
        .operating_system(3);
    let mut encoder = builder.write(Vec::new(), Compression::new(6));
    encoder.write_all(tar).unwrap();
    encoder.finish().unwrap()
}

fn plain(tar: &[u8]) -> Vec<u8> {
    tar.to_vec()
}

#[test]
fn digits_of_the_digests_of_several_layers_mean_none_of_them() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let layer = |number: u32| Tar::new().file("file", number.to_string());
    let digits = |tar: &Tar| Digest::sha256(&tar.clone().end()).to_string()[..10].to_owned();
    let first = layer(0);
    let mut others = (1..).map(layer);
    let second = others.find(|other| digits(other) == digits(&first));
    let second = second.unwrap();
    let layout = scene.layout("layout", &[(&first, plain), (&second, plain)]);
    scene.import(&layout, "app");
    let said = fails(scene.cas().args(["why", &digits(&first)]), 2);
    assert!(said.contains("several layers"), "{said}");
}

/// The layers are compressed in three ways, one of which cannot be repeated.
#[test]
fn an_image_is_whole_although_only_its_tars_are_kept() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let third = Tar::new().file("etc/third", "3");
    let layers: [(&Tar, Pack); 3] = [(&lower(), ours), (&upper(), foreign), (&third, plain)];
    let layout = scene.layout("layout", &layers);
    let right = scene.plain(&layout, "right");
    scene.import(&layout, "app");
    assert_eq!(scene.blobs(), 2, "the manifest and its configuration");
    let tree = scene.tree("app");
    let kept = tree["children"].as_array().unwrap()[1..].iter();
    assert!(kept.clone().count() == 3 && kept.clone().all(|layer| layer["tar"] == true));
    let lowest = kept.clone().next().unwrap()["descriptor"]["digest"].clone();
    let why = ok(scene.cas().args(["why", &lowest.as_str().unwrap()[..20]]));
    assert!(
        why.contains("snapshots/erofs/") && why.contains("images/app"),
        "{why}"
    );

    let target = scene.at("mnt");
    fs::create_dir(&target).unwrap();
    ok(scene.cas().args(["mount", "app"]).arg(&target));
    let found = differences(&right, &target);
    ok(scene.cas().arg("umount").arg(&target));
    assert!(found.is_empty(), "{found:#?}");
    ok(scene.cas().args(["unpack", "app"]).arg(scene.at("tree")));
    assert_eq!(differences(&right, &scene.at("tree")), Vec::<String>::new());
    ok(scene
        .cas()
        .args(["disk", "app", "-o"])
        .arg(scene.at("one.erofs")));
    let vmdk = ["disk", "app", "--format", "vmdk", "-o"];
    ok(scene.cas().args(vmdk).arg(scene.at("vmdk")));
    assert_eq!(scene.blobs(), 2, "nothing is stored for these");

    // The archive has another manifest, and the same configuration.
    let said = scene.export("app", "out.tar");
    assert!(
        said.contains("compressed again") && said.contains("sha256:"),
        "{said}"
    );
    assert_eq!(
        differences(&right, &scene.plain(&scene.at("out.tar"), "exported")),
        Vec::<String>::new()
    );
    scene.export("app", "again.tar");
    assert_eq!(
        fs::read(scene.at("out.tar")).unwrap(),
        fs::read(scene.at("again.tar")).unwrap()
    );
    let other = format!("{}#app", scene.at("copied").display());
    ok(scene.cas().args(["copy", "app", &other]));
    assert_eq!(scene.blobs(), 2, "what was made for a verb is removed");

    ok(scene.cas().arg("gc"));
    ok(scene.cas().args(["fsck", "--read-data"]));
    ok(scene.cas().args(["mount", "app"]).arg(&target));
    ok(scene.cas().arg("umount").arg(&target));
}

/// All bytes can be made again, so the archive has the original manifest.
#[test]
fn blobs_that_can_be_made_again_give_the_original_image() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let layers: [(&Tar, Pack); 2] = [(&lower(), ours), (&upper(), plain)];
    let layout = scene.layout("layout", &layers);
    scene.import(&layout, "app");
    assert_eq!(scene.blobs(), 2);
    assert_eq!(scene.export("app", "out.tar"), "");
    assert_eq!(scene.blobs(), 2, "what was made for the export is removed");
    let found = ok(Command::new("tar").arg("-tf").arg(scene.at("out.tar")));
    let blobs = fs::read_dir(layout.join("blobs/sha256")).unwrap();
    for blob in blobs {
        let name = blob.unwrap().file_name().into_string().unwrap();
        assert!(found.contains(&name), "{name}: {found}");
    }
}

/// The second image has the lower layer of the first, and no image needs it in the end.
#[test]
fn a_tar_is_kept_while_an_image_needs_it_and_no_longer() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let layers: [(&Tar, Pack); 2] = [(&lower(), ours), (&upper(), foreign)];
    let first = scene.layout("first", &layers);
    let other = Tar::new().file("etc/other", "o");
    let second = scene.layout("second", &[(&lower(), ours), (&other, foreign)]);
    let tars = || {
        let found = ok(Command::new("find")
            .arg(&scene.root)
            .args(["-name", "layer.tar"]));
        found.lines().count()
    };
    scene.import(&first, "first");
    let made = fs::metadata(scene.root.join("snapshots/erofs/snapshots/1/fs/layer.tar"));
    // The layers are not read again, or this would fail.
    for blob in fs::read_dir(first.join("blobs/sha256")).unwrap() {
        let path = blob.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        if bytes.starts_with(&[0x1f, 0x8b]) {
            fs::write(&path, vec![0; bytes.len()]).unwrap();
        }
    }
    scene.import(&first, "first");
    scene.import(&second, "second");
    assert_eq!((tars(), scene.blobs()), (3, 4));
    let now = fs::metadata(scene.root.join("snapshots/erofs/snapshots/1/fs/layer.tar"));
    assert_eq!(
        made.unwrap().modified().unwrap(),
        now.unwrap().modified().unwrap()
    );

    let listed = ok(scene.cas().args(["--json", "snapshot", "ls"]));
    for line in listed.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let key = row["info"]["key"].as_str().unwrap();
        fails(scene.cas().args(["snapshot", "rm", key]), 5);
    }
    ok(scene.cas().args(["rmi", "first"]));
    ok(scene.cas().arg("gc"));
    assert_eq!((tars(), scene.blobs()), (2, 2));
    ok(scene.cas().args(["unpack", "second"]).arg(scene.at("tree")));
    ok(scene.cas().args(["fsck", "--read-data"]));
    ok(scene.cas().args(["rmi", "second"]));
    ok(scene.cas().arg("gc"));
    assert_eq!((tars(), scene.blobs()), (0, 0));
}

/// The choice is refused where the tars could be missing.
#[test]
fn only_a_root_with_its_own_store_and_erofs_keeps_tars() {
    let scratch = tempfile::tempdir().unwrap();
    let outside = format!("fs://{}", scratch.path().join("shared").display());
    let at = |name: &str| cas(&scratch.path().join(name));
    for (name, arguments) in [
        ("a", ["--snapshotter", "native", "--store", "fs"]),
        ("b", ["--snapshotter", "erofs", "--store", &outside]),
    ] {
        let said = fails(at(name).args(arguments).args(["init", "--keep-tars"]), 2);
        assert!(said.contains("keep = \"tar\""), "{said}");
        assert!(!scratch.path().join(name).exists(), "nothing is made");
    }
    let Some(scene) = Scene::new() else {
        return;
    };
    let said = fails(scene.cas().args(["--snapshotter", "native", "images"]), 1);
    assert!(said.contains("does not keep tars"), "{said}");
    // The blobs of another store stay.
    let layout = scene.layout("layout", &[(&lower(), ours)]);
    let elsewhere = ["--store", &outside, "import", "--unpack", "--name", "app"];
    ok(scene.cas().args(elsewhere).arg(&layout));
    let stored = fs::read_dir(scratch.path().join("shared/blobs/sha256")).unwrap();
    assert_eq!(stored.count(), 3);
}

/// A root that had blobs and tars changes to tars: the next import removes the blobs. It is killed
/// at each call that changes the disk.
#[test]
fn a_kill_leaves_a_blob_or_its_tar() {
    let Some(scene) = Scene::new().filter(|_| can(&["strace"])) else {
        return;
    };
    let layers: [(&Tar, Pack); 2] = [(&lower(), ours), (&upper(), ours)];
    let layout = scene.layout("layout", &layers);
    let both = scene.at("both");
    ok(cas(&both).args(["--snapshotter", "erofs", "init"]));
    let import = ["-q", "import", "--unpack", "--name", "app"];
    ok(cas(&both).args(import).arg(&layout));
    let settings = both.join("cas.toml");
    let text = fs::read_to_string(&settings).unwrap();
    let keep = text.replacen("snapshotter = ", "keep = \"tar\"\nsnapshotter = ", 1);
    fs::write(&settings, keep).unwrap();
    let target = cas::blocking::Cas::open(&both)
        .unwrap()
        .image("app")
        .unwrap()
        .target;
    let mut kills = 0;
    for call in ["unlinkat", "fdatasync", "pwrite64"] {
        for when in (1..).step_by(3) {
            let root = scene.at("killed");
            ok(Command::new("cp").arg("-a").arg(&both).arg(&root));
            let mut killed = killed_at(cas(&root).args(import).arg(&layout), call, when);
            let ended = killed.stdout(Stdio::null()).status().unwrap();
            let open = cas::blocking::Cas::open(&root).unwrap();
            let exported = open.export(["app"], scene.at("out.tar")).unwrap();
            assert_eq!(exported[0].target, target, "{call} {when}");
            open.close().unwrap();
            ok(cas(&root).arg("gc"));
            ok(cas(&root).args(["fsck", "--read-data"]));
            ok(cas(&root)
                .args(["-q", "unpack", "app"])
                .arg(scene.at("tree")));
            ok(cas(&root).args(import).arg(&layout));
            // The lease of the killed process has expired by then.
            let later = GcOptions::default().with_now(SystemTime::now() + LATER);
            let open = cas::blocking::Cas::open(&root).unwrap();
            open.gc_with(later).unwrap();
            open.close().unwrap();
            let left = fs::read_dir(root.join("store/blobs/sha256")).unwrap();
            assert_eq!(left.count(), 2, "{call} {when}");
            fs::remove_dir_all(scene.at("tree")).unwrap();
            fs::remove_dir_all(&root).unwrap();
            if ended.success() {
                break;
            }
            kills += 1;
        }
    }
    assert!(kills > 5, "{kills}");
}

/// Artifacts have no file system, so their blobs are not replaced by tars.
#[test]
fn artifacts_are_stored_and_leave_as_they_came() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let layout = scene.layout("layout", &[(&lower(), ours)]);
    let blob = |media_type: &str, data: &[u8]| {
        let digest = Digest::sha256(data);
        fs::write(layout.join("blobs/sha256").join(digest.hex()), data).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": data.len()})
    };
    let manifest = |config: Value, layer: Value| {
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        blob(media_type, manifest.to_string().as_bytes())
    };
    let mut index: Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let empty = blob("application/vnd.oci.empty.v1+json", b"{}");
    let chart = blob("application/vnd.example.chart", b"chart");
    let payload = b"{\"signed\": true}";
    let rootfs = json!({"type": "layers", "diff_ids": [Digest::sha256(payload)]});
    let config = json!({"os": "", "architecture": "", "rootfs": rootfs}).to_string();
    let config = blob(
        "application/vnd.oci.image.config.v1+json",
        config.as_bytes(),
    );
    let signature = blob("application/vnd.example.signature.v1+json", payload);
    let image = index["manifests"][0].take();
    let mut entries = [image, manifest(empty, chart), manifest(config, signature)];
    let names = ["app", "chart", "signature"];
    for (entry, name) in entries.iter_mut().zip(names) {
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": format!("{name}:1")});
    }
    index["manifests"] = json!(entries);
    fs::write(layout.join("index.json"), index.to_string()).unwrap();

    ok(scene.cas().arg("import").arg(&layout));
    assert_eq!(scene.blobs(), 2 + 3 + 3, "the layer of the image is a tar");
    ok(scene.cas().arg("gc"));
    ok(scene.cas().args(["fsck", "--read-data"]));
    let other = scene.at("other");
    ok(cas(&other).args(["--snapshotter", "native", "init"]));
    for (name, entry) in names.iter().zip(&entries).skip(1) {
        let name = format!("{name}:1");
        let said = scene.export(&name, "out.tar");
        assert!(!said.contains("compressed again"), "{said}");
        ok(cas(&other).arg("import").arg(scene.at("out.tar")));
        let shown = ok(cas(&other).args(["--json", "tree", &name]));
        assert!(shown.contains(entry["digest"].as_str().unwrap()), "{shown}");
        assert!(!shown.contains("\"present\":false"), "{shown}");
        let copied = format!("{}#{name}", scene.at("copied").display());
        ok(scene.cas().args(["copy", &name, &copied]));
    }
}

/// The tars are right, so no blob is needed, and there is none.
#[test]
fn damage_beside_right_tars_is_repaired_without_blobs() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let layers: [(&Tar, Pack); 2] = [(&lower(), foreign), (&upper(), foreign)];
    let layout = scene.layout("layout", &layers);
    let right = scene.plain(&layout, "right");
    scene.import(&layout, "app");
    fs::remove_dir_all(&layout).unwrap();
    let [before, after] = ["before", "after"].map(|name| scene.at(name));
    fs::create_dir(&before).unwrap();
    fs::create_dir(&after).unwrap();
    let found = |name: &str| {
        let mut find = Command::new("find");
        find.arg(scene.root.join("snapshots/erofs/snapshots"));
        let found = ok(find.args(["-name", name]));
        let found: Vec<PathBuf> = found.lines().map(PathBuf::from).collect();
        assert!(!found.is_empty(), "{name}");
        found
    };
    let damages: [Damage; 5] = [
        ("image.erofs", change),
        ("image.erofs", |path| fs::remove_file(path).unwrap()),
        ("image.json", |path| fs::write(path, "{").unwrap()),
        ("layer.tar", |path| {
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        }),
        ("layer.tar", |path| {
            fs::set_permissions(path, Permissions::from_mode(0o666)).unwrap();
        }),
    ];
    for (name, damage) in damages {
        ok(scene.cas().args(["mount", "app"]).arg(&before));
        found(name).iter().for_each(|path| damage(path));
        ok(scene.cas().args(["fsck", "--read-data", "--repair"]));
        ok(scene.cas().args(["fsck", "--read-data"]));
        ok(scene.cas().args(["mount", "app"]).arg(&after));
        for target in [&before, &after] {
            let found = differences(&right, target);
            ok(scene.cas().arg("umount").arg(target));
            assert!(found.is_empty(), "{name}: {found:#?}");
        }
        assert_eq!(scene.blobs(), 2, "{name}");
        ok(scene.cas().arg("gc"));
        assert_eq!(found("layer.tar").len(), 2, "{name}");
    }
    found("layer.tar").iter().for_each(|path| change(path));
    fails(scene.cas().args(["fsck", "--read-data", "--repair"]), 4);
}

#[test]
fn a_copy_for_one_platform_makes_no_layers_of_another() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let root = half_damaged(scratch.path());
    let copy = |to: &Path, flags: &[&str]| {
        let mut copy = cas(&root);
        let to = format!("fs://{}", to.display());
        copy.args(["-q", "copy", "app", &to]).args(flags);
        copy
    };
    let [sound, damaged, all] = ["sound", "damaged", "all"].map(|name| scratch.path().join(name));
    fails(&mut copy(&all, &[]), 4);
    fails(&mut copy(&damaged, &["--platform", DAMAGED]), 4);
    ok(&mut copy(&sound, &["--platform", SOUND]));
    let blobs = |store: &Path| fs::read_dir(store.join("blobs/sha256")).unwrap().count();
    assert_eq!(blobs(&sound), 4, "index, manifest, configuration and layer");
    assert_eq!(blobs(&root.join("store")), 5, "index and two images");
}

/// Changes a byte of a file, but neither its length nor its time.
fn change(path: &Path) {
    let file = fs::File::options().write(true).open(path).unwrap();
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    file.write_all_at(b"x", 2000).unwrap();
    file.set_modified(modified).unwrap();
}
