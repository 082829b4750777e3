//! Overlays of more layers than the kernel accepts in one overlay.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use cas_core::ErrorKind;
use cas_core::snapshot::Mount;
use cas_host::mount;

/// The kernel stacks at most two overlays. More than 500 layers need both.
#[test]
fn more_layers_than_an_overlay_has_are_refused_on_an_overlay() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only the superuser can mount");
        return;
    }
    // The upper directory of an overlay may be in memory.
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = |name: &str| scratch.path().join(name);
    for name in ["lower", "upper", "work", "base"] {
        fs::create_dir(path(name)).unwrap();
    }
    let named = |name: &str| path(name).display().to_string();
    let (lower, upper, work) = (named("lower"), named("upper"), named("work"));
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    let mut base = Command::new("mount");
    base.args(["-t", "overlay", "-o", &options, "overlay"]);
    assert!(base.arg(path("base")).status().unwrap().success());
    let opened = |layers: usize| {
        let layer = |number: usize| path("base").join(number.to_string());
        let lower: Vec<PathBuf> = (0..layers).map(layer).collect();
        for layer in &lower {
            fs::create_dir_all(layer).unwrap();
        }
        let (upper, work, options) = (None, None, Vec::new());
        let mount = Mount::Overlay {
            lower,
            upper,
            work,
            options,
        };
        mount::open(&[mount]).map(drop)
    };
    let (few, many) = (opened(500), opened(501));
    let unmounted = Command::new("umount").arg("-l").arg(path("base")).status();
    assert!(unmounted.unwrap().success());
    few.unwrap();
    let error = many.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let said = error.to_string();
    assert!(said.contains("more than 500 layers"), "{said}");
    assert!(said.contains("native snapshotter"), "{said}");
}
