//! The objects below a prefix of a bucket, or in a directory.

#[cfg(feature = "s3")]
pub(crate) mod conditional;
pub(crate) mod listing;

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;
use cas_core::{Error, Result};
use opendal::{ErrorKind, Metadata, Operator};

use self::listing::Listing;
use crate::error::{classify, of_list};
use crate::folder::Folder;

/// The place with the objects of a store.
pub(crate) struct Prefix {
    operator: Operator,
    /// The directory with the objects, or `None` if a service has the objects.
    folder: Option<Folder>,
    /// Maximum length of the name of an object below the prefix, in bytes.
    max_name: usize,
}

/// A small object, read whole.
pub(crate) struct Object {
    pub(crate) body: Bytes,
    /// The ETag, if the service returned one. Only conditional requests need it.
    #[cfg(feature = "s3")]
    pub(crate) etag: Option<String>,
}

/// The status of an object.
pub(crate) struct Status {
    /// Length in bytes.
    pub(crate) length: u64,
    /// When the object was last written, if the service reports the time.
    pub(crate) modified: Option<SystemTime>,
    /// The ETag, if the service returned one, or the result of [`Folder::etag`].
    pub(crate) etag: Option<String>,
}

impl Prefix {
    pub(crate) fn new(operator: Operator, folder: Option<Folder>, max_name: usize) -> Self {
        Prefix {
            operator,
            folder,
            max_name,
        }
    }

