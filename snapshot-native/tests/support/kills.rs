//! A snapshotter that is killed at every system call that changes the disk. What was acknowledged
//! must exist with its content, records and directories must agree, and the same work must then
//! succeed.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use cas_core::pool::wait;
use cas_core::records::Snapshots;
use cas_core::snapshot::{Info, Mount, SnapshotKind, Usage};
use cas_core::{Labels, Result, Snapshotter};
use cas_host::mount;
use cas_records_sqlite::SqliteRecords;

/// The root for the test binary when it runs itself.
const ROOT: &str = "CAS_TEST_ROOT";

/// The layers that are made, each on the previous one.
pub(crate) const LAYERS: [&str; 3] = ["one", "two", "three"];

/// A snapshotter, and the work during which it is killed.
pub(crate) trait Scenario {
    /// The system calls of the work that change the disk.
    const CALLS: &'static [&'static str];

    fn open(root: &Path, records: Arc<SqliteRecords>) -> Result<Arc<dyn Snapshotter>>;

    /// Makes the missing [`LAYERS`] after an interrupted run, and [`acknowledge`]s each layer that
    /// is committed.
    async fn make_layers(store: &dyn Snapshotter) -> Result<()>;

    /// Panics unless `tree` shows what the layers up to `index` have in addition to [`fill`].
    fn check_tree(_tree: &Path, _index: usize) {}
}

/// Writes the content that the layer `name` has in each scenario.
pub(crate) fn fill(tree: &Path, name: &str) -> std::io::Result<()> {
    std::fs::create_dir(tree.join(name))?;
    std::fs::write(tree.join(name).join("file"), name)?;
    std::fs::hard_link(tree.join(name).join("file"), tree.join(name).join("link"))?;
    std::os::unix::fs::symlink("file", tree.join(name).join("symlink"))
}

/// Returns the directory of a snapshot that is a bind mount.
pub(crate) fn tree(mounts: &[Mount]) -> PathBuf {
    match mounts {
        [Mount::Bind { source, .. }] => source.clone(),
        other => panic!("{other:?}"),
    }
}

/// Acknowledges a step.
pub(crate) fn acknowledge(step: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "did {step}").unwrap();
    out.flush().unwrap();
}

/// The body of the test `task`, which is the process that is killed. It uses one thread, because
/// strace counts the calls of each thread.
pub(crate) fn task<S: Scenario>() {
    let Some(root) = std::env::var_os(ROOT) else {
        return;
    };
    let (store, _) = open::<S>(Path::new(&root));
    wait(async {
        S::make_layers(&*store).await.unwrap();
        scratch(&*store).await.unwrap();
        acknowledge("scratch");
    });
}

/// Prepares and removes the snapshot of a container.
async fn scratch(store: &dyn Snapshotter) -> Result<()> {
    if store.stat("scratch").await?.is_none() {
        let top = LAYERS.last().copied();
        store.prepare("scratch", top, Labels::new()).await?;
    }
    store.remove("scratch").await
}

fn open<S: Scenario>(root: &Path) -> (Arc<dyn Snapshotter>, Arc<SqliteRecords>) {
    let records = Arc::new(SqliteRecords::open(&root.join("records.db")).unwrap());
    (S::open(root, records.clone()).unwrap(), records)
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

/// Opens the root and checks it against what was acknowledged.
fn check<S: Scenario>(root: &Path, acknowledged: &[String], context: &str) {
    let (store, records) = open::<S>(root);
    wait(async {
        for info in store.walk(None, 100).await.expect(context) {
            check_snapshot::<S>(&*store, &info, context).await;
        }
        for step in acknowledged {
            let exists = store.stat(step).await.unwrap().is_some();
            assert_eq!(exists, step != "scratch", "{context}: {step}");
        }
        store.cleanup().await.expect(context);
        let named = Snapshots::new(records, store.name()).unwrap();
        let named = named.named_ids().await.unwrap();
        assert_eq!(directories(root), named, "{context}");
        let again = store.cleanup().await.unwrap();
        assert_eq!(again, Usage::default(), "{context}");
    });
}

/// Checks that a recorded snapshot has its directories, and a layer all content up to it.
async fn check_snapshot<S: Scenario>(store: &dyn Snapshotter, info: &Info, context: &str) {
    if info.kind != SnapshotKind::Committed {
        for dir in store.mounts(&info.key).await.unwrap().iter().flat_map(dirs) {
            assert!(dir.is_dir(), "{context}: {} lacks {dir:?}", info.key);
        }
        return;
    }
    let mounts = store.view("look", Some(&info.key), Labels::new()).await;
    let root = mount::open(&mounts.unwrap()).expect(context);
    let tree = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
    let index = LAYERS.iter().position(|name| *name == info.key).unwrap();
    for below in &LAYERS[..=index] {
        let text = std::fs::read_to_string(tree.join(below).join("symlink"));
        assert_eq!(text.expect(context), *below, "{context}: {}", info.key);
        assert!(tree.join(below).join("link").exists(), "{context}");
    }
    S::check_tree(&tree, index);
    drop(root);
    store.remove("look").await.unwrap();
}

fn dirs(mount: &Mount) -> Vec<PathBuf> {
    match mount.clone() {
        Mount::Bind { source, .. } => vec![source],
        Mount::Overlay {
            lower, upper, work, ..
        } => lower.into_iter().chain(upper).chain(work).collect(),
    }
}

fn directories(root: &Path) -> BTreeSet<u64> {
    let entries = std::fs::read_dir(root.join("snapshots")).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    entries
        .map(|entry| name(entry).to_str().unwrap().parse().unwrap())
        .collect()
}

/// Returns a directory in memory: a kill loses nothing that the kernel has, so a disk would only be
/// slower.
fn in_memory() -> tempfile::TempDir {
    let memory = tempfile::tempdir_in("/dev/shm");
    memory.or_else(|_| tempfile::tempdir()).unwrap()
}

/// Kills the task at each of the calls, and checks what it acknowledged.
pub(crate) fn kill_everywhere<S: Scenario>() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("SKIPPED: strace is not installed");
        return;
    }
    for call in S::CALLS {
        let kills = (1..).find(|number| !kill::<S>(call, *number)).unwrap() - 1;
        assert!(kills > 0, "{call} was never called: nothing was tested");
        eprintln!("{call}: killed {kills} times");
    }
}

/// Starts a task and kills it at the call number `number`. Returns false if it made fewer calls.
fn kill<S: Scenario>(call: &str, number: usize) -> bool {
    let temp = in_memory();
    let root = temp.path();
    let trace = format!("trace={call}");
    let inject = format!("inject={call}:signal=SIGKILL:when={number}");
    let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace];
    let output = run(root, &[&strace[..], &["-e", &inject]].concat());
    let context = format!("killed at {call} {number}");
    check::<S>(root, &acknowledged(&output), &context);
    let again = run(root, &[]);
    assert!(again.status.success(), "{context}: {again:?}");
    check::<S>(root, &acknowledged(&again), &context);
    assert_eq!(
        acknowledged(&again).len(),
        LAYERS.len() + 1,
        "{context}: {again:?}"
    );
    !output.status.success()
}
