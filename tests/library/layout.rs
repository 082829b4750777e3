//! The tool over layouts, `backend-fs/examples/layout.rs`, works on a layout of another program.

use std::fs;
use std::path::Path;
use std::process::Command;

use cas::{ErrorKind, Result};

use crate::common::{ok, real_image};

#[allow(
    dead_code,
    unreachable_pub,
    reason = "its `main` is not called, and it is a module here"
)]
#[path = "../../backend-fs/examples/layout.rs"]
mod tool;

/// Runs the tool on a directory. Returns what it prints.
fn run(directory: &Path, arguments: &[&str], mut input: &[u8]) -> Result<String> {
    let arguments = [&[directory.to_str().unwrap()], arguments].concat();
    let mut output = Vec::new();
    let running = tool::run(&arguments, &mut input, &mut output);
    cas::backend::pool::wait(running).map(|()| String::from_utf8(output).unwrap())
}

#[test]
fn the_tool_over_layouts_reads_changes_and_checks_a_real_layout() {
    let Some(real) = real_image("small") else {
        return;
    };
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let layout = scratch.path().join("layout");
    ok(Command::new("cp").arg("-a").args([&real, &layout]));
    let tool = |arguments: &[&str]| run(&layout, arguments, b"");
    let before = tool(&["list"]).unwrap();
    let (name, digest) = before.lines().next().unwrap().split_once(' ').unwrap();
    assert!(
        before.lines().any(|line| line.starts_with("small ")),
        "{before}"
    );
    assert_eq!(tool(&["check"]).unwrap(), "");
    let manifest = tool(&["cat", digest]).unwrap();
    assert!(manifest.contains("\"layers\""), "{manifest}");
    let path = tool(&["path", digest]).unwrap();
    assert_eq!(fs::read_to_string(path.trim_end()).unwrap(), manifest);
    let tag = |name: &str, digest: &str| tool(&["tag", name, digest, "application/json"]);
    let put = run(&layout, &["put"], b"{}").unwrap();
    let own = put.strip_suffix(" 2\n").unwrap();
    for _ in 0..2 {
        assert_eq!(run(&layout, &["put"], b"{}").unwrap(), put);
        assert_eq!(tag("own", own).unwrap(), "");
    }
    let taken = tag(name, own).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    let listed = tool(&["list"]).unwrap();
    assert!(
        listed.lines().any(|line| line == format!("own {own}")),
        "{listed}"
    );
    for _ in 0..2 {
        tool(&["untag", "own"]).unwrap();
        tool(&["delete", own]).unwrap();
    }
    assert_eq!(tool(&["list"]).unwrap(), before);
    for (arguments, kind) in [
        (&["cat", own][..], ErrorKind::NotFound),
        (&["path", own], ErrorKind::NotFound),
        (&["cat", "sha256:1"], ErrorKind::InvalidArgument),
        (&["frob"], ErrorKind::InvalidArgument),
    ] {
        assert_eq!(tool(arguments).unwrap_err().kind(), kind, "{arguments:?}");
    }
    let file = path.trim_end();
    fs::write(file, manifest.replace("layers", "larers")).unwrap();
    assert_eq!(tool(&["check"]).unwrap_err().kind(), ErrorKind::Corrupt);
}
