//! `cargo xtask TASK`: the one entry point for every habit of this workspace.

mod peers;

use std::env;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};

const HELP: &str = "\
cargo xtask TASK

  check   what CI runs: set up, format, lint, document, test; about twenty minutes cold
  long    what is too slow for CI: release build, all real images, licences, benches
  setup   the peers and images that tests compare with (root and apt; elsewhere it says so)
  bench   the curves, the table of all backends (docs/BACKENDS.md), ours beside the peers
";

fn main() -> ExitCode {
    let task = env::args().nth(1).unwrap_or_default();
    let done = match task.as_str() {
        "check" => check(),
        "long" => long(),
        "setup" => peers::set_up(),
        "bench" => bench(),
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

/// Feature sets that must build besides the default one.
const FEATURES: &[&[&str]] = &[
    &["--no-default-features"],
    &["--no-default-features", "--features", "fs,native"],
    &["--features", "s3"],
];

/// Features that are not default, yet are linted, documented and tested with the rest.
const BESIDES: &str = "s3";

fn check() -> Result<()> {
    peers::set_up()?;
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--features",
        BESIDES,
        "--",
        "--deny",
        "warnings",
    ])?;
    for features in FEATURES {
        cargo(&[&["check", "--package", "oci-cas", "--lib"], *features].concat())?;
    }
    step(
        Command::new("cargo")
            .args(["doc", "--workspace", "--no-deps", "--features", BESIDES])
            .env("RUSTDOCFLAGS", "-Dwarnings"),
    )?;
    cargo(&["test", "--workspace", "--features", BESIDES])
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
    cargo(&[
        "test",
        "--release",
        "--workspace",
        "--features",
        BESIDES,
        "--",
        "--include-ignored",
    ])?;
    bench()
}

fn bench() -> Result<()> {
    cargo(&["build", "--release", "--package", "oci-cas"])?;
    cargo(&["bench", "--package", "oci-cas-benches"])?;
    cargo(&[
        "run",
        "--release",
        "--package",
        "oci-cas-benches",
        "--bin",
        "table",
        "--",
        "--write",
        "docs/BACKENDS.md",
        "--plots",
        "docs/plots",
    ])?;
    cargo(&[
        "run",
        "--release",
        "--package",
        "oci-cas-benches",
        "--bin",
        "peers",
    ])
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
