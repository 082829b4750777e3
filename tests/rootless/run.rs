//! `cas run` without privileges.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use testkit::archive::{Header, Tar};

use crate::common::usage::usage;
use crate::common::{can, cas, fails, ok, real_image, text};
use crate::scene::{Home, Ids, MORE, USER, readable, succeeds};

/// Returns a program that contains the usual tools and needs no libraries, or `None` as
/// [`real_image`] does.
fn busybox() -> Option<&'static [u8]> {
    static TAKEN: OnceLock<Vec<u8>> = OnceLock::new();
    let small = real_image("small")?;
    Some(TAKEN.get_or_init(|| {
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let (root, tree) = (scratch.path().join("root"), scratch.path().join("tree"));
        ok(cas(&root).args(["import", "--name", "small"]).arg(small));
        ok(cas(&root).args(["unpack", "small"]).arg(&tree));
        fs::read(tree.join("bin/busybox")).unwrap()
    }))
}

/// Returns a layer with tools.
pub(crate) fn tools() -> Option<Tar> {
    let busybox = busybox()?;
    let header = Header::new(b'0', "bin/busybox").mode(0o755);
    let layer = Tar::new().member(header.size(busybox.len() as u64), busybox);
    let names = "sh id stat touch mkdir chmod chown sleep true cat head ls".split(' ');
    let link = |layer: Tar, name| layer.symlink(format!("bin/{name}"), "busybox");
    Some(names.fold(layer, link))
}

/// Returns a home with three images in its store: `app:app`; `app:served`, which runs as 1000:1000;
/// and `app:unknown`, whose user does not exist in it.
fn home() -> Option<Home> {
    let home = Home::with_namespaces(&["umoci", "runc", "newuidmap"])?;
    let own = |header: Header| header.owner(1000, 1000);
    let layer = tools()?
        .member(own(Header::new(b'5', "srv/own").mode(0o700)), "")
        .member(own(Header::new(b'0', "srv/own/file")), "")
        .member(Header::new(b'5', "closed").mode(0o500), "")
        .file("closed/file", "");
    let layout = home.image(vec![layer]);
    for (tag, user) in [("served", "1000:1000"), ("unknown", "nobody-here")] {
        ok(Command::new("umoci")
            .args(["config", "--image", &format!("{}:app", layout.display())])
            .args(["--tag", tag, "--config.user", user]));
    }
    readable(&layout);
    home.import(&layout);
    Some(home)
}

/// Returns what runs have left.
fn runs(home: &Home) -> Vec<PathBuf> {
    let found = fs::read_dir(home.path(".local/share/cas/run"));
    found
        .into_iter()
        .flatten()
        .map(|one| one.unwrap().path())
        .collect()
}

/// Checks that runs have left nothing.
#[track_caller]
fn assert_clean(home: &Home) {
    assert_eq!(runs(home), Vec::<PathBuf>::new());
}

/// Prints the user, and writes where only the user 1000 of the image may.
const WHO: &str = "touch /srv/own/new && cat /dev/zero 2>/dev/null | head -c 3 >/dev/null && \
    ls /proc/self >/dev/null && echo $(id -u):$(id -g) $(stat -c %u:%g /srv/own)";

#[test]
fn programs_run_as_the_user_of_the_image_and_nothing_is_left() {
    let Some(home) = home() else { return };
    for runtime in ["runc", "crun", "chroot"] {
        if runtime == "crun" && !can(&["crun"]) {
            continue;
        }
        for (ids, image, who) in [
            (Ids::One, "app:app", "0:0 0:0"),
            (Ids::Many, "app:app", "0:0 1000:1000"),
            (Ids::One, "app:served", "0:0 0:0"),
            (Ids::Many, "app:served", "1000:1000 1000:1000"),
        ] {
            let case = format!("{runtime} {ids:?} {image}");
            if runtime == "crun" && ids == Ids::One {
                // crun calls newuidmap even for one id, which fails for a user without a name.
                continue;
            }
            let run = |script: &str| {
                let arguments = ["run", "--runtime", runtime, image, "--", "sh", "-c", script];
                home.cas(ids, &arguments)
            };
            let (shown, said) = succeeds(&mut run(WHO));
            assert_eq!(shown.trim(), who, "{case}: {said}");
            let warned = said.contains("are 1000:1000, which your user namespace does not map");
            assert_eq!(warned, (ids, image) == (Ids::One, "app:served"), "{case}");
            assert_clean(&home);
            if image == "app:app" {
                fails(&mut run("exit 7"), 7);
                let missing = ["run", "--runtime", runtime, image, "--", "no"];
                fails(&mut home.cas(ids, &missing), 127);
            }
            assert_clean(&home);
        }
    }
}

