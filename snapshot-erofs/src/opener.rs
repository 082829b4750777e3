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
/// The option that makes committed tars immutable.
const IMMUTABLE: &str = "immutable";

/// Opens an [`ErofsSnapshotter`]. The option `mount` is `file` by default, or `loop` for kernels
/// that cannot mount images from files. The option `immutable` is `false` by default, or `true` to
/// make committed tars immutable.
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
        parts.check_options(&[IMMUTABLE, MOUNT])?;
        let option = |name: &str| parts.options.get(name).map(String::as_str);
        let layout = Erofs::open()?
            .with_backing(backing(option(MOUNT))?)
            .with_immutable(immutable(option(IMMUTABLE))?);
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

/// Returns what the option `immutable` chooses.
fn immutable(value: Option<&str>) -> Result<bool> {
    match value {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(invalid(IMMUTABLE, "`true` or `false`", other)),
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
        assert!(!immutable(None).unwrap() && !immutable(Some("false")).unwrap());
        assert!(immutable(Some("true")).unwrap());
        for error in [
            backing(Some("nbd")).unwrap_err(),
            immutable(Some("")).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
    }
}
