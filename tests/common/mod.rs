//! Helpers of the tests of the tool.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

pub(crate) mod cgroup;
#[cfg(all(feature = "cli", feature = "on-demand"))]
pub(crate) mod chunked;
pub(crate) mod disk;
#[allow(unused_imports, reason = "each test binary uses its part")]
pub(crate) use testkit::docker;
pub(crate) mod gate;
pub(crate) use testkit::layout;
pub(crate) mod platforms;
pub(crate) mod shop;
pub(crate) mod tree;
pub(crate) mod unkept;
pub(crate) mod usage;

use std::iter;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

/// Engines of this build that keep a store in a directory.
pub(crate) const ENGINES: &[&str] = &[
    "fs",
    #[cfg(feature = "redb")]
    "redb",
    #[cfg(feature = "rocksdb")]
    "rocksdb",
    #[cfg(feature = "remote")]
    "dir",
];

/// Writes a program, for example a script, with these mode bits.
///
/// Another process writes it. A program cannot be started while it is open for writing, and a child
/// that another thread starts meanwhile has each open file of this process for a moment.
pub(crate) fn program(path: &Path, text: &str, mode: u32) {
    let written = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&written, text).unwrap();
    let mut install = Command::new("install");
    install.arg(format!("--mode={mode:o}"));
    ok(install.arg(written.path()).arg(path));
}

/// Copies the tool to a path, as [`program`] writes a program.
pub(crate) fn copy_tool(path: &Path) {
    ok(Command::new("install")
        .arg(env!("CARGO_BIN_EXE_cas"))
        .arg(path));
}

/// Returns the snapshotters that the superuser can mount with: `erofs` only where the kernel mounts
/// its images from files. Prints a line if the kernel cannot.
pub(crate) fn mounting_snapshotters() -> Vec<&'static str> {
    let mut usable = vec!["overlay", "native"];
    let scratch = tempfile::tempdir().unwrap();
    let registry = cas::registry();
    let mut openers = registry.snapshotters();
    let erofs = openers.find(|opener| opener.scheme() == "erofs");
    match erofs.map(|opener| opener.probe(scratch.path())) {
        Some(Ok(())) => usable.push("erofs"),
        probed => eprintln!("SKIPPED: the snapshotter erofs does not work here: {probed:?}"),
    }
    usable
}

/// Returns the stores of this build: its engines, and an empty bucket if there is an S3 service.
pub(crate) fn stores(test: &str) -> Vec<String> {
    let mut stores: Vec<String> = ENGINES.iter().map(|engine| (*engine).to_owned()).collect();
    if cfg!(feature = "s3")
        && let Some(host) = testkit::s3::service()
    {
        let (bucket, unique) = (testkit::s3::BUCKET, cas::backend::unique::key(test));
        stores.push(format!("s3://{bucket}/{unique}?endpoint=http://{host}"));
    }
    stores
}

/// Returns a command of the tool on a root.
pub(crate) fn cas(root: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cas"));
    command
        .env_remove("CAS_ROOT")
        .arg("--root")
        .arg(root)
        .arg("--no-progress");
    command
}

/// Returns a command that runs the tool at a terminal, or `None` if the program for that is
/// missing.
pub(crate) fn at_terminal(tool: &Command) -> Option<Command> {
    if Command::new("script").arg("--version").output().is_err() {
        eprintln!("SKIPPED: the program `script` is missing; install bsdutils");
        return None;
    }
    let words = iter::once(tool.get_program()).chain(tool.get_args());
    let words: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
    let mut script = Command::new("script");
    script.args(["-qec", &words.join(" "), "/dev/null"]);
    script.envs(
        tool.get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    script.stdin(Stdio::piped()).stdout(Stdio::piped());
    Some(script)
}

/// Appends a command and its arguments to the arguments of another command, which gets the changes
/// of its environment, too.
pub(crate) fn append(outer: &mut Command, inner: &Command) {
    outer.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
}

/// Returns `command` under strace, which injects `faults` into its system calls, as in
/// `openat2,mkdirat:error=EINTR`.
pub(crate) fn failing(command: &Command, faults: &str) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null"]);
    strace.args(["-e", &format!("inject={faults}")]);
    append(&mut strace, command);
    strace
}

/// Returns `command` under strace, which kills it when it makes the system calls `calls`, separated
/// by commas, for the time `when`, counted from 1.
pub(crate) fn killed_at(command: &Command, calls: &str, when: usize) -> Command {
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq", "-o", "/dev/null", "-e"])
        .arg(format!("trace={calls}"))
        .arg("-e")
        .arg(format!("inject={calls}:signal=KILL:when={when}"));
    append(&mut strace, command);
    strace
}

/// Unmounts a directory so that the tool does not notice. Waits until no mount namespace of another
/// test has a copy of the mount.
pub(crate) fn unmount(directory: &Path) {
    ok(Command::new("umount").arg(directory));
    while cas_host::MountedDirs::read().has(directory) {
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a command that must succeed. Returns its standard output.
pub(crate) fn ok(command: &mut Command) -> String {
    let out = command.output().expect("start");
    assert!(
        out.status.success(),
        "{command:?}: {}\n{}{}",
        out.status,
        text(&out.stdout),
        text(&out.stderr)
    );
    text(&out.stdout)
}

/// Runs a command that must fail with `code`. Returns its standard error.
pub(crate) fn fails(command: &mut Command, code: i32) -> String {
    let out: Output = command.output().expect("start");
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{command:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Returns whether all programs are installed and this is the superuser. Otherwise prints why the
/// test is skipped.
pub(crate) fn can(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| Command::new(program).arg("--version").output().is_err())
        .collect();
    let root = rustix::process::geteuid().is_root();
    if !missing.is_empty() || !root {
        eprintln!(
            "SKIPPED: missing {missing:?}, superuser: {root}; run `cargo xtask setup` as the \
             superuser"
        );
    }
    missing.is_empty() && root
}

/// Returns a real image of `cargo xtask setup`. If it is absent, prints that and returns `None`.
pub(crate) fn real_image(name: &str) -> Option<PathBuf> {
    let layout = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/images")
        .join(name);
    let made = layout.join("index.json").exists();
    if !made {
        eprintln!(
            "SKIPPED: no {}; run `cargo xtask setup` as the superuser to make it",
            layout.display()
        );
    }
    made.then_some(layout)
}

/// Returns an OCI archive of the demo's image in `scratch`. It is made once per test binary.
pub(crate) fn demo_archive(scratch: &Path) -> PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    archive_of(2000, &MADE, scratch)
}

/// Returns an archive as [`demo_archive`], of an image with a tenth of the files.
pub(crate) fn small_archive(scratch: &Path) -> PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    archive_of(200, &MADE, scratch)
}

fn archive_of(files: u32, made: &'static OnceLock<PathBuf>, scratch: &Path) -> PathBuf {
    let made = made.get_or_init(|| {
        // Several test binaries run at the same time.
        let name = format!("demo-{}-{files}", env!("CARGO_CRATE_NAME"));
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        if place.exists() {
            std::fs::remove_dir_all(&place).unwrap();
        }
        let mut demo = Command::new(env!("CARGO_BIN_EXE_cas"));
        demo.args(["-q", "demo", "--files", &files.to_string(), "--keep"]);
        ok(demo.arg(&place));
        place.join("demo.tar")
    });
    let copy = scratch.join("demo.tar");
    std::fs::copy(made, &copy).unwrap();
    copy
}
