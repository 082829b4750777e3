//! A budget for crates, because each crate costs build time and trust.

use std::collections::BTreeSet;
use std::process::Command;

/// Builds, each with its maximum number of crates, including its own. A commit that adds a crate
/// may raise a number, and says why.
const BUDGET: &[(&[&str], usize)] = &[
    (&["--package", "oci-cas"], 182),
    (&["--package", "oci-cas-core"], 40),
];

#[test]
fn no_build_has_more_crates_than_its_budget() {
    for (build, most) in BUDGET {
        let listed = Command::new(env!("CARGO"))
            .args([
                "tree", "--edges", "normal", "--prefix", "none", "--format", "{p}",
            ])
            .args(["--locked", "--offline"])
            .args(*build)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        assert!(
            listed.status.success(),
            "{}",
            String::from_utf8_lossy(&listed.stderr)
        );
        let listed = String::from_utf8(listed.stdout).unwrap();
        let crates = listed.lines().filter(|line| !line.is_empty());
        let crates: BTreeSet<&str> = crates.map(|line| line.trim_end_matches(" (*)")).collect();
        let found = crates.len();
        assert!(found > 10, "{listed}");
        assert!(
            found <= *most,
            "cargo tree {} has {found} crates, at most {most} are allowed",
            build.join(" ")
        );
    }
}