/// Starts a program that prints `up`, and waits for that.
fn started(mut run: Command) -> Child {
    let mut child = run.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let out = child.stdout.take().unwrap();
    BufReader::new(out).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    child
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(id.try_into().unwrap()).unwrap()
}

#[test]
fn signals_reach_the_program_and_what_kills_leave_is_collected() {
    let Some(home) = home() else { return };
    let run = |ids, runtime, script| {
        let arguments = [
            "run",
            "--runtime",
            runtime,
            "app:app",
            "--",
            "sh",
            "-c",
            script,
        ];
        home.cas(ids, &arguments)
    };
    let patient = "trap 'exit 9' TERM; echo up; while :; do sleep 0.1; done";
    let forever = "mkdir -p /d/d && chown -R 7:7 /d 2>/dev/null; echo up; exec sleep 1000";
    for (runtime, ids) in [
        ("runc", Ids::One),
        ("chroot", Ids::One),
        ("runc", Ids::Many),
        ("chroot", Ids::Many),
    ] {
        let mut child = started(run(ids, runtime, patient));
        kill_process(pid(child.id()), Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(9), "{runtime} {ids:?}");
        assert_clean(&home);

        let mut child = started(run(ids, runtime, forever));
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let below = fs::read_to_string(children).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        ok(&mut home.cas(ids, &["gc"]));
        assert_eq!(runs(&home).len(), 2, "the program still runs");
        let below: u32 = below.trim().parse().unwrap();
        kill_process(pid(below), Signal::KILL).unwrap();
        // The lock is free when all processes have ended.
        while leftovers(&home, ids, &["gc", "--dry-run"]) == 0 {}
        let taken = usage(&home.path(".local/share/cas/run/"));
        let empty = fs::metadata(home.path(".local/share/cas/run")).unwrap();
        let taken = taken - empty.blocks() * 512;
        assert!(taken > 500_000, "the files of the image are there: {taken}");
        for command in [&["df"][..], &["gc", "--dry-run"]] {
            assert_eq!(leftovers(&home, ids, command), taken, "{command:?}");
        }
        let found = home.cas(ids, &["fsck"]).output().unwrap();
        let found = (found.status.code(), text(&found.stdout));
        assert!(
            found.0 == Some(4) && found.1.contains("job left: run/"),
            "{found:?}"
        );
        match ids {
            Ids::One => assert_eq!(leftovers(&home, ids, &["gc"]), taken),
            Ids::Many => drop(ok(&mut home.cas(ids, &["fsck", "--repair"]))),
        }
        assert!(runs(&home).is_empty());
        assert_eq!(leftovers(&home, ids, &["df"]), 0);
    }
}

/// The owner can list such a directory, but not measure or remove what is in it.
#[test]
fn a_killed_run_with_a_directory_that_cannot_be_searched_stops_no_command() {
    let Some(home) = home() else { return };
    let script = "mkdir -p /closed/in && chmod 600 /closed && echo up && exec sleep 1000";
    let arguments = [
        "run",
        "--runtime",
        "chroot",
        "app:app",
        "--",
        "sh",
        "-c",
        script,
    ];
    let mut child = started(home.cas(Ids::One, &arguments));
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let below = fs::read_to_string(children).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    kill_process(pid(below.trim().parse().unwrap()), Signal::KILL).unwrap();
    while leftovers(&home, Ids::One, &["gc", "--dry-run"]) == 0 {}
    ok(&mut home.cas(Ids::One, &["df"]));
    ok(&mut home.cas(
        Ids::One,
        &["run", "--runtime", "chroot", "app:app", "--", "true"],
    ));
    ok(&mut home.cas(Ids::One, &["gc"]));
    assert!(runs(&home).is_empty());
    ok(&mut home.cas(Ids::One, &["fsck"]));
}

/// Returns the sum of the bytes of leftovers that a command lists.
fn leftovers(home: &Home, ids: Ids, command: &[&str]) -> u64 {
    let listed = ok(home.cas(ids, command).arg("--json"));
    let listed = listed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let listed: Vec<serde_json::Value> = listed.collect();
    let is_left = |one: &&serde_json::Value| {
        let resource = one["resource"].as_str().unwrap_or_default();
        one["kind"] == "leftovers" || resource.starts_with("leftovers/run/")
    };
    let bytes = |one: &serde_json::Value| one["bytes"].as_u64().unwrap();
    listed.iter().filter(is_left).map(bytes).sum()
}

