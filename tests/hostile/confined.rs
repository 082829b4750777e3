//! Commands that unpack confine the threads that do it, unless the user forbids it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{can, cas, demo_archive, ok, text};

/// Returns how often a command makes each of three calls that confine a thread.
fn confined(command: &Command, log: &Path) -> [usize; 3] {
    let mut traced = Command::new("strace");
    traced.args([
        "-f",
        "-qq",
        "-e",
        "trace=landlock_restrict_self,seccomp,capset",
    ]);
    traced.arg("-o").arg(log).arg(command.get_program());
    ok(traced.args(command.get_args()));
    let log = text(&fs::read(log).unwrap());
    ["landlock_restrict_self", "seccomp", "capset"].map(|call| {
        // The result may be on another line, if threads make calls at the same time.
        log.matches(&format!(" {call}(")).count()
    })
}

#[test]
fn commands_that_unpack_are_confined_unless_forbidden() {
    if !can(&["strace"]) {
        return;
    }
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = |name: &str| scratch.path().join(name);
    let archive = demo_archive(scratch.path());
    ok(cas(&path("stored"))
        .args(["import", "--name", "app"])
        .arg(&archive));
    for forbidden in [false, true] {
        let of = |name: &str| path(&format!("{name}-{forbidden}"));
        let with = |root: &Path, arguments: &[&str]| {
            let mut command = cas(root);
            if forbidden {
                command.arg("--no-confine");
            }
            command.args(arguments);
            command
        };
        let (native, overlay) = (of("native"), of("overlay"));
        let mut import = with(&native, &["--snapshotter", "native", "import", "--unpack"]);
        import.arg(&archive);
        let mut stream = with(
            &overlay,
            &["--snapshotter", "overlay", "import", "--unpack"],
        );
        stream.arg(&archive);
        let mut unpack = with(&path("stored"), &["unpack", "app"]);
        unpack.arg(of("tree"));
        let mut bundle = with(&path("stored"), &["bundle", "app"]);
        bundle.arg(of("bundle"));
        let mut disk = with(&path("stored"), &["disk", "app", "-o"]);
        disk.arg(of("disk"));
        for command in [import, stream, unpack, bundle, disk] {
            let found = confined(&command, &path("log"));
            let right = found.into_iter().all(|count| (count == 0) == forbidden);
            assert!(right, "{command:?}: {found:?}");
        }
    }
}
