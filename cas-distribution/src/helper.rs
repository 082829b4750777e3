//! Docker's credential helpers: `docker-credential-NAME ACTION`.
//!
//! A helper gets its input from standard input, so that no argument holds a secret, and has a
//! limited time to answer. A helper that does not answer in time is killed.

use std::fmt;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use cas_core::limit;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

use crate::credentials::Credentials;

/// How long a helper may take. It may have to ask the user to unlock its store.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a helper answers if it has no login.
const NOT_FOUND: &str = "credentials not found";

/// Maximum number of characters of a helper's own message that an error repeats.
const SAID: usize = 200;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Why a helper was of no use: a clause that does not name the helper.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A credential helper.
pub(crate) struct Helper {
    program: String,
    patience: Duration,
}

impl Helper {
    /// Returns the helper of this name, as a configuration has it.
    ///
    /// # Errors
    /// If the name is empty, or has a character that could lead to another program.
    pub(crate) fn new(name: &str) -> Result<Self, Failure> {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || !name.bytes().all(letter) {
            let why = "its name has a character other than letters, digits, `-`, `_` and `.`";
            return Err(Failure(why.to_owned()));
        }
        Ok(Helper {
            program: program(name),
            patience: PATIENCE,
        })
    }

    /// Returns the login for `server`, or `None` if the helper has none.
    ///
    /// # Errors
    /// If it cannot be started, fails, takes too long or answers with something else.
    pub(crate) async fn get(&self, server: &str) -> Result<Option<Credentials>, Failure> {
        let Some(answer) = self.run("get", server.as_bytes()).await? else {
            return Ok(None);
        };
        let answer: Answer = serde_json::from_slice(&answer)
            .map_err(|_| Failure("it did not answer with Username and Secret".to_owned()))?;
        Ok(Credentials::of(answer.username, answer.secret))
    }

    /// Keeps a login.
    ///
    /// # Errors
    /// As [`Helper::get`].
    pub(crate) async fn store(
        &self,
        server: &str,
        name: &str,
        secret: &str,
    ) -> Result<(), Failure> {
        let login = json!({"ServerURL": server, "Username": name, "Secret": secret});
        let stored = self.run("store", login.to_string().as_bytes()).await?;
        stored
            .map(drop)
            .ok_or_else(|| Failure("it did not store the login".to_owned()))
    }

    /// Removes a login, if it is there.
    ///
    /// # Errors
    /// As [`Helper::get`].
    pub(crate) async fn erase(&self, server: &str) -> Result<(), Failure> {
        self.run("erase", server.as_bytes()).await.map(drop)
    }

    /// Runs the helper. Returns what it wrote, or `None` if it does not have the login.
    async fn run(&self, action: &str, input: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        let mut child = Command::new(&self.program)
            .arg(action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Failure(format!("it cannot be started: {error}")))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let write = async {
            if let Some(mut stdin) = stdin {
                // If the helper does not read its input, its exit status shows that.
                let _ = stdin.write_all(input).await;
            }
        };
        let read = async {
            let mut answer = Vec::new();
            if let Some(stdout) = stdout {
                stdout
                    .take(limit::ANSWER + 1)
                    .read_to_end(&mut answer)
                    .await?;
            }
            io::Result::Ok(answer)
        };
        let work = async {
            let ((), answer) = tokio::join!(write, read);
            let answer = answer?;
            // A helper that has more to say would wait until that is read.
            let is_cut = answer.len() as u64 > limit::ANSWER;
            let status = if is_cut {
                None
            } else {
                Some(child.wait().await?)
            };
            Ok((answer, status))
        };
        let ended = timeout(self.patience, work).await.map_err(|_| {
            Failure(format!(
                "it did not answer within {} s",
                self.patience.as_secs()
            ))
        })?;
        let (answer, status) = ended
            .map_err(|error: io::Error| Failure(format!("its answer cannot be read: {error}")))?;
        match status {
            None => {
                let allowed = limit::ANSWER;
                Err(Failure(format!(
                    "it answered with more than {allowed} bytes"
                )))
            }
            Some(status) if status.success() => Ok(Some(answer)),
            Some(_) if String::from_utf8_lossy(&answer).contains(NOT_FOUND) => Ok(None),
            Some(status) => Err(Failure(format!("it ended with {status}{}", said(&answer)))),
        }
    }
}

/// Returns the program of the helper of this name.
pub(crate) fn program(name: &str) -> String {
    format!("docker-credential-{name}")
}

