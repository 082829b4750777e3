//! Settings of parallel pulls and of SOCI indexes: the table `[pull_modes]`, with the keys of the
//! SOCI snapshotter's configuration.
//!
//! ```toml
//! [pull_modes.parallel_pull_unpack]
//! enable = true
//! max_concurrent_downloads = 20
//! max_concurrent_downloads_per_image = 12
//! concurrent_download_chunk_size = "16mb"
//! max_concurrent_unpacks_per_image = 3
//! discard_unpacked_layers = true
//! unpack_job_lifetime_sec = 7200
//!
//! [pull_modes.soci_v1]
//! enable = false
//! ```
//!
//! The SOCI snapshotter does not have the key `unpack_job_lifetime_sec`, because it deletes the
//! layers of interrupted unpacks when it starts.

use std::time::Duration;

use cas_core::error::excerpt;
use cas_core::transfer::{PullLimits, Quota};
use cas_core::{Error, Result};
use cas_layer::unpack::jobs::Jobs;
use serde::Deserialize;
use toml::{Table, Value};

use super::PULL_MODES;

/// The name of the table of the parallel mode.
const PARALLEL: &str = "parallel_pull_unpack";

/// Whether pulls are parallel. A parallel pull fetches layers with the settings in `PullModes`. If
/// the pull unpacks its image, it also unpacks the layers with these settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullMode {
    /// A pull is parallel only if `PullOptions::parallel` is set.
    #[default]
    Off,
    /// Every pull is parallel.
    Parallel,
    /// Has the same effect as `Parallel`. In the SOCI snapshotter, this mode pulls only what cannot
    /// be read on demand. In `cas`, the options of a pull decide in every mode whether layers are
    /// read on demand.
    ParallelAsFallback,
}

/// How images are pulled and unpacked in parallel, and which SOCI indexes are used to read layers
/// on demand. A limit of zero or less allows any number. The defaults are the same as in the SOCI
/// snapshotter. All pulls of one [`Cas`](crate::Cas) that use the settings of `cas.toml` share the
/// limits, and so do all pulls with clones of one [`ParallelPull`](crate::ParallelPull).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PullModes {
    /// Whether images are pulled and unpacked in parallel.
    pub mode: PullMode,
    /// Maximum number of concurrent requests of all pulls that share the limits.
    pub downloads: i64,
    /// Maximum number of concurrent requests of one pull.
    pub downloads_per_image: i64,
    /// The size in bytes of the ranges in which a layer is fetched. If `chunk` is `None`, the
    /// options of the pull set this size, and how many ranges are fetched at the same time.
    pub chunk: Option<u64>,
    /// Maximum number of layers that are unpacked concurrently by all pulls that share the limits.
    pub unpacks: i64,
    /// Maximum number of layers of one image that are unpacked concurrently.
    pub unpacks_per_image: i64,
    /// Whether a pull discards the layers that it unpacks, instead of storing them.
    pub discard_unpacked_layers: bool,
    /// Whether to read layers on demand with the SOCI index that an annotation of the manifest
    /// names. By default, true. The digest of the image covers this index.
    pub soci_v2: bool,
    /// Whether to read layers on demand with a SOCI index that is a referrer of the manifest. By
    /// default, false. The digest of the image does not cover this index: anyone who can push to
    /// the repository can add one.
    pub soci_v1: bool,
    /// How long the layers of an interrupted unpack are kept for the next pull, counted from the
    /// last time at which a process began to work on this unpack. By default, [`Jobs::LIFETIME`].
    pub unpack_job_lifetime: Duration,
}

impl Default for PullModes {
    fn default() -> Self {
        PullModes {
            mode: PullMode::Off,
            downloads: -1,
            downloads_per_image: 3,
            chunk: None,
            unpacks: -1,
            unpacks_per_image: 1,
            discard_unpacked_layers: false,
            soci_v2: true,
            soci_v1: false,
            unpack_job_lifetime: Jobs::LIFETIME,
        }
    }
}

