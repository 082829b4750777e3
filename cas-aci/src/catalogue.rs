//! The catalogue: information on ACIs and on remotes (the URLs that ACIs are fetched from), as
//! [`Notes`] of the store.
//!
//! ```text
//! image/HEX           information on an ACI, under all digits of its key
//! name/NAME:HEX       an empty note, for finding the ACIs with a name
//! remote/HEX          a remote, under the SHA-256 of its URL
//! ```
//!
//! Several changes are collected in a [`Batch`], which is a transaction if the store is
//! [`Atomic`](cas_core::Capability::Atomic). Otherwise, if the process is killed, the store may get
//! only the first changes of the batch. Then an ACI may lack its entry under `name/`, so that the
//! ACI is not found by its name, or an entry under `name/` may lead to no ACI. Readers ignore an
//! entry that leads to no ACI. [`AciStore::sweep`](crate::AciStore::sweep) removes such entries,
//! and adds missing ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use cas_core::error::{malformed, url_excerpt};
use cas_core::records::{Batch, Expect, Notes, Record, Records, Revision};
use cas_core::{Digest, Error, Result, Store};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::format::{self, FORMATS};
use crate::info::{AciInfo, SortField, sort};
use crate::key::{Key, KeyPrefix};
use crate::manifest::check_identifier;
use crate::remote::Remote;

/// The catalogue of an image store (an [`AciStore`](crate::AciStore)). Clones are handles of the
/// same catalogue.
#[derive(Clone)]
pub struct Catalogue {
    records: Arc<dyn Records>,
    notes: Notes,
    closed: Arc<AtomicBool>,
}

impl Catalogue {
    /// Opens the catalogue in `store`. Creates it if there is none, and migrates a catalogue of an
    /// older format.
    ///
    /// # Errors
    /// As [`format::open`].
    pub(crate) async fn open(store: &Store) -> Result<Self> {
        Ok(Catalogue {
            records: Arc::clone(&store.records),
            notes: format::open(store, &FORMATS).await?,
            closed: Arc::default(),
        })
    }

    /// Makes every later call of every handle fail, except calls that only add changes to a batch.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Checks that the catalogue is open.
    ///
    /// # Errors
    /// `FailedPrecondition` after [`Catalogue::close`].
    pub(crate) fn check_open(&self) -> Result<()> {
        if !self.closed.load(Ordering::SeqCst) {
            return Ok(());
        }
        Err(Error::precondition(
            "the image store is closed; open it again",
        ))
    }

    /// Returns the information on an ACI, or `None` if the catalogue does not have it.
    ///
    /// # Errors
    /// `Corrupt` if the information does not parse, or states another key; `FailedPrecondition`
    /// after the image store was closed; errors of the store.
    pub async fn get_aci_info(&self, key: &Key) -> Result<Option<AciInfo>> {
        Ok(self.load(key).await?.map(|(info, _)| info))
    }

    /// Returns the ACIs whose keys begin with `prefix`, in the order of their keys.
    ///
    /// # Errors
    /// As [`Catalogue::get_aci_info`]; `Corrupt` if a key in the catalogue does not parse.
    pub async fn get_aci_infos_with_key_prefix(&self, prefix: &KeyPrefix) -> Result<Vec<AciInfo>> {
        self.list(&format!("image/{}", prefix.hex())).await
    }

    /// Returns the ACIs with exactly this name, in the order of their keys.
    ///
    /// # Errors
    /// As [`Catalogue::get_aci_infos_with_key_prefix`]; `InvalidArgument` for an invalid name.
    pub async fn get_aci_infos_with_name(&self, name: &str) -> Result<Vec<AciInfo>> {
        check_identifier(name)?;
        self.check_open()?;
        let prefix = format!("name/{name}:");
        let mut infos = Vec::new();
        for entry in self.notes.list(&prefix).await? {
            let found = self.load(&key_of(&entry.key[prefix.len()..])?).await?;
            infos.extend(found.map(|(info, _)| info).filter(|info| info.name == name));
        }
        Ok(infos)
    }

    /// Returns all ACIs, sorted by the first field, then the second, and so on: in ascending order
    /// if `ascending` is set, and otherwise in descending order. ACIs that are equal in all fields
    /// are in the order of their keys.
    ///
    /// # Errors
    /// As [`Catalogue::get_aci_infos_with_key_prefix`].
    pub async fn get_all_aci_infos(
        &self,
        fields: &[SortField],
        ascending: bool,
    ) -> Result<Vec<AciInfo>> {
        let mut infos = self.list("image/").await?;
        sort(&mut infos, fields, ascending);
        Ok(infos)
    }

