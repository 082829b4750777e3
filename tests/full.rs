//! The tool on a disk without space or without inodes, and with too few file descriptors: commands
//! that read or remove something work, and every other command reports what is used up.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use common::disk::Disk;
use common::{ENGINES, append, can, cas, copy_tool, demo_archive, fails, ok, text};

/// Writes until not a byte is left.
fn fill_bytes(disk: &Path) {
    let mut filler = File::options();
    let filler = filler.append(true).create(true).open(disk.join("filler"));
    let mut filler = filler.unwrap();
    for size in [1 << 20, 4096] {
        while filler.write_all(&vec![1; size]).is_ok() {}
    }
}

/// Creates files until not an inode is left.
fn fill_inodes(disk: &Path) {
    let filler = disk.join("fillers");
    let _ = fs::create_dir(&filler);
    let mut number = fs::read_dir(&filler).map_or(0, Iterator::count);
    while File::create_new(filler.join(number.to_string())).is_ok() {
        number += 1;
    }
}

/// Runs a command that must either succeed or report that the disk is full. Returns whether it
/// succeeded.
fn works_or_is_full(command: &mut Command) -> bool {
    let out = command.output().unwrap();
    let said = text(&out.stderr);
    assert!(!said.contains("panicked"), "{command:?}: {said}");
    match out.status.code() {
        Some(0) => true,
        code => {
            assert_eq!(code, Some(6), "{command:?}: {said}");
            let words = ["space", "full", "inode"];
            assert!(words.iter().any(|word| said.contains(word)), "{said}");
            false
        }
    }
}

/// Tries everything on a root whose disk `fill` fills. Without snapshots, the blobs are all that a
/// collection can free.
fn tries(engine: &str, unpack: &[&str], options: &str, fill: fn(&Path)) {
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let archive = demo_archive(scratch.path());
    let disk = Disk::mount(scratch.path().join("disk"), options);
    let root = disk.0.join("root");
    ok(cas(&root).args(["--store", engine, "init"]));
    ok(cas(&root)
        .args(["import", "--name", "app"])
        .args(unpack)
        .arg(&archive));
    let other = scratch.path().join("other");
    fs::write(&other, vec![7; 3 << 20]).unwrap();

    fill(&disk.0);
    reads(&root, scratch.path());
    let target = scratch.path().join("mnt");
    fs::create_dir(&target).unwrap();
    works_or_is_full(cas(&root).args(["blob", "add"]).arg(&other));
    works_or_is_full(cas(&root).args(["import", "--name", "new"]).arg(&archive));
    works_or_is_full(cas(&root).args(["tag", "app", "also"]));
    works_or_is_full(cas(&root).args(["snapshot", "prepare", "x"]));
    works_or_is_full(cas(&root).args(["lease", "create", "--id", "y"]));
    if works_or_is_full(cas(&root).args(["mount", "app"]).arg(&target)) {
        ok(cas(&root).arg("umount").arg(&target));
    }
    ok(cas(&root).arg("images"));

    removes(engine, &root, || fill(&disk.0));
    let _ = fs::remove_file(disk.0.join("filler"));
    let _ = fs::remove_dir_all(disk.0.join("fillers"));
    ok(cas(&root)
        .args(["import", "--name", "app"])
        .args(unpack)
        .arg(&archive));
}

/// Runs what reads the root, with targets elsewhere.
fn reads(root: &Path, scratch: &Path) {
    for arguments in [
        &["images"][..],
        &["tree", "app"],
        &["inspect", "app"],
        &["blob", "ls"],
        &["snapshot", "ls"],
        &["lease", "ls"],
        &["gc", "--dry-run"],
        &["df"],
    ] {
        ok(cas(root).args(arguments));
    }
    let (tree, file) = (scratch.join("tree"), scratch.join("app.tar"));
    ok(cas(root).args(["unpack", "app"]).arg(&tree));
    assert!(tree.join("app/run").exists());
    ok(cas(root).args(["export", "app", "-o"]).arg(&file));
    fs::remove_dir_all(tree).unwrap();
    fs::remove_file(file).unwrap();
}

