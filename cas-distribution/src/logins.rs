//! Finds logins in the files of podman and docker, and in the credential helpers that the files
//! name.
//!
//! The files are read in this order, as podman reads them:
//! 1. the file that the caller names, otherwise `$REGISTRY_AUTH_FILE`, otherwise
//!    `$XDG_RUNTIME_DIR/containers/auth.json`, or `/run/containers/UID/auth.json` if
//!    `$XDG_RUNTIME_DIR` is unset;
//! 2. `containers/auth.json` in `$XDG_CONFIG_HOME`, or in `~/.config` if that variable is unset;
//! 3. `config.json` in `$DOCKER_CONFIG`, or in `~/.docker` if that variable is unset;
//! 4. `~/.dockercfg`.
//!
//! In each file, the helper of the registry (`credHelpers`) comes first, then the helper for all
//! registries (`credsStore`), then the logins in the file (`auths`). The first login that is found
//! is used. A helper that fails is skipped. A file that the user may not read is skipped, too,
//! unless the caller names it. A [`Client`](crate::Client) searches for a login only after a
//! registry has asked for credentials.

use std::env::var_os;
use std::path::{Path, PathBuf};

use cas_core::{Context, Error, ErrorKind, Result};

use crate::bounded::found;
use crate::config::Config;
use crate::credentials::Credentials;
use crate::helper::{self, Helper};
use crate::keys::Keys;
use crate::runtime;

/// The directory with the files of users who do not have `$XDG_RUNTIME_DIR`.
const RUN: &str = "/run/containers";

/// What the search for a login has found.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) login: Option<Credentials>,
    /// The file that has the login, or names the helper that has it.
    pub(crate) source: Option<Source>,
    /// A warning for each helper that was skipped, and for each file outside [`RUN`] that was
    /// skipped.
    pub(crate) warnings: Vec<String>,
}

/// A file that may have logins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    /// Whether the file has the format of `.dockercfg`, which is only read.
    pub(crate) is_legacy: bool,
}

/// Returns the login of these keys, with warnings. `file` is the file that the caller names.
///
/// # Errors
/// `NotFound` if `file` is absent; errors of [`Config::read`], but `Denied` only for `file`;
/// `InvalidArgument` if an entry for these keys does not decode.
pub(crate) async fn find(keys: &Keys, file: Option<&Path>) -> Result<Found> {
    if let Some(file) = file.filter(|file| found(file).is_none()) {
        let error = Error::not_found("expected a file of logins, found nothing; check the path");
        return Err(error).during("read", file.display());
    }
    let mut found = Found::default();
    // The programs of helpers that have failed.
    let mut skipped = Vec::new();
    for source in sources(file, &Places::of_system()) {
        let (path, is_legacy) = (source.path.clone(), source.is_legacy);
        let read = move || Config::read(&path, is_legacy);
        let config = match runtime::blocking(read).await {
            Ok(Some(config)) => config,
            Ok(None) => continue,
            Err(error) if file != Some(&source.path) && error.kind() == ErrorKind::Denied => {
                found.warnings.extend(unreadable(&source.path, &error));
                continue;
            }
            Err(error) => return Err(error),
        };
        for name in config.helpers(keys) {
            let program = helper::program(name);
            if skipped.contains(&program) {
                continue;
            }
            match ask(name, keys).await {
                Ok(None) => {}
                Ok(login) => {
                    let source = Some(source);
                    return Ok(Found {
                        login,
                        source,
                        ..found
                    });
                }
                Err(why) => {
                    found.warnings.push(format!(
                        "the credential helper {} of {} was skipped: {why}; correct the helper, or \
                         remove it from this file",
                        program.escape_debug(),
                        source.path.display()
                    ));
                    skipped.push(program);
                }
            }
        }
        let saved = config.saved(keys);
        if let Some(login) = saved.during("read", source.path.display())? {
            found.login = Some(login);
            found.source = Some(source);
            return Ok(found);
        }
    }
    Ok(found)
}

/// Returns the warning about a file that the user may not read. Returns `None` for a file below
/// [`RUN`], because that directory may be closed to users who have no login in it.
fn unreadable(path: &Path, error: &Error) -> Option<String> {
    let is_stand_in = path.starts_with(RUN);
    (!is_stand_in).then(|| format!("{error}; the file was skipped; correct its owner or its mode"))
}

/// Returns the file into which a login is written: `file` if the caller names one, otherwise
/// `$REGISTRY_AUTH_FILE`, otherwise docker's `config.json`.
///
/// # Errors
/// `InvalidArgument` if no file is named and neither `$DOCKER_CONFIG` nor `$HOME` is set.
pub(crate) fn written(file: Option<&Path>) -> Result<PathBuf> {
    let places = Places::of_system();
    let file = file
        .map(Path::to_owned)
        .or_else(|| places.registry_auth_file.clone());
    file.or_else(|| places.of_docker()).ok_or_else(|| {
        Error::invalid("neither DOCKER_CONFIG nor HOME is set; name a file with --authfile")
    })
}

