//! The store and the snapshotter of a root.

use std::fmt;
use std::path::Path;

use anyhow::{Result, bail};
use cas::Engines;
use cas::backend::Capability;
use cas::blocking::Cas;
use clap::Args;

/// A store and a snapshotter.
#[derive(Args, Clone, Debug)]
pub(crate) struct Stack {
    /// The store, in the form that `cas --store` takes, or `s3` for a store in an S3 service that
    /// this program starts
    #[arg(long, default_value = "fs")]
    pub(crate) store: String,
    /// The snapshotter
    #[arg(long, default_value = "overlay")]
    pub(crate) snapshotter: String,
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.store, self.snapshotter)
    }
}

/// The stores that keep everything in a directory, in the form that `cas --store` takes.
const STORES: &[&str] = &[
    "fs",
    "redb",
    #[cfg(feature = "rocksdb")]
    "rocksdb",
    "dir",
    "by-size://?small=redb&large=fs&threshold=64KiB",
];
/// The name of a store in an S3 service that this program starts.
pub(crate) const S3: &str = "s3";

impl Stack {
    /// The snapshotters.
    pub(crate) const SNAPSHOTTERS: [&str; 3] = ["overlay", "native", "erofs"];

    /// Returns a stack with `store` and a snapshotter. Consecutive values of `turn` select the
    /// snapshotters in turn.
    pub(crate) fn new(store: &str, turn: usize) -> Self {
        Stack {
            store: store.to_owned(),
            snapshotter: Self::SNAPSHOTTERS[turn % Self::SNAPSHOTTERS.len()].to_owned(),
        }
    }

    /// Returns the stores that keep everything in a directory.
    pub(crate) const fn stores() -> &'static [&'static str] {
        STORES
    }

    /// Makes a root.
    pub(crate) fn init(&self, root: &Path) -> Result<()> {
        let mut engines = Engines::default();
        engines.store = self.url()?;
        engines.snapshotter.clone_from(&self.snapshotter);
        Cas::init_with(root, engines, &cas::registry())?;
        Ok(())
    }

    /// Returns the store in the form that `cas --store` takes. For [`S3`], each call returns the
    /// URL of a new store.
    ///
    /// # Errors
    /// An error if the S3 service is not installed.
    fn url(&self) -> Result<String> {
        if self.store != S3 {
            return Ok(self.store.clone());
        }
        let Some(host) = testkit::s3::service() else {
            bail!("the S3 service moto is not installed; run `cargo xtask setup`");
        };
        let unique = cas::backend::unique::key("crash");
        Ok(format!(
            "s3://{}/{unique}?endpoint=http://{host}",
            testkit::s3::BUCKET
        ))
    }

    /// Returns whether several processes may use the root `root` at a time.
    pub(crate) fn is_shared(&self, root: &Path) -> Result<bool> {
        let cas = Cas::open(root)?;
        let shared = cas.store().content.capabilities().has(Capability::Shared);
        cas.close()?;
        Ok(shared)
    }
}
