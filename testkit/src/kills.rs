//! Tests that kill the process of a snapshotter at each system call that changes the disk, with one
//! kill in each run. After a kill, the acknowledged snapshots must exist, the records must agree
//! with the directories, and the interrupted work must succeed when it is repeated. After the kill
//! of a garbage collection, the next collection must remove all snapshots and their files.
//!
//! A test binary implements [`Scenario`] and has three tests. The first test has the name `task`
//! and calls [`task`]. The other tests call [`kill_everywhere`] and [`kill_collections`]. These
//! functions run the binary again under strace, with only the test `task`.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::SystemTime;

use cas_core::gc::{self, GcOptions};
use cas_core::pool::wait;
use cas_core::records::{Snapshots, UNLEASED_TTL};
use cas_core::snapshot::{Info, Mount, SnapshotKind, Usage};
use cas_core::testing::memory::MemoryStore;
use cas_core::{ErrorKind, Labels, Records, Result, Snapshotter};
use cas_host::mount;

/// The environment variable with the snapshotter's directory. If it is not set, [`task`] does
/// nothing.
const ROOT: &str = "CAS_TEST_ROOT";

/// If this environment variable is set, [`task`] collects garbage instead of doing the work of the
/// [`Scenario`].
const COLLECTS: &str = "CAS_TEST_COLLECTS";
/// System calls of a collection: those that change the disk, and the locks between them.
const COLLECTION: [&str; 3] = ["flock", "pwrite64", "unlinkat"];

/// The names of the layers that a scenario makes, each on top of the layer before it.
pub const LAYERS: [&str; 3] = ["one", "two", "three"];

/// A snapshotter, and the work during which it is killed.
pub trait Scenario {
    /// The system calls with which the work changes the disk.
    const CALLS: &'static [&'static str];

    /// Whether the test uses a directory in memory, in `/dev/shm`, if `/dev/shm` exists. Memory
    /// suffices, because a killed process loses no data that the kernel has accepted.
    const IN_MEMORY: bool = true;

    /// Opens the snapshotter below `root`, and its records.
    ///
    /// # Errors
    /// Errors of the snapshotter.
    fn open(root: &Path) -> Result<Opened>;

    /// Makes the layers of [`LAYERS`] that are missing. A killed run may have left unfinished work.
    /// Calls [`acknowledge`] for each layer once it is committed, also if an earlier run has
    /// committed it.
    fn make_layers(store: &dyn Snapshotter) -> impl Future<Output = Result<()>>;

    /// Checks the content of the layers, except for the files that [`fill`] writes. The tree shows
    /// the layers of [`LAYERS`] up to and including the layer with this index. Panics if the
    /// content is wrong.
    fn check_tree(_tree: &Path, _index: usize) {}
}

/// A snapshotter and its records.
pub type Opened = (Arc<dyn Snapshotter>, Arc<dyn Records>);

/// Writes the content that the layer `name` has in every scenario.
///
/// # Errors
/// Errors of the file system.
pub fn fill(tree: &Path, name: &str) -> std::io::Result<()> {
    std::fs::create_dir(tree.join(name))?;
    std::fs::write(tree.join(name).join("file"), name)?;
    std::fs::hard_link(tree.join(name).join("file"), tree.join(name).join("link"))?;
    std::os::unix::fs::symlink("file", tree.join(name).join("symlink"))
}

/// Returns the directory of a snapshot whose only mount is a bind mount.
///
/// # Panics
/// If `mounts` is anything but one bind mount.
pub fn tree(mounts: &[Mount]) -> PathBuf {
    match mounts {
        [Mount::Bind { source, .. }] => source.clone(),
        other => panic!("{other:?}"),
    }
}

/// Prints that a step is done. From the output, the parent process learns which steps were done
/// before the kill.
///
/// # Panics
/// If the output cannot be written.
pub fn acknowledge(step: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "did {step}").unwrap();
    out.flush().unwrap();
}

/// Does the work of the scenario or collects garbage, in a process that [`kill_everywhere`] or
/// [`kill_collections`] starts. Does nothing in any other process. Uses only one thread, because
/// strace counts the calls of each thread separately.
///
/// # Panics
/// If the work or the collection fails.
pub fn task<S: Scenario>() {
    let Some(root) = std::env::var_os(ROOT) else {
        return;
    };
    let (store, _) = S::open(Path::new(&root)).unwrap();
    if std::env::var_os(COLLECTS).is_some() {
        return collect(&*store);
    }
    wait(async {
        S::make_layers(&*store).await.unwrap();
        scratch(&*store).await.unwrap();
        acknowledge("scratch");
    });
}

/// Creates a writable snapshot, and removes it.
async fn scratch(store: &dyn Snapshotter) -> Result<()> {
    if store.stat("scratch").await?.is_none() {
        let top = LAYERS.last().copied();
        store.prepare("scratch", top, Labels::new()).await?;
    }
    store.remove("scratch").await
}

/// Runs a collection that removes all snapshots. No lease keeps them, and the clock of the
/// collection is two days ahead.
fn collect(store: &dyn Snapshotter) {
    let content = MemoryStore::new().with_images();
    let options = GcOptions::default().with_now(SystemTime::now() + 2 * UNLEASED_TTL);
    wait(gc::collect(&content, &[store], &options)).unwrap();
}

fn run(root: &Path, before: &[&str]) -> Output {
    let program = std::env::current_exe().unwrap();
    let program = program.to_str().unwrap();
    let task = [program, "--exact", "task", "--nocapture"];
    // With one thread, the name of the test would be in the line of the first step.
    let words = [before, &task, &["--test-threads=2"]].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env(ROOT, root).output().unwrap()
}

fn acknowledged(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let steps = text.lines().filter_map(|line| line.strip_prefix("did "));
    steps.map(str::to_owned).collect()
}

