//! Completes names without a host, as `registries.conf` and `short-name-aliases.conf` prescribe.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use cas_core::image::FullName;
use cas_core::{Error, Result};
use serde::Deserialize;
use toml::Spanned;

use super::file::Text;

/// What is done with a name without a host if several registries are searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// The name is refused.
    Enforcing,
    /// The registries are tried in their order.
    All,
}

/// podman's `short-name-aliases.conf`.
#[derive(Deserialize)]
struct Chosen {
    #[serde(default)]
    aliases: BTreeMap<Spanned<String>, String>,
}

/// The settings for names without a host, from all files that were read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ShortNames {
    aliases: BTreeMap<String, String>,
    /// Hosts that are tried in their order.
    search: Vec<String>,
    mode: Option<Mode>,
    /// The file that lists the hosts in `search`, for messages.
    file: String,
}

impl ShortNames {
    /// Sets the registries to search. The list of a later file replaces the list of an earlier one.
    pub(super) fn search(
        &mut self,
        hosts: Vec<String>,
        text: &Text,
        at: &Range<usize>,
    ) -> Result<()> {
        for host in &hosts {
            let is_host = format!("{host}/a").parse::<FullName>();
            if !is_host.is_ok_and(|name| name.host() == host) {
                let what = format!("expected HOST[:PORT] of a registry to search, found {host:?}");
                return Err(text.mistake(at, what));
            }
        }
        self.search = hosts;
        self.file = text.path().display().to_string();
        Ok(())
    }

    /// Sets the mode. The mode of a later file replaces the mode of an earlier one. An empty mode
    /// changes nothing.
    pub(super) fn mode(&mut self, mode: &str, text: &Text, at: &Range<usize>) -> Result<()> {
        self.mode = match mode {
            "" => return Ok(()),
            "enforcing" => Some(Mode::Enforcing),
            "permissive" | "disabled" => Some(Mode::All),
            other => {
                let what = "expected short-name-mode to be enforcing, permissive or disabled";
                let what = format!("{what}, found {other:?}");
                return Err(text.mistake(at, what));
            }
        };
        Ok(())
    }

    /// Adds an alias, or removes it if `value` is empty.
    pub(super) fn alias(
        &mut self,
        name: &str,
        value: String,
        text: &Text,
        at: &Range<usize>,
    ) -> Result<()> {
        let is_short = without_host(name) && untagged(name) == name;
        let is_full = value.is_empty() || !without_host(&value) && untagged(&value) == value;
        if !is_short || !is_full {
            let what = format!(
                "expected an alias \"NAME\" = \"HOST/REPOSITORY\" without tags and digests, found \
                 {name:?} = {value:?}"
            );
            return Err(text.mistake(at, what));
        }
        self.aliases.remove(name);
        if !value.is_empty() {
            self.aliases.insert(name.to_owned(), value);
        }
        Ok(())
    }

    /// Reads the aliases that users have chosen. Each replaces the alias of the same name in
    /// `registries.conf`, or removes it if the value is empty. Other tables of the file are
    /// ignored. The file may be absent.
    pub(super) fn choose(&mut self, path: &Path) -> Result<()> {
        let Some(text) = Text::read(path)? else {
            return Ok(());
        };
        let chosen: Chosen = text.parse()?;
        for (name, value) in chosen.aliases {
            self.alias(name.get_ref(), value, &text, &name.span())?;
        }
        Ok(())
    }

    /// Returns the names that a typed name may mean, in the order in which they are tried.
    ///
    /// # Errors
    /// `InvalidArgument` if `typed`, or a name that it may mean, is not a valid name;
    /// `FailedPrecondition` if it may mean several names and the mode does not allow that.
    pub(super) fn expand(&self, typed: &str) -> Result<Vec<FullName>> {
        let as_docker: FullName = typed.parse()?;
        if !without_host(typed) {
            return Ok(vec![as_docker]);
        }
        let name = untagged(typed);
        if let Some(alias) = self.aliases.get(name) {
            return Ok(vec![format!("{alias}{}", &typed[name.len()..]).parse()?]);
        }
        if self.search.len() > 1 && self.mode == Some(Mode::Enforcing) {
            let full = self.search.iter().map(|host| format!("{host}/{typed}"));
            return Err(Error::precondition(format!(
                "{} lists several registries to search for a name without a host, but \
                 short-name-mode is enforcing; use one of {}",
                self.file,
                full.collect::<Vec<_>>().join(", ")
            ))
            .subject(typed));
        }
        if self.search.is_empty() {
            return Ok(vec![as_docker]);
        }
        let found = self
            .search
            .iter()
            .map(|host| format!("{host}/{typed}").parse());
        found.collect()
    }
}

/// Returns whether podman would complete a name: it has no `/`, or the part before the first `/` is
/// not `localhost` and has neither `.` nor `:`.
pub(super) fn without_host(name: &str) -> bool {
    let first = name.split_once('/').map(|(first, _)| first);
    first.is_none_or(|first| first != "localhost" && !first.contains(['.', ':']))
}

/// Returns a name without its tag and its digest.
fn untagged(name: &str) -> &str {
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((rest, tag)) if !tag.contains('/') => rest,
        _ => name,
    }
}