    /// Reads a small object whole. Returns `None` if it does not exist. If something other than a
    /// file is in its place in a directory, returns the error `Corrupt`.
    pub(crate) async fn get(&self, path: &str) -> Result<Option<Object>> {
        self.refuse_misplaced(path)?;
        let reader = self.operator.reader(path).await;
        let reader = reader.map_err(|error| classify(error, "read", path))?;
        match reader.read(..).await {
            Ok(body) => Ok(Some(Object {
                body: body.to_bytes(),
                #[cfg(feature = "s3")]
                etag: reader
                    .metadata()
                    .and_then(|metadata| metadata.etag().map(str::to_owned)),
            })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(classify(error, "read", path)),
        }
    }

    /// Reads a range of an object. Returns `None` if the object does not exist. If something other
    /// than a file is in its place in a directory, returns the error `Corrupt`.
    pub(crate) async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        self.refuse_misplaced(path)?;
        match self.operator.read_with(path).range(range).await {
            Ok(body) => Ok(Some(body.to_bytes())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(classify(error, "read", path)),
        }
    }

    /// Returns the status of an object, or `None` if the object does not exist, or if something
    /// other than a file is in its place in a directory.
    pub(crate) async fn stat(&self, path: &str) -> Result<Option<Status>> {
        if self.misplaced(path)?.is_some() {
            return Ok(None);
        }
        match self.operator.stat(path).await {
            Ok(metadata) => Ok(Some(Status {
                length: metadata.content_length(),
                modified: metadata.last_modified().map(SystemTime::from),
                etag: self.etag(path, &metadata).await?,
            })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(classify(error, "stat", path)),
        }
    }

    /// Writes an object, replacing any that exists. In a directory, sets aside what is in the place
    /// of the object and is not a file.
    pub(crate) async fn put(&self, path: &str, body: Bytes) -> Result<()> {
        self.write(path, body).await.map(drop)
    }

    /// Writes an object as [`Prefix::put`] does. Returns its ETag, if the service returned one, or
    /// the result of [`Folder::etag`].
    pub(crate) async fn put_tagged(&self, path: &str, body: Bytes) -> Result<Option<String>> {
        let written = self.write(path, body).await?;
        self.etag(path, &written).await
    }

    async fn write(&self, path: &str, body: Bytes) -> Result<Metadata> {
        self.check_name(path)?;
        self.check_folder()?;
        self.set_misplaced_aside(path).await?;
        let outcome = self.operator.write(path, body).await;
        let written = outcome.map_err(|error| classify(error, "write", path))?;
        self.sync_parents(path).await?;
        Ok(written)
    }

    /// Returns the ETag of an object, if the service returned one, or the result of
    /// [`Folder::etag`].
    async fn etag(&self, path: &str, metadata: &Metadata) -> Result<Option<String>> {
        match &self.folder {
            Some(folder) => folder.etag(path).await,
            None => Ok(metadata.etag().map(str::to_owned)),
        }
    }

    /// Deletes an object. Succeeds if it does not exist. In a directory, sets aside what is in the
    /// place of the object and is not a file.
    pub(crate) async fn delete(&self, path: &str) -> Result<()> {
        self.check_folder()?;
        self.set_misplaced_aside(path).await?;
        let outcome = self.operator.delete(path).await;
        outcome.map_err(|error| classify(error, "delete", path))?;
        self.sync_parents(path).await
    }

    /// Lists the names of objects in `folder`, which is empty or ends in `/`. Returns at most
    /// `limit` names that begin with `prefix` and come after `after`, in byte order.
    ///
    /// If the service cannot start a list after a given name, reads the whole list.
    ///
    /// # Errors
    /// As [`Listing::next`]; errors of the file system.
    pub(crate) async fn list(
        &self,
        folder: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>> {
        let (start, last) = (prefix.to_owned(), after.map(str::to_owned));
        let wanted = move |name: &str| {
            name.starts_with(&start) && last.as_deref().is_none_or(|after| name > after)
        };
        if let Some(directory) = &self.folder {
            let names = directory.names(folder, wanted, limit).await?;
            return Ok(names.into_iter().collect());
        }
        let ordered = self.lists_in_order();
        let path = format!("{folder}{prefix}");
        let mut list = self.operator.lister_with(&path).recursive(true);
        if let Some(after) = after.filter(|_| ordered) {
            list = list.start_after(&format!("{folder}{after}"));
        }
        let list = list.await.map_err(|error| of_list(error, folder))?;
        let mut list = Listing::new(list, folder, ordered);
        let mut names = BTreeSet::new();
        while let Some(entry) = list.next().await? {
            let name = entry.path().strip_prefix(folder);
            let Some(name) = name.filter(|name| wanted(name) && !entry.metadata().is_dir()) else {
                continue;
            };
            names.insert(name.to_owned());
            if names.len() > limit {
                names.pop_last();
            }
            if ordered && names.len() == limit {
                break;
            }
        }
        Ok(names.into_iter().collect())
    }

    /// Returns whether the service lists objects in byte order, and starts a list after any name.
    fn lists_in_order(&self) -> bool {
        self.operator.info().capability().list_with_start_after
    }

    fn check_name(&self, path: &str) -> Result<()> {
        if path.len() > self.max_name {
            return Err(Error::invalid(format!(
                "the name of the object would have {} bytes, expected at most {}; use a shorter \
                 name",
                path.len(),
                self.max_name
            ))
            .subject(format!("{path:.100}...")));
        }
        Ok(())
    }

    /// Returns the directory with the objects, or `None` if a service has the objects.
    pub(crate) fn folder(&self) -> Option<&Folder> {
        self.folder.as_ref()
    }

    /// Returns whether objects can be written. Only a directory may be read-only.
    pub(crate) fn is_writable(&self) -> bool {
        self.folder.as_ref().is_none_or(Folder::is_writable)
    }

    /// Returns an error that names what is in the place of an object in a directory, if that is not
    /// a file. Returns `None` for a service.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn misplaced(&self, path: &str) -> Result<Option<Error>> {
        match &self.folder {
            Some(folder) => folder.misplaced(path),
            None => Ok(None),
        }
    }

    fn refuse_misplaced(&self, path: &str) -> Result<()> {
        self.misplaced(path)?.map_or(Ok(()), Err)
    }

    async fn set_misplaced_aside(&self, path: &str) -> Result<()> {
        match &self.folder {
            Some(folder) if folder.misplaced(path)?.is_some() => folder.set_aside(path).await,
            _ => Ok(()),
        }
    }

    fn check_folder(&self) -> Result<()> {
        self.folder.as_ref().map_or(Ok(()), Folder::check)
    }

    /// Makes the write or the deletion of an object in a directory durable. Does nothing for a
    /// service.
    async fn sync_parents(&self, path: &str) -> Result<()> {
        match &self.folder {
            Some(folder) => folder.sync_parents(path).await,
            None => Ok(()),
        }
    }
}
