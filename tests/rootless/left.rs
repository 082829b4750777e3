//! Bundles that runs leave, mappers that do not start, and commands without `HOME`.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use testkit::archive::{Header, Tar};

use crate::common::{append, fails, ok, program};
use crate::run::tools;
use crate::scene::{Home, Ids, MORE, USER, succeeds};

/// A root in the home, given as an option.
const ROOT: [&str; 4] = ["--root", "r", "--snapshotter", "native"];

/// Makes a directory of `owner` with this mode.
fn directory(path: &Path, owner: u32, mode: u32) {
    fs::create_dir(path).unwrap();
    chown(path, Some(owner), Some(owner)).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Something is mounted in the bundle of a killed run, below a directory of the user, or below one
/// that only the superuser of the namespace can change.
#[test]
fn what_is_mounted_in_a_bundle_is_neither_removed_nor_changed() {
    let Some(home) = Home::with_namespaces(&["newuidmap"]) else {
        return;
    };
    ok(&mut home.cas(Ids::Many, &[&ROOT[..], &["init"]].concat()));
    for (case, owner) in [USER, MORE.0 + 7].into_iter().enumerate() {
        let kept = home.outside(&format!("kept{case}"));
        directory(&kept, USER, 0o500);
        fs::write(kept.join("file"), "kept").unwrap();
        let bundle = home.path(&format!("r/run/cas-native-{case}"));
        let runs = bundle.parent().unwrap();
        if !runs.exists() {
            directory(runs, USER, 0o700);
        }
        let lock = runs.join(format!("cas-native-{case}.lock"));
        fs::write(&lock, "").unwrap();
        chown(&lock, Some(USER), Some(USER)).unwrap();
        directory(&bundle, USER, 0o700);
        let held = bundle.join("held");
        directory(&held, owner, 0o755);
        fs::write(held.join("file"), "").unwrap();
        directory(&held.join("mounted"), USER, 0o755);

        let collect = home.cas(Ids::Many, &[&ROOT[..], &["gc"]].concat());
        let script = "mount --bind \"$0\" \"$1\" && shift && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["-m", "--propagation", "slave"]);
        command.args(["sh", "-c", script]).arg(&kept);
        command.arg(held.join("mounted"));
        append(&mut command, &collect);
        command.current_dir(home.outside(""));
        let (_, said) = succeeds(&mut command);
        assert!(
            said.contains("something is mounted here"),
            "{owner}: {said}"
        );
        let mode = fs::metadata(&kept).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o500, "{owner}");
        assert_eq!(fs::read_to_string(kept.join("file")).unwrap(), "kept");
        // Everything else in the bundle that could be removed is gone.
        assert!(!held.join("file").exists(), "{owner}");
        // Without the mount, the next collection removes the rest.
        succeeds(&mut home.cas(Ids::Many, &[&ROOT[..], &["gc"]].concat()));
        assert!(!bundle.exists() && !lock.exists(), "{owner}");
    }
}

/// Writes a program `newuidmap` that this user finds first.
fn own_mapper(home: &Home, text: &str, mode: u32) {
    let bin = home.path("bin");
    fs::create_dir_all(&bin).unwrap();
    program(&bin.join("newuidmap"), text, mode);
}

fn with_own_mapper(home: &Home, mut command: Command) -> Command {
    let path = format!("{}:/usr/bin:/bin", home.path("bin").display());
    command.env("PATH", path);
    command
}

#[test]
fn a_mapper_that_does_not_start_is_named_and_one_that_is_not_executable_is_skipped() {
    let Some(home) = Home::with_namespaces(&["newuidmap"]) else {
        return;
    };
    for (text, mode, maps) in [
        ("not a program", 0o644, true),
        ("#!/no/such/program\n", 0o755, false),
    ] {
        own_mapper(&home, text, mode);
        let command = home.unshared(Ids::Many, "cat /proc/self/uid_map");
        let (shown, said) = succeeds(&mut with_own_mapper(&home, command));
        assert_eq!(shown.lines().count(), if maps { 2 } else { 1 }, "{said}");
        let named = home.path("bin/newuidmap").display().to_string();
        assert_eq!(said.contains(&named), !maps, "{said}");
        assert_eq!(said.contains("for the reason above"), !maps, "{said}");
    }
}

/// The signal comes while files get their owners, which takes longer than the rest of the test. By
/// then, the bundle has a directory that cannot be removed.
#[test]
fn a_stopped_run_that_cannot_clean_up_has_the_exit_code_of_the_signal() {
    let Some(home) = Home::with_namespaces(&["newuidmap"]) else {
        return;
    };
    let layer = Tar::new().member(Header::new(b'0', "file").owner(33, 34), "");
    home.import(&home.image(vec![layer]));
    let up = home.path("up");
    let script = format!(
        "#!/bin/sh\n[ ! -e {0} ] || exit 1\n> {0}\n\
         for _ in $(seq 600); do [ ! -e {0} ] || sleep 0.1; done\n",
        up.display()
    );
    own_mapper(&home, &script, 0o755);
    let said = home.outside("said");
    let mut run = with_own_mapper(&home, home.cas(Ids::Many, &["run", "app", "--", "true"]));
    let mut child = run.stderr(File::create(&said).unwrap()).spawn().unwrap();
    while !up.exists() {
        assert_eq!(
            child.try_wait().unwrap(),
            None,
            "{}",
            fs::read_to_string(&said).unwrap()
        );
        sleep(Duration::from_millis(5));
    }
    let mut runs = fs::read_dir(home.path(".local/share/cas/run")).unwrap();
    let bundle = runs.find_map(|one| Some(one.unwrap().path()).filter(|path| path.is_dir()));
    let held = bundle.unwrap().join("rootfs/held");
    directory(&held, MORE.0, 0o755);
    fs::write(held.join("file"), "").unwrap();
    let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let code = child.wait().unwrap().code();
    let said = fs::read_to_string(&said).unwrap();
    assert_eq!(code, Some(143), "{said}");
    assert!(said.contains("cannot clean up after the run"), "{said}");
}

/// As in a command that cron starts, the root is given, and no variable names the user's home.
#[test]
fn a_given_root_is_enough_without_variables() {
    let Some(home) = Home::with_namespaces(&["newuidmap"]) else {
        return;
    };
    let Some(layer) = tools() else { return };
    let owned = Header::new(b'0', "file").owner(33, 34);
    let image = home.image(vec![layer.member(owned, "")]);
    for ids in [Ids::One, Ids::Many] {
        let cas = |arguments: &[&str]| {
            let mut command = home.cas(ids, &[&ROOT[..], arguments].concat());
            command.env_remove("HOME");
            command
        };
        ok(&mut cas(&[
            "import",
            "--name",
            "app",
            image.to_str().unwrap(),
        ]));
        let mut run = cas(&[
            "run",
            "--runtime",
            "chroot",
            "app",
            "--",
            "sh",
            "-c",
            "exit 7",
        ]);
        let said = fails(&mut run, 7);
        assert!(!said.contains("no default root"), "{said}");
        assert!(!said.contains("clean up"), "{said}");
        ok(&mut cas(&["unshare", "true"]));
    }
    let mut images = home.cas(Ids::One, &["images"]);
    let said = fails(images.env_remove("HOME"), 2);
    assert!(said.contains("no default root"), "{said}");
    let mut completions = home.cas(Ids::One, &["completions", "bash"]);
    ok(completions.env_remove("HOME"));
}
