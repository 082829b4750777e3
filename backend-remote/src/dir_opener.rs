//! A store in a local directory: `dir:///path`. While a process that can write to the store has it
//! open, no other process can open it. Processes that can only read the store can have it open
//! together.

use std::path::PathBuf;

use async_trait::async_trait;
use cas_core::check::Finding;
use cas_core::{Capabilities, Capability, Context, Location, Opener, Result, Store, pool};
use opendal::Operator;
use opendal::services::Fs;

use crate::error::classify;
use crate::folder::TEMP_DIR;
use crate::folder_check;
use crate::format;
use crate::prefix::Prefix;
use crate::store::RemoteStore;

/// Maximum length of the name of an object in bytes. Linux accepts paths of 4095 bytes, which
/// leaves a few hundred bytes for the path of the store.
const MAX_NAME: usize = 3500;
/// The capabilities of a store in a directory.
const CAPABILITIES: Capabilities = Capabilities::of(&[Capability::Durable]);

impl RemoteStore {
    /// Opens the store in the directory `path`. Creates the store if the directory is empty or does
    /// not exist. If the process cannot write to the file `lock` of the store, opens the store
    /// read-only.
    ///
    /// # Errors
    /// `Busy` if a process already has the store open, and that process or this process can write
    /// to the store (the message has the pid of the process that has the store open, if the pid is
    /// known); `FailedPrecondition` if the directory contains files but is not a store, or if it is
    /// a store of another kind or of a newer format; `Corrupt` if the file `format` of a store is
    /// missing or does not parse, if a folder of records is missing, or if something else is in the
    /// place of a file or a folder of the store; errors of the file system; errors of the system if
    /// the threads of the store cannot be started.
    pub async fn open_dir(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let root = path.clone();
        let opened = pool::run(move || folder_check::open(&root)).await;
        let (folder, format) = opened.during("open store", path.display())?;
        let (root, temp) = (path.to_string_lossy(), path.join(TEMP_DIR));
        let service = Fs::default()
            .root(&root)
            .atomic_write_dir(&temp.to_string_lossy());
        // No retries: after a failed sync, the success of a second sync would prove nothing.
        let operator =
            Operator::new(service).map_err(|error| classify(error, "open store", &root))?;
        let prefix = Prefix::new(operator, Some(folder), MAX_NAME);
        Self::open_single(prefix, format, CAPABILITIES)
            .await
            .during("open store", path.display())
    }
}

/// Opens stores at `dir:///path`.
#[derive(Clone, Copy, Debug, Default)]
pub struct DirOpener;

#[async_trait]
impl Opener for DirOpener {
    fn scheme(&self) -> &'static str {
        "dir"
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn gaps(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    fn check(&self, location: &Location) -> Result<()> {
        location.check_options(&[])
    }

    async fn open(&self, location: &Location) -> Result<Store> {
        location.check_options(&[])?;
        RemoteStore::open_dir(location.path()?)
            .await
            .map(|store| store.store())
    }

    async fn examine(&self, location: &Location, repair: bool) -> Result<Vec<Finding>> {
        location.check_options(&[])?;
        let path = location.path()?.to_owned();
        let root = path.clone();
        let mut findings = pool::run(move || folder_check::examine(&root, repair)).await?;
        // A check creates no store. A store without a part of its own files cannot be opened.
        let is_open = path.join(format::PATH).symlink_metadata().is_ok();
        if is_open && findings.iter().all(|finding| finding.repaired) {
            let store = RemoteStore::open_dir(path).await?;
            findings.extend(store.examine(repair).await?);
        }
        Ok(findings)
    }
}
