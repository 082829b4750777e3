//! Signals: they end a command as an error does.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use testkit::archive::Tar;

use super::fake::{Answer, Fake};
use super::resume::{LARGE, leases};
use super::sample::Sample;
use crate::common::layout::layout;
use crate::common::shop::names;
use crate::common::{demo_archive, ok};

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn a_signal_ends_a_pull_and_its_lease() {
    let sample = Sample::new(&[1000, LARGE]);
    let good = sample.clone();
    let large = sample.layers[1].digest.to_string();
    let part = large.clone();
    let registry = Fake::start(move |request| {
        let answer = good.answer(request);
        if request.path.ends_with(&part) {
            answer.cut(LARGE - 1000).stall()
        } else {
            answer
        }
    });
    let scratch = tempfile::tempdir().unwrap();
    let asked = || registry.count("GET", &large);
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        // With its own root, no pull resumes what an earlier one received.
        let root = scratch.path().join(code.to_string());
        let before = asked();
        // A job in the background of a script ignores SIGINT, and so do its children.
        let mut pull = Command::new("env");
        pull.args(["--default-signal=INT,HUP,TERM", env!("CARGO_BIN_EXE_cas")]);
        pull.args(["--no-progress", "--root"]).arg(&root);
        pull.args(["pull", &registry.image()])
            .env("DOCKER_CONFIG", scratch.path())
            .stderr(Stdio::piped());
        let pull = pull.spawn().unwrap();
        while asked() == before {
            thread::sleep(Duration::from_millis(10));
        }
        send(&pull, signal);
        let ended = pull.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(code), "{said}");
        assert!(said.contains("stopped by signal"), "{said}");
        assert!(leases(&root).is_empty() && names(&root).is_empty());
    }
}

/// The registry receives requests, and never answers.
#[test]
fn a_signal_ends_whatever_waits_for_a_registry() {
    let registry = Fake::start(|request| match request.path.ends_with('/') {
        true => Answer::new(404),
        false => Answer::new(200).late(Duration::from_secs(60)),
    });
    let scratch = tempfile::tempdir().unwrap();
    let [root, one] = ["root", "one"].map(|name| scratch.path().join(name));
    layout(&one, vec![Tar::new().file("file", vec![7; 1000])]);
    let there = registry.image();
    ok(crate::common::cas(&root)
        .args(["import", "--name", &there])
        .arg(&one));
    let aci = format!("http://{}/app.aci", registry.host);
    let (host, repository) = there.split_once('/').unwrap();
    let repository = repository.split(':').next().unwrap();
    let from = format!("{host}/{repository}");
    for verb in [
        &["push", &there][..],
        &["pull", &there],
        &["pull", "--lazy", &there],
        &["registry", "tags", &from],
        &["registry", "ls", host],
        &["registry", "referrers", &there],
        &["registry", "rm", &there],
        &["aci", "fetch", &aci],
        &["fsck", "--repair"],
        &["fsck", "--repair", "--from", &there],
    ] {
        if verb[0] == "fsck" {
            // Something must be fetched again.
            ok(Command::new("find")
                .arg(root.join("store/blobs"))
                .args(["-type", "f", "-delete"]));
        }
        let before = registry.seen().len();
        let mut command = Command::new("env");
        command.args(["--default-signal=TERM", env!("CARGO_BIN_EXE_cas")]);
        command
            .args(["--no-progress", "--root"])
            .arg(&root)
            .args(verb);
        command.env("DOCKER_CONFIG", scratch.path());
        let mut command = command.stderr(Stdio::piped()).spawn().unwrap();
        while registry.seen().len() == before {
            assert_eq!(command.try_wait().unwrap(), None, "{verb:?}");
            thread::sleep(Duration::from_millis(10));
        }
        send(&command, Signal::TERM);
        let ended = command.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(143), "{verb:?}: {said}");
        assert!(said.contains("stopped by signal"), "{verb:?}: {said}");
        assert!(leases(&root).is_empty(), "{verb:?}");
    }
}

/// `nohup` makes a program ignore SIGHUP, and a shell makes its background jobs ignore SIGINT.
#[test]
fn a_signal_that_is_ignored_stops_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let archive = std::fs::read(demo_archive(scratch.path())).unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' HUP INT; exec \"$@\"", "sh"]);
    shell
        .arg(env!("CARGO_BIN_EXE_cas"))
        .arg("--root")
        .arg(&root);
    shell.args(["import", "-", "--name", "app:1"]);
    let mut import = shell.stdin(Stdio::piped()).spawn().unwrap();
    let mut input = import.stdin.take().unwrap();
    let (first, rest) = archive.split_at(archive.len() / 2);
    input.write_all(first).unwrap();
    // The import has begun, so its handlers are in place.
    while !root.exists() || leases(&root).is_empty() {
        thread::sleep(Duration::from_millis(10));
    }
    send(&import, Signal::HUP);
    send(&import, Signal::INT);
    input.write_all(rest).unwrap();
    drop(input);
    let ended = import.wait().unwrap();
    assert!(ended.success(), "{ended:?}, signal {:?}", ended.signal());
    assert!(names(&root).contains_key("docker.io/library/app:1"));
    ok(crate::common::cas(&root).arg("gc"));
}

