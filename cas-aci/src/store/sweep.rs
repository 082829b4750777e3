//! Removing what killed processes left.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cas_core::records::{Batch, Expect, Revision, UNLEASED_TTL};
use cas_core::{Context, ErrorKind, Result, pool};

use super::{AciStore, OWNER};
use crate::info::AciInfo;
use crate::key::Key;

/// The result of [`AciStore::sweep`]: what was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Swept {
    /// Ids of leases that no ACI in the catalogue refers to.
    pub leases: Vec<String>,
    /// Entries of the catalogue's index of names that led to no ACI. Each entry is the name and the
    /// key of an ACI.
    pub names: Vec<(String, Key)>,
    /// Temporary files and directories.
    pub files: Vec<PathBuf>,
}

impl AciStore {
    /// Removes what killed processes left: leases of the image store that no ACI in the catalogue
    /// refers to, and temporary files. Leases and files that are at most a day old at `now` stay,
    /// because a job may still use them. The next collection removes the blobs that only the
    /// removed leases kept. Also corrects the catalogue's index of names: removes the entries that
    /// lead to no ACI, and adds missing entries.
    ///
    /// # Errors
    /// As [`AciStore::get_all_aci_infos`]; errors of the store and of the file system.
    pub async fn sweep(&self, now: SystemTime) -> Result<Swept> {
        let mut swept = Swept::default();
        // Leases and names are listed before the ACIs, so that an ACI that is imported meanwhile
        // does not count as missing.
        let leases = self.store.leases().list().await?;
        let names = self.catalogue.names().await?;
        let infos = self.catalogue.get_all_aci_infos(&[], true).await?;
        let used: BTreeSet<&str> = infos.iter().map(|info| info.lease.as_str()).collect();
        for (id, lease, _) in leases {
            let ours = lease.owner == OWNER && lease.expires_at.is_none();
            if ours && !used.contains(id.as_str()) && is_old(lease.created_at, now) {
                self.store.leases().delete(&id, OWNER, now).await?;
                swept.leases.push(id);
            }
        }
        swept.names = self.correct_names(names, &infos).await?;
        if let Some(directory) = self.directory.clone() {
            swept.files = pool::run(move || remove_old_files(&directory, now)).await?;
        }
        Ok(swept)
    }

    /// Removes the entries under `name/` that lead to no ACI, unless they are written again
    /// meanwhile. Adds missing entries. Returns the removed entries.
    async fn correct_names(
        &self,
        names: Vec<(String, Key, Revision)>,
        infos: &[AciInfo],
    ) -> Result<Vec<(String, Key)>> {
        let listed = infos.iter().map(|info| (info.name.clone(), info.key));
        let mut missing: BTreeSet<(String, Key)> = listed.collect();
        let mut removed = Vec::new();
        for (name, key, revision) in names {
            let entry = (name, key);
            if missing.remove(&entry) {
                continue;
            }
            let mut batch = Batch::new();
            let expect = Expect::Revision(revision);
            self.catalogue
                .delete_name(&mut batch, &entry.0, &key, expect)?;
            match self.catalogue.commit(&batch).await {
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                outcome => {
                    outcome?;
                    removed.push(entry);
                }
            }
        }
        let mut batch = Batch::new();
        for (name, key) in &missing {
            self.catalogue.put_name(&mut batch, name, key)?;
        }
        if !batch.is_empty() {
            self.catalogue.commit(&batch).await?;
        }
        Ok(removed)
    }
}

fn is_old(time: SystemTime, now: SystemTime) -> bool {
    now.duration_since(time).is_ok_and(|age| age > UNLEASED_TTL)
}

/// Removes a file or a directory that was not changed for a day. Returns whether it was removed.
fn remove_if_old(path: &Path, now: SystemTime) -> io::Result<bool> {
    let found = fs::symlink_metadata(path)?;
    if !is_old(found.modified()?, now) {
        return Ok(false);
    }
    if found.is_dir() {
        fs::remove_dir_all(path)?;
    } else {
        fs::remove_file(path)?;
    }
    Ok(true)
}

/// Removes the files and directories in `directory` that were not changed for a day. Returns their
/// paths.
fn remove_old_files(directory: &Path, now: SystemTime) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.during("list", directory.display())?,
    };
    let mut removed = Vec::new();
    for entry in entries {
        let path = entry.during("list", directory.display())?.path();
        match remove_if_old(&path, now) {
            Ok(true) => removed.push(path),
            Ok(false) => {}
            // The job that made the file has removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).during("remove", path.display()),
        }
    }
    Ok(removed)
}
