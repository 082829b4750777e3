//! `cargo xtask TASK`: the one entry point for every habit of this workspace.

mod laws;
mod peers;

use std::env;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};

const HELP: &str = "\
cargo xtask TASK

  check   what CI runs: set up, format, lint, document, test; about an hour cold, with RocksDB
  long    what is too slow for CI: release build, all real images, licences, benches
  setup   the peers and images that tests compare with (root and apt; elsewhere it says so)
  bench   the curves, the table of all backends (docs/BACKENDS.md), ours beside the peers
  report  holds every store to the law book and writes docs/BACKENDS.md
";

fn main() -> ExitCode {
    let task = env::args().nth(1).unwrap_or_default();
    let done = match task.as_str() {
        "check" => check(),
        "long" => long(),
        "setup" => peers::set_up(),
        "bench" => bench(),
        "report" => laws::report(),
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask {task}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Feature sets that must build besides the default one and that of the tests.
const FEATURES: &[&[&str]] = &[
    &["--no-default-features"],
    &["--no-default-features", "--features", "fs,native"],
    &["--no-default-features", "--features", "redb,registry"],
    &["--features", "remote"],
];

/// The whole workspace with features that are not default, as it is linted, documented and tested.
fn everything() -> &'static [&'static str] {
    match peers::can_build_rocksdb() {
        true => &["--workspace", "--features", "s3,rocksdb"],
        false => &[
            "--workspace",
            "--features",
            "s3",
            "--exclude",
            "oci-cas-backend-rocksdb",
        ],
    }
}

fn check() -> Result<()> {
    peers::set_up()?;
    let everything = everything();
    cargo(&["fmt", "--all", "--check"])?;
    lint_example()?;
    let strict = ["--all-targets", "--", "--deny", "warnings"];
    cargo(&[&["clippy"], everything, &strict].concat())?;
    for features in FEATURES {
        cargo(&[&["check", "--package", "oci-cas", "--lib"], *features].concat())?;
    }
    step(
        Command::new("cargo")
            .args([&["doc", "--no-deps"], everything].concat())
            .env("RUSTDOCFLAGS", "-Dwarnings"),
    )?;
    cargo(&[&["test"], everything].concat())?;
    cargo(&[&["test"], EXAMPLE].concat())
}

/// The backend that stands for those of strangers: a workspace of its own, with its own lock file.
const EXAMPLE: &[&str] = &[
    "--manifest-path",
    "examples/new-backend/Cargo.toml",
    "--locked",
    "--target-dir",
    "target",
];

/// Before the long builds, as its lock file goes stale with every dependency of ours.
fn lint_example() -> Result<()> {
    cargo(&["fmt", EXAMPLE[0], EXAMPLE[1], "--check"])?;
    let strict = ["--all-targets", "--", "--deny", "warnings"];
    cargo(&[&["clippy"], EXAMPLE, &strict].concat())
}

fn long() -> Result<()> {
    check()?;
    peers::make_images(peers::ALL_IMAGES)?;
    if Command::new("cargo-deny")
        .arg("--version")
        .output()
        .is_err()
    {
        cargo(&["install", "cargo-deny", "--locked"])?;
    }
    cargo(&["deny", "check", "bans", "licenses", "sources"])?;
    let search = [
        "test",
        "--release",
        "--package",
        "oci-cas-core",
        "--test",
        "protocol",
    ];
    step(
        Command::new("cargo")
            .args(search)
            .env("CAS_PREEMPTIONS", "3"),
    )?;
    let ignored = ["--release", "--", "--include-ignored"];
    cargo(&[&["test"], everything(), &ignored].concat())?;
    bench()
}

fn bench() -> Result<()> {
    cargo(&["build", "--release", "--package", "oci-cas"])?;
    let features = match peers::can_build_rocksdb() {
        true => "rocksdb",
        false => "",
    };
    let benches = ["--package", "oci-cas-benches", "--features", features];
    cargo(&[&["bench"], &benches[..]].concat())?;
    let run = |binary, options: &[&str]| {
        let release = ["run", "--release"];
        cargo(&[&release, &benches[..], &["--bin", binary, "--"], options].concat())
    };
    let plots = ["--plots", "docs/plots"];
    run(
        "table",
        &[&["--write", "docs/BACKENDS.md"], &plots[..]].concat(),
    )?;
    run("peers", &[])
}

fn cargo(arguments: &[&str]) -> Result<()> {
    step(Command::new("cargo").args(arguments))
}

/// Runs one command, saying what it is and how long it took.
fn step(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}").replace('"', "");
    eprintln!("==> {shown}");
    let begun = Instant::now();
    let status = command
        .status()
        .with_context(|| format!("cannot start {shown}"))?;
    if !status.success() {
        bail!("{shown} ended with {status}");
    }
    eprintln!("<== {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}
