//! Finds and repairs cells that do not parse. While there is such a cell, the records of its table,
//! or the blobs, cannot be listed.

use std::future::ready;

use cas_core::check::{Finding, Problem};
use cas_core::{Digest, ErrorKind, Result};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::blob::{FOLDER, Pointer};
use crate::cell::CONCURRENCY;
use crate::object_name::unescape;
use crate::runtime;
use crate::store::{Remote, RemoteStore};

const RECORDS: &str = "records/";
/// The tables whose records the check of a store parses.
const CHECKED: [&str; 3] = ["blobs/", "images/", "leases/"];
/// Maximum number of names in one page of a list.
const PAGE: usize = 1000;

impl RemoteStore {
    /// Finds the cells that do not parse. A repair deletes a damaged cell of a blob, so that the
    /// blob is missing, and makes the bytes of any other damaged cell the value of a record. If the
    /// check of the store parses the table of that record, it reports the record and sets it aside.
    ///
    /// # Errors
    /// Errors of the service.
    pub(crate) async fn examine(&self, repair: bool) -> Result<Vec<Finding>> {
        let remote = self.0.clone();
        runtime::run(async move {
            let mut findings = Vec::new();
            for path in remote.damaged(RECORDS).await? {
                findings.extend(remote.examine_record(&path, repair).await?);
            }
            for path in remote.damaged(FOLDER).await? {
                findings.push(remote.examine_blob(&path, repair).await?);
            }
            Ok(findings)
        })
        .await
    }
}

impl Remote {
    /// Returns the paths of the objects in a folder that are not valid cells.
    async fn damaged(&self, folder: &str) -> Result<Vec<String>> {
        let (mut damaged, mut after) = (Vec::new(), None);
        loop {
            let prefix = self.cells.prefix();
            let names = prefix.list(folder, "", after.as_deref(), PAGE).await?;
            after = names.get(PAGE - 1).cloned();
            let checked = stream::iter(names).map(|name| async move {
                let path = format!("{folder}{name}");
                match self.check_cell(&path).await {
                    Err(error) if error.kind() == ErrorKind::Corrupt => Ok(Some(path)),
                    checked => checked.map(|()| None),
                }
            });
            let found = checked
                .buffered(CONCURRENCY)
                .try_filter_map(|path| ready(Ok(path)));
            damaged.extend(found.try_collect::<Vec<String>>().await?);
            if after.is_none() {
                return Ok(damaged);
            }
        }
    }

    async fn check_cell(&self, path: &str) -> Result<()> {
        let cell = self.cells.load(path).await?;
        match cell.filter(|_| path.starts_with(FOLDER)) {
            Some(cell) => Pointer::parse(&cell.value, path).map(|_| ()),
            None => Ok(()),
        }
    }

    async fn examine_record(&self, path: &str, repair: bool) -> Result<Option<Finding>> {
        if repair {
            self.cells.wrap(path).await?;
        }
        let name = path.strip_prefix(RECORDS).unwrap_or(path);
        let is_checked = CHECKED.iter().any(|table| name.starts_with(table));
        let detail = "the object of the record is damaged, so the records of its table cannot be \
                      listed; a repair makes the bytes of the object the value of the record";
        let finding = Finding {
            problem: Problem::RecordDamaged,
            subject: subject(name),
            detail: detail.to_owned(),
            repaired: repair,
        };
        Ok(Some(finding).filter(|_| !(repair && is_checked)))
    }

    async fn examine_blob(&self, path: &str, repair: bool) -> Result<Finding> {
        if repair {
            self.cells.prefix().delete(path).await?;
        }
        let name = path.strip_prefix(FOLDER).unwrap_or(path).replace('/', ":");
        let digest: Result<Digest> = name.parse();
        let detail = "the object that lists the parts of the blob is damaged; a repair removes \
                      the object, and the blob is then missing";
        Ok(Finding {
            problem: Problem::BlobDamaged,
            subject: digest.map_or(name, |digest| digest.to_string()),
            detail: detail.to_owned(),
            repaired: repair,
        })
    }
}

/// Returns the table and the key of a record, or the name of its object if it has no key.
fn subject(name: &str) -> String {
    let key = name
        .split_once('/')
        .and_then(|(table, key)| Some((table, unescape(key)?)));
    key.map_or_else(|| name.to_owned(), |(table, key)| format!("{table}/{key}"))
}