/// Removes everything. Before each step, `fill` takes the space that the last step freed.
fn removes(engine: &str, root: &Path, fill: impl Fn()) {
    let remove = |arguments: &[&str]| {
        fill();
        ok(cas(root).args(arguments))
    };
    let lines = |arguments: &[&str]| {
        let listed = ok(cas(root).args(arguments));
        let rows = listed.lines().map(str::to_owned);
        rows.map(|row| row.parse::<serde_json::Value>().unwrap())
            .collect::<Vec<_>>()
    };
    for lease in lines(&["lease", "ls", "--json"]) {
        remove(&["lease", "rm", "--force", lease["id"].as_str().unwrap()]);
    }
    for snapshot in lines(&["snapshot", "ls", "--json"]) {
        if snapshot["info"]["kind"] == "active" {
            remove(&["snapshot", "rm", snapshot["info"]["key"].as_str().unwrap()]);
        }
    }
    for image in lines(&["images", "--json"]) {
        remove(&["rmi", image["name"].as_str().unwrap()]);
    }
    remove(&["gc"]);
    let left = ok(cas(root).args(["snapshot", "ls", "--json"]));
    assert_eq!(left, "", "{engine}");
    let blobs = ok(cas(root).args(["blob", "ls", "--json"]));
    // What `blob add` stored without a name stays for a day.
    assert!(blobs.lines().count() <= 1, "{engine}: {blobs}");
}

#[test]
fn without_space_what_reads_and_what_removes_works() {
    if can(&["mount", "umount"]) {
        for engine in ENGINES {
            tries(engine, &["--unpack"], "size=80m", fill_bytes);
            tries(engine, &[], "size=20m", fill_bytes);
        }
    }
}

/// btrfs writes everything to a new place, also what SQLite changes in a file that it has mapped.
#[test]
fn a_full_btrfs_is_read_and_collected() {
    if !can(&["mount", "umount", "mkfs.btrfs"]) {
        return;
    }
    for engine in ENGINES {
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let archive = demo_archive(scratch.path());
        let disk = Disk::btrfs(&scratch.path().join("image"), scratch.path().join("disk"));
        let root = disk.0.join("root");
        ok(cas(&root).args(["--store", engine, "--snapshotter", "native", "init"]));
        ok(cas(&root).args(["import", "--name", "app"]).arg(&archive));
        // What is written back may need less space than it had reserved.
        for _ in 0..3 {
            fill_bytes(&disk.0);
            ok(Command::new("sync").arg("--file-system").arg(&disk.0));
        }
        assert!(!works_or_is_full(
            cas(&root).args(["blob", "add"]).arg(&archive)
        ));
        ok(cas(&root).arg("images"));
        ok(cas(&root).args(["rmi", "app"]));
        ok(cas(&root).arg("gc"));
    }
}

/// The first opening after a loss of power notes the new boot.
#[test]
fn a_full_disk_is_collected_after_a_boot() {
    if !can(&["mount", "umount"]) {
        return;
    }
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let archive = demo_archive(scratch.path());
    let disk = Disk::mount(scratch.path().join("disk"), "size=20m");
    let root = disk.0.join("root");
    ok(cas(&root).args(["import", "--name", "app"]).arg(&archive));
    fs::write(root.join("store/.cas/boot"), "an earlier boot").unwrap();
    fill_bytes(&disk.0);
    ok(cas(&root).args(["rmi", "app"]));
    ok(cas(&root).arg("gc"));
}