/// Returns the message of a helper that failed, if it has one. JSON may contain a secret, so it is
/// not repeated.
fn said(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let line = text.trim().lines().next().unwrap_or_default();
    if line.is_empty() || text.contains(['{', '"']) {
        return String::new();
    }
    format!(": {:.SAID$}", line.escape_debug().to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    /// A program in a file that is removed in the end.
    struct Script(PathBuf);

    impl Script {
        fn new(name: &str, lines: &str) -> Self {
            let path = std::env::temp_dir().join(format!("cas-{name}-{}", std::process::id()));
            fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            Script(path)
        }

        fn get(&self, patience: Duration) -> Result<Option<Credentials>, Failure> {
            let program = self.0.to_str().unwrap().to_owned();
            let helper = Helper { program, patience };
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            // A program cannot be started while another thread starts one and still has the file
            // open for writing.
            loop {
                let got = runtime.block_on(helper.get("x.test"));
                let is_busy = |failure: &Failure| failure.0.contains("os error 26");
                if !got.as_ref().is_err_and(is_busy) {
                    return got;
                }
            }
        }
    }

    impl Drop for Script {
        fn drop(&mut self) {
            fs::remove_file(&self.0).unwrap();
        }
    }

    fn failure(name: &str, lines: &str) -> String {
        let got = Script::new(name, lines).get(PATIENCE);
        got.err().unwrap().to_string()
    }

    #[test]
    fn an_answer_of_as_many_bytes_as_are_allowed_is_read_and_no_longer_one() {
        let answer = r#"{"Username":"a","Secret":"b"}"#;
        let script = |size: u64| {
            let padding = size as usize - answer.len();
            format!("printf '{answer}'\nhead -c {padding} /dev/zero | tr '\\0' ' '")
        };
        let whole = Script::new("whole", &script(limit::ANSWER)).get(PATIENCE);
        assert!(whole.unwrap() == Credentials::of("a".into(), "b".into()));
        for size in [limit::ANSWER + 1, limit::ANSWER * 3] {
            let said = failure("long", &script(size));
            assert!(said.contains("1048576"), "{said}");
        }
    }

    #[test]
    fn a_helper_without_a_login_has_none() {
        for lines in [
            "echo 'credentials not found in native keychain'; exit 1",
            r#"echo '{"ServerURL":"x","Username":"","Secret":""}'"#,
        ] {
            let got = Script::new("none", lines).get(PATIENCE);
            assert!(got.unwrap().is_none(), "{lines}");
        }
    }

    #[test]
    fn a_helper_that_does_something_else_fails_and_gives_nothing_away() {
        for (lines, expected) in [
            ("exit 3", "it ended with exit status: 3"),
            ("echo locked; exit 1", "exit status: 1: locked"),
            ("kill -9 $$", "signal: 9"),
            ("echo '{\"Secret\":\"secret\"}'; exit 1", "exit status: 1"),
            ("echo secret", "did not answer with Username and Secret"),
            (
                "echo '{\"Secret\":\"secret\"}'",
                "did not answer with Username and Secret",
            ),
            (
                "echo '[\"secret\"]'",
                "did not answer with Username and Secret",
            ),
            ("true", "did not answer with Username and Secret"),
        ] {
            let said = failure("odd", lines);
            assert!(said.contains(expected), "{lines}: {said}");
            assert!(!said.contains("secret"), "{lines}: {said}");
        }
        let absent = Helper::new("of-cas-that-is-absent").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        let said = runtime.block_on(absent.get("x.test")).err().unwrap();
        assert!(said.to_string().contains("cannot be started"), "{said}");
    }

    #[test]
    fn a_helper_that_hangs_is_not_waited_for_and_does_not_outlive_that() {
        let script = Script::new("hang", "echo $$ > $0.pid\nexec sleep 1000");
        let said = script.get(Duration::from_millis(300)).err().unwrap();
        assert!(said.to_string().contains("did not answer within"), "{said}");
        let pid = format!("{}.pid", script.0.display());
        let number = fs::read_to_string(&pid).unwrap();
        fs::remove_file(pid).unwrap();
        // The signal is sent, but the process needs a moment to die.
        let runs = || {
            let state = fs::read_to_string(format!("/proc/{}/stat", number.trim()));
            state.is_ok_and(|state| !state.contains(" Z "))
        };
        let begun = std::time::Instant::now();
        while runs() {
            assert!(begun.elapsed() < PATIENCE, "the helper still runs");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_name_cannot_lead_to_another_program() {
        for name in ["", "../x", "a/b", "a b", "a;b", "a\0b", "$(x)"] {
            assert!(Helper::new(name).is_err(), "{name}");
        }
        assert!(Helper::new("ecr-login_2.0").is_ok());
    }
}
