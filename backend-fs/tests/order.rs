//! The order of writes to the disk, checked in the system calls, because no crash that a test can
//! cause reveals a wrong order.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use backend_fs::FsStore;
use cas_core::content::{Durability, Expected, Writer};
use cas_core::image::Image;
use cas_core::pool::wait;
use cas_core::records::Batch;
use cas_core::transfer::{CopyOptions, copy};
use cas_core::{Algorithm, ContentExt, ContentStore, Descriptor, Digest, MediaType};
use support::{installed, name};

const TASK: &str = "CAS_FS_ORDER";

/// Publishes `text` under the key `key`.
fn publish(content: &dyn ContentStore, key: &str, text: &'static str, durability: Durability) {
    let digest = Digest::of(Algorithm::Sha256, text.as_bytes());
    publish_as(content, key, (text, digest), durability);
}

fn publish_as(
    content: &dyn ContentStore,
    key: &str,
    (text, digest): (&'static str, Digest),
    durability: Durability,
) {
    wait(async {
        let expected = Expected::digest(digest);
        let mut writer = Writer::begin(content, key, expected).await.unwrap();
        writer.write(text.into()).await.unwrap();
        writer.commit(&Batch::new(), durability).await.unwrap();
    });
}

/// The body of the traced processes.
#[test]
fn task() {
    let Ok(task) = std::env::var(TASK) else {
        return;
    };
    let (task, path) = task.split_once(' ').unwrap();
    let path = Path::new(path);
    match task {
        "flush" => flush_while_publishing(path),
        "replace" => replace_what_cannot_be_synced(path),
        "meet" => meet_what_is_not_synced(path),
        "together" => println!("\nrefused {}", together(path)),
        "adopt" => {
            let content = FsStore::open(path).unwrap().content();
            let digest = Digest::of(Algorithm::Sha512, b"x");
            publish_as(&*content, "x", ("x", digest), Durability::Full);
        }
        other => unreachable!("{other}"),
    }
}

/// Runs a task under strace. Returns its output and the trace.
fn traced(task: &str, path: &Path, options: &[&str]) -> (Output, String) {
    let trace = path.with_extension("trace");
    let output = std::process::Command::new("strace")
        .args(["-f", "-y", "-qq", "-o", trace.to_str().unwrap()])
        .args(options)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "task", "--nocapture", "--test-threads=1"])
        .env(TASK, format!("{task} {}", path.display()))
        .output()
        .unwrap();
    (output, std::fs::read_to_string(&trace).unwrap())
}

/// Runs a task, which must succeed. Returns the trace.
fn run(task: &str, options: &[&str]) -> String {
    let temp = tempfile::tempdir().unwrap();
    let (output, trace) = traced(task, &temp.path().join("store"), options);
    assert!(output.status.success(), "{output:?}");
    trace
}

/// Every rename is delayed, so that the flush happens during a publish.
fn flush_while_publishing(path: &Path) {
    let content = FsStore::open(path).unwrap().content();
    publish(&*content, "first", "first", Durability::Relaxed);
    let second = thread::spawn({
        let content = Arc::clone(&content);
        move || publish(&*content, "second", "second", Durability::Relaxed)
    });
    thread::sleep(Duration::from_millis(150));
    wait(content.flush()).unwrap();
    let flushed = wait(content.stat(&Digest::sha256(b"second"))).unwrap();
    second.join().unwrap();
    let markers = path.join(".cas/unsynced").read_dir().unwrap().count();
    assert!(
        flushed.is_some() || markers > 0,
        "not synced, and no marker is left"
    );
}

#[test]
fn a_flush_keeps_the_marker_of_a_publish_that_is_under_way() {
    if installed("strace") {
        let delay = "inject=renameat2:delay_enter=500000";
        run("flush", &["-e", "trace=renameat2", "-e", delay]);
    }
}

/// The second `fdatasync` of the thread syncs the blob that exists.
fn replace_what_cannot_be_synced(path: &Path) {
    let content = FsStore::open(path).unwrap().content();
    publish(&*content, "one", "same", Durability::Relaxed);
    let hex = Digest::sha256(b"same").hex();
    let blob = path.join("blobs/sha256").join(hex);
    let inode = || blob.metadata().unwrap().ino();
    let before = inode();
    thread::spawn(move || publish(&*content, "two", "same", Durability::Full))
        .join()
        .unwrap();
    assert_ne!(inode(), before, "a blob whose bytes may be lost is kept");
}

#[test]
fn a_blob_whose_sync_fails_is_replaced() {
    if installed("strace") {
        let fault = "inject=fdatasync:error=EIO:when=2";
        run("replace", &["-e", "trace=fdatasync", "-e", fault]);
    }
}

/// Stores a blob in three ways after another handle has published it without a sync.
fn meet_what_is_not_synced(path: &Path) {
    let open = || FsStore::open(path).unwrap().store();
    let (other, store) = (open(), open());
    publish(&*other.content, "x", "{}", Durability::Relaxed);
    let target = Descriptor::of(MediaType::OCI_LAYER, b"{}");
    wait(async {
        store.content.put("{}".into()).await.unwrap();
        let data = "{}".into();
        store.put(&target, data, Durability::Full).await.unwrap();
        let image = Image::new(name("x"), target.clone());
        copy(&other, &store, &image, &CopyOptions::default())
            .await
            .unwrap();
    });
}

#[test]
fn an_unsynced_blob_of_another_handle_is_synced_before_it_is_kept() {
    if installed("strace") {
        let trace = run("meet", &["-e", "trace=syncfs"]);
        assert_eq!(trace.matches("syncfs(").count(), 3, "{trace}");
    }
}

