//! redb called directly. One transaction stores both the bytes and the record of a blob. The bytes
//! of a small blob are one row. Large blobs are cut into rows of the same size as in our store.
//! Every transaction is committed in two phases, as in our store.

use std::ops::Bound;
use std::path::Path;

use async_trait::async_trait;
use cas::{Digest, Result};
use redb::{
    Builder, Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};
use workload::{Blob, Column, Contender, ImageBlobs, Promise, Role, data};

use super::{failed, record};

const RECORDS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");
const BYTES: TableDefinition<(&[u8], u64), &[u8]> = TableDefinition::new("bytes");
const NAMES: TableDefinition<&str, &[u8]> = TableDefinition::new("names");
/// Size of a row of a large blob in bytes.
const ROW: usize = (256 << 10) - 512;
const CACHE: usize = 64 << 20;
/// Maximum number of blobs in one transaction of `put_batched`.
const TOGETHER: usize = 256;

/// Returns the column of the benchmark tables that calls redb directly, without our store.
pub(super) fn contender() -> Contender {
    Contender::new(
        "redb raw",
        Role::Other,
        Promise::Durable,
        |directory| async move { open(&directory).map(|column| Box::new(column) as Box<dyn Column>) },
    )
}

fn open(directory: &Path) -> Result<Raw> {
    let path = directory.join("raw.redb");
    let db = Builder::new()
        .set_cache_size(CACHE)
        .create(path)
        .map_err(failed)?;
    let raw = Raw(db);
    raw.write(|tx| {
        tx.open_table(RECORDS).map_err(failed)?;
        tx.open_table(BYTES).map_err(failed)?;
        tx.open_table(NAMES).map(drop).map_err(failed)
    })?;
    Ok(raw)
}

struct Raw(Database);