/// The table `[pull_modes.parallel_pull_unpack]`.
#[derive(Deserialize)]
#[serde(default)]
struct Written {
    enable: bool,
    experimental_parallel_pull_as_fallback: bool,
    max_concurrent_downloads: i64,
    max_concurrent_downloads_per_image: i64,
    concurrent_download_chunk_size: String,
    max_concurrent_unpacks: i64,
    max_concurrent_unpacks_per_image: i64,
    discard_unpacked_layers: bool,
    unpack_job_lifetime_sec: u64,
    decompress_streams: Option<Value>,
    #[serde(flatten)]
    unknown: Table,
}

/// The table `[pull_modes.soci_v1]` or `[pull_modes.soci_v2]`.
#[derive(Deserialize)]
struct LazyMode {
    enable: Option<bool>,
    #[serde(flatten)]
    unknown: Table,
}

impl Default for Written {
    fn default() -> Self {
        let modes = PullModes::default();
        Written {
            enable: false,
            experimental_parallel_pull_as_fallback: false,
            max_concurrent_downloads: modes.downloads,
            max_concurrent_downloads_per_image: modes.downloads_per_image,
            concurrent_download_chunk_size: String::new(),
            max_concurrent_unpacks: modes.unpacks,
            max_concurrent_unpacks_per_image: modes.unpacks_per_image,
            discard_unpacked_layers: modes.discard_unpacked_layers,
            unpack_job_lifetime_sec: modes.unpack_job_lifetime.as_secs(),
            decompress_streams: None,
            unknown: Table::new(),
        }
    }
}

impl PullModes {
    /// Reads the table `[pull_modes]` of a configuration of the SOCI snapshotter, or of `cas.toml`.
    /// Ignores all other tables. Returns the modes, and a warning for each setting that has no
    /// effect or whose value is replaced by the nearest allowed value.
    ///
    /// # Errors
    /// `InvalidArgument` for text that is not TOML, a value of a wrong type, a malformed size, or
    /// limits that contradict each other.
    pub fn from_toml(text: &str) -> Result<(Self, Vec<String>)> {
        let (modes, warnings, _) = Self::take_from(text)?;
        Ok((modes, warnings))
    }

    /// As [`PullModes::from_toml`], but also returns all other tables and settings of the text.
    pub(super) fn take_from(text: &str) -> Result<(Self, Vec<String>, Table)> {
        let invalid = |error: toml::de::Error| {
            let message = error.message().to_owned();
            Error::invalid(format!("{message}; correct it")).subject("[pull_modes]")
        };
        let mut whole: Table = toml::from_str(text).map_err(invalid)?;
        let mut modes = match whole.remove(PULL_MODES) {
            Some(modes) => modes.try_into::<Table>().map_err(invalid)?,
            None => Table::new(),
        };
        let parallel = modes.remove(PARALLEL).unwrap_or(Value::Table(Table::new()));
        let written: Written = parallel.try_into().map_err(invalid)?;
        let mut warnings = Vec::new();
        let mut lazy = |name: &str, default: bool| {
            let Some(mode) = modes.remove(name) else {
                return Ok(default);
            };
            let mode: LazyMode = mode.try_into()?;
            warnings.extend(mode.unknown.keys().map(|key| unknown(key, name)));
            Ok(mode.enable.unwrap_or(default))
        };
        let soci_v2 = lazy("soci_v2", true).map_err(invalid)?;
        let soci_v1 = lazy("soci_v1", false).map_err(invalid)?;
        for other in modes.keys() {
            warnings.push(format!(
                "[pull_modes.{other}] has no effect: cas does not have this mode; remove the table"
            ));
        }
        let keys = written.unknown.keys();
        warnings.extend(keys.map(|key| unknown(key, PARALLEL)));
        if written.decompress_streams.is_some() {
            warnings.push(format!(
                "decompress_streams of [pull_modes.{PARALLEL}] has no effect: layers are \
                 decompressed without other programs; remove the setting"
            ));
        }
        let chunk = parse_chunk(&written.concurrent_download_chunk_size)?;
        let kept = chunk.map(|chunk| chunk.clamp(PullLimits::MIN_RANGE, PullLimits::MAX_RANGE));
        if kept != chunk {
            warnings.push(format!(
                "concurrent_download_chunk_size {:?} is replaced by {} bytes, the nearest size \
                 that is allowed; correct the value",
                written.concurrent_download_chunk_size,
                kept.unwrap_or_default()
            ));
        }
        let modes = PullModes {
            mode: match (
                written.enable,
                written.experimental_parallel_pull_as_fallback,
            ) {
                (true, _) => PullMode::Parallel,
                (false, true) => PullMode::ParallelAsFallback,
                (false, false) => PullMode::Off,
            },
            downloads: written.max_concurrent_downloads,
            downloads_per_image: written.max_concurrent_downloads_per_image,
            chunk: kept,
            unpacks: written.max_concurrent_unpacks,
            unpacks_per_image: written.max_concurrent_unpacks_per_image,
            discard_unpacked_layers: written.discard_unpacked_layers,
            soci_v2,
            soci_v1,
            unpack_job_lifetime: Duration::from_secs(written.unpack_job_lifetime_sec),
        };
        modes.quotas()?;
        Ok((modes, warnings, whole))
    }