#[test]
fn a_flush_removes_the_markers_of_stores_that_are_closed() {
    let temp = tempfile::tempdir().unwrap();
    let open = || FsStore::open(temp.path()).unwrap().content();
    let markers = || {
        temp.path()
            .join(".cas/unsynced")
            .read_dir()
            .unwrap()
            .count()
    };
    let (closed, other) = (open(), open());
    publish(&*closed, "one", "one", Durability::Relaxed);
    publish(&*other, "two", "two", Durability::Relaxed);
    drop(closed);
    let third = open();
    wait(third.flush()).unwrap();
    assert_eq!(markers(), 1, "the other store may publish more");
    wait(other.flush()).unwrap();
    assert_eq!(markers(), 0);
}

/// The process that created a directory may have been killed before it synced the name.
#[test]
fn the_names_of_existing_directories_are_synced() {
    if !installed("strace") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().canonicalize().unwrap().join("store");
    drop(FsStore::open(&path).unwrap());
    std::fs::remove_file(path.join(".cas/format.json")).unwrap();
    std::fs::create_dir(path.join("blobs/sha512")).unwrap();
    let (output, trace) = traced("adopt", &path, &["-e", "trace=fsync"]);
    assert!(output.status.success(), "{output:?}");
    let synced = |dir: &str| {
        let end = format!("<{}>)", path.join(dir).display());
        trace.lines().filter(|line| line.contains(&end)).count()
    };
    assert!(
        synced("blobs/sha512") == 1 && synced("blobs") == 2,
        "{trace}"
    );
    let root = format!("<{}>)", path.display());
    assert!(trace.contains(&root), "{trace}");
}

const TOGETHER: u32 = 64;

/// Publishes many blobs at a time. Returns how many publishes were refused, and checks that their
/// blobs do not exist.
fn together(path: &Path) -> usize {
    let content = FsStore::open(path).unwrap().content();
    let publishing = async {
        let mut writers = Vec::new();
        for number in 0..TOGETHER {
            let key = number.to_string();
            let begun = Writer::begin(&*content, &key, Expected::ANY).await;
            let mut writer = begun.unwrap();
            writer.write(key.into()).await.unwrap();
            writers.push(writer);
        }
        let mut all = tokio::task::JoinSet::new();
        for mut writer in writers {
            let content = Arc::clone(&content);
            all.spawn(async move {
                let digest = writer.digest().await.unwrap();
                let committed = writer.commit(&Batch::new(), Durability::Batched).await;
                let stat = content.stat(&digest).await.unwrap();
                assert_eq!(stat.is_some(), committed.is_ok());
                committed.is_err()
            });
        }
        all.join_all().await
    };
    let runtime = tokio::runtime::Builder::new_current_thread();
    let refused = { runtime }.build().unwrap().block_on(publishing);
    refused.into_iter().filter(|refused| *refused).count()
}

/// Runs the task `together` with this fault. Returns how many publishes were refused, and the calls
/// that sync and rename files.
fn run_together(fault: &str) -> (usize, Vec<String>) {
    let calls = "trace=fdatasync,syncfs,sync_file_range,renameat2";
    let temp = tempfile::tempdir().unwrap();
    let (output, trace) = traced(
        "together",
        &temp.path().join("store"),
        &["-e", calls, "-e", fault],
    );
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let refused = printed
        .lines()
        .find_map(|line| line.strip_prefix("refused ")?.parse().ok());
    // Each line begins with the ID of a thread.
    let lines = trace.lines().filter_map(|line| line.split_once(' '));
    let lines = lines.map(|(_, call)| call.trim().to_owned()).collect();
    (refused.expect(&printed), lines)
}

fn count(lines: &[String], call: &str) -> usize {
    lines.iter().filter(|line| line.starts_with(call)).count()
}

#[test]
fn blobs_published_together_share_a_sync_and_have_no_name_before_it() {
    if !installed("strace") {
        return;
    }
    let (refused, lines) = run_together("trace=fdatasync,syncfs,sync_file_range,renameat2");
    assert_eq!(refused, 0);
    assert!(count(&lines, "fdatasync(") < 32, "{lines:#?}");
    let (mut written, mut synced, mut named) = (false, 0, 0);
    for line in &lines {
        match line.split('(').next() {
            Some("syncfs") => written = true,
            Some("fdatasync") => synced += 1,
            Some("sync_file_range") => synced += usize::from(written),
            _ => named += 1,
        }
        assert!(
            named <= synced,
            "renamed before the bytes were synced: {lines:#?}"
        );
    }
    assert_eq!(named, TOGETHER as usize);
}

#[test]
fn if_the_shared_sync_fails_each_file_is_synced() {
    if !installed("strace") {
        return;
    }
    let (refused, lines) = run_together("inject=syncfs:error=EIO");
    assert_eq!(refused, 0);
    assert!(count(&lines, "syncfs(") > 0 && count(&lines, "fdatasync(") == TOGETHER as usize);
    let (refused, _) = run_together("inject=syncfs,fdatasync:error=EIO");
    assert_eq!(refused, TOGETHER as usize);
}

#[test]
fn only_the_file_that_was_not_written_is_refused() {
    if installed("strace") {
        // The third call of each thread fails. Usually, one thread makes all calls.
        let (refused, lines) = run_together("inject=sync_file_range:error=EIO:when=3");
        let failed = lines.iter().filter(|line| line.contains("(INJECTED)"));
        let failed = failed.count();
        assert!(failed > 0 && refused == failed, "{refused}, {lines:#?}");
    }
}