/// Other programs write names only into `index.json`. A repair writes their records, which are of
/// use only if `index.json` is lost later.
#[test]
fn a_full_disk_is_repaired_without_the_records_of_names() {
    if !can(&["mount", "umount"]) {
        return;
    }
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let archive = demo_archive(scratch.path());
    let disk = Disk::mount(scratch.path().join("disk"), "size=20m");
    let root = disk.0.join("root");
    ok(cas(&root).args(["--store", "fs", "init"]));
    ok(cas(&root).args(["import", "--name", "app"]).arg(&archive));
    let file = root.join("store/index.json");
    let mut index: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let entries = index["manifests"].as_array_mut().unwrap();
    // The log of the database has no space for so many records.
    for number in 0..3000 {
        let mut entry = entries[0].clone();
        entry["annotations"]["org.opencontainers.image.ref.name"] =
            format!("docker.io/library/other:{number}").into();
        entries.push(entry);
    }
    fs::write(&file, index.to_string()).unwrap();
    fill_bytes(&disk.0);
    ok(cas(&root).args(["fsck", "--repair"]));
    ok(cas(&root).args(["inspect", "other:2999"]));
}

#[test]
fn without_inodes_what_reads_and_what_removes_works() {
    if can(&["mount", "umount"]) {
        for engine in ENGINES {
            tries(
                engine,
                &["--unpack"],
                "size=200m,nr_inodes=3500",
                fill_inodes,
            );
            tries(engine, &[], "size=20m,nr_inodes=200", fill_inodes);
        }
    }
}

/// With any limit on its open files, a command works or reports which limit to raise.
#[test]
fn too_few_file_descriptors_are_said() {
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let archive = demo_archive(scratch.path());
    let (file, tree) = (scratch.path().join("app.tar"), scratch.path().join("tree"));
    for engine in ENGINES {
        let root = scratch.path().join(engine);
        ok(cas(&root).args(["--store", engine, "init"]));
        ok(cas(&root).args(["import", "--name", "app"]).arg(&archive));
        let limits: &[u32] = match *engine {
            "fs" => &[4, 6, 7, 8, 11, 13, 17, 19, 23, 26, 28, 30, 33, 36, 40, 48],
            _ => &[12, 20, 28],
        };
        for limit in limits {
            let limited = |arguments: &[&str]| {
                let mut shell = Command::new("sh");
                let script = format!("ulimit -n {limit}; exec \"$@\"");
                shell.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_cas"), "--root"]);
                shell.arg(&root).args(arguments).env_remove("CAS_ROOT");
                let out = shell.output().unwrap();
                let said = text(&out.stderr);
                let context = format!("{engine} {limit} {arguments:?}: {said}");
                assert!(!said.contains("panicked"), "{context}");
                if out.status.code() != Some(0) {
                    assert_eq!(out.status.code(), Some(6), "{context}");
                    assert!(said.contains("ulimit -n"), "{context}");
                }
            };
            limited(&["images"]);
            limited(&["gc"]);
            limited(&[
                "import",
                "--unpack",
                "--name",
                "app",
                archive.to_str().unwrap(),
            ]);
            limited(&["export", "app", "-o", file.to_str().unwrap()]);
            limited(&["unpack", "app", tree.to_str().unwrap()]);
            let _ = fs::remove_dir_all(&tree);
            limited(&["rmi", "app"]);
            ok(cas(&root).args(["import", "--name", "app"]).arg(&archive));
        }
    }
    fails(cas(&scratch.path().join("fs")).args(["rmi", "absent"]), 3);
}

/// Returns a command of the tool that may write files of `kib` KiB at most.
fn limited(root: &Path, kib: u32) -> Command {
    let tool = cas(root);
    let mut command = Command::new("sh");
    // What started the tests may ignore the signal.
    let script = format!("ulimit -f {kib}; exec env --default-signal=XFSZ \"$@\"");
    command.args(["-c", &script, "sh"]);
    append(&mut command, &tool);
    command
}

