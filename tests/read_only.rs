//! The tool on a root that it cannot write: on a read-only file system, below a read-only mount of
//! a directory that others write, and as a user that may only read.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cas::backend::pool::wait;
use cas::{ContentExt, Digest, ErrorKind, Location, Store};
use common::disk::Disk;
use common::{ENGINES, can, cas, copy_tool, demo_archive, fails, mounting_snapshotters, ok};

/// Makes a root with an image in it that two snapshotters have unpacked, if `native` is not the
/// default. Returns the digest of one of its layers.
fn made(root: &Path, engine: &str, archive: &Path) -> String {
    ok(cas(root).args(["--store", engine, "init"]));
    for snapshotter in [&[][..], &["--snapshotter", "native"]] {
        ok(cas(root)
            .args(snapshotter)
            .args(["import", "--unpack", "--name", "app"])
            .arg(archive));
    }
    let blobs = ok(cas(root).args(["blob", "ls", "--json"]));
    let rows = blobs.lines().map(|row| row.parse::<serde_json::Value>());
    let layer = rows.map(Result::unwrap).find(|row| {
        let media_type = row["mediaType"].as_str().unwrap_or_default();
        media_type.contains("layer")
    });
    layer.unwrap()["digest"].as_str().unwrap().to_owned()
}