/// A command that waits for something that cannot be interrupted ends at the second signal.
#[test]
fn a_second_signal_ends_what_cannot_be_interrupted() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let mut import = crate::common::cas(&root);
    import.args(["import", "-", "--name", "app:1"]);
    import.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut import = import.spawn().unwrap();
    let _input = import.stdin.take();
    while !root.exists() || leases(&root).is_empty() {
        thread::sleep(Duration::from_millis(10));
    }
    // The import waits for its input. Its lease ends at the first signal.
    send(&import, Signal::TERM);
    while import.try_wait().unwrap().is_none() && !leases(&root).is_empty() {
        thread::sleep(Duration::from_millis(10));
    }
    while import.try_wait().unwrap().is_none() {
        send(&import, Signal::TERM);
        thread::sleep(Duration::from_millis(50));
    }
    let ended = import.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(143));
    assert!(leases(&root).is_empty());
}

/// The main thread waits until somebody reads what the command prints.
#[test]
fn a_signal_ends_a_command_that_waits_for_a_system_call() {
    let scratch = tempfile::tempdir().unwrap();
    let (root, file) = (scratch.path().join("root"), scratch.path().join("file"));
    fs::write(&file, vec![7; 4 << 20]).unwrap();
    let digest = ok(crate::common::cas(&root).args(["blob", "add"]).arg(&file));
    for is_repeated in [false, true] {
        let mut cat = Command::new("env");
        cat.args(["--default-signal=TERM", env!("CARGO_BIN_EXE_cas")]);
        cat.arg("--root").arg(&root);
        cat.args(["blob", "cat", digest.trim()]);
        let cat = cat.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut cat = cat.spawn().unwrap();
        let mut output = cat.stdout.take().unwrap();
        output.read_exact(&mut [0]).unwrap();
        // The pipe is soon full.
        thread::sleep(Duration::from_secs(1));
        send(&cat, Signal::TERM);
        let begun = Instant::now();
        while cat.try_wait().unwrap().is_none() {
            let waited = begun.elapsed();
            assert!(waited < Duration::from_secs(120), "{is_repeated}");
            thread::sleep(Duration::from_millis(50));
            if is_repeated {
                send(&cat, Signal::TERM);
            }
        }
        let ended = cat.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(143), "{is_repeated}: {said}");
        assert!(said.contains("stopped by signal 15"), "{said}");
        drop(output);
    }
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none())
}

/// Sends a signal to a command when something is in `directory`. Returns false if the command was
/// faster.
fn is_stopped(command: &mut Command, directory: &Path, signal: Signal) -> bool {
    let silent = command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = silent.spawn().unwrap();
    while is_empty(directory) && child.try_wait().unwrap().is_none() {
        thread::sleep(Duration::from_millis(1));
    }
    let _ = kill_process(Pid::from_child(&child), signal);
    let code = child.wait().unwrap().code();
    assert!(
        matches!(code, Some(0 | 129 | 130 | 143)),
        "{command:?}: {code:?}"
    );
    code != Some(0)
}

/// Each command is stopped when what it makes has begun to appear.
#[test]
fn a_signal_leaves_nothing_of_what_had_begun() {
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let at = |name: &str| scratch.path().join(name);
    let (root, out, file) = (at("root"), at("out"), at("file"));
    fs::write(&file, vec![6; 64 << 20]).unwrap();
    layout(&at("one"), vec![Tar::new().file("big", vec![7; 24 << 20])]);
    ok(crate::common::cas(&root).args(["--snapshotter", "native", "init"]));
    let import = ["import", "--name", "one:1"];
    ok(crate::common::cas(&root).args(import).arg(at("one")));
    let ingests = root.join("store/.cas/ingest");
    let snapshots = root.join("snapshots/native/snapshots");
    let cases = [
        (&["blob", "add"][..], &file, &ingests),
        (&["import", "--unpack"], &at("one"), &snapshots),
        (&["unpack", "one:1"], &out.join("tree"), &out),
        (&["bundle", "one:1"], &out.join("bundle"), &out),
        (&["export", "one:1", "-o"], &out.join("file.tar"), &out),
    ];
    for (arguments, path, directory) in cases {
        for signal in [Signal::TERM, Signal::HUP] {
            let stopped = (0..10).any(|_| {
                let _ = fs::remove_dir_all(&out);
                fs::create_dir(&out).unwrap();
                let mut command = Command::new("env");
                command.arg("--default-signal=HUP,TERM");
                command
                    .arg(env!("CARGO_BIN_EXE_cas"))
                    .arg("--root")
                    .arg(&root);
                is_stopped(command.args(arguments).arg(path), directory, signal)
            });
            if !stopped {
                eprintln!("SKIPPED: {arguments:?} always ended before the signal");
                break;
            }
            assert!(is_empty(directory), "{arguments:?}, {signal:?}");
            assert!(leases(&root).is_empty(), "{arguments:?}, {signal:?}");
        }
    }
}
