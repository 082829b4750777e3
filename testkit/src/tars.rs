//! A snapshotter that keeps nothing but tars.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Mutex;

use async_trait::async_trait;
use cas_core::snapshot::{Commit, Condition, Depth, Info, Mount, Usage};
use cas_core::{Error, Labels, Result, Snapshotter};

/// A snapshotter with at most one snapshot. Only the calls of checks, collections and exports
/// succeed.
#[derive(Default)]
pub struct Tars {
    /// The snapshot.
    pub snapshot: Mutex<Option<Info>>,
    /// The paths of tars, by the keys of their snapshots.
    files: BTreeMap<String, PathBuf>,
}

impl Tars {
    /// Returns a snapshotter that has these tars, by the keys of their snapshots, but has lost the
    /// snapshots.
    pub fn of(files: BTreeMap<String, PathBuf>) -> Self {
        Tars {
            files,
            ..Tars::default()
        }
    }

    fn find(&self, is_wanted: impl Fn(&Info) -> bool) -> Option<Info> {
        self.snapshot.lock().unwrap().clone().filter(is_wanted)
    }
}

fn unused() -> Error {
    Error::internal("no test expects this call")
}

#[async_trait]
impl Snapshotter for Tars {
    fn name(&self) -> &'static str {
        "tars"
    }

    fn rebases(&self) -> bool {
        false
    }

    fn keeps_tars(&self) -> bool {
        true
    }

    async fn open_tar(&self, key: &str) -> Result<Option<File>> {
        let opened = self.files.get(key).map(File::open);
        Ok(opened.transpose()?)
    }

    async fn stat(&self, key: &str) -> Result<Option<Info>> {
        Ok(self.find(|info| info.key == key))
    }

    async fn walk(&self, after: Option<&str>, _: usize) -> Result<Vec<Info>> {
        let found = self.find(|info| after.is_none_or(|after| &*info.key > after));
        Ok(found.into_iter().collect())
    }

    async fn check(&self, key: &str, _: Depth) -> Result<Condition> {
        let found = self.find(|info| info.key == key);
        Ok(found.map_or(Condition::Missing, |_| Condition::Sound))
    }

    async fn remove_seen(&self, _: &Info) -> Result<bool> {
        Ok(self.snapshot.lock().unwrap().take().is_some())
    }

    async fn usage(&self, _: &str) -> Result<Usage> {
        Ok(Usage::default())
    }

    async fn damaged_records(&self, _: bool) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn leftovers(&self) -> Result<Vec<Usage>> {
        Ok(Vec::new())
    }

    async fn cleanup(&self) -> Result<Usage> {
        Ok(Usage::default())
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }

    async fn prepare(&self, _: &str, _: Option<&str>, _: Labels) -> Result<Vec<Mount>> {
        Err(unused())
    }

    async fn view(&self, _: &str, _: Option<&str>, _: Labels) -> Result<Vec<Mount>> {
        Err(unused())
    }

    async fn mounts(&self, _: &str) -> Result<Vec<Mount>> {
        Err(unused())
    }

    async fn commit(&self, _: &str, _: &str, _: Commit) -> Result<()> {
        Err(unused())
    }

    async fn remove(&self, _: &str) -> Result<()> {
        Err(unused())
    }

    async fn update(&self, _: &str, _: Labels, _: &[&str]) -> Result<Info> {
        Err(unused())
    }

    async fn replace(&self, _: &str, _: &str) -> Result<()> {
        Err(unused())
    }
}
