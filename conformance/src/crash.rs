//! Runs a law again in a child process, the victim, and kills the victim with SIGKILL.
//!
//! The victim is the same test binary. An environment variable names the directory that contains
//! the victim's stores. The victim prints on stderr what the store acknowledged. After the kill,
//! the law compares the store with this output.

use std::env;
use std::fmt::Display;
use std::io::{BufRead, BufReader, Write, stderr};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::Subject;

const HOME: &str = "CONFORMANCE_VICTIM";
pub(crate) const MARK: &str = "acknowledged ";

/// Returns the directory that contains a victim's stores, or `None` in other processes.
pub(crate) fn victim_home() -> Option<PathBuf> {
    env::var_os(HOME).map(PathBuf::from)
}

impl<S: ?Sized> Subject<S> {
    /// Returns whether this process is a victim.
    pub(crate) fn is_victim(&self) -> bool {
        victim_home().is_some()
    }

    /// Prints that the store acknowledged `what`, if this process is a victim.
    pub(crate) fn acknowledge(&self, what: impl Display) {
        if !self.is_victim() {
            return;
        }
        // One write, so that a kill leaves no partial line.
        let line = format!("{MARK}{what}\n");
        let said = stderr().write_all(line.as_bytes());
        said.expect("the parent process must read the acknowledgement");
    }

    /// Returns the command that runs this law as a victim. `before` is the program that starts
    /// the victim, followed by the arguments of that program. It is empty if the victim starts
    /// directly.
    pub(crate) fn victim(&self, before: &[String]) -> Command {
        let test = self.test().expect("a law with a victim must run in a test");
        let (_, test) = test
            .split_once("::")
            .expect("the path of the test must contain `::`");
        let binary = env::current_exe().expect("the path of the test binary must be known");
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

    /// Runs this law as a victim, and kills it after `count` acknowledgements. Returns all
    /// acknowledgements.
    pub(crate) fn kill_after(&self, count: usize) -> Vec<String> {
        let victim = self.victim(&[]).spawn();
        let mut victim = victim.expect("the test binary must start again");
        let lines = BufReader::new(victim.stderr.take().expect("stderr is a pipe")).lines();
        let (mut said, mut other) = (Vec::new(), Vec::new());
        for line in lines.map_while(Result::ok) {
            match line.strip_prefix(MARK) {
                Some(what) => said.push(what.to_owned()),
                None => other.push(line),
            }
            if said.len() == count {
                victim.kill().expect("the victim must be killable");
            }
        }
        victim.wait().expect("the victim must end");
        assert!(
            said.len() >= count,
            "the child process ended before it was killed: {}",
            other.join("\n")
        );
        said
    }
}
