//! The configuration file of the SOCI snapshotter: the table `[pull_modes]`, and warnings about all
//! other settings.

use cas_core::Result;
use cas_core::error::excerpt;
use toml::Value;

use super::PullModes;

/// Maximum number of settings that one warning names.
const NAMED: usize = 12;

/// Settings that `cas` has under other names, and what to do instead.
const ELSEWHERE: &[(&str, &str)] = &[
    (
        "background_fetch.disable",
        "set `complete = false` in [lazy] of cas.toml",
    ),
    (
        "background_fetch.fetch_period_msec",
        "set `speed` in [lazy] of cas.toml",
    ),
    (
        "registry.config_path",
        "set `hosts-dir` in [remote] of cas.toml",
    ),
    (
        "resolver.host",
        "write a table [registries.\"HOST\"] in cas.toml for each host",
    ),
];

/// Settings whose defaults are not zero or empty.
const DEFAULTS: &[(&str, &str)] = &[
    ("directory_cache.direct", "true"),
    ("metadata_store", "\"db\""),
];

impl PullModes {
    /// Reads a configuration of the SOCI snapshotter. Returns the modes of its table
    /// `[pull_modes]`, and warnings as [`PullModes::from_toml`]. In addition, warnings name all
    /// other settings that differ from their defaults, because they have no effect.
    ///
    /// # Errors
    /// As [`PullModes::from_toml`].
    pub fn from_soci(text: &str) -> Result<(Self, Vec<String>)> {
        let (modes, mut warnings, others) = PullModes::take_from(text)?;
        let mut set = Vec::new();
        for (key, value) in &others {
            add_set(&mut set, key.clone(), value);
        }
        for (key, instead) in ELSEWHERE {
            let count = set.len();
            set.retain(|name| name != key && !name.starts_with(&format!("{key}.")));
            if set.len() < count {
                warnings.push(format!("the setting {key} has no effect here; {instead}"));
            }
        }
        if !set.is_empty() {
            let more = match set.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            set.truncate(NAMED);
            let names: Vec<_> = set.iter().map(|name| excerpt(name)).collect();
            let names = names.join(", ");
            warnings.push(format!(
                "cas does not have these settings, so they have no effect: {names}{more}"
            ));
        }
        Ok((modes, warnings))
    }
}

/// Adds the names of settings that differ from their defaults. For most settings, SOCI takes zero,
/// `false` and empty values as the default.
fn add_set(set: &mut Vec<String>, name: String, value: &Value) {
    let is_empty = match value {
        Value::Table(table) => {
            for (key, value) in table {
                add_set(set, format!("{name}.{key}"), value);
            }
            return;
        }
        Value::Integer(number) => *number == 0,
        Value::Boolean(is_set) => !is_set,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    let is_default = match DEFAULTS.iter().find(|(key, _)| *key == name) {
        // An empty text means the default, but `false` is another choice than `true`.
        Some((_, default)) => value.to_string() == *default || is_empty && !value.is_bool(),
        None => is_empty,
    };
    if !is_default {
        set.push(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(text: &str) -> Vec<String> {
        PullModes::from_soci(text).unwrap().1
    }

    /// The shape of the example that SOCI ships, in which all settings have their defaults.
    #[test]
    fn a_file_with_defaults_gives_no_warning() {
        let text = "http_cache_type = \"\"\nmax_concurrency = 0\nmetadata_store = \"db\"\n\
                    [http]\nMaxRetries = 0\n[directory_cache]\nsync_add = false\ndirect = true\n\
                    [resolver]\n[resolver.host]\n[registry]\nconfig_path = \"\"\nmirrors = {}\n\
                    [pull_modes.soci_v1]\nenable = true\n";
        let (modes, warnings) = PullModes::from_soci(text).unwrap();
        assert!(modes.soci_v1 && warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn other_settings_are_named_with_what_to_do_instead() {
        let found = warnings(
            "max_concurrency = 4\nroot = \"/var/lib/soci\"\n[background_fetch]\ndisable = true\n\
             max_queue_size = 9\n[blob]\nmax_retries = 8\n[directory_cache]\ndirect = false\n\
             [resolver.host.\"a.example\"]\nmirrors = [{ host = \"b.example\" }]\n",
        );
        let expected = [
            "the setting background_fetch.disable has no effect here; set `complete = false` in \
             [lazy] of cas.toml",
            "the setting resolver.host has no effect here; write a table [registries.\"HOST\"] in \
             cas.toml for each host",
            "cas does not have these settings, so they have no effect: \
             background_fetch.max_queue_size, blob.max_retries, directory_cache.direct, \
             max_concurrency, root",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_warning_names_a_bounded_number_of_settings() {
        let text: String = (0..30).map(|at| format!("key{at:02} = 1\n")).collect();
        let found = warnings(&text);
        assert!(
            found.len() == 1 && found[0].ends_with("key11 and 18 more"),
            "{found:?}"
        );
    }
}