    /// Adds changes to `batch` that write `info`. They replace the information with the same key.
    ///
    /// # Errors
    /// `InvalidArgument` for an invalid name; `OutOfRange` if `info` is longer than a note may be
    /// ([`limit::NOTE`](cas_core::limit::NOTE)).
    pub fn write_aci_info(&self, batch: &mut Batch, info: &AciInfo) -> Result<()> {
        self.put(batch, info, Expect::Any)
    }

    /// Adds changes to `batch` that remove the information with the key of `info`. The blobs of the
    /// ACI stay as long as a lease or an image refers to them. The lease of the ACI stays, too.
    ///
    /// # Errors
    /// `InvalidArgument` for an invalid name.
    pub fn remove_aci_info(&self, batch: &mut Batch, info: &AciInfo) -> Result<()> {
        self.delete(batch, info, Expect::Any)
    }

    /// Returns the remote with this URL.
    ///
    /// # Errors
    /// `NotFound` if there is none; `Corrupt` if the remote does not parse; `FailedPrecondition`
    /// after the image store was closed; errors of the store.
    pub async fn get_remote(&self, aci_url: &str) -> Result<Remote> {
        self.check_open()?;
        let found = self.notes.load(&remote_key(aci_url)).await?;
        let (value, _) = found.ok_or_else(|| {
            Error::not_found("the catalogue has no remote with this URL; fetch the ACI first")
                .operation("get remote")
                .subject(url_excerpt(aci_url))
        })?;
        parse(&value, "remote", &url_excerpt(aci_url))
    }

    /// Returns all remotes in the order of their URLs.
    ///
    /// # Errors
    /// `Corrupt` if a remote does not parse; `FailedPrecondition` after the image store was closed;
    /// errors of the store.
    pub async fn get_all_remotes(&self) -> Result<Vec<Remote>> {
        self.check_open()?;
        let mut remotes: Vec<Remote> = Vec::new();
        let read = self.notes.each("remote/", |note| {
            remotes.push(parse(&note.value, "remote", &note.key)?);
            Ok(())
        });
        read.await?;
        remotes.sort_by(|one, other| one.aci_url.cmp(&other.aci_url));
        Ok(remotes)
    }

    /// Adds a change to `batch` that writes `remote`. The change replaces the remote with the same
    /// URL.
    ///
    /// # Errors
    /// `InvalidArgument` if the URL of the ACI is empty, or if a URL or the ETag exceeds
    /// [`limit::URL`](cas_core::limit::URL) or contains control characters.
    pub fn write_remote(&self, batch: &mut Batch, remote: &Remote) -> Result<()> {
        remote
            .check()
            .map_err(|error| error.operation("write remote"))?;
        let value = encode(remote)?;
        self.notes
            .put_in(batch, &remote_key(&remote.aci_url), value, Expect::Any)
    }

    /// Adds a change to `batch` that removes the remote with the URL of `remote`. The catalogue
    /// need not have such a remote.
    ///
    /// # Errors
    /// None are expected: the key of the note is made from a hash of the URL, and is always valid.
    pub fn remove_remote(&self, batch: &mut Batch, remote: &Remote) -> Result<()> {
        self.notes
            .delete_in(batch, &remote_key(&remote.aci_url), Expect::Any)
    }

    /// Commits a batch of changes.
    ///
    /// # Errors
    /// Errors of [`Records::commit`]; `FailedPrecondition` after the image store was closed.
    pub async fn commit(&self, batch: &Batch) -> Result<()> {
        self.check_open()?;
        self.records.commit(batch).await
    }

    /// Returns the information on an ACI and its revision.
    pub(crate) async fn load(&self, key: &Key) -> Result<Option<(AciInfo, Revision)>> {
        self.check_open()?;
        let found = self.notes.load(&image_key(key)).await?;
        let parsed = found.map(|(value, revision)| Ok((decode(&value, key)?, revision)));
        parsed.transpose()
    }

    /// Returns the first ACIs whose keys begin with `prefix`, at most `limit`.
    pub(crate) async fn first(&self, prefix: &KeyPrefix, limit: usize) -> Result<Vec<Candidate>> {
        self.check_open()?;
        let prefix = format!("image/{}", prefix.hex());
        let found = self.notes.first(&prefix, limit).await?;
        let candidate = |note: Record| {
            let key = key_of(in_room(&note, "image/")?)?;
            Ok(Candidate { key, note })
        };
        found.into_iter().map(candidate).collect()
    }

