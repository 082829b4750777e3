//! Killed at every system call that changes the disk: what was acknowledged is there with its
//! content, records and directories agree, and the same work then succeeds.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use backend_fs::SqliteRecords;
use cas_core::pool::wait;
use cas_core::records::Snapshots;
use cas_core::snapshot::{Commit, Kind, Mount, Usage};
use cas_core::{Labels, Result, Snapshotter};
use snapshot_native::{NAME, NativeSnapshotter};

/// Tells the test binary, run again by itself, in which root to work.
const ROOT: &str = "CAS_TEST_ROOT";

const LAYERS: [(&str, Option<&str>); 3] =
    [("one", None), ("two", Some("one")), ("three", Some("two"))];

fn open(root: &Path) -> (NativeSnapshotter, Arc<SqliteRecords>) {
    let records = Arc::new(SqliteRecords::open(&root.join("records.db")).unwrap());
    let store = NativeSnapshotter::open(root, records.clone()).unwrap();
    (store, records)
}

fn tree(mounts: &[Mount]) -> PathBuf {
    match mounts {
        [Mount::Bind { source, .. }] => source.clone(),
        other => panic!("{other:?}"),
    }
}

fn say(step: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "did {step}").unwrap();
    out.flush().unwrap();
}

/// The work that is killed; one thread does it, for strace counts the calls of each.
#[test]
fn task() {
    let Some(root) = std::env::var_os(ROOT) else {
        return;
    };
    let (store, _) = open(Path::new(&root));
    wait(async {
        for (name, parent) in LAYERS {
            layer(&store, name, parent).await.unwrap();
            say(name);
        }
        scratch(&store).await.unwrap();
        say("scratch");
    });
}

/// A layer as an unpacker makes it, over whatever an earlier run left.
async fn layer(store: &NativeSnapshotter, name: &str, parent: Option<&str>) -> Result<()> {
    if store.stat(name).await?.is_some() {
        return Ok(());
    }
    if store.stat("unpacking").await?.is_some() {
        store.remove("unpacking").await?;
    }
    let dir = tree(&store.prepare("unpacking", parent, Labels::new()).await?);
    std::fs::create_dir(dir.join(name))?;
    std::fs::write(dir.join(name).join("file"), name)?;
    std::fs::hard_link(dir.join(name).join("file"), dir.join(name).join("link"))?;
    std::os::unix::fs::symlink("file", dir.join(name).join("symlink"))?;
    store.commit(name, "unpacking", Commit::default()).await
}

/// A container that comes and goes.
async fn scratch(store: &NativeSnapshotter) -> Result<()> {
    if store.stat("scratch").await?.is_none() {
        store
            .prepare("scratch", Some("three"), Labels::new())
            .await?;
    }
    store.remove("scratch").await
}

fn run(root: &Path, before: &[&str]) -> Output {
    let program = std::env::current_exe().unwrap();
    let program = program.to_str().unwrap();
    let words = [before, &[program, "--exact", "task", "--nocapture"]].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env(ROOT, root).output().unwrap()
}

fn acknowledged(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let steps = text.lines().filter_map(|line| line.strip_prefix("did "));
    steps.map(str::to_owned).collect()
}

/// Opens the root and checks all of it against what was acknowledged.
fn check(root: &Path, acknowledged: &[String], context: &str) {
    let (store, records) = open(root);
    wait(async {
        for info in store.walk(None, 100).await.expect(context) {
            let dir = match info.kind {
                Kind::Committed => {
                    let key = info.key.as_str();
                    tree(&store.view("look", Some(key), Labels::new()).await.unwrap())
                }
                _ => tree(&store.mounts(&info.key).await.unwrap()),
            };
            assert!(dir.is_dir(), "{context}: {} has no directory", info.key);
            if info.kind == Kind::Committed {
                assert_content(&dir, &info.key, context);
                store.remove("look").await.unwrap();
            }
        }
        for name in acknowledged.iter().filter(|step| *step != "scratch") {
            let there = store.stat(name).await.unwrap();
            assert!(there.is_some(), "{context}: {name} is gone");
        }
        if acknowledged.iter().any(|step| step == "scratch") {
            assert!(store.stat("scratch").await.unwrap().is_none(), "{context}");
        }
        store.cleanup().await.expect(context);
        let named = Snapshots::new(records, NAME).unwrap().named_ids().await;
        assert_eq!(directories(root), named.unwrap(), "{context}");
        assert_eq!(
            store.cleanup().await.unwrap(),
            Usage::default(),
            "{context}"
        );
    });
}

/// A committed layer shows its own content and that of all below.
fn assert_content(dir: &Path, name: &str, context: &str) {
    for (below, _) in LAYERS {
        let text = std::fs::read_to_string(dir.join(below).join("symlink"));
        assert_eq!(text.expect(context), below, "{context}: {name}");
        assert!(dir.join(below).join("link").exists(), "{context}: {name}");
        if below == name {
            break;
        }
    }
}

fn directories(root: &Path) -> BTreeSet<u64> {
    let entries = std::fs::read_dir(root.join("snapshots")).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    entries
        .map(|entry| name(entry).to_str().unwrap().parse().unwrap())
        .collect()
}

/// A process that is killed loses nothing that the kernel has, so that no disk need be waited for.
fn in_memory() -> tempfile::TempDir {
    let memory = tempfile::tempdir_in("/dev/shm");
    memory.or_else(|_| tempfile::tempdir()).unwrap()
}

#[test]
fn a_kill_at_any_call_leaves_nothing_in_the_way() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("SKIPPED: strace is not installed");
        return;
    }
    let temp = in_memory();
    for call in [
        "mkdirat",
        "flock",
        "linkat",
        "symlinkat",
        "fchown",
        "utimensat",
        "fsync",
        "syncfs",
        "unlinkat",
    ] {
        let mut kills = 0;
        loop {
            let root = temp.path().join(format!("{call}-{kills}"));
            std::fs::create_dir(&root).unwrap();
            let inject = format!("inject={call}:signal=SIGKILL:when={}", kills + 1);
            let trace = format!("trace={call}");
            let strace = [
                "strace",
                "-f",
                "-qq",
                "-o",
                "/dev/null",
                "-e",
                &trace,
                "-e",
                &inject,
            ];
            let output = run(&root, &strace);
            let context = format!("killed at {call} {}", kills + 1);
            check(&root, &acknowledged(&output), &context);
            let again = run(&root, &[]);
            assert!(again.status.success(), "{context}: {again:?}");
            assert_eq!(acknowledged(&again).len(), 4, "{context}: {again:?}");
            check(&root, &acknowledged(&again), &context);
            if output.status.success() {
                break;
            }
            kills += 1;
        }
        assert!(
            kills >= 2,
            "{call} was made {kills} times: nothing was tested"
        );
        eprintln!("{call}: killed {kills} times");
    }
}