/// Kills the tool at different moments. The program that it has started ends by itself.
#[test]
fn a_run_killed_at_any_moment_is_collected() {
    let Some(home) = home() else { return };
    for runtime in ["runc", "chroot"] {
        for step in 0..8 {
            let arguments = [
                "run",
                "-q",
                "--runtime",
                runtime,
                "app:served",
                "--",
                "true",
            ];
            let mut run = home.cas(Ids::Many, &arguments);
            let mut child = run.stderr(Stdio::null()).spawn().unwrap();
            thread::sleep(Duration::from_millis(step * 25));
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
    let begun = Instant::now();
    while !runs(&home).is_empty() && begun.elapsed() < Duration::from_secs(120) {
        ok(&mut home.cas(Ids::Many, &["gc"]));
    }
    assert_clean(&home);
}

/// Files of other users of the container cannot be removed by the user who started it.
#[test]
fn what_other_users_of_a_container_own_is_removed() {
    let Some(home) = home() else { return };
    let script = "mkdir -p /left/below && touch /left/below/file && chmod 700 /left && \
        chown -R 42:42 /left && stat -c %u /left/below/file";
    for runtime in ["runc", "chroot"] {
        let run = [
            "run",
            "--runtime",
            runtime,
            "app:app",
            "--",
            "sh",
            "-c",
            script,
        ];
        let (shown, said) = succeeds(&mut home.cas(Ids::Many, &run));
        assert_eq!(shown.trim(), "42", "{said}");
        assert!(!said.contains("clean up"), "{said}");
        assert_clean(&home);
    }
    // With one id there are no other users.
    let run = ["run", "app:app", "--", "sh", "-c", "chown 42:42 /bin"];
    assert!(fails(&mut home.cas(Ids::One, &run), 1).contains("chown"));
    assert_clean(&home);
}

#[test]
fn a_bundle_has_the_ids_of_the_user_and_starts() {
    let Some(home) = home() else { return };
    let make = ["bundle", "--rootless", "app:served", "b", "--", "id", "-u"];
    succeeds(&mut home.cas(Ids::Many, &make));
    let mode = fs::metadata(home.path("b")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
    let config = fs::read(home.path("b/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    let maps = &config["linux"]["uidMappings"];
    for (map, (inside, outside, size)) in
        [(&maps[0], (0, USER, 1)), (&maps[1], (1, MORE.0, MORE.1))]
    {
        assert_eq!(map["containerID"], inside);
        assert_eq!(map["hostID"], outside);
        assert_eq!(map["size"], size);
    }
    let mut runc = home.user(Ids::Many, "runc");
    runc.args(["--root", "state", "run", "--bundle", "b", "test-rootless"]);
    let (shown, said) = succeeds(&mut runc);
    assert_eq!(shown.trim(), "1000", "{said}");
}

/// The bundle is complete but for its configuration, so that its directories are closed.
#[test]
fn a_bundle_that_cannot_be_made_leaves_nothing() {
    let Some(home) = home() else { return };
    let made = home.path("made");
    fs::create_dir(&made).unwrap();
    ok(Command::new("chown").arg(USER.to_string()).arg(&made));
    for directory in ["new", "made"] {
        let mut bundle = home.cas(
            Ids::One,
            &["bundle", "--rootless", "app:unknown", directory],
        );
        assert!(fails(&mut bundle, 3).contains("nobody-here"));
    }
    assert!(!home.path("new").exists());
    assert_eq!(fs::read_dir(&made).unwrap().count(), 0);
    fails(&mut home.cas(Ids::One, &["run", "app:unknown"]), 3);
    assert_clean(&home);
}

/// In the namespace, snapshots are mounted and files have the owners that the image gives them.
#[test]
fn the_superuser_of_a_namespace_runs_on_snapshots() {
    let Some(home) = home() else { return };
    let script = "for one in runc chroot; do $cas run --runtime $one app:app -- stat -c %u:%g \
        /srv/own/file; done; $cas gc";
    let (shown, said) = succeeds(&mut home.unshared(Ids::Many, script));
    assert_eq!(shown.matches("1000:1000").count(), 2, "{shown}{said}");
    assert_clean(&home);
    let script = "$cas rmi app:app app:served app:unknown; $cas gc";
    let (shown, _) = succeeds(&mut home.unshared(Ids::Many, script));
    assert!(shown.contains("7 blobs, 1 snapshot"), "{shown}");
}

/// A namespace with one id has no group for terminals, and groups cannot be set in it.
#[test]
fn the_superuser_of_a_namespace_of_one_id_runs_programs() {
    let Some(home) = Home::with_namespaces(&["runc"]) else {
        return;
    };
    let Some(layer) = tools() else { return };
    home.import(&home.image(vec![layer]));
    for runtime in ["runc", "chroot"] {
        let script = format!("$cas run --runtime {runtime} app -- id -u; $cas gc");
        let (shown, said) = succeeds(&mut home.unshared(Ids::One, &script));
        assert!(shown.starts_with("0\n"), "{runtime}: {shown}{said}");
    }
    assert_clean(&home);
}
