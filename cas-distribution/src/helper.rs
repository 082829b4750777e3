//! Docker's credential helpers: `docker-credential-NAME get`.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use cas_core::{Context, Error, Result, limit};
use serde::Deserialize;

use crate::credentials::Credentials;

/// The name that a helper returns with a token instead of a password.
const TOKEN: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Returns the credentials of `host` from the helper `name`, or `None` if it has none.
///
/// # Errors
/// `FailedPrecondition` if it cannot be started, or fails; `InvalidArgument` for an invalid name.
pub(crate) fn ask(name: &str, host: &str) -> Result<Option<Credentials>> {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !name.bytes().all(letter) {
        return Err(Error::invalid(
            "the name of a credential helper has a character other than letters, digits, `-`, `_` \
             and `.`; correct it in Docker's config.json",
        )
        .subject(name));
    }
    let program = format!("docker-credential-{name}");
    get(&program, host).during("ask", program)
}

fn get(program: &str, host: &str) -> Result<Option<Credentials>> {
    let failed = |why: String| {
        Error::precondition(format!(
            "the credential helper {why}; check the helper that Docker's config.json names"
        ))
    };
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("cannot be started: {error}")))?;
    if let Some(mut input) = child.stdin.take() {
        // If the helper does not read the host, its exit status shows that.
        let _ = input.write_all(host.as_bytes());
    }
    let mut answer = Vec::new();
    if let Some(output) = child.stdout.take() {
        output.take(limit::ANSWER + 1).read_to_end(&mut answer)?;
    }
    if answer.len() as u64 > limit::ANSWER {
        // The helper may wait until the rest is read.
        let _ = child.kill();
        child.wait()?;
        let allowed = limit::ANSWER;
        return Err(failed(format!("answered with more than {allowed} bytes")));
    }
    let status = child.wait()?;
    if !status.success() {
        let said = String::from_utf8_lossy(&answer);
        if said.contains("credentials not found") {
            return Ok(None);
        }
        let said = said.trim().escape_debug().to_string();
        return Err(failed(format!("ended with {status}: {said:.200}")));
    }
    let answer: Answer = serde_json::from_slice(&answer)
        .map_err(|_| failed("did not answer with Username and Secret".to_owned()))?;
    Ok(Some(if answer.username == TOKEN {
        Credentials::Identity(answer.secret)
    } else {
        Credentials::Password {
            name: answer.username,
            password: answer.secret,
        }
    }))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_answer_of_as_many_bytes_as_are_allowed_is_read_and_no_longer_one() {
        let program = std::env::temp_dir().join(format!("cas-helper-{}", std::process::id()));
        let ask = |size: u64| {
            let answer = r#"{"Username":"a","Secret":"b"}"#;
            let padding = size as usize - answer.len();
            let script = format!(
                "#!/bin/sh\nprintf '{answer}'\nhead -c {padding} /dev/zero | tr '\\0' ' '\n"
            );
            fs::write(&program, script).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
            get(program.to_str().unwrap(), "x.test")
        };
        assert!(ask(limit::ANSWER).unwrap().is_some());
        for size in [limit::ANSWER + 1, limit::ANSWER * 3] {
            let error = ask(size).err().unwrap();
            assert!(error.to_string().contains("1048576"), "{error}");
        }
        fs::remove_file(program).unwrap();
    }
}
