//! The opener of the snapshotter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use cas_core::snapshot::Backing;
use cas_core::{Error, Location, Result, Snapshotter, SnapshotterOpener, SnapshotterParts};
use cas_host::snapshotter::SnapshotLayout;

use crate::{Erofs, ErofsSnapshotter, NAME, probe};

/// The option that chooses how the kernel reads the files of images.
const MOUNT: &str = "mount";
/// The option that makes committed layers immutable.
const IMMUTABLE: &str = "immutable";

/// The option that allows layers that are EROFS images themselves.
const NATIVE: &str = "native";

/// The option that names the directories of ready layers.
const LAYERS: &str = "layers";

/// All options.
const KNOWN: &[&str] = &[IMMUTABLE, LAYERS, MOUNT, NATIVE];

/// Opens an [`ErofsSnapshotter`]. The option `mount` is `file` by default, or `loop` for kernels
/// that cannot mount images from files. The option `immutable` is `false` by default, or `true` to
/// make committed layers immutable. The option `native` is `false` by default, or `true` for a root
/// that mounts layers that are EROFS images themselves. The option `layers` names the directories
/// of ready layers: see [`Erofs::with_ready_layers`]. Their paths are absolute and separated by
/// colons. By default there are none.
#[derive(Clone, Copy, Debug, Default)]
pub struct ErofsOpener;

#[async_trait]
impl SnapshotterOpener for ErofsOpener {
    fn scheme(&self) -> &'static str {
        NAME
    }

    fn abilities(&self) -> &'static [&'static str] {
        &[
            "keeps layers as tars",
            "shares layers between images",
            "unpacks layers in parallel",
        ]
    }

    /// Mounts an image below the directory: see [`probe`].
    fn probe(&self, directory: &Path) -> Result<()> {
        probe(directory)
    }

    fn check(&self, chosen: &Location) -> Result<()> {
        chosen.check_options(KNOWN)?;
        Options::parse(chosen.options()).map(|_| ())
    }

    async fn open(&self, parts: SnapshotterParts) -> Result<Arc<dyn Snapshotter>> {
        parts.check_options(KNOWN)?;
        let options = Options::parse(&parts.options)?;
        let layout = Erofs::open()?
            .with_backing(options.backing)
            .with_immutable(options.immutable)
            .with_native(options.native)
            .with_ready_layers(options.ready_layers);
        let opened = ErofsSnapshotter::with_layout(layout, parts.directory, parts.records)?;
        Ok(Arc::new(opened))
    }
}

/// The values of the options.
struct Options {
    backing: Backing,
    immutable: bool,
    native: bool,
    /// The directories of ready layers.
    ready_layers: Vec<PathBuf>,
}

impl Options {
    /// Parses the options.
    ///
    /// # Errors
    /// `InvalidArgument` for a value that is not supported.
    fn parse(options: &BTreeMap<String, String>) -> Result<Self> {
        let option = |name: &str| options.get(name).map(String::as_str);
        Ok(Options {
            backing: backing(option(MOUNT))?,
            immutable: is_set(IMMUTABLE, option(IMMUTABLE))?,
            native: is_set(NATIVE, option(NATIVE))?,
            ready_layers: directories(option(LAYERS))?,
        })
    }
}

/// Returns what the option `mount` chooses.
fn backing(value: Option<&str>) -> Result<Backing> {
    match value {
        None | Some("file") => Ok(Backing::File),
        Some("loop") => Ok(Backing::Loop),
        Some(other) => Err(invalid(MOUNT, "`file` or `loop`", other)),
    }
}

/// Returns whether an option is `true`. An option that is not given is `false`.
fn is_set(name: &str, value: Option<&str>) -> Result<bool> {
    match value {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(invalid(name, "`true` or `false`", other)),
    }
}

/// Returns the directories that the option `layers` names. They need not exist.
fn directories(value: Option<&str>) -> Result<Vec<PathBuf>> {
    let paths = value.into_iter().flat_map(|value| value.split(':'));
    let absolute = |path: &str| match Path::new(path).is_absolute() {
        true => Ok(PathBuf::from(path)),
        false => Err(invalid(
            LAYERS,
            "absolute paths, separated by colons,",
            path,
        )),
    };
    paths.map(absolute).collect()
}

fn invalid(name: &str, expected: &str, found: &str) -> Error {
    Error::invalid(format!(
        "expected {expected} for the option `{name}`, found {found:?}"
    ))
    .operation("open snapshotter")
}

#[cfg(test)]
mod tests {
    use cas_core::ErrorKind;

    use super::*;

    #[test]
    fn options_are_parsed_and_other_values_are_refused() {
        assert_eq!(backing(None).unwrap(), Backing::File);
        assert_eq!(backing(Some("file")).unwrap(), Backing::File);
        assert_eq!(backing(Some("loop")).unwrap(), Backing::Loop);
        assert!(!is_set(NATIVE, None).unwrap() && !is_set(NATIVE, Some("false")).unwrap());
        assert!(is_set(NATIVE, Some("true")).unwrap());
        let two = [PathBuf::from("/a b"), PathBuf::from("/c")];
        assert_eq!(directories(Some("/a b:/c")).unwrap(), two);
        assert!(directories(None).unwrap().is_empty());
        for error in [
            directories(Some("")).unwrap_err(),
            directories(Some("/a:b")).unwrap_err(),
            backing(Some("nbd")).unwrap_err(),
            is_set(NATIVE, Some("")).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
    }
}
