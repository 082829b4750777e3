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
        return Err(
            Error::invalid("the name of a credential helper is not the name of a program")
                .subject(name),
        );
    }
    let program = format!("docker-credential-{name}");
    get(&program, host).during("ask", program)
}

fn get(program: &str, host: &str) -> Result<Option<Credentials>> {
    let failed = |why: String| Error::precondition(format!("the credential helper {why}"));
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("cannot be started: {error}")))?;
    if let Some(mut input) = child.stdin.take() {
        // If the helper does not read it, its exit status says why.
        let _ = input.write_all(host.as_bytes());
    }
    let mut answer = Vec::new();
    if let Some(output) = child.stdout.take() {
        output.take(limit::ANSWER).read_to_end(&mut answer)?;
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
