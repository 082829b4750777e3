//! `cas login` and `cas logout`: save and remove logins for registries. docker and podman use the
//! same logins.

use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;

use cas::distribution::{Host, Options, log_in, log_out, log_out_of_all};
use cas::{Error, RemoteSettings, Result, limit};
use clap::Args;
use serde_json::json;

use super::Context;
use super::connection::Trust;
use super::prompt::{self, off_this_thread};

/// The registry if the user names none.
const HUB: &str = "docker.io";

/// Log in to a registry
#[derive(Args)]
#[command(after_help = "Examples:
  cas login registry.example
  cas login --username me --password-stdin < password.txt

The name and the password are checked with the registry. They are then saved in the file of logins
(see --authfile), or in the credential helper that this file names. If the registry does not ask for
a login, they are saved without a check, and a warning says so. docs/CREDENTIALS.md describes where
logins are kept and which hosts receive them.")]
pub(crate) struct Login {
    /// HOST[:PORT] of the registry
    #[arg(value_name = "HOST", default_value = HUB, value_parser = host)]
    registry: Host,
    /// Name of the user [default: ask for it at the terminal]
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// Refused, because every user of this machine can read the arguments of a command
    #[arg(short, long, hide = true, value_name = "PASSWORD")]
    password: Option<String>,
    /// Save the login in this file, or in the credential helper that it names [default: the file in
    /// cas.toml, $REGISTRY_AUTH_FILE, or docker's config.json]
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// Use plain HTTP (automatic for a registry on this machine that does not require TLS)
    #[arg(long)]
    plain_http: bool,
    #[command(flatten)]
    trust: Trust,
}

/// Log out of a registry
#[derive(Args)]
#[command(after_help = "Examples:\n  cas logout registry.example\n  cas logout --all")]
pub(crate) struct Logout {
    /// HOST[:PORT] of the registry
    #[arg(value_name = "HOST", default_value = HUB, value_parser = host)]
    registry: Host,
    /// Remove all logins that the file of logins (see --authfile) lists, from this file and from
    /// the credential helpers that it names
    #[arg(long, conflicts_with = "registry")]
    all: bool,
    /// Remove the login from this file, and from the credential helpers that it names [default: the
    /// file in cas.toml, $REGISTRY_AUTH_FILE, or docker's config.json]
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
}

/// Parses the host of a registry, or its URL, as in `https://index.docker.io/v1/`.
fn host(text: &str) -> Result<Host> {
    let host = match text.split_once("://") {
        Some(("http" | "https", rest)) => rest.split('/').next().unwrap_or_default(),
        _ => text,
    };
    host.parse()
}

impl Login {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let settings = RemoteSettings::read(context.root()?)?;
        let token_hosts = settings.token_hosts(&self.registry.to_string())?;
        let (name, password) = self.ask().await?;
        let options = Options {
            plain_http: self.plain_http,
            token_hosts,
            auth_file: self.authfile.or_else(|| settings.auth_file()),
            timeouts: settings.timeouts()?,
            ..Options::default()
        };
        let hosts = self.trust.hosts(settings.hosts());
        let done = log_in(&self.registry, &name, &password, &hosts, options).await?;
        for warning in &done.warnings {
            context.progress.warn(warning);
        }
        let registry = self.registry.to_string();
        let made = json!({
            "registry": registry, "username": name, "file": done.file, "helper": done.helper,
        });
        context.out.item(&made, || {
            let place = match done.helper {
                Some(helper) => helper,
                None => format!("{}, which is not encrypted", done.file.display()),
            };
            format!("logged in to {registry} as {name}; the login is in {place}")
        })
    }

    /// Returns the name and the password. Values that no option gives are read from standard input
    /// or asked for at the terminal.
    ///
    /// # Errors
    /// `InvalidArgument` if the password is an argument, or if standard input is not a terminal and
    /// `--password-stdin` is not given; errors of [`read_password`] and [`prompt::ask_secret`].
    async fn ask(&self) -> Result<(String, String)> {
        let refused = |why: &'static str| Err(Error::invalid(why).operation("log in"));
        if self.password.is_some() {
            return refused(
                "every user of this machine can read the arguments of a command; give the password \
                 with --password-stdin, or type it at the terminal; change this password at the \
                 registry, because others may have read it",
            );
        }
        if self.password_stdin {
            let name = self.username.clone().unwrap_or_default();
            return Ok((name, off_this_thread(|| read_password(io::stdin())).await?));
        }
        if !io::stdin().is_terminal() {
            return refused(
                "standard input is not a terminal; give the name with --username, and the password \
                 with --password-stdin",
            );
        }
        let name = match &self.username {
            Some(name) => name.clone(),
            None => prompt::ask("Username: ").await?.trim().to_owned(),
        };
        Ok((name, prompt::ask_secret("Password: ").await?))
    }
}

/// Returns the password in `input`, which is standard input, without the line break at its end.
///
/// # Errors
/// `OutOfRange` if `input`, with the line break, has more than [`limit::SECRET`] bytes;
/// `InvalidArgument` if it is not UTF-8; errors of reading.
fn read_password(input: impl Read) -> Result<String> {
    let mut text = Vec::new();
    input.take(limit::SECRET + 1).read_to_end(&mut text)?;
    if text.len() as u64 > limit::SECRET {
        let allowed = limit::SECRET;
        let why = format!("standard input has more than {allowed} bytes; expected a password");
        return Err(Error::out_of_range(why).operation("log in"));
    }
    let text = String::from_utf8(text).map_err(|_| {
        Error::invalid("the password is not UTF-8; check standard input").operation("log in")
    })?;
    Ok(prompt::line(&text).to_owned())
}

impl Logout {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let settings = RemoteSettings::read(context.root()?)?;
        let file = self.authfile.or_else(|| settings.auth_file());
        if self.all {
            let removed = log_out_of_all(file).await?;
            return removed
                .iter()
                .try_for_each(|registry| said(context, registry));
        }
        for warning in log_out(&self.registry, file).await? {
            context.progress.warn(&warning);
        }
        said(context, &self.registry.to_string())
    }
}

fn said(context: &Context, registry: &str) -> Result<()> {
    let made = json!({"loggedOut": registry});
    context
        .out
        .item(&made, || format!("logged out of {registry}"))
}

#[cfg(test)]
mod tests {
    use cas::ErrorKind;

    use super::*;

    #[test]
    fn a_password_has_a_largest_length() {
        let most = usize::try_from(limit::SECRET).unwrap();
        let password = "x".repeat(most);
        assert_eq!(read_password(password.as_bytes()).unwrap(), password);
        let error = read_password(format!("{password}\n").as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
        assert!(error.to_string().contains(&most.to_string()), "{error}");
    }
}