/// Runs every command that only reads. `run` returns the tool with the options for root and user.
fn reads(run: &dyn Fn() -> Command, layer: &str, out: &Path) {
    for arguments in [
        &["images"][..],
        &["images", "--json"],
        &["tree", "app"],
        &["inspect", "app"],
        &["blob", "ls"],
        &["blob", "info", layer],
        &["blob", "cat", layer],
        &["snapshot", "ls"],
        &["snapshot", "tree"],
        &["lease", "ls"],
        &["aci", "ls"],
        &["soci", "ls"],
        &["why", layer],
        &["gc", "--dry-run"],
        &["df"],
    ] {
        // A tree of no snapshots has no line.
        let may_be_empty = arguments == ["snapshot", "tree"];
        let listed = ok(run().args(arguments));
        assert!(may_be_empty || !listed.is_empty(), "{arguments:?}");
    }
    fs::create_dir(out).unwrap();
    fs::set_permissions(out, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let file = out.join("app.tar");
    let disk = out.join("app.erofs");
    ok(run().args(["export", "app", "-o"]).arg(&file));
    ok(run().args(["disk", "app", "-o"]).arg(&disk));
    for file in [file, disk] {
        assert!(fs::metadata(&file).unwrap().len() > 100_000, "{file:?}");
    }
    let copy = format!("fs://{}/copy", out.display());
    ok(run().args(["copy", "app", &copy]));
    let copied = ok(run().args(["--store", &copy, "images"]));
    assert!(copied.contains("app"), "{copied}");
}

/// Runs every command that writes. Each fails with one message, before it has done anything.
fn writes(run: &dyn Fn() -> Command, root: &Path, archive: &Path) {
    let (archive, target) = (archive.to_str().unwrap(), root.parent().unwrap());
    for arguments in [
        &["import", archive][..],
        &["import", "--unpack", archive],
        &["tag", "app", "other"],
        &["rmi", "app"],
        &["gc"],
        &["fsck", "--repair"],
        &["mount", "app", target.to_str().unwrap()],
        &["umount", target.to_str().unwrap()],
        &["run", "app"],
        &["blob", "add", archive],
        &["lease", "create"],
        &["lease", "rm", "x"],
        &["aci", "import", archive],
        &["aci", "gc"],
        &["soci", "create", "app"],
        &["snapshot", "prepare", "x"],
        &["snapshot", "view", "x"],
        &["snapshot", "commit", "x", "y"],
        &["snapshot", "rm", "x"],
        &["pull", "127.0.0.1:1/app"],
    ] {
        let said = fails(run().args(arguments), 1);
        let expected = format!("root {} is read-only", root.display());
        assert!(said.contains(&expected), "{arguments:?}: {said}");
        let errors = said.lines().filter(|line| line.starts_with("cas: "));
        assert_eq!(errors.count(), 1, "{arguments:?}: {said}");
    }
}

#[test]
fn what_reads_works_on_a_read_only_file_system_and_what_writes_says_so() {
    if !can(&["mount", "umount"]) {
        return;
    }
    for engine in ENGINES {
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let archive = demo_archive(scratch.path());
        let disk = Disk::mount(scratch.path().join("disk"), "size=200m");
        let root = disk.0.join("root");
        let layer = made(&root, engine, &archive);
        let [plain, tree, bundle] = ["plain", "tree", "bundle"].map(|one| scratch.path().join(one));
        ok(cas(&root).args(["unpack", "app"]).arg(&plain));
        disk.remount("ro");
        let run = || cas(&root);
        reads(&run, &layer, &scratch.path().join("out"));
        ok(run().args(["unpack", "app"]).arg(&tree));
        let mut found = common::tree::differences(&plain, &tree);
        // The layers do not set the time of the root directory.
        found.retain(|difference| !difference.starts_with(": "));
        assert!(found.is_empty(), "{engine}: {found:#?}");
        ok(run().args(["bundle", "app"]).arg(&bundle));
        writes(&run, &root, &archive);
        disk.remount("rw");
        ok(cas(&root).args(["tag", "app", "other"]));
        ok(cas(&root).args(["rmi", "app", "other"]));
        ok(cas(&root).arg("gc"));
    }
}

/// Nothing was ever unpacked in the root, or the directories of snapshots and their records were
/// removed while nobody needed them.
#[test]
fn a_read_only_root_without_directories_of_snapshots_can_be_read() {
    if !can(&["mount", "umount"]) {
        return;
    }
    for snapshotter in mounting_snapshotters() {
        let gone = format!("snapshots/{snapshotter}/snapshots");
        for lost in [
            &["snapshots"][..],
            &["snapshots", "local"],
            &[&gone],
            &["local"],
        ] {
            let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
            let archive = demo_archive(scratch.path());
            let root = scratch.path().join("source/root");
            ok(cas(&root).args(["--snapshotter", snapshotter, "init"]));
            ok(cas(&root).args(["import", "--name", "app"]).arg(&archive));
            let blobs = ok(cas(&root).args(["blob", "ls", "--json"]));
            let largest = blobs
                .lines()
                .map(|row| row.parse::<serde_json::Value>().unwrap());
            let largest = largest.max_by_key(|row| row["size"].as_u64()).unwrap();
            for directory in lost {
                fs::remove_dir_all(root.join(directory)).unwrap();
            }
            let source = scratch.path().join("source");
            let mounted = Disk::read_only(&source, scratch.path().join("mounted"));
            let reader = mounted.0.join("root");
            let (run, target) = (|| cas(&reader), scratch.path().join("tree"));
            reads(
                &run,
                largest["digest"].as_str().unwrap(),
                &scratch.path().join("out"),
            );
            ok(run().args(["fsck", "--read-data"]));
            ok(run().args(["unpack", "app"]).arg(&target));
            writes(&run, &reader, &archive);
            for directory in lost {
                assert!(!root.join(directory).exists(), "{snapshotter} {lost:?}");
            }
        }
    }
}

/// The blobs of such layers cannot be made again without writing to the store. The same for a push
/// is tried in `tests/registry/only_tars.rs`.
#[test]
fn layers_that_a_read_only_root_keeps_only_as_tars_can_be_unpacked_but_not_exported() {
    if !can(&["mount", "umount"]) || !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let archive = demo_archive(scratch.path());
    let disk = Disk::mount(scratch.path().join("disk"), "size=200m");
    let root = disk.0.join("root");
    ok(cas(&root).args(["--snapshotter", "erofs", "init", "--keep-tars"]));
    ok(cas(&root).args(["import", "--name", "app"]).arg(&archive));
    let at = |name: &str| scratch.path().join(name).display().to_string();
    let (tar, copy) = (at("app.tar"), format!("fs://{}", at("copy")));
    let takes_blobs = [&["export", "app", "-o", &tar][..], &["copy", "app", &copy]];
    disk.remount("ro");
    ok(cas(&root).args(["unpack", "app", &at("tree")]));
    assert!(scratch.path().join("tree/app/run").exists());
    ok(cas(&root).args(["disk", "app", "-o", &at("app.erofs")]));
    for arguments in takes_blobs {
        let said = fails(cas(&root).args(arguments), 3);
        assert!(said.contains("keeps the layer as a tar"), "{said}");
        assert!(said.contains("make a read-only root writable"), "{said}");
    }
    assert!(!Path::new(&tar).exists());
    disk.remount("rw");
    for arguments in takes_blobs {
        ok(cas(&root).args(arguments));
    }
}

/// Others write between the commands of the reader. Each command finds what was written last.
#[test]
fn a_read_only_mount_shows_what_others_write() {
    if !can(&["mount", "umount"]) {
        return;
    }
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let archive = demo_archive(scratch.path());
    let source = scratch.path().join("source");
    let root = source.join("root");
    made(&root, "fs", &archive);
    let mounted = Disk::read_only(&source, scratch.path().join("mounted"));
    let reader = mounted.0.join("root");
    for number in 0..5 {
        let name = format!("app:{number}");
        ok(cas(&root).args(["tag", "app", &name]));
        let lease = ok(cas(&root).args(["lease", "create", "--id", &number.to_string()]));
        let images = ok(cas(&reader).args(["images", "--json"]));
        assert_eq!(images.lines().count(), number + 2, "{images}");
        let leases = ok(cas(&reader).args(["lease", "ls", "--json"]));
        assert!(leases.contains(lease.trim()), "{leases}");
        let tree: PathBuf = scratch.path().join(&name);
        ok(cas(&reader).args(["unpack", &name]).arg(&tree));
        assert!(tree.join("app/run").exists());
    }
    writes(&|| cas(&reader), &reader, &archive);
    ok(cas(&root).arg("gc"));
}

/// The files are as a process leaves them that is killed while it has the store open.
#[test]
fn a_store_that_was_not_closed_is_read() {
    if !can(&["mount", "umount", "cp"]) {
        return;
    }
    for engine in ENGINES {
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let open =
            |path: &Path| wait(cas::registry().open(&Location::of_path(engine, path).unwrap()));
        let disk = Disk::mount(scratch.path().join("disk"), "size=200m");
        let [live, killed] = [scratch.path().join("live"), disk.0.join("killed")];
        let store = open(&live).unwrap();
        let put = |store: &Store, number: u8| {
            let data = vec![number; 100_000];
            wait(store.content.put(data.into()))
        };
        let stored: Vec<Digest> = (0..20).map(|number| put(&store, number).unwrap()).collect();
        ok(Command::new("cp").arg("-a").args([&live, &killed]));
        drop(store);
        disk.remount("ro");
        // Several readers may have the store open at the same time.
        for store in [open(&killed).unwrap(), open(&killed).unwrap()] {
            for digest in &stored {
                let reader = wait(store.content.open(digest)).unwrap().expect(engine);
                assert_eq!(reader.size(), 100_000, "{engine}");
                assert!(wait(reader.read_at(0, 100_000)).is_ok(), "{engine}");
            }
            let error = put(&store, 99).expect_err(engine);
            assert_eq!(error.kind(), ErrorKind::Denied, "{engine}: {error}");
            assert!(error.to_string().contains("read-only"), "{engine}: {error}");
            wait(store.content.flush()).unwrap();
            wait(store.content.compact()).unwrap();
        }
        disk.remount("rw");
        put(&open(&killed).unwrap(), 99).unwrap();
    }
}

/// The root belongs to the superuser, and everybody may read it.
#[test]
fn another_user_reads_a_root_that_everybody_may_read() {
    if !can(&["setpriv", "chmod"]) {
        return;
    }
    for engine in ENGINES {
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let archive = demo_archive(scratch.path());
        let root = scratch.path().join("root");
        let layer = made(&root, engine, &archive);
        ok(Command::new("chmod")
            .args(["-R", "a+rX"])
            .arg(scratch.path()));
        // The tool itself may be in a directory that the other user cannot reach.
        let tool = scratch.path().join("tool");
        copy_tool(&tool);
        let run = || {
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
                .arg(&tool)
                .args(["--no-progress", "--root"])
                .arg(&root)
                .env_remove("CAS_ROOT")
                .current_dir("/");
            command
        };
        reads(&run, &layer, &scratch.path().join("out"));
        writes(&run, &root, &archive);
        ok(cas(&root).args(["rmi", "app"]));
    }
}
