//! The opener of the snapshotter.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use cas_core::snapshot::Backing;
use cas_core::{Error, Result, Snapshotter, SnapshotterOpener, SnapshotterParts};
use cas_host::snapshotter::SnapshotLayout;

use crate::{Erofs, ErofsSnapshotter, NAME, probe};

/// The option that chooses how the kernel reads the files of images.
const MOUNT: &str = "mount";
/// The option that makes committed layers immutable.
const IMMUTABLE: &str = "immutable";

/// The option that allows layers that are EROFS images themselves.
const NATIVE: &str = "native";

/// Opens an [`ErofsSnapshotter`]. The option `mount` is `file` by default, or `loop` for kernels
/// that cannot mount images from files. The option `immutable` is `false` by default, or `true` to
/// make committed layers immutable. The option `native` is `false` by default, or `true` for a root
/// that mounts layers that are EROFS images themselves.
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

    async fn open(&self, parts: SnapshotterParts) -> Result<Arc<dyn Snapshotter>> {
        parts.check_options(&[IMMUTABLE, MOUNT, NATIVE])?;
        let option = |name: &str| parts.options.get(name).map(String::as_str);
        let layout = Erofs::open()?
            .with_backing(backing(option(MOUNT))?)
            .with_immutable(is_set(IMMUTABLE, option(IMMUTABLE))?)
            .with_native(is_set(NATIVE, option(NATIVE))?);
        let opened = ErofsSnapshotter::with_layout(layout, parts.directory, parts.records)?;
        Ok(Arc::new(opened))
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
    fn each_option_has_two_values() {
        assert_eq!(backing(None).unwrap(), Backing::File);
        assert_eq!(backing(Some("file")).unwrap(), Backing::File);
        assert_eq!(backing(Some("loop")).unwrap(), Backing::Loop);
        assert!(!is_set(NATIVE, None).unwrap() && !is_set(NATIVE, Some("false")).unwrap());
        assert!(is_set(NATIVE, Some("true")).unwrap());
        for error in [
            backing(Some("nbd")).unwrap_err(),
            is_set(NATIVE, Some("")).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
    }
}