/// Asks a helper for the keys in turn. Returns the first login that it has.
async fn ask(name: &str, keys: &Keys) -> std::result::Result<Option<Credentials>, helper::Failure> {
    let helper = Helper::new(name)?;
    for key in keys.whole() {
        if let Some(login) = helper.get(key).await? {
            return Ok(Some(login));
        }
    }
    Ok(None)
}

/// The values of the variables that state where the files of the user are, and the user id. A
/// variable that is empty counts as unset.
#[derive(Default)]
struct Places {
    registry_auth_file: Option<PathBuf>,
    runtime: Option<PathBuf>,
    config: Option<PathBuf>,
    docker: Option<PathBuf>,
    home: Option<PathBuf>,
    user: u32,
}

impl Places {
    fn of_system() -> Self {
        let var = |name| {
            var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        Places {
            registry_auth_file: var("REGISTRY_AUTH_FILE"),
            runtime: var("XDG_RUNTIME_DIR"),
            config: var("XDG_CONFIG_HOME"),
            docker: var("DOCKER_CONFIG"),
            home: var("HOME"),
            user: rustix::process::getuid().as_raw(),
        }
    }

    /// Returns docker's `config.json`, or `None` if neither `$DOCKER_CONFIG` nor `$HOME` is set.
    fn of_docker(&self) -> Option<PathBuf> {
        let docker = self.docker.clone();
        let docker = docker.or_else(|| Some(self.home.as_ref()?.join(".docker")));
        docker.map(|directory| directory.join("config.json"))
    }
}

/// Returns the files in the order in which they are read.
fn sources(file: Option<&Path>, places: &Places) -> Vec<Source> {
    const PODMAN: &str = "containers/auth.json";
    let home = |path: &str| places.home.as_ref().map(|home| home.join(path));
    let chosen = file.map(Path::to_owned);
    let chosen = chosen.or_else(|| places.registry_auth_file.clone());
    let first = chosen.unwrap_or_else(|| match &places.runtime {
        Some(directory) => directory.join(PODMAN),
        None => Path::new(RUN).join(format!("{}/auth.json", places.user)),
    });
    let config = places.config.clone().or_else(|| home(".config"));
    let config = config.map(|directory| directory.join(PODMAN));
    let named = [Some(first), config, places.of_docker()].map(|path| (path, false));
    let all = named.into_iter().chain([(home(".dockercfg"), true)]);
    all.filter_map(|(path, is_legacy)| {
        Some(Source {
            path: path?,
            is_legacy,
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(file: Option<&str>, places: &Places) -> Vec<String> {
        let sources = sources(file.map(Path::new), places);
        let shown = sources
            .iter()
            .map(|source| source.path.display().to_string());
        shown.collect()
    }

    #[test]
    fn files_are_read_in_the_order_of_podman_and_docker() {
        let mut places = Places {
            home: Some("/home/me".into()),
            user: 7,
            ..Places::default()
        };
        let config = "/home/me/.config/containers/auth.json";
        let docker = "/home/me/.docker/config.json";
        let legacy = "/home/me/.dockercfg";
        assert_eq!(
            paths(None, &places),
            ["/run/containers/7/auth.json", config, docker, legacy]
        );
        places.runtime = Some("/run/user/7".into());
        let runtime = "/run/user/7/containers/auth.json";
        assert_eq!(paths(None, &places), [runtime, config, docker, legacy]);
        places.config = Some("/c".into());
        places.docker = Some("/d".into());
        let [config, docker] = ["/c/containers/auth.json", "/d/config.json"];
        assert_eq!(paths(None, &places), [runtime, config, docker, legacy]);
        places.registry_auth_file = Some("/chosen.json".into());
        assert_eq!(
            paths(None, &places),
            ["/chosen.json", config, docker, legacy]
        );
        assert_eq!(paths(Some("a"), &places), ["a", config, docker, legacy]);
        let only_legacy = |source: &Source| source.is_legacy == source.path.ends_with(".dockercfg");
        assert!(sources(None, &places).iter().all(only_legacy));
    }

    #[test]
    fn a_file_of_another_user_is_skipped_with_a_warning() {
        let denied = || Error::from(std::io::Error::from(std::io::ErrorKind::PermissionDenied));
        assert_eq!(denied().kind(), ErrorKind::Denied);
        let said = unreadable(Path::new("/home/me/.docker/config.json"), &denied());
        assert!(said.unwrap().contains("was skipped"));
        assert_eq!(
            unreadable(Path::new("/run/containers/7/auth.json"), &denied()),
            None
        );
    }

    #[test]
    fn a_user_without_a_home_directory_has_fewer() {
        assert_eq!(
            paths(None, &Places::default()),
            ["/run/containers/0/auth.json"]
        );
    }
}
