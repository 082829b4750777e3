//! Bundles and programs of images, run by runc, by crun and in a chroot.

mod scene;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::tree::differences;
use crate::common::{append, cas, fails, ok, real_image, text};
use rustix::process::{Pid, Signal, kill_process};
use scene::{RUNTIMES, Scene};
use serde_json::Value;

fn printed(output: &Output) -> String {
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

/// Starts a command, and waits until it has printed a line.
fn started(mut command: Command) -> Child {
    use std::io::{BufRead, BufReader};
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let out = child.stdout.as_mut().unwrap();
    BufReader::new(out).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    child
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn a_program_runs_as_the_image_says_and_its_exit_code_is_ours() {
    for scene in Scene::all() {
        for runtime in &scene.runtimes() {
            let script = "echo $0; pwd; id; echo $GREETING; echo $HOME; echo x > /opt/new; exit 7";
            let output = scene.run(runtime, "small", &["sh", "-c", script]).output();
            let output = output.unwrap();
            assert_eq!(output.status.code(), Some(7), "{}", printed(&output));

            // The image `app` sets user, groups, directory, variables and command.
            let output = scene.run(runtime, "app", &[]).output().unwrap();
            let said = text(&output.stdout);
            assert_eq!(
                said,
                "uid=1000(app) gid=1001(app) groups=29(audio),44(video),1001(app)\n",
                "{runtime}: {}",
                printed(&output)
            );
            assert!(text(&output.stderr).contains("run.oci.hooks.stdout"));
            let script =
                "pwd; echo $GREETING; echo $HOME; grep -i nonewpriv /proc/self/status || :";
            let said = ok(&mut scene.run(runtime, "app", &["sh", "-c", script]));
            let expected = "/srv/work\ntwo words\n/home/app\n";
            assert!(said.starts_with(expected), "{runtime}: {said}");
            if runtime != "chroot" {
                assert!(said.ends_with("NoNewPrivs:\t1\n"), "{said}");
            }
            // The changes of the program are gone.
            fails(
                &mut scene.run(runtime, "small", &["test", "-e", "/opt/new"]),
                1,
            );
            scene.assert_clean();
        }
    }
}

#[test]
fn programs_that_cannot_run_give_the_exit_codes_of_shells() {
    let Some(scene) = Scene::new() else { return };
    let root = scene.root();
    let run = |arguments: &[&str]| {
        let mut run = cas(&root);
        run.arg("run").args(arguments).stdin(Stdio::null());
        run
    };
    for runtime in &scene.runtimes() {
        let with =
            |entrypoint: &str| run(&["--runtime", runtime, "--entrypoint", entrypoint, "app"]);
        let absent = fails(&mut with("/absent"), 127);
        assert!(absent.contains("/absent"), "{absent}");
        fails(&mut with("absent"), 127);
        fails(&mut with("/etc/passwd"), 126);
        fails(&mut with("/etc"), 126);
        // Only the kernel finds out that the interpreter of a script is missing.
        let script = "printf '#!/absent\\n' > /tmp/s; chmod 755 /tmp/s; exec /tmp/s";
        fails(&mut scene.run(runtime, "small", &["sh", "-c", script]), 127);
    }
    let unknown = fails(&mut run(&["absent"]), 3);
    assert!(unknown.contains("cas images"), "{unknown}");
    fails(&mut run(&["--platform", "linux/s390x", "small"]), 3);
    let none = fails(&mut run(&["--runtime", "/absent", "small"]), 3);
    assert!(none.contains("/absent"), "{none}");
    for (runtime, code, expected) in [
        ("absent-runtime", 3, "on PATH"),
        ("/etc", 2, "executable"),
        ("/etc/passwd", 2, "executable"),
    ] {
        let said = fails(&mut run(&["--runtime", runtime, "small"]), code);
        assert!(said.contains(expected) && said.contains(runtime), "{said}");
    }
    // A runtime that starts nothing is distinguished from a program that fails.
    let broken = fails(&mut run(&["--runtime", "/bin/false", "small"]), 1);
    assert!(broken.contains("could not start"), "{broken}");
    scene.assert_clean();
}

/// The tool handles the signal of a limit on the size of files. The program does not inherit that.
#[test]
fn a_limit_on_the_size_of_files_ends_the_program() {
    let Some(scene) = Scene::new() else { return };
    // The first program of a container is not ended by such a signal, so the shell starts another.
    let script = "ulimit -f 1; dd if=/dev/zero of=/tmp/x bs=4096 count=4; exit $?";
    for runtime in &scene.runtimes() {
        let run = scene.run(runtime, "small", &["sh", "-c", script]);
        // What started the tests may ignore the signal.
        let mut with_default = Command::new("env");
        with_default.arg("--default-signal=XFSZ");
        append(&mut with_default, &run);
        fails(&mut with_default, 128 + Signal::XFSZ.as_raw());
    }
    scene.assert_clean();
}

#[test]
fn signals_are_passed_to_the_program_which_is_killed_if_it_does_not_end() {
    let Some(scene) = Scene::new() else { return };
    let patient = "trap 'exit 9' TERM; echo up; while :; do sleep 0.1; done";
    let deaf = "exec perl -e '$| = 1; $SIG{INT} = q(IGNORE); print qq(up\n); sleep 1 while 1'";
    let runtimes = scene.runtimes();
    let start = |script: &str| -> Vec<_> {
        let start = |one| {
            // What started the tests may ignore the signals.
            let mut with_default = Command::new("env");
            with_default.arg("--default-signal=INT,TERM");
            let run = scene.run(one, "small", &["sh", "-c", script]);
            append(&mut with_default, &run);
            started(with_default)
        };
        runtimes.iter().map(|one| (one, start(one))).collect()
    };
    for (runtime, mut child) in start(patient) {
        signal(&child, Signal::TERM);
        assert_eq!(child.wait().unwrap().code(), Some(9), "{runtime}");
    }
    let mut deaf = start(deaf);
    let begun = Instant::now();
    for (_, child) in &deaf {
        signal(child, Signal::INT);
    }
    for (runtime, child) in &mut deaf {
        assert_eq!(child.wait().unwrap().code(), Some(137), "{runtime}");
        assert!(
            begun.elapsed() >= Duration::from_secs(9),
            "the program had no grace period"
        );
    }
    scene.assert_clean();
}

/// `nohup` and the shell start programs that ignore signals.
#[test]
fn signals_that_were_ignored_at_the_start_do_not_end_the_program() {
    let Some(scene) = Scene::new() else { return };
    for runtime in scene.runtimes() {
        let run = scene.run(&runtime, "small", &["sh", "-c", "echo up; sleep 1; exit 7"]);
        let mut ignoring = Command::new("sh");
        ignoring.args(["-c", "trap '' HUP INT; exec \"$@\"", "sh"]);
        append(&mut ignoring, &run);
        let mut child = started(ignoring);
        for ignored in [Signal::HUP, Signal::INT] {
            signal(&child, ignored);
        }
        assert_eq!(child.wait().unwrap().code(), Some(7), "{runtime}");
    }
    scene.assert_clean();
}

#[test]
fn what_a_killed_run_leaves_is_removed_by_the_next_gc_or_run() {
    for scene in Scene::all() {
        let root = scene.root();
        let forever = &["sh", "-c", "echo up; exec sleep 1000"];
        for (runtime, next) in [
            ("runc", &["gc"][..]),
            ("chroot", &["run", "small", "--", "true"]),
        ] {
            let mut child = started(scene.run(runtime, "small", forever));
            let children = format!("/proc/{0}/task/{0}/children", child.id());
            let below = fs::read_to_string(children).unwrap();
            let below: i32 = below.trim().parse().unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
            // The program still runs, so its root file system stays.
            ok(cas(&root).arg("gc"));
            assert!(scene.leftovers().len() >= 4, "{:?}", scene.leftovers());
            kill_process(Pid::from_raw(below).unwrap(), Signal::KILL).unwrap();
            // This process is not the parent of the program and cannot wait for it. The lock of the
            // run is free when the program has ended.
            let lock = fs::File::open(scene.lock_of_run()).unwrap();
            lock.lock().unwrap();
            lock.unlock().unwrap();
            ok(cas(&root).args(next).stdin(Stdio::null()));
            scene.assert_clean();
        }
    }
}

/// Kills the tool at different moments. The program that it has started ends by itself.
#[test]
fn everything_that_a_killed_run_leaves_is_cleaned_up() {
    for scene in Scene::all() {
        ok(&mut scene.run("chroot", "small", &["true"]));
        for runtime in RUNTIMES {
            for step in 0..25 {
                let mut child = scene.run(runtime, "small", &["true"]).spawn().unwrap();
                std::thread::sleep(Duration::from_millis(step * 6));
                child.kill().unwrap();
                child.wait().unwrap();
            }
        }
        let begun = Instant::now();
        while !scene.leftovers().is_empty() && begun.elapsed() < Duration::from_secs(120) {
            ok(cas(&scene.root()).arg("gc"));
        }
        scene.assert_clean();
    }
}

#[test]
fn a_bundle_is_what_runtimes_start() {
    for scene in Scene::all() {
        let root = scene.root();
        let plain = scene.path("plain");
        ok(cas(&root).args(["unpack", "small"]).arg(&plain));
        for mount in [&[][..], &["--mount"]] {
            let bundle = scene.path("bundle");
            let make = || {
                let mut make = cas(&root);
                make.arg("bundle").args(mount).arg("small").arg(&bundle);
                make
            };
            ok(make().args(["--", "sh", "-c", "echo runs; exit 4"]));
            let found = differences(&plain, &bundle.join("rootfs"));
            assert!(found.is_empty(), "{mount:?}: {found:#?}");
            let mode = fs::metadata(&bundle).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o700);

            for runtime in scene.runtimes().iter().filter(|one| *one != "chroot") {
                let mut run = Command::new(runtime);
                run.arg("--root").arg(scene.path("state"));
                run.args(["run", "--bundle"]).arg(&bundle).arg("bundle");
                let output = run.stdin(Stdio::null()).output().unwrap();
                assert_eq!(text(&output.stdout), "runs\n", "{}", printed(&output));
                assert_eq!(output.status.code(), Some(4));
            }

            // An existing bundle is not changed.
            let before = fs::metadata(bundle.join("config.json")).unwrap().ino();
            let taken = fails(&mut make(), 2);
            assert!(taken.contains("not empty"), "{taken}");
            let after = fs::metadata(bundle.join("config.json")).unwrap().ino();
            assert_eq!(before, after);
            if !mount.is_empty() {
                ok(cas(&root).arg("gc"));
                ok(cas(&root).arg("umount").arg(bundle.join("rootfs")));
            }
            fs::remove_dir_all(&bundle).unwrap();
        }
        let document = scene.path("document");
        ok(cas(&root).args(["bundle", "app"]).arg(&document));
        let document = fs::read(document.join("config.json")).unwrap();
        let document: Value = serde_json::from_slice(&document).unwrap();
        let stop = &document["annotations"]["org.opencontainers.image.stopSignal"];
        assert_eq!(stop, "SIGUSR1");
        assert_eq!(document["process"]["user"]["additionalGids"][1], 44);
    }
}

/// What a killed `cas bundle --mount` leaves is unmounted and removed like a finished bundle.
#[test]
fn a_bundle_killed_at_any_moment_is_removed_like_a_complete_one() {
    for scene in Scene::all() {
        let (root, bundle) = (scene.root(), scene.path("bundle"));
        ok(cas(&root).args(["bundle", "--mount", "small"]).arg(&bundle));
        for step in 0..25 {
            if bundle.join("rootfs").exists() {
                let ended = cas(&root).arg("umount").arg(bundle.join("rootfs")).output();
                let code = ended.unwrap().status.code();
                assert!(matches!(code, Some(0 | 3)), "{code:?}");
            }
            if bundle.exists() {
                fs::remove_dir_all(&bundle).unwrap();
            }
            scene.assert_clean();
            let mut make = cas(&root);
            make.args(["bundle", "--mount", "small"]).arg(&bundle);
            let mut child = make.stdout(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(step * 5));
            child.kill().unwrap();
            child.wait().unwrap();
            // The bundle is either complete, or does not have its config.json.
            if bundle.join("config.json").exists() {
                let document = fs::read(bundle.join("config.json")).unwrap();
                serde_json::from_slice::<Value>(&document).unwrap();
            }
        }
        let _ = cas(&root).arg("umount").arg(bundle.join("rootfs")).output();
        scene.assert_clean();
    }
}

#[test]
fn a_bundle_that_cannot_be_made_leaves_nothing() {
    let Some(scene) = Scene::new() else { return };
    let root = scene.root();
    let (fresh, empty) = (scene.path("fresh"), scene.path("empty"));
    fs::create_dir(&empty).unwrap();
    for directory in [&fresh, &empty] {
        for mount in [&[][..], &["--mount"]] {
            let mut make = cas(&root);
            make.arg("bundle").args(mount).arg("unknown").arg(directory);
            let said = fails(&mut make, 3);
            assert!(said.contains("nobody-here"), "{said}");
        }
    }
    assert!(!fresh.exists());
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0);
    fails(&mut scene.run("chroot", "unknown", &[]), 3);
    scene.assert_clean();
}

/// A real program of a distribution's image.
#[test]
#[ignore = "a minute; `cargo xtask long` runs it"]
fn python_runs() {
    let Some(layout) = real_image("debian-multi") else {
        return;
    };
    let program = "import json, sys; print(json.dumps([sys.version_info[0], 6 * 7]))";
    for scene in Scene::all() {
        ok(cas(&scene.root()).args(["-q", "import"]).arg(&layout));
        for runtime in scene.runtimes() {
            let mut run = cas(&scene.root());
            run.args(["run", "--runtime", &runtime, "--entrypoint", "python3"]);
            let said = ok(run
                .args(["plain", "--", "-c", program])
                .stdin(Stdio::null()));
            assert_eq!(said, "[3, 42]\n", "{runtime}");
        }
        scene.assert_clean();
    }
}