/// The limit counts the threads of a user, so the tool runs as a user without other processes.
#[test]
fn with_too_few_threads_the_message_says_what_to_do() {
    if !can(&["setpriv", "prlimit", "chmod"]) {
        return;
    }
    const USER: &str = "64999";
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let archive = demo_archive(scratch.path());
    ok(Command::new("chmod")
        .args(["-R", "a+rwX"])
        .arg(scratch.path()));
    // The tool itself may be in a directory that the user cannot reach.
    let tool = scratch.path().join("tool");
    copy_tool(&tool);
    let tree = scratch.path().join("tree");
    let run = |engine: &str, threads: u32, arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", USER, "--regid", USER, "--clear-groups"])
            .args(["prlimit", &format!("--nproc={threads}")])
            .arg(&tool)
            .arg("--root")
            .arg(scratch.path().join(engine))
            .args(arguments)
            .env_remove("CAS_ROOT")
            .current_dir("/");
        command.output().unwrap()
    };
    let mut refused = 0;
    for engine in ENGINES {
        for arguments in [
            &["--store", engine, "--snapshotter", "native", "init"][..],
            &["import", "--name", "app", archive.to_str().unwrap()],
        ] {
            let made = run(engine, 1000, arguments);
            assert!(made.status.success(), "{engine}: {}", text(&made.stderr));
        }
        for threads in [1, 3, 4, 6, 8] {
            for arguments in [
                &["images"][..],
                &["gc"],
                &["unpack", "--rootless", "app", tree.to_str().unwrap()],
            ] {
                let out = run(engine, threads, arguments);
                let said = text(&out.stderr);
                let context = format!("{engine} {threads} {arguments:?}: {said}");
                assert!(!said.contains("panicked"), "{context}");
                if out.status.code() != Some(0) {
                    assert_eq!(out.status.code(), Some(5), "{context}");
                    assert!(said.contains("ulimit -u"), "{context}");
                    refused += 1;
                }
                let _ = fs::remove_dir_all(&tree);
            }
        }
    }
    assert!(refused > 0);
}

/// The kernel also sends a signal that ends processes that do not handle it.
#[test]
fn a_limit_on_the_size_of_files_is_said_and_leaves_nothing() {
    let limits = [0, 1, 8, 64, 512];
    for engine in ENGINES {
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let archive = demo_archive(scratch.path());
        let (root, blob) = (scratch.path().join("root"), scratch.path().join("blob"));
        fs::write(&blob, vec![7; 1 << 20]).unwrap();
        ok(cas(&root).args(["--store", engine, "--snapshotter", "native", "init"]));
        ok(cas(&root).args(["import", "--name", "app"]).arg(&archive));
        let (archive, blob) = (archive.to_str().unwrap(), blob.to_str().unwrap());
        let (mut failed, before) = (0, listing(&root));
        for kib in limits {
            for arguments in [
                &["import", "--unpack", "--name", "new", archive][..],
                &["blob", "add", blob],
                &["tag", "app", "also"],
                &["lease", "create", "--id", "y", "--expire", "1h"],
                &["snapshot", "prepare", "x"],
                &["gc"],
                &["rmi", "also"],
            ] {
                let out = limited(&root, kib).args(arguments).output().unwrap();
                let (code, said) = (out.status.code(), text(&out.stderr));
                assert!(!said.contains("panicked"), "{arguments:?}: {said}");
                // What an earlier command has not made cannot be removed.
                if code != Some(0) && code != Some(3) {
                    assert_eq!(code, Some(6), "{engine} {kib} {arguments:?}: {said}");
                    let errors = said.lines().filter(|line| line.starts_with("cas: "));
                    assert_eq!(errors.count(), 1, "{engine} {kib} {arguments:?}: {said}");
                    failed += 1;
                }
            }
            for undo in [
                &["rmi", "new", "also"][..],
                &["lease", "rm", "y"],
                &["snapshot", "rm", "x"],
            ] {
                let _ = cas(&root).args(undo).output().unwrap();
            }
            let rest: Vec<String> = listing(&root)
                .into_iter()
                .filter(|row| !before.contains(row))
                .collect();
            for digest in &rest {
                ok(cas(&root).args(["blob", "rm", digest]));
            }
            ok(cas(&root).arg("gc"));
            assert_eq!(listing(&root), before, "{engine} {kib}");
            assert_eq!(
                ok(cas(&root).args(["ingest", "ls", "--json"])),
                "",
                "{engine} {kib}"
            );
            ok(cas(&root).args(["fsck", "--read-data"]));
        }
        assert!(
            failed > limits.len(),
            "{engine}: only {failed} commands failed"
        );
    }
}

