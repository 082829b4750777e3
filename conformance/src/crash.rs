//! Killing: a law runs again in a process of its own, which is ended with SIGKILL.
//!
//! The victim is the same test binary, told by the environment where its store is. It says on
//! stderr what the store acknowledged; whatever it said must be there afterwards.

use std::env;
use std::fmt::Display;
use std::io::{BufRead, BufReader, Write, stderr};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::Subject;

const HOME: &str = "CONFORMANCE_VICTIM";
pub(crate) const MARK: &str = "acknowledged ";

/// Where the store of a victim is; nothing in other processes.
pub(crate) fn victim_home() -> Option<PathBuf> {
    env::var_os(HOME).map(PathBuf::from)
}

impl<S: ?Sized> Subject<S> {
    /// Whether this process is the one to be killed.
    pub(crate) fn is_victim(&self) -> bool {
        victim_home().is_some()
    }

    /// Says that the store acknowledged `what`, where this process is a victim.
    pub(crate) fn acknowledge(&self, what: impl Display) {
        if !self.is_victim() {
            return;
        }
        // One write, so that a kill leaves no half of it.
        let line = format!("{MARK}{what}\n");
        let said = stderr().write_all(line.as_bytes());
        said.expect("the other process listens");
    }

    /// The command that runs this law as a victim, behind the words of another program.
    pub(crate) fn victim(&self, before: &[String]) -> Command {
        let test = self.test().expect("a kill law runs in a test of its own");
        let (_, test) = test.split_once("::").expect("a test is in a module");
        let binary = env::current_exe().expect("the test binary is known");
        let mut command = match before.split_first() {
            None => Command::new(binary),
            Some((program, words)) => {
                let mut command = Command::new(program);
                command.args(words).arg(binary);
                command
            }
        };
        command
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(HOME, self.dir())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    /// Runs this law as a victim, kills it after `count` acknowledgements; all that it made.
    pub(crate) fn kill_after(&self, count: usize) -> Vec<String> {
        let victim = self.victim(&[]).spawn();
        let mut victim = victim.expect("the test binary runs again");
        let lines = BufReader::new(victim.stderr.take().expect("stderr is a pipe")).lines();
        let (mut said, mut other) = (Vec::new(), Vec::new());
        for line in lines.map_while(Result::ok) {
            match line.strip_prefix(MARK) {
                Some(what) => said.push(what.to_owned()),
                None => other.push(line),
            }
            if said.len() == count {
                victim.kill().expect("the victim can be killed");
            }
        }
        victim.wait().expect("the victim ends");
        assert!(
            said.len() >= count,
            "the victim ended early: {}",
            other.join("\n")
        );
        said
    }
}
