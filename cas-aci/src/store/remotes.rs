//! Remotes, and fetching from them.

use std::time::SystemTime;

use cas_core::error::url_excerpt;
use cas_core::records::{Batch, Expect, retry};
use cas_core::{Context, Error, ErrorKind, Result};

use super::write::check_asked;
use super::{AciStore, WriteOptions};
use crate::fetch::{AciFetcher, Fetched};
use crate::info::AciInfo;
use crate::key::Key;
use crate::remote::{Remote, max_age};

impl AciStore {
    /// Returns the remote with this URL.
    ///
    /// # Errors
    /// As [`Catalogue::get_remote`](crate::Catalogue::get_remote).
    pub async fn get_remote(&self, aci_url: &str) -> Result<Remote> {
        self.catalogue.get_remote(aci_url).await
    }

    /// Returns all remotes in the order of their URLs.
    ///
    /// # Errors
    /// As [`Catalogue::get_all_remotes`](crate::Catalogue::get_all_remotes).
    pub async fn get_all_remotes(&self) -> Result<Vec<Remote>> {
        self.catalogue.get_all_remotes().await
    }

    /// Writes a remote. Replaces the remote with the same URL, if there is one.
    ///
    /// # Errors
    /// As [`Catalogue::write_remote`](crate::Catalogue::write_remote) and
    /// [`Catalogue::commit`](crate::Catalogue::commit).
    pub async fn write_remote(&self, remote: &Remote) -> Result<()> {
        let mut batch = Batch::new();
        self.catalogue.write_remote(&mut batch, remote)?;
        self.catalogue.commit(&batch).await?;
        self.flush_if_possible().await;
        Ok(())
    }

    /// Returns the key of the ACI at a URL. If the catalogue has the ACI that was last fetched from
    /// this URL, and this ACI is still [fresh](Remote::is_fresh), the server is not asked.
    /// Otherwise, the ACI is fetched and imported, except if the server answers that the ETag of
    /// the stored ACI is still valid. If the ACI is not imported, the stored ACI must match
    /// [`WriteOptions::name`] and [`WriteOptions::key`], and is recorded as the latest version if
    /// [`WriteOptions::latest`] is true. The other options are then ignored.
    ///
    /// If the server is asked, `sig_url` is stored in the [`Remote`]. The fetcher must verify the
    /// signature itself.
    ///
    /// # Errors
    /// Errors of the fetcher, of [`AciStore::write_aci_with`] and of [`AciStore::write_remote`];
    /// `Corrupt` if the stored remote does not parse, or if the fetcher answers that the ACI is not
    /// modified although no ETag was passed to it. After an error, the remote is unchanged, but the
    /// ACI may have been imported.
    pub async fn fetch(
        &self,
        fetcher: &dyn AciFetcher,
        aci_url: &str,
        sig_url: &str,
        options: WriteOptions,
    ) -> Result<Key> {
        let fetched = self.fetch_remote(fetcher, aci_url, sig_url, options).await;
        fetched.during("fetch ACI", url_excerpt(aci_url))
    }

    async fn fetch_remote(
        &self,
        fetcher: &dyn AciFetcher,
        aci_url: &str,
        sig_url: &str,
        options: WriteOptions,
    ) -> Result<Key> {
        let known = self.known(aci_url).await?;
        if let Some((remote, info)) = &known
            && remote.is_fresh(SystemTime::now())
        {
            self.check_kept(info, &options).await?;
            return Ok(info.key);
        }
        // Without an ETag, the server cannot know which ACI is stored.
        let known = known.filter(|(remote, _)| !remote.etag.is_empty());
        let etag = known.as_ref().map(|(remote, _)| remote.etag.as_str());
        let asked = SystemTime::now();
        let answer = fetcher.fetch(aci_url, etag).await?;
        let mut remote = Remote::new(aci_url, sig_url);
        remote.download_time = asked;
        let key = match answer {
            Fetched::NotModified { cache_control } => {
                let (before, info) = known.ok_or_else(|| {
                    Error::corrupt(
                        "expected an ACI from the fetcher, found the answer that the ACI is \
                         not modified, although no ETag was sent; use another server",
                    )
                })?;
                remote.etag = before.etag;
                remote.cache_max_age = max_age(&cache_control);
                self.check_kept(&info, &options).await?;
                info.key
            }
            Fetched::Aci {
                body,
                etag,
                cache_control,
            } => {
                remote.etag = etag;
                remote.cache_max_age = max_age(&cache_control);
                remote.check()?;
                self.write_found(body, options).await?
            }
        };
        remote.key = Some(key);
        self.write_remote(&remote).await?;
        Ok(key)
    }

    /// Checks that an ACI that is not imported again is the ACI that the caller asked for. Records
    /// that it is the latest version, if the options say so. A kill leaves the old or the new
    /// information.
    async fn check_kept(&self, info: &AciInfo, options: &WriteOptions) -> Result<()> {
        check_asked(&info.key, &info.name, options)?;
        if !options.latest || info.latest {
            return Ok(());
        }
        let record = || async {
            // The ACI may have been removed meanwhile.
            let Some((mut info, revision)) = self.catalogue.load(&info.key).await? else {
                return Ok(());
            };
            info.latest = true;
            let mut batch = Batch::new();
            let expect = Expect::Revision(revision);
            self.catalogue.put(&mut batch, &info, expect)?;
            self.catalogue.commit(&batch).await
        };
        retry(record).await
    }

    /// Returns the remote with this URL and its ACI, if the catalogue has both.
    async fn known(&self, aci_url: &str) -> Result<Option<(Remote, AciInfo)>> {
        let remote = match self.get_remote(aci_url).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        let Some(key) = remote.key else {
            return Ok(None);
        };
        let info = self.catalogue.get_aci_info(&key).await?;
        Ok(info.map(|info| (remote, info)))
    }
}
