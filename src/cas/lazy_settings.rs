//! Checks that `cas.toml` has the options of a pull whose layers are fetched on demand later. Only
//! the settings in `cas.toml` apply when these layers are fetched.

use std::path::{Path, PathBuf};

use cas_core::image::FullName;
use cas_core::{Error, Result};
use cas_distribution::Hosts;

use super::remote_options::PullOptions;
use crate::root::RemoteSettings;

/// Checks that the settings of `cas.toml` contain the `options` with which a pull reaches the
/// registry of `reference`. The process that fetches layers later has only these settings. The
/// options of a pull are not stored, because some of them decide where a login is sent.
///
/// # Errors
/// `FailedPrecondition` if the settings lack an option, or differ from it; `InvalidArgument` for a
/// wrong setting in `cas.toml`.
pub(super) fn check(
    settings: &RemoteSettings,
    reference: &FullName,
    options: &PullOptions,
) -> Result<()> {
    let host = reference.host();
    let (mut of_host, mut of_all) = (Vec::new(), Vec::new());
    if options.plain_http && !settings.plain_http(host) {
        of_host.push("plain-http = true".to_owned());
    }
    if options.private_addresses && !settings.private_addresses(host) {
        of_host.push("private-addresses = true".to_owned());
    }
    let known = settings.token_hosts(host)?;
    let is_new = options
        .token_hosts
        .iter()
        .any(|named| !known.contains(named));
    if is_new {
        let all = known.iter().chain(&options.token_hosts);
        let all: Vec<String> = all.map(ToString::to_string).collect();
        of_host.push(format!("token-hosts = {all:?}"));
    }
    if let Some(file) = &options.auth_file
        && settings.auth_file().as_ref() != Some(file)
    {
        of_all.push(line("auth-file", file));
    }
    if let Some(hosts) = &options.hosts {
        of_all.extend(differences(&settings.hosts(), hosts));
    }
    let tables = [
        (format!("[registries.{host:?}]"), of_host),
        ("[remote]".to_owned(), of_all),
    ];
    let tables = tables.into_iter().filter(|(_, lines)| !lines.is_empty());
    let tables: Vec<String> = tables
        .map(|(table, lines)| format!("`{}` in {table}", lines.join("`, `")))
        .collect();
    if tables.is_empty() {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "layers that are read on demand are fetched later, when the options of the pull are not \
         known; either write {} of cas.toml and pull without these options, or pull without --lazy",
        tables.join(" and ")
    ))
    .operation("pull")
    .subject(reference))
}

/// Compares the files that `cas.toml` names (`own`) with the files of a pull. Returns the lines for
/// the table `[remote]` that name those files of the pull that differ.
fn differences(own: &Hosts, pull: &Hosts) -> Vec<String> {
    let mut lines = Vec::new();
    let is_other = own.directories != pull.directories || own.certificates != pull.certificates;
    if let Some(directory) = pull.directories.first().filter(|_| is_other) {
        lines.push(line("hosts-dir", directory));
    }
    if let Some(file) = &pull.registries_conf
        && own.registries_conf.as_ref() != Some(file)
    {
        lines.push(line("registries-conf", file));
    }
    if own.authorities != pull.authorities {
        let absolute: Vec<PathBuf> = pull.authorities.iter().map(|file| absolute(file)).collect();
        lines.push(format!("ca = {absolute:?}"));
    }
    lines
}

fn line(key: &str, file: &Path) -> String {
    format!("{key} = {:?}", absolute(file))
}

/// Returns a path that does not depend on the directory of this process.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
