//! `cargo xtask TASK`: the one entry point for checks, benches and reports of this workspace.

mod fuzz;
mod laws;
mod mounts;
mod output;
mod peers;
mod stage;
mod tests;
mod words;

use std::env;
use std::process::{Command, ExitCode};
use std::thread::{self, ScopedJoinHandle};

use anyhow::{Result, anyhow};

use self::stage::{Stages, cargo, print_size, step};

const HELP: &str = "\
cargo xtask TASK

  check    set up, check words and format, lint, document and test everything except RocksDB
  test     set up and test everything except RocksDB; a part of `check`
  words    find words that no text may use; a part of `check`
  rocksdb  lint and test RocksDB, which takes minutes to build; CI runs `rocksdb` and `check`
  kills    kill every verb 300 times on each store with each snapshotter; takes days; can be
           resumed
  faults   make every system call of every verb fail once, on each local store and each snapshotter;
           takes days; can be resumed
  crashes  for each store, kill processes at work, run collections during changes, and, except for
           S3, simulate losses of power; check what is left; takes a day; can be resumed
  fuzz     look for input that breaks a parser, one CPU minute for each target; can be resumed;
           --minutes N for more
  long     run `check`, `rocksdb`, and checks that are too slow for CI: release build, all real
           images, licenses, benches, and `fuzz`; --fuzz-minutes N for more of `fuzz`
  setup    install programs that builds and tests call, and make the small image; if you are not
           the superuser on Debian, list the missing Debian packages instead of installing them
  bench    measure the backends except dir and s3 (writes docs/BACKENDS.md and docs/plots), and
           compare the tool with peers
  report   run the conformance tests of every store and snapshotter, and write the results to
           docs/BACKENDS.md