/// Returns the digests of all blobs.
fn listing(root: &Path) -> Vec<String> {
    let rows = ok(cas(root).args(["blob", "ls", "--json"]));
    let rows = rows.lines().map(|row| row.parse::<serde_json::Value>());
    rows.map(|row| row.unwrap()["digest"].as_str().unwrap().to_owned())
        .collect()
}

/// A copy fails for lack of space while it stores several layers. The unfinished layers are removed
/// at once, and a collection removes the layers that were stored.
#[test]
fn a_copy_that_fails_for_lack_of_space_does_not_keep_the_disk_full() {
    if !can(&["mount", "umount"]) {
        return;
    }
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let archive = demo_archive(scratch.path());
    let size = fs::metadata(&archive).unwrap().len();
    let source = scratch.path().join("source");
    ok(cas(&source).args(["import", "--name", "app"]).arg(&archive));
    for engine in ENGINES {
        let disk = Disk::mount(scratch.path().join("disk"), "size=64m");
        let root = disk.0.join("root");
        ok(cas(&root).args(["--store", engine, "init"]));
        ok(cas(&root).arg("images"));
        // The two engines keep some space free.
        let extra = if ["fs", "dir"].contains(engine) {
            0
        } else {
            1 << 20
        };
        disk.fill(size / 2 + extra);
        let free = || rustix::fs::statvfs(&disk.0).unwrap().f_bavail * 4096;
        let before = free();
        let to = format!("{}#", root.display());
        let said = fails(cas(&source).args(["copy", "app"]).arg(&to), 6);
        assert!(said.contains("free some space"), "{engine}: {said}");
        assert_eq!(
            ok(cas(&root).args(["ingest", "ls", "--json"])),
            "",
            "{engine}"
        );
        ok(cas(&root).arg("gc"));
        // The files of the two engines stay as long as they were.
        if ["fs", "dir"].contains(engine) {
            assert!(
                free() + (512 << 10) > before,
                "{engine}: {before}, {}",
                free()
            );
        }
        fs::remove_file(disk.0.join("filler")).unwrap();
        ok(cas(&source).args(["copy", "app"]).arg(&to));
        drop(disk);
        fs::remove_dir(scratch.path().join("disk")).unwrap();
    }
}

/// Without an inode for the files of a database, SQLite only says that it cannot open them.
#[test]
fn a_database_without_an_inode_is_a_full_disk() {
    if !can(&["mount", "umount"]) {
        return;
    }
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    for missing in [
        &["records.db-wal", "records.db-shm"][..],
        &["records.db-shm"],
    ] {
        let disk = Disk::mount(scratch.path().join("disk"), "size=20m,nr_inodes=200");
        let root = disk.0.join("root");
        ok(cas(&root).args(["--store", "redb", "init"]));
        ok(cas(&root).arg("images"));
        for name in missing.iter().chain(&["reserve"]) {
            fs::remove_file(root.join("local").join(name)).unwrap();
        }
        fill_inodes(&disk.0);
        works_or_is_full(cas(&root).arg("images"));
        works_or_is_full(cas(&root).arg("gc"));
        fs::remove_dir_all(disk.0.join("fillers")).unwrap();
        ok(cas(&root).arg("images"));
        drop(disk);
        fs::remove_dir(scratch.path().join("disk")).unwrap();
    }
}