/// Opens the snapshotter. Checks its snapshots, the acknowledged steps, and that after a cleanup,
/// exactly the recorded snapshots have directories.
fn check<S: Scenario>(root: &Path, acknowledged: &[String], context: &str) {
    let (store, records) = S::open(root).expect(context);
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

/// Checks that a recorded snapshot has its directories, and that a layer shows its own content and
/// the content of the layers below.
async fn check_snapshot<S: Scenario>(store: &dyn Snapshotter, info: &Info, context: &str) {
    if info.kind != SnapshotKind::Committed {
        let mounts = match store.mounts(&info.key).await {
            // The snapshot holds the tar of a layer, and cannot be mounted.
            Err(error) if error.kind() == ErrorKind::FailedPrecondition => Vec::new(),
            mounts => mounts.expect(context),
        };
        for path in paths(&mounts) {
            assert!(path.exists(), "{context}: {} lacks {path:?}", info.key);
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

/// Returns the paths that the mounts need.
fn paths(mounts: &[Mount]) -> Vec<&PathBuf> {
    let mut paths = Vec::new();
    let mut shown = None;
    for mount in mounts {
        match mount {
            Mount::Bind { source, .. } => paths.push(source),
            Mount::Overlay {
                lower, upper, work, ..
            } => paths.extend(lower.iter().chain(upper).chain(work)),
            Mount::Erofs {
                image,
                devices,
                shared,
                ..
            } => {
                paths.extend(devices.iter().chain([image]));
                shown = Some(shared);
            }
            other => panic!("{}", other.unsupported()),
        }
    }
    paths.retain(|path| Some(*path) != shown);
    paths
}

fn directories(root: &Path) -> BTreeSet<u64> {
    let entries = std::fs::read_dir(root.join("snapshots")).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    entries
        .map(|entry| name(entry).to_str().unwrap().parse().unwrap())
        .collect()
}

/// Returns a temporary directory. It is in memory if the scenario allows this and /dev/shm exists.
fn scratch_dir<S: Scenario>() -> tempfile::TempDir {
    match tempfile::tempdir_in("/dev/shm") {
        Ok(memory) if S::IN_MEMORY => memory,
        _ => tempfile::tempdir().unwrap(),
    }
}

/// Kills the work of the scenario at each system call in [`Scenario::CALLS`] that it makes, with
/// one kill in each run. Checks the state that the killed process left, and repeats the work. If
/// strace is not installed, prints `SKIPPED` and does nothing else.
///
/// # Panics
/// If a check or the repeated work fails, or if the work does not make every call in `CALLS`.
pub fn kill_everywhere<S: Scenario>() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("SKIPPED: strace is not installed; run `cargo xtask setup`");
        return;
    }
    for call in S::CALLS {
        let kills = (1..).find(|number| !kill::<S>(call, *number)).unwrap() - 1;
        assert!(kills > 0, "{call} was never called, so nothing was tested");
        eprintln!("number of kills at {call}: {kills}");
    }
}

/// Kills a new task at its `number`th call of `call`. Returns `false` if the task made fewer calls.
fn kill<S: Scenario>(call: &str, number: usize) -> bool {
    let temp = scratch_dir::<S>();
    let root = temp.path();
    let trace = format!("trace={call}");
    let inject = format!("inject={call}:signal=SIGKILL:when={number}");
    let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace];
    let output = run(root, &[&strace[..], &["-e", &inject]].concat());
    let context = format!("killed at call {number} of {call}");
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

/// Kills a garbage collection at each system call `flock`, `pwrite64` and `unlinkat` that it makes,
/// with one kill in each run. Checks that the next collection removes all snapshots and their
/// files. If strace is not installed, prints `SKIPPED` and does nothing else.
///
/// # Panics
/// If a check fails, or if the collection does not make all three calls.
pub fn kill_collections<S: Scenario>() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("SKIPPED: strace is not installed; run `cargo xtask setup`");
        return;
    }
    let full = scratch_dir::<S>();
    assert!(run(full.path(), &[]).status.success());
    for call in COLLECTION {
        let killed = |number: &usize| !kill_collection::<S>(full.path(), call, *number);
        let kills = (1..).find(killed).unwrap() - 1;
        eprintln!("number of kills at {call}: {kills}");
        assert!(kills > 0, "{call} was never called, so nothing was tested");
    }
}

/// Kills a collection in a copy of the root `full`, at its `number`th call of `call`. Returns
/// `false` if the collection made fewer calls.
fn kill_collection<S: Scenario>(full: &Path, call: &str, number: usize) -> bool {
    let temp = scratch_dir::<S>();
    let root = temp.path().join("root");
    let copied = Command::new("cp").arg("-a").args([full, &root]).status();
    assert!(copied.unwrap().success());
    let program = std::env::current_exe().unwrap();
    let output = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e"])
        .arg(format!("trace={call}"))
        .arg("-e")
        .arg(format!("inject={call}:signal=SIGKILL:when={number}"))
        .arg(program)
        .args(["--exact", "task"])
        .envs([(ROOT, root.as_os_str()), (COLLECTS, "1".as_ref())])
        .output()
        .unwrap();
    let context = format!("killed at call {number} of {call}");
    let (store, _) = S::open(&root).expect(&context);
    collect(&*store);
    wait(async {
        assert!(
            store.walk(None, 1).await.expect(&context).is_empty(),
            "{context}"
        );
        assert!(
            store.leftovers().await.expect(&context).is_empty(),
            "{context}"
        );
    });
    assert!(directories(&root).is_empty(), "{context}");
    let manifests = std::fs::read_dir(root.join("manifests")).unwrap();
    assert_eq!(manifests.count(), 0, "{context}");
    !output.status.success()
}