";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    // A task can take hours, so a wrong argument must not begin one.
    let given: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (name, minutes) = match given[..] {
        [name] => (name, 1.0),
        ["fuzz", "--minutes", number] | ["long", "--fuzz-minutes", number] => {
            match number.parse::<f64>() {
                Ok(minutes) if minutes.is_finite() && minutes > 0.0 => (given[0], minutes),
                _ => return usage(),
            }
        }
        _ => return usage(),
    };
    let fuzz = || fuzz::run(minutes);
    let long = || long(minutes);
    let task: &dyn Fn() -> Result<()> = match name {
        "check" => &check,
        "test" => &|| peers::set_up().and_then(|()| tests::run(WORKSPACE)),
        "words" => &words::check,
        "rocksdb" => &rocksdb,
        "kills" => &|| strike(KILLED, &["--skip", "faults_on"]),
        "faults" => &|| strike(FAILED, &["faults_on"]),
        "crashes" => &crashes,
        "fuzz" => &fuzz,
        "long" => &long,
        "setup" => &peers::set_up,
        "bench" => &bench,
        "report" => &laws::report,
        _ => return usage(),
    };
    match mounts::share().and_then(|()| task()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask {name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprint!("{HELP}");
    ExitCode::from(2)
}

/// Sets of features that must build, besides the set that the tests use.
const FEATURES: &[&[&str]] = &[
    &["--no-default-features"],
    &["--no-default-features", "--features", "redb"],
    &["--no-default-features", "--features", "fs,native,registry"],
];

/// Cargo's options for the whole workspace except RocksDB. Lints, documentation and tests use them.
const WORKSPACE: &[&str] = &[
    "--workspace",
    "--features",
    "s3,cosign",
    "--exclude",
    "oci-cas-backend-rocksdb",
];

/// Cargo's options for the backend RocksDB alone.
const ROCKSDB: &[&str] = &["--package", "oci-cas-backend-rocksdb"];
/// Cargo's options for the tool with RocksDB.
const WITH_ROCKSDB: &[&str] = &["--package", "oci-cas", "--features", "s3,rocksdb"];
/// Cargo's options for the tests of the tool that run on every local store. Leaves out the modules
/// `directory` and `bucket` of the test `fsck`, which test only the stores `dir` and `s3`.
const ENGINES: &[&str] = &[
    "--test",
    "engines",
    "--test",
    "formats",
    "--test",
    "fsck",
    "--test",
    "places",
    "--test",
    "space",
    "--",
    "--skip",
    "directory::",
    "--skip",
    "bucket::",
];

/// Cargo's arguments for the tests of App Container images (ACIs) on all stores, including
/// RocksDB.
const ACIS: &[&str] = &[
    "test",
    "--package",
    "oci-cas",
    "--package",
    "oci-cas-aci",
    "--features",
    "oci-cas/s3,oci-cas/rocksdb",
    "--test",
    "store",
];

/// Makes clippy check all targets, and fail if there is a warning.
const STRICT: &[&str] = &["--all-targets", "--", "--deny", "warnings"];

fn check() -> Result<()> {
    let mut stages = Stages::default();
    // Only the tests need the set-up, and it mostly waits for the network. So it runs while the
    // other stages run.
    let checked = thread::scope(|scope| check_stages(&mut stages, scope.spawn(peers::set_up)));
    let finished = stages.finish();
    checked.and(finished)
}

fn check_stages(stages: &mut Stages, set_up: ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    stages.time("words", words::check)?;
    stages.run("format", &mut cargo(&["fmt", "--all", "--check"]))?;
    let example = ["fmt", EXAMPLE[0], EXAMPLE[1], "--check"];
    stages.run("format of the example", &mut cargo(&example))?;
    stages.run(
        "clippy",
        &mut cargo(&[&["clippy"], WORKSPACE, STRICT].concat()),
    )?;
    let example = [&["clippy"], EXAMPLE, STRICT].concat();
    stages.run("clippy of the example", &mut cargo(&example))?;
    for features in FEATURES {
        let build = [&["check", "--package", "oci-cas", "--lib"], *features].concat();
        stages.run("other features", &mut cargo(&build))?;
    }
    let mut document = cargo(&[&["doc", "--no-deps"], WORKSPACE].concat());
    stages.run("documentation", document.env("RUSTDOCFLAGS", "-Dwarnings"))?;
    let build = [&["test", "--no-run"], WORKSPACE].concat();
    stages.run("build of the tests", &mut cargo(&build))?;
    let build = [&["test", "--no-run"], EXAMPLE].concat();
    stages.run("build of the example", &mut cargo(&build))?;
    let set_up = || set_up.join().map_err(|_| anyhow!("the set-up panicked"))?;
    stages.time("rest of the set-up", set_up)?;
    stages.try_time("tests", || tests::run(WORKSPACE));
    let tests = [&["test", "--no-fail-fast"], EXAMPLE].concat();
    stages.try_run("tests of the example", &mut cargo(&tests));
    Ok(())
}

/// Lints and tests RocksDB. This is a separate task, because RocksDB takes minutes to build. If
/// RocksDB cannot be built, prints what the build needs, and returns no error.
fn rocksdb() -> Result<()> {
    peers::set_up()?;
    if !peers::can_build_rocksdb() {
        return Ok(());
    }
    let mut stages = Stages::default();
    stages.run(
        "clippy",
        &mut cargo(&[&["clippy"], ROCKSDB, STRICT].concat()),
    )?;
    let build = [&["test", "--no-run"], ROCKSDB].concat();
    stages.run("build of the tests", &mut cargo(&build))?;
    let tests = [&["test", "--no-fail-fast"], ROCKSDB].concat();
    stages.try_run("tests", &mut cargo(&tests));
    let tests = [&["test", "--no-fail-fast"], WITH_ROCKSDB, ENGINES].concat();
    stages.try_run("tests of the tool", &mut cargo(&tests));
    let verbs = ["--test", "tool", "--", "library::", "roots::"];
    let tests = [&["test"], WITH_ROCKSDB, &verbs].concat();
    stages.try_run("tests of the verbs", &mut cargo(&tests));
    stages.try_run("tests of ACIs", &mut cargo(ACIS));
    stages.finish()
}

/// The example backend, which is a separate workspace with its own lock file.
const EXAMPLE: &[&str] = &[
    "--manifest-path",
    "examples/new-backend/Cargo.toml",
    "--locked",
    "--target-dir",
    "target",
];

fn long(fuzz_minutes: f64) -> Result<()> {
    check()?;
    rocksdb()?;
    peers::make_images(peers::ALL_IMAGES)?;
    if Command::new("cargo-deny")
        .arg("--version")
        .output()
        .is_err()
    {
        step(&mut cargo(&["install", "cargo-deny", "--locked"]))?;
    }
    step(&mut cargo(&[
        "deny", "check", "bans", "licenses", "sources",
    ]))?;
    let search = [
        "test",
        "--release",
        "--package",
        "oci-cas-core",
        "--test",
        "protocol",
    ];
    step(cargo(&search).env("CAS_PREEMPTIONS", "3"))?;
    let ignored = [
        "--release",
        "--",
        "--include-ignored",
        "--skip",
        "faults_on",
    ];
    step(&mut cargo(&[&["test"], everything(), &ignored].concat()))?;
    fuzz::run(fuzz_minutes)?;
    bench()
}

/// The logs of the tasks `kills` and `faults`. For each store, snapshotter and verb, a line states
/// whether data of killed or failed runs of the verb remained after a collection. A task skips each
/// combination whose line ends with `nothing left`. Without a log, a task skips nothing.
const KILLED: &str = "target/kills.log";
const FAILED: &str = "target/faults.log";

/// Runs the tests that `chosen` selects: those that kill verbs, or those that make the system calls
/// of verbs fail.
fn strike(log: &str, chosen: &[&str]) -> Result<()> {
    let features = if peers::can_build_rocksdb() {
        "s3,rocksdb"
    } else {
        "s3"
    };
    let test = ["test", "--package", "oci-cas", "--features", features];
    let kills = ["--test", "kills", "--", "--ignored", "--nocapture"];
    let log = env::current_dir()?.join(log);
    step(cargo(&[&test[..], &kills, chosen].concat()).env("CAS_KILLS_LOG", log))
}

/// The log of the task `crashes`. It lists the trials that have ended. The task skips these trials.
const CRASHED: &str = "target/crashes.log";

fn crashes() -> Result<()> {
    peers::set_up()?;
    let features: &[&str] = if peers::can_build_rocksdb() {
        &["--features", "rocksdb"]
    } else {
        &[]
    };
    let run = ["run", "--release", "--package", "oci-cas-crash"];
    let all = ["--", "all", "--log", CRASHED];
    step(&mut cargo(&[&run[..], features, &all].concat()))
}

/// Returns cargo's options for the whole workspace, with RocksDB if it can be built.
fn everything() -> &'static [&'static str] {
    if peers::can_build_rocksdb() {
        &["--workspace", "--features", "s3,rocksdb,cosign"]
    } else {
        WORKSPACE
    }
}

fn bench() -> Result<()> {
    step(&mut cargo(&["build", "--release", "--package", "oci-cas"]))?;
    print_size("target/release/cas")?;
    let features = if peers::can_build_rocksdb() {
        "rocksdb"
    } else {
        ""
    };
    let benches = ["--package", "oci-cas-benches", "--features", features];
    step(&mut cargo(&[&["bench"], &benches[..]].concat()))?;
    let run = |binary, options: &[&str]| {
        let release = ["run", "--release"];
        let run = [&release, &benches[..], &["--bin", binary, "--"], options].concat();
        step(&mut cargo(&run))
    };
    let plots = ["--plots", "docs/plots"];
    run(
        "table",
        &[&["--write", "docs/BACKENDS.md"], &plots[..]].concat(),
    )?;
    run("peers", &[])
}
