//! podman's `registries.conf`, with its drop-ins.
//!
//! A `[[registry]]` table replaces all tables in earlier files that have the same prefix, however
//! the prefix is spelled. Version 1 of the format, which only has lists of hosts, is read as well,
//! but not in drop-ins.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cas_core::image::FullName;
use cas_core::{Error, Result};
use serde::Deserialize;
use toml::Spanned;

use super::endpoint::Endpoint;
use super::file::{self, Text};
use super::prefix::Compared;
use super::registry_table::{Registry, Table};
use super::short_names::ShortNames;
use crate::spelling;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Document {
    #[serde(default)]
    registry: Vec<Spanned<Table>>,
    unqualified_search_registries: Option<Spanned<Vec<String>>>,
    short_name_mode: Option<Spanned<String>>,
    #[serde(default)]
    aliases: BTreeMap<Spanned<String>, String>,
    /// The lists of version 1.
    registries: Option<Spanned<Lists>>,
}

/// Version 1 of the format: lists of hosts.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Lists {
    search: List,
    insecure: List,
    block: List,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct List {
    registries: Vec<String>,
}

/// The content of `registries.conf` and its drop-ins.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RegistriesConf {
    registries: Vec<Registry>,
    pub(super) short_names: ShortNames,
}

/// Reads `registries.conf`, and then the files in its drop-in directories whose names end with
/// `.conf`.
///
/// # Errors
/// `NotFound` if the file `conf` does not exist; `InvalidArgument` for a file that does not parse,
/// mixes both formats or contradicts itself; errors of [`file::bytes`] and [`file::list`].
pub(super) fn load(conf: Option<&Path>, drop_ins: &[PathBuf]) -> Result<RegistriesConf> {
    let mut found = RegistriesConf::default();
    if let Some(path) = conf {
        let text = Text::read(path)?.ok_or_else(|| {
            Error::not_found("registries.conf is absent; check its path")
                .operation("read")
                .subject(path.display())
        })?;
        found.add(&text, false)?;
    }
    for directory in drop_ins {
        for path in file::list(directory, &[".conf"])?.unwrap_or_default() {
            // A file may have been removed since the directory was listed.
            if let Some(text) = Text::read(&path)? {
                found.add(&text, true)?;
            }
        }
    }
    Ok(found)
}

impl RegistriesConf {
    /// Returns the endpoints for a name: those of the table with the most specific prefix, or the
    /// registry itself if the name matches none of the tables.
    ///
    /// # Errors
    /// As [`Registry::endpoints`].
    pub(super) fn endpoints(&self, reference: &FullName) -> Result<Vec<Endpoint>> {
        let name = Compared::of(reference);
        let all = self.registries.iter();
        let matching = all.filter_map(|one| Some((name.rank(&one.prefix, one.blocked)?, one)));
        match matching.max_by_key(|(rank, _)| *rank) {
            Some((_, registry)) => registry.endpoints(reference),
            None => Ok(vec![Endpoint::of(reference)]),
        }
    }

    pub(super) fn add(&mut self, text: &Text, is_drop_in: bool) -> Result<()> {
        let document: Document = text.parse()?;
        let mut tables = Vec::new();
        for table in document.registry {
            let at = table.span();
            tables.push((table.into_inner(), at));
        }
        if let Some(lists) = document.registries {
            let at = lists.span();
            if is_drop_in {
                let what = "expected [[registry]] tables, because a drop-in must have version 2 of \
                            the format; found [registries.…], which is version 1";
                return Err(text.mistake(&at, what));
            }
            if !tables.is_empty() || document.unqualified_search_registries.is_some() {
                let what = "the file mixes version 1 of the format, [registries.…], with version \
                            2; remove [registries.…], and use [[registry]] and \
                            unqualified-search-registries";
                return Err(text.mistake(&at, what));
            }
            let searched = lists.get_ref().search.registries.clone();
            self.short_names.search(searched, text, &at)?;
            tables = lists
                .get_ref()
                .tables()
                .into_iter()
                .map(|table| (table, at.clone()))
                .collect();
        }
        if let Some(hosts) = document.unqualified_search_registries {
            let at = hosts.span();
            self.short_names.search(hosts.into_inner(), text, &at)?;
        }
        if let Some(mode) = document.short_name_mode {
            self.short_names.mode(mode.get_ref(), text, &mode.span())?;
        }
        for (name, value) in document.aliases {
            self.short_names
                .alias(name.get_ref(), value, text, &name.span())?;
        }
        let mut new: Vec<Registry> = Vec::new();
        for (table, at) in tables {
            let registry = table.check(text, &at)?;
            if let Some(what) = new.iter().find_map(|one| one.contradicts(&registry)) {
                let what =
                    format!("another [[registry]] of this location has another value of {what:?}");
                return Err(text.mistake(&at, what));
            }
            // In one file, the first table of a prefix counts.
            if new.iter().all(|one| one.prefix != registry.prefix) {
                new.push(registry);
            }
        }
        let spelled = |one: &Registry| spelling::name(&one.prefix);
        let replaced: Vec<String> = new.iter().map(spelled).collect();
        self.registries
            .retain(|old| !replaced.contains(&spelled(old)));
        self.registries.extend(new);
        Ok(())
    }
}

impl Lists {
    /// Returns a table for each host that is blocked or insecure. Spellings of one host have one
    /// table.
    fn tables(&self) -> Vec<Table> {
        let mut tables = BTreeMap::new();
        for (list, apply) in [
            (&self.block, Table::block as fn(&mut Table)),
            (&self.insecure, Table::trust),
        ] {
            for host in &list.registries {
                let table = tables.entry(spelling::name(host));
                apply(table.or_insert_with(|| Table::of_list(host)));
            }
        }
        tables.into_values().collect()
    }
}
