//! Kills of the processes that serve layers, while programs read and map files.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::scene::Scene;
use crate::common::{cas, ok, text};

/// Prints the SHA-256 of all files of a tree.
const SUMS: &str = "cd \"$0\" && find . -xdev -type f -exec sha256sum {} + > ../sums; code=$?; sort ../sums; exit $code";

/// Returns the command [`SUMS`] for a tree. After a minute, it is killed.
fn sums(tree: &Path) -> Command {
    let mut sums = Command::new("timeout");
    sums.args(["--signal", "KILL", "60", "sh", "-c", SUMS])
        .arg(tree);
    sums
}

/// Runs a program of the mounted image, whose pages are mapped. After a minute, it is killed.
fn program(tree: &Path) -> Command {
    let mut run = Command::new("timeout");
    run.args(["--signal", "KILL", "60", "chroot"]).arg(tree);
    run.args(["/bin/busybox", "echo", "runs"]);
    run
}

/// Frees what the kernel has of files in memory, which would hide the processes from readers.
fn drop_caches() {
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

/// Kills the process that serves the layers, again and again. No reader sees a wrong byte or an
/// error, because the holder starts the process again.
#[test]
#[ignore = "takes minutes; `cargo xtask long` runs it"]
fn readers_see_the_right_bytes_while_servers_are_killed() {
    const KILLS: usize = 1000;
    let Some(scene) = Scene::real(false) else {
        return;
    };
    let expected = ok(&mut sums(&scene.plain()));
    scene.mount();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut rounds = 0;
            while !ended.load(Ordering::Relaxed) {
                drop_caches();
                assert_eq!(ok(&mut sums(&scene.mnt)), expected, "round {rounds}");
                assert_eq!(ok(&mut program(&scene.mnt)), "runs\n");
                rounds += 1;
            }
            rounds
        });
        let mut killed = 0;
        while killed < KILLS && !reader.is_finished() {
            if let [_, server] = &scene.servers()[..] {
                killed += usize::from(kill(server));
            }
            // The holder gives up if many processes in a row live for less than 200 ms.
            std::thread::sleep(Duration::from_millis(210 + killed as u64 * 7 % 60));
        }
        ended.store(true, Ordering::Relaxed);
        let rounds = reader.join().unwrap();
        eprintln!("{killed} kills, {rounds} rounds of reading");
        assert_eq!(killed, KILLS);
    });
    scene.unmount();
}

/// Kills the holder and the process that serves the layers, in every order and at other moments.
/// Readers see the right bytes or errors, and end. The next mount shows everything.
#[test]
#[ignore = "takes minutes; `cargo xtask long` runs it"]
fn readers_see_the_right_bytes_or_errors_while_both_processes_are_killed() {
    const ROUNDS: u64 = 1000;
    /// After so many rounds, another root begins without data.
    const OF_ROOT: u64 = 25;
    /// Which processes are killed: 0 is the holder, and 1 the server.
    const ORDERS: [&[usize]; 4] = [&[1], &[0], &[0, 1], &[1, 0]];
    let (mut killed, mut failed) = (0, 0);
    for begin in (0..ROUNDS).step_by(OF_ROOT as usize) {
        let Some(scene) = Scene::real(false) else {
            return;
        };
        let plain = scene.plain();
        let expected = ok(&mut sums(&plain));
        let expected: BTreeSet<&str> = expected.lines().collect();
        for round in begin..begin + OF_ROOT {
            scene.mount();
            drop_caches();
            let start = |mut command: Command| {
                let command = command.stdout(Stdio::piped()).stderr(Stdio::null());
                command.spawn().unwrap()
            };
            let readers = [start(sums(&scene.mnt)), start(program(&scene.mnt))];
            let processes = scene.servers();
            std::thread::sleep(Duration::from_millis(round * 13 % 97));
            for process in ORDERS[round as usize % ORDERS.len()] {
                killed += usize::from(processes.get(*process).is_some_and(|id| kill(id)));
                std::thread::sleep(Duration::from_millis(round * 7 % 3 * 20));
            }
            let [read, ran] = readers.map(|reader| reader.wait_with_output().unwrap());
            for ended in [&read, &ran] {
                // `timeout` ends with the signal of its program, which may be SIGBUS.
                let signal = ended.status.signal();
                assert_ne!(signal, Some(9), "round {round} waits");
            }
            failed += usize::from(!read.status.success());
            for line in text(&read.stdout).lines() {
                assert!(
                    expected.contains(line),
                    "round {round}: other bytes: {line}"
                );
            }
            assert!(["", "runs\n"].contains(&&*text(&ran.stdout)), "{round}");
            scene.unmount();
        }
        scene.mount();
        scene.assert_shows(&plain);
        scene.unmount();
        ok(cas(&scene.root).args(["fsck", "--read-data"]));
    }
    eprintln!("{killed} kills in {ROUNDS} rounds, in {failed} of which reads failed");
}

/// Kills a process. Returns whether it existed.
fn kill(process: &str) -> bool {
    let killed = Command::new("kill").args(["-9", process]).output();
    killed.unwrap().status.success()
}