/// Rows of blobs. The key of a row is the key of its blob and the offset of the row in the blob.
type Bytes = ReadOnlyTable<(&'static [u8], u64), &'static [u8]>;

impl Raw {
    fn write(&self, work: impl FnOnce(&WriteTransaction) -> Result<()>) -> Result<()> {
        let mut tx = self.0.begin_write().map_err(failed)?;
        tx.set_two_phase_commit(true);
        tx.set_durability(Durability::Immediate).map_err(failed)?;
        work(&tx)?;
        tx.commit().map_err(failed)
    }

    fn records(&self) -> Result<ReadOnlyTable<&'static [u8], &'static [u8]>> {
        let tx = self.0.begin_read().map_err(failed)?;
        tx.open_table(RECORDS).map_err(failed)
    }

    fn bytes(&self) -> Result<Bytes> {
        let tx = self.0.begin_read().map_err(failed)?;
        tx.open_table(BYTES).map_err(failed)
    }

    fn names(&self) -> Result<ReadOnlyTable<&'static str, &'static [u8]>> {
        let tx = self.0.begin_read().map_err(failed)?;
        tx.open_table(NAMES).map_err(failed)
    }
}

fn put<'a>(tx: &WriteTransaction, blobs: impl Iterator<Item = &'a Blob>) -> Result<()> {
    let mut bytes = tx.open_table(BYTES).map_err(failed)?;
    let mut records = tx.open_table(RECORDS).map_err(failed)?;
    for blob in blobs {
        let digest = Digest::sha256(&blob.data);
        let record = record(blob.data.len() as u64);
        bytes
            .insert((digest.as_bytes(), 0), &*blob.data)
            .map_err(failed)?;
        records
            .insert(digest.as_bytes(), record.as_bytes())
            .map_err(failed)?;
    }
    Ok(())
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
            }
            let mut names = tx.open_table(NAMES).map_err(failed)?;
            for image in images {
                let target = image.root.digest.as_bytes();
                names.insert(image.name.as_str(), target).map_err(failed)?;
            }
            Ok(())
        })
    }

    async fn put_large(&self, seed: u64, size: u64) -> Result<()> {
        // The digest is known only after the last write, so the seed is the key of the rows. A
        // thread hashes in parallel, as in our store.
        let key = seed.to_le_bytes();
        std::thread::scope(|scope| {
            let hashed = scope.spawn(|| data::hash(seed, size));
            self.write(|tx| {
                let mut bytes = tx.open_table(BYTES).map_err(failed)?;
                let mut at = 0;
                let pieces = data::pieces(seed, size);
                for piece in pieces {
                    for row in piece.chunks(ROW) {
                        bytes.insert((&key[..], at), row).map_err(failed)?;
                        at += row.len() as u64;
                    }
                }
                drop(bytes);
                let digest = hashed
                    .join()
                    .map_err(|_| cas::Error::internal("the hashing thread panicked"))?;
                let mut records = tx.open_table(RECORDS).map_err(failed)?;
                let record = record(seed);
                records
                    .insert(digest.as_bytes(), record.as_bytes())
                    .map_err(failed)?;
                Ok(())
            })
        })
    }

    async fn stat(&self, digests: &[Digest]) -> Result<usize> {
        let records = self.records()?;
        let mut found = 0;
        for digest in digests {
            found += usize::from(records.get(digest.as_bytes()).map_err(failed)?.is_some());
        }
        Ok(found)
    }

    async fn read(&self, digests: &[Digest]) -> Result<u64> {
        let bytes = self.bytes()?;
        let mut read = 0;
        for digest in digests {
            let row = bytes.get((digest.as_bytes(), 0)).map_err(failed)?;
            let data = row.map(|row| row.value().to_vec()).unwrap_or_default();
            read += std::hint::black_box(data).len() as u64;
        }
        Ok(read)
    }

    async fn list(&self) -> Result<usize> {
        let mut count = 0;
        for row in self.records()?.iter().map_err(failed)? {
            std::hint::black_box(row.map_err(failed)?.1.value());
            count += 1;
        }
        Ok(count)
    }

    async fn label(&self, digests: &[Digest], value: &str) -> Result<()> {
        digests.iter().try_for_each(|digest| {
            self.write(|tx| {
                let mut records = tx.open_table(RECORDS).map_err(failed)?;
                records
                    .insert(digest.as_bytes(), value.as_bytes())
                    .map_err(failed)?;
                Ok(())
            })
        })
    }

    async fn tag(&self, names: &[String], target: &Blob) -> Result<()> {
        names.iter().try_for_each(|name| {
            self.write(|tx| {
                let mut table = tx.open_table(NAMES).map_err(failed)?;
                table
                    .insert(name.as_str(), target.digest.as_bytes())
                    .map_err(failed)?;
                Ok(())
            })
        })
    }

    async fn resolve(&self, names: &[String]) -> Result<usize> {
        let table = self.names()?;
        let mut found = 0;
        for name in names {
            found += usize::from(table.get(name.as_str()).map_err(failed)?.is_some());
        }
        Ok(found)
    }

    async fn edges(&self, images: &[ImageBlobs]) -> Result<()> {
        self.write(|tx| {
            let mut records = tx.open_table(RECORDS).map_err(failed)?;
            for image in images {
                let children = image.children.iter();
                let children: Vec<u8> = children
                    .flat_map(|child| child.digest.as_bytes().to_vec())
                    .collect();
                let root = image.root.digest.as_bytes();
                records.insert(root, &*children).map_err(failed)?;
            }
            Ok(())
        })
    }

    async fn read_ranges(&self, digest: &Digest, offsets: &[u64], length: usize) -> Result<u64> {
        let records = self.records()?;
        let record = records.get(digest.as_bytes()).map_err(failed)?;
        let Some(seed) = record.and_then(|record| seed(record.value())) else {
            return Ok(0);
        };
        let (bytes, key) = (self.bytes()?, seed.to_le_bytes());
        let mut read = 0;
        for offset in offsets {
            let mut data = Vec::with_capacity(length);
            // The byte at `offset` is in the last row that begins at or before `offset`.
            let upto = (Bound::Unbounded, Bound::Included((&key[..], *offset)));
            let mut before = bytes.range(upto).map_err(failed)?;
            let first = before.next_back().transpose().map_err(failed)?;
            let from = first.map_or(0, |(key, _)| key.value().1);
            for row in bytes.range((&key[..], from)..).map_err(failed)? {
                let (at, row) = row.map_err(failed)?;
                let (of, at) = at.value();
                if of != key {
                    // This row belongs to another blob: the blob that is read has no more rows.
                    break;
                }
                let row = row.value();
                let row = row.get(offset.saturating_sub(at) as usize..);
                let row = row.unwrap_or_default();
                data.extend_from_slice(&row[..row.len().min(length - data.len())]);
                if data.len() == length {
                    break;
                }
            }
            read += std::hint::black_box(data).len() as u64;
        }
        Ok(read)
    }
}

/// Returns the seed of a large blob. `put_large` writes it to the record in place of the size.
fn seed(record: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(record).ok()?;
    text.strip_prefix(r#"{"size":"#)?
        .split(',')
        .next()?
        .parse()
        .ok()
}