    /// Returns the limits on requests and on unpacks.
    ///
    /// # Errors
    /// `InvalidArgument` if limits contradict each other. The message names all such limits.
    pub(crate) fn quotas(&self) -> Result<(Quota, Quota)> {
        let downloads = Quota::new(self.downloads, self.downloads_per_image);
        let unpacks = Quota::new(self.unpacks, self.unpacks_per_image);
        match (downloads, unpacks) {
            (Ok(downloads), Ok(unpacks)) => Ok((downloads, unpacks)),
            (downloads, unpacks) => {
                let told = |name: &str, quota: Result<Quota>| {
                    quota.err().map(|error| format!("{name}: {error}"))
                };
                let told = [told("downloads", downloads), told("unpacks", unpacks)];
                let told: Vec<String> = told.into_iter().flatten().collect();
                Err(Error::invalid(told.join("; ")).subject("[pull_modes]"))
            }
        }
    }
}

/// Returns the warning about an unknown key in the table of a mode.
fn unknown(key: &str, mode: &str) -> String {
    format!("{key} of [pull_modes.{mode}] has no effect: no such key exists; remove the key")
}

/// Parses a size such as `8mb`, in powers of 1024. Returns the number of bytes, or `None` for an
/// empty text and for less than one byte.
///
/// # Errors
/// `InvalidArgument` for text that is not a size.
fn parse_chunk(text: &str) -> Result<Option<u64>> {
    let lower = text.trim().to_ascii_lowercase();
    if lower.is_empty() {
        return Ok(None);
    }
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &lower[digits.len()..] {
        "gb" => Some(1_u64 << 30),
        "mb" => Some(1 << 20),
        "kb" => Some(1 << 10),
        "b" | "" => Some(1),
        _ => None,
    };
    let is_number = {
        let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        !whole.is_empty() && !part.is_empty() && all_digits(whole) && all_digits(part)
    };
    let number = digits.parse::<f64>().ok().filter(|_| is_number);
    let (Some(number), Some(unit)) = (number, unit) else {
        return Err(Error::invalid(
            "expected a size such as \"8mb\": a number, alone or with b, kb, mb or gb; correct \
             concurrent_download_chunk_size",
        )
        .subject(format!("\"{}\"", excerpt(text))));
    };
    // The conversion of a number that is too large gives the greatest `u64`.
    let bytes = (number * unit as f64) as u64;
    Ok((bytes > 0).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use cas_core::ErrorKind;

    use super::*;

    fn parsed(keys: &str) -> Result<(PullModes, Vec<String>)> {
        PullModes::from_toml(&format!("[pull_modes.parallel_pull_unpack]\n{keys}"))
    }

    #[test]
    fn without_the_table_nothing_is_parallel_and_other_tables_are_not_read() {
        for text in ["", "root = \"/x\"\n[blob]\nmax_retries = 8", "[pull_modes]"] {
            let read = PullModes::from_toml(text).unwrap();
            assert_eq!(read, (PullModes::default(), Vec::new()), "{text}");
        }
    }

    #[test]
    fn the_table_of_amazon_linux_and_our_own_key_are_read() {
        let (modes, warnings) = parsed(
            "enable = true\nmax_concurrent_downloads = 20\n\
             max_concurrent_downloads_per_image = 12\n\
             concurrent_download_chunk_size = \"16mb\"\nmax_concurrent_unpacks = 15\n\
             max_concurrent_unpacks_per_image = 10\ndiscard_unpacked_layers = true\n\
             unpack_job_lifetime_sec = 90",
        )
        .unwrap();
        let expected = PullModes {
            mode: PullMode::Parallel,
            downloads: 20,
            downloads_per_image: 12,
            chunk: Some(16 << 20),
            unpacks: 15,
            unpacks_per_image: 10,
            discard_unpacked_layers: true,
            unpack_job_lifetime: Duration::from_secs(90),
            ..PullModes::default()
        };
        assert_eq!((modes, warnings), (expected, Vec::new()));
    }

    #[test]
    fn parallel_comes_first_and_may_be_the_fallback() {
        let fallback = "experimental_parallel_pull_as_fallback = true";
        let (modes, _) = parsed(fallback).unwrap();
        assert_eq!(modes.mode, PullMode::ParallelAsFallback);
        let (modes, _) = parsed(&format!("enable = true\n{fallback}")).unwrap();
        assert_eq!(modes.mode, PullMode::Parallel);
    }

    #[test]
    fn an_index_that_the_digest_covers_is_used_and_another_one_by_choice() {
        let modes = |text: &str| PullModes::from_toml(text).map(|(modes, _)| modes);
        let used = |text: &str| {
            modes(text)
                .map(|modes| (modes.soci_v1, modes.soci_v2))
                .unwrap()
        };
        assert_eq!(used(""), (false, true));
        assert_eq!(used("[pull_modes.soci_v1]\nenable = true"), (true, true));
        assert_eq!(used("[pull_modes.soci_v2]\nenable = false"), (false, false));
        assert_eq!(used("[pull_modes.soci_v1]"), (false, true));
        let error = modes("[pull_modes.soci_v1]\nenable = 1").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }

    #[test]
    fn sizes_are_in_powers_of_1024() {
        for (text, bytes) in [
            ("8mb", Some(8 << 20)),
            ("1.5mb", Some(3 << 19)),
            ("70000", Some(70_000)),
            ("70000b", Some(70_000)),
            ("512KB", Some(512 << 10)),
            ("1gb", Some(1 << 30)),
            ("", None),
            ("0", None),
            ("0mb", None),
        ] {
            assert_eq!(parse_chunk(text).unwrap(), bytes, "{text}");
        }
        for text in [
            "-1mb", "mb", "1tb", "1.mb", ".5mb", "1 mb", "1e3", "8mib", "inf", "1.2.3",
        ] {
            let error = parse_chunk(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text}");
        }
    }

    #[test]
    fn what_has_no_effect_is_named() {
        let (modes, warnings) = parsed(
            "enable = true\nconcurrent_download_chunk_size = \"1gb\"\nspeed = 1\n\
             [pull_modes.parallel_pull_unpack.decompress_streams.gzip]\npath = \"/usr/bin/igzip\"\n\
             [pull_modes.soci_v3]\nenable = true",
        )
        .unwrap();
        assert_eq!(modes.chunk, Some(PullLimits::MAX_RANGE));
        let names = [
            "soci_v3",
            "speed",
            "decompress_streams",
            "chunk_size \"1gb\"",
        ];
        assert_eq!(warnings.len(), names.len(), "{warnings:?}");
        for (warning, name) in warnings.iter().zip(names) {
            assert!(warning.contains(name), "{warning}");
        }
    }

    #[test]
    fn a_mistake_is_an_error_that_says_where() {
        for (keys, part) in [
            ("enable = 1", "invalid type"),
            ("max_concurrent_unpacks = \"2\"", "invalid type"),
            ("unpack_job_lifetime_sec = -1", "expected u64"),
            ("concurrent_download_chunk_size = \"x\"", "such as \"8mb\""),
            ("enable = true =", "pull_modes"),
        ] {
            let error = parsed(keys).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{keys}");
            assert!(error.to_string().contains(part), "{error}");
        }
        let both = "max_concurrent_downloads = 2\nmax_concurrent_unpacks = 2\n\
                    max_concurrent_unpacks_per_image = 3";
        let error = parsed(both).unwrap_err().to_string();
        assert!(
            error.contains("downloads: ") && error.contains("unpacks: "),
            "{error}"
        );
    }
}
