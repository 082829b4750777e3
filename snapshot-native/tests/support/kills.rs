//! A snapshotter killed at every system call that changes the disk: what was acknowledged is there
//! with its content, records and directories agree, and the same work then succeeds.

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

/// Tells the test binary, run again by itself, in which root to work.
const ROOT: &str = "CAS_TEST_ROOT";

/// The layers that are made, each on the one before.
pub(crate) const LAYERS: [&str; 3] = ["one", "two", "three"];

/// A snapshotter and the work that it is killed at.
pub(crate) trait Scene {
    /// The system calls of that work that change the disk.
    const CALLS: &'static [&'static str];

    fn open(root: &Path, records: Arc<SqliteRecords>) -> Result<Arc<dyn Snapshotter>>;

    /// Makes those of [`LAYERS`] that are missing, over whatever an earlier run left, and
    /// [`say`]s each that is committed.
    async fn make_layers(store: &dyn Snapshotter) -> Result<()>;

    /// Panics unless `tree` shows what the layer of that place has beside [`fill`], and those
    /// below it.
    fn check_tree(_tree: &Path, _place: usize) {}
}

/// The content that the layer `name` has in each scene.
pub(crate) fn fill(tree: &Path, name: &str) -> std::io::Result<()> {
    std::fs::create_dir(tree.join(name))?;
    std::fs::write(tree.join(name).join("file"), name)?;
    std::fs::hard_link(tree.join(name).join("file"), tree.join(name).join("link"))?;
    std::os::unix::fs::symlink("file", tree.join(name).join("symlink"))
}

/// The directory of a snapshot that is a single one.
pub(crate) fn tree(mounts: &[Mount]) -> PathBuf {
    match mounts {
        [Mount::Bind { source, .. }] => source.clone(),
        other => panic!("{other:?}"),
    }
}

/// Acknowledges a step.
pub(crate) fn say(step: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "did {step}").unwrap();
    out.flush().unwrap();
}

/// The body of the test `task`, which is the process that is killed; one thread does all, for
/// strace counts the calls of each.
pub(crate) fn task<S: Scene>() {
    let Some(root) = std::env::var_os(ROOT) else {
        return;
    };
    let (store, _) = open::<S>(Path::new(&root));
    wait(async {
        S::make_layers(&*store).await.unwrap();
        scratch(&*store).await.unwrap();
        say("scratch");
    });
}

/// A container that comes and goes.
async fn scratch(store: &dyn Snapshotter) -> Result<()> {
    if store.stat("scratch").await?.is_none() {
        let top = LAYERS.last().copied();
        store.prepare("scratch", top, Labels::new()).await?;
    }
    store.remove("scratch").await
}

fn open<S: Scene>(root: &Path) -> (Arc<dyn Snapshotter>, Arc<SqliteRecords>) {
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

/// Opens the root and checks all of it against what was acknowledged.
fn check<S: Scene>(root: &Path, acknowledged: &[String], context: &str) {
    let (store, records) = open::<S>(root);
    wait(async {
        for info in store.walk(None, 100).await.expect(context) {
            check_snapshot::<S>(&*store, &info, context).await;
        }
        for step in acknowledged {
            let there = store.stat(step).await.unwrap().is_some();
            assert_eq!(there, step != "scratch", "{context}: {step}");
        }
        store.cleanup().await.expect(context);
        let named = Snapshots::new(records, store.name()).unwrap();
        let named = named.named_ids().await.unwrap();
        assert_eq!(directories(root), named, "{context}");
        let again = store.cleanup().await.unwrap();
        assert_eq!(again, Usage::default(), "{context}");
    });
}

/// What is recorded has its directories, and a layer shows its own content and that of all below.
async fn check_snapshot<S: Scene>(store: &dyn Snapshotter, info: &Info, context: &str) {
    if info.kind != SnapshotKind::Committed {
        for dir in store.mounts(&info.key).await.unwrap().iter().flat_map(dirs) {
            assert!(dir.is_dir(), "{context}: {} lacks {dir:?}", info.key);
        }
        return;
    }
    let mounts = store.view("look", Some(&info.key), Labels::new()).await;
    let root = mount::open(&mounts.unwrap()).expect(context);
    let tree = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
    let place = LAYERS.iter().position(|name| *name == info.key).unwrap();
    for below in &LAYERS[..=place] {
        let text = std::fs::read_to_string(tree.join(below).join("symlink"));
        assert_eq!(text.expect(context), *below, "{context}: {}", info.key);
        assert!(tree.join(below).join("link").exists(), "{context}");
    }
    S::check_tree(&tree, place);
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

/// A process that is killed loses nothing that the kernel has, so that no disk need be waited for.
fn in_memory() -> tempfile::TempDir {
    let memory = tempfile::tempdir_in("/dev/shm");
    memory.or_else(|_| tempfile::tempdir()).unwrap()
}

/// Kills the task at each of the calls, and holds it to its word.
pub(crate) fn kill_everywhere<S: Scene>() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("SKIPPED: strace is not installed");
        return;
    }
    for call in S::CALLS {
        let kills = (1..).find(|number| !kill::<S>(call, *number)).unwrap() - 1;
        assert!(kills > 0, "{call} was never made: nothing was tested");
        eprintln!("{call}: killed {kills} times");
    }
}

/// Kills a task of its own at the `number`th such call; false where it made fewer.
fn kill<S: Scene>(call: &str, number: usize) -> bool {
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
