//! SQLite called directly, with a write-ahead log that each transaction syncs. One transaction
//! writes both the bytes and the record of a blob.

use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use cas::{Digest, Error, Result};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use workload::{Blob, Column, Contender, ImageBlobs, Promise, Role};

use super::failed;

const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    CREATE TABLE IF NOT EXISTS bytes (digest BLOB PRIMARY KEY, data BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS records (digest BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS names (name TEXT PRIMARY KEY, digest BLOB NOT NULL) WITHOUT ROWID;";
const TOGETHER: usize = 256;
const RECORD: &str = r#"{"media_type":"application/vnd.oci.image.layer.v1.tar"}"#;

/// Returns the column of SQLite called directly. It does not take large blobs.
pub(super) fn contender() -> Contender {
    Contender::new(
        "SQLite raw",
        Role::Other,
        Promise::Durable,
        |directory| async move { open(&directory).map(|column| Box::new(column) as Box<dyn Column>) },
    )
}

fn open(directory: &Path) -> Result<Raw> {
    let connection = Connection::open(directory.join("raw.sqlite")).map_err(failed)?;
    connection.execute_batch(SCHEMA).map_err(failed)?;
    Ok(Raw(Mutex::new(connection)))
}

struct Raw(Mutex<Connection>);

impl Raw {
    fn lock(&self) -> Result<MutexGuard<'_, Connection>> {
        self.0
            .lock()
            .map_err(|_| Error::internal("a writer panicked"))
    }

    fn write(&self, work: impl FnOnce(&Transaction<'_>) -> Result<()>) -> Result<()> {
        let mut connection = self.lock()?;
        let tx = connection.transaction().map_err(failed)?;
        work(&tx)?;
        tx.commit().map_err(failed)
    }
}

fn put<'a>(tx: &Transaction<'_>, blobs: impl Iterator<Item = &'a Blob>) -> Result<()> {
    for blob in blobs {
        let digest = Digest::sha256(&blob.data);
        execute(
            tx,
            "INSERT OR REPLACE INTO bytes VALUES (?, ?)",
            digest.as_bytes(),
            &blob.data,
        )?;
        record(tx, digest.as_bytes(), RECORD.as_bytes())?;
    }
    Ok(())
}

fn record(tx: &Transaction<'_>, digest: &[u8], value: &[u8]) -> Result<()> {
    execute(
        tx,
        "INSERT OR REPLACE INTO records VALUES (?, ?)",
        digest,
        value,
    )
}

fn execute(tx: &Transaction<'_>, sql: &str, digest: &[u8], value: &[u8]) -> Result<()> {
    let mut statement = tx.prepare_cached(sql).map_err(failed)?;
    statement
        .execute(params![digest, value])
        .map(drop)
        .map_err(failed)
}

fn name(tx: &Transaction<'_>, name: &str, target: &Blob) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO names VALUES (?, ?)";
    let mut statement = tx.prepare_cached(sql).map_err(failed)?;
    let digest = target.digest.as_bytes();
    statement
        .execute(params![name, digest])
        .map(drop)
        .map_err(failed)
}

#[async_trait]
impl Column for Raw {
    async fn put(&self, blobs: &[Blob]) -> Result<()> {
        blobs
            .iter()
            .try_for_each(|blob| self.write(|tx| put(tx, [blob].into_iter())))
    }

    async fn put_batched(&self, blobs: &[Blob]) -> Result<()> {
        let mut groups = blobs.chunks(TOGETHER);
        groups.try_for_each(|group| self.write(|tx| put(tx, group.iter())))
    }

    async fn fill(&self, images: &[ImageBlobs]) -> Result<()> {
        self.write(|tx| {
            for image in images {
                put(tx, image.children.iter().chain([&image.root]))?;
                name(tx, &image.name, &image.root)?;
            }
            Ok(())
        })
    }

    async fn stat(&self, digests: &[Digest]) -> Result<usize> {
        let connection = self.lock()?;
        let sql = "SELECT value FROM records WHERE digest = ?";
        let mut statement = connection.prepare_cached(sql).map_err(failed)?;
        let mut found = 0;
        for digest in digests {
            let row = statement.query_row([digest.as_bytes()], |row| row.get::<_, Vec<u8>>(0));
            found += usize::from(row.optional().map_err(failed)?.is_some());
        }
        Ok(found)
    }

    async fn read(&self, digests: &[Digest]) -> Result<u64> {
        let connection = self.lock()?;
        let sql = "SELECT data FROM bytes WHERE digest = ?";
        let mut statement = connection.prepare_cached(sql).map_err(failed)?;
        let mut read = 0;
        for digest in digests {
            let row = statement.query_row([digest.as_bytes()], |row| row.get::<_, Vec<u8>>(0));
            read += row.map_err(failed)?.len() as u64;
        }
        Ok(read)
    }

    async fn list(&self) -> Result<usize> {
        let connection = self.lock()?;
        let sql = "SELECT digest, value FROM records ORDER BY digest";
        let mut statement = connection.prepare_cached(sql).map_err(failed)?;
        let rows = statement
            .query_map((), |row| row.get::<_, Vec<u8>>(1))
            .map_err(failed)?;
        let mut count = 0;
        for row in rows {
            std::hint::black_box(row.map_err(failed)?);
            count += 1;
        }
        Ok(count)
    }

    async fn label(&self, digests: &[Digest], value: &str) -> Result<()> {
        let mut digests = digests.iter();
        digests
            .try_for_each(|digest| self.write(|tx| record(tx, digest.as_bytes(), value.as_bytes())))
    }

    async fn tag(&self, names: &[String], target: &Blob) -> Result<()> {
        names
            .iter()
            .try_for_each(|text| self.write(|tx| name(tx, text, target)))
    }

    async fn resolve(&self, names: &[String]) -> Result<usize> {
        let connection = self.lock()?;
        let sql = "SELECT digest FROM names WHERE name = ?";
        let mut statement = connection.prepare_cached(sql).map_err(failed)?;
        let mut found = 0;
        for name in names {
            let row = statement.query_row([name], |row| row.get::<_, Vec<u8>>(0));
            found += usize::from(row.optional().map_err(failed)?.is_some());
        }
        Ok(found)
    }

    async fn edges(&self, images: &[ImageBlobs]) -> Result<()> {
        self.write(|tx| {
            for image in images {
                let children = image.children.iter();
                let children: Vec<u8> = children
                    .flat_map(|child| child.digest.as_bytes().to_vec())
                    .collect();
                record(tx, image.root.digest.as_bytes(), &children)?;
            }
            Ok(())
        })
    }
}
