//! Docker's credential helpers: `docker-credential-NAME ACTION`.
//!
//! A helper reads its input from standard input, so no argument contains a secret. A helper may ask
//! the user at the terminal of this process. A helper that does not end within 30 seconds is
//! killed. If this process has no terminal, the children of the killed helper are killed, too.

use std::fmt;
use std::process::Stdio;
use std::time::Duration;

use cas_core::error::shortened;
use cas_core::limit;
use serde::Deserialize;
use serde_json::json;

use crate::credentials::Credentials;
use crate::process::{Ended, Group, Output, Program};

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

/// Why a helper could not be used, as a clause that does not name the helper.
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
    group: Group,
}

impl Helper {
    /// Returns the helper that a configuration calls `name`.
    ///
    /// # Errors
    /// If the name is empty, or has a character that could lead to another program.
    pub(crate) fn new(name: &str) -> Result<Self, Failure> {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || !name.bytes().all(letter) {
            let why = "its name is empty, or has a character other than letters, digits, `-`, `_` \
                       and `.`";
            return Err(Failure(why.to_owned()));
        }
        Ok(Helper {
            program: program(name),
            patience: PATIENCE,
            group: Group::for_questions(),
        })
    }

    /// Returns the login for `server`, or `None` if the helper has none.
    ///
    /// # Errors
    /// If the helper cannot be started, fails, takes too long or does not answer with a login.
    pub(crate) async fn get(&self, server: &str) -> Result<Option<Credentials>, Failure> {
        let Some(answer) = self.run("get", server.as_bytes()).await? else {
            return Ok(None);
        };
        let answer: Answer = serde_json::from_slice(&answer)
            .map_err(|_| Failure("it did not answer with Username and Secret".to_owned()))?;
        Ok(Credentials::of(answer.username, answer.secret))
    }

    /// Stores a login in the helper.
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

    /// Removes a login from the helper, if it has one.
    ///
    /// # Errors
    /// As [`Helper::get`].
    pub(crate) async fn erase(&self, server: &str) -> Result<(), Failure> {
        self.run("erase", server.as_bytes()).await.map(drop)
    }

    /// Runs the helper. Returns what it wrote, or `None` if it does not have the login.
    async fn run(&self, action: &str, input: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        let program = Program {
            path: self.program.as_ref(),
            arguments: &[action],
            input,
            errors: Stdio::inherit(),
            time: self.patience,
            output: Output::AtMost(limit::ANSWER),
            group: self.group,
        };
        let ended = program.run().await;
        let Ended { status, said } = ended.map_err(|why| Failure(format!("it {why}")))?;
        if status.success() {
            return Ok(Some(said));
        }
        if String::from_utf8_lossy(&said).contains(NOT_FOUND) {
            return Ok(None);
        }
        Err(Failure(format!("it ended with {status}{}", message(&said))))
    }
}

/// Returns the program of the helper of this name.
pub(crate) fn program(name: &str) -> String {
    format!("docker-credential-{name}")
}

/// Returns the message of a helper that failed, if it has one. JSON may contain a secret, so it is
/// not repeated.
fn message(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let line = text.trim().lines().next().unwrap_or_default();
    if line.is_empty() || text.contains(['{', '"']) {
        return String::new();
    }
    let escaped = line.escape_debug().to_string();
    format!(": {}", shortened(&escaped, SAID, 0, line.len()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;
    use crate::process::tests::has_processes;

    /// A program in a file that is removed in the end.
    struct Script(PathBuf, Group);

    impl Script {
        fn new(name: &str, lines: &str) -> Self {
            let path = std::env::temp_dir().join(format!("cas-{name}-{}", std::process::id()));
            fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            Script(path, Group::Own)
        }

        fn get(&self, patience: Duration) -> Result<Option<Credentials>, Failure> {
            let program = self.0.to_str().unwrap().to_owned();
            let helper = Helper {
                program,
                patience,
                group: self.1,
            };
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            // If another thread started a program while this file was open for writing, the new
            // process has the file open for writing until it executes its program. Until then,
            // this file cannot be executed.
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
        let endless = "exec yes".to_owned();
        let long = [limit::ANSWER + 1, limit::ANSWER * 3].map(script);
        for lines in long.into_iter().chain([endless]) {
            let said = failure("long", &lines);
            assert_eq!(said, "it wrote more than 1048576 bytes");
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

    /// Runs a script that writes its process ID into a file and then hangs. Returns the process ID.
    fn hang(script: &Script) -> String {
        let file = format!("{}.pid", script.0.display());
        // On a busy machine, a script may not have begun when its time is over.
        for patience in [500, 5_000, 50_000].map(Duration::from_millis) {
            let said = script.get(patience).err().unwrap();
            let seconds = patience.as_secs_f32();
            assert_eq!(
                said.to_string(),
                format!("it did not end within {seconds} s")
            );
            let written = fs::read_to_string(&file).unwrap_or_default();
            if !written.trim().is_empty() {
                fs::remove_file(file).unwrap();
                return written.trim().to_owned();
            }
        }
        unreachable!("the script never began");
    }

    #[test]
    fn a_helper_that_shares_the_group_is_killed_alone() {
        let mut script = Script::new("shared", "echo $$ > $0.pid\nexec sleep 1000");
        script.1 = Group::Shared;
        let process = hang(&script);
        let stat = format!("/proc/{process}/stat");
        let begun = std::time::Instant::now();
        while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(begun.elapsed() < PATIENCE, "{process} goes on");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_helper_that_hangs_is_not_waited_for_and_does_not_outlive_that() {
        for (name, lines) in [
            ("hang", "exec sleep 1000"),
            ("hang-child", "sleep 1000"),
            // It ends, but its child keeps the output open.
            ("hang-open", "sleep 1000 &"),
            ("hang-closed", "exec >&-; sleep 1000"),
        ] {
            let script = Script::new(name, &format!("echo $$ > $0.pid\n{lines}"));
            let group = hang(&script).parse().unwrap();
            // The signal is sent, but the processes need a moment to end.
            let begun = std::time::Instant::now();
            while has_processes(group) {
                assert!(begun.elapsed() < PATIENCE, "{lines} goes on");
                std::thread::yield_now();
            }
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