    /// Returns the name, the key and the revision of each entry under `name/`.
    pub(crate) async fn names(&self) -> Result<Vec<(String, Key, Revision)>> {
        self.check_open()?;
        let mut names = Vec::new();
        let read = self.notes.each("name/", |note| {
            let (name, hex) = in_room(&note, "name/")?
                .rsplit_once(':')
                .ok_or_else(|| damaged(&note.key))?;
            names.push((name.to_owned(), key_of(hex)?, note.revision.clone()));
            Ok(())
        });
        read.await?;
        Ok(names)
    }

    /// Adds a change to `batch` that removes the entry of an image under `name/`. The commit fails
    /// if the entry is not in the expected state.
    pub(crate) fn delete_name(
        &self,
        batch: &mut Batch,
        name: &str,
        key: &Key,
        expect: Expect,
    ) -> Result<()> {
        self.notes.delete_in(batch, &name_key(name, key), expect)
    }

    /// Adds a change to `batch` that writes the entry of an image under `name/`.
    pub(crate) fn put_name(&self, batch: &mut Batch, name: &str, key: &Key) -> Result<()> {
        self.notes
            .put_in(batch, &name_key(name, key), Bytes::new(), Expect::Any)
    }

    /// Adds changes to `batch` that write `info` and its entry under `name/`. The commit fails if
    /// the information in the catalogue is not in the expected state.
    pub(crate) fn put(&self, batch: &mut Batch, info: &AciInfo, expect: Expect) -> Result<()> {
        check_identifier(&info.name)?;
        let value = encode(info)?;
        self.notes
            .put_in(batch, &image_key(&info.key), value, expect)?;
        self.put_name(batch, &info.name, &info.key)
    }

    /// Adds changes to `batch` that remove `info` and its entry under `name/`. The commit fails if
    /// the information in the catalogue is not in the expected state.
    pub(crate) fn delete(&self, batch: &mut Batch, info: &AciInfo, expect: Expect) -> Result<()> {
        check_identifier(&info.name)?;
        self.notes.delete_in(batch, &image_key(&info.key), expect)?;
        self.delete_name(batch, &info.name, &info.key, Expect::Any)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<AciInfo>> {
        self.check_open()?;
        let mut infos = Vec::new();
        let read = self.notes.each(prefix, |note| {
            let key = key_of(in_room(&note, "image/")?)?;
            infos.push(decode(&note.value, &key)?);
            Ok(())
        });
        read.await?;
        Ok(infos)
    }
}

/// An ACI whose key begins with a prefix that was looked up.
pub(crate) struct Candidate {
    pub(crate) key: Key,
    note: Record,
}

impl Candidate {
    /// Returns the information on the ACI.
    ///
    /// # Errors
    /// `Corrupt` if the information does not parse, or states another key.
    pub(crate) fn info(&self) -> Result<AciInfo> {
        decode(&self.note.value, &self.key)
    }
}

fn image_key(key: &Key) -> String {
    format!("image/{}", key.hex())
}

/// Returns where the catalogue has the entry under `name/` for an ACI with this name and this key.
/// A name does not contain a colon.
fn name_key(name: &str, key: &Key) -> String {
    format!("name/{name}:{}", key.hex())
}

/// Returns the key of the note of a remote. The URL is hashed, because it may be too long for the
/// key of a note.
fn remote_key(aci_url: &str) -> String {
    format!("remote/{}", Digest::sha256(aci_url.as_bytes()).hex())
}

fn in_room<'a>(note: &'a Record, prefix: &str) -> Result<&'a str> {
    note.key
        .strip_prefix(prefix)
        .ok_or_else(|| damaged(&note.key))
}

fn key_of(hex: &str) -> Result<Key> {
    format!("sha512-{hex}").parse().map_err(|_| damaged(hex))
}

fn damaged(key: &str) -> Error {
    Error::corrupt("an entry of the catalogue has a wrong key; restore the store from a copy")
        .operation("read catalogue of ACIs")
        .subject(key)
}

fn decode(value: &[u8], key: &Key) -> Result<AciInfo> {
    let info: AciInfo = parse(value, "information on an ACI", &key.to_string())?;
    if info.key == *key {
        return Ok(info);
    }
    Err(damaged(&key.to_string()))
}

fn parse<T: DeserializeOwned>(value: &[u8], what: &'static str, subject: &str) -> Result<T> {
    serde_json::from_slice(value).map_err(|error| {
        malformed(&format!("the {what} does not parse"), &error)
            .operation("read catalogue of ACIs")
            .subject(subject)
    })
}

fn encode(value: &impl Serialize) -> Result<Bytes> {
    let encoded = serde_json::to_vec(value);
    let encoded = encoded.map_err(|error| {
        Error::internal("an entry of the catalogue could not be serialized; please report it")
            .source(error)
    })?;
    Ok(encoded.into())
}
