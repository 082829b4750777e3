//! The probe in a user namespace, where no image can be mounted.

use std::path::Path;
use std::process::Command;

use cas_core::snapshot::Backing;

/// The environment variable that names the directory to the process in the namespace.
const DIRECTORY: &str = "CAS_TEST_PROBED";

/// Prints the answers of the probe, in the process in the namespace.
#[test]
fn print_answers() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    for backing in [Backing::File, Backing::Loop] {
        println!(
            "{:?}",
            snapshot_erofs::probe_with(Path::new(&directory), backing)
        );
    }
}

#[test]
fn the_probe_says_in_a_user_namespace_that_the_superuser_is_needed() {
    let temp = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user"])
        .arg(program)
        .args(["--exact", "namespace::print_answers", "--nocapture"])
        .env(DIRECTORY, temp.path())
        .output();
    let output = match output {
        Ok(output) if output.status.success() => output,
        other => {
            eprintln!("SKIPPED: a user namespace is needed: {other:?}");
            return;
        }
    };
    let text = String::from_utf8(output.stdout).unwrap();
    let refused = "only the superuser of the machine can mount images";
    assert_eq!(text.matches(refused).count(), 2, "{text}");
    assert_eq!(temp.path().read_dir().unwrap().count(), 0);
}
