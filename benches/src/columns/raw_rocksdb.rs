//! RocksDB called directly. One synced write stores the bytes of a small blob and its record. A
//! large blob is stored in pieces of 256 KiB, which skip the log and are flushed before its record
//! is written.

use std::path::Path;

use async_trait::async_trait;
use cas::{Digest, Error, Result};
use rocksdb::{BlockBasedOptions, ColumnFamily, ColumnFamilyDescriptor, DB, Options};
use rocksdb::{WriteBatch, WriteOptions};
use workload::{Blob, Column, Contender, ImageBlobs, Promise, Role, data};

use super::{failed, record};

const RECORDS: &str = "records";
const BYTES: &str = "bytes";
const NAMES: &str = "names";
/// Size of a row of a large blob in bytes.
const ROW: usize = 256 << 10;
/// Size in bytes of each of the buffers in which RocksDB collects rows before it writes a file.
const BUFFER: usize = 16 << 20;
/// Number of blobs in one write.
const TOGETHER: usize = 256;

/// Returns the column of RocksDB called directly.
pub(super) fn contender() -> Contender {
    Contender::new(
        "rocksdb raw",
        Role::Other,
        Promise::Durable,
        |directory| async move { open(&directory).map(|column| Box::new(column) as Box<dyn Column>) },
    )
}

fn open(directory: &Path) -> Result<Raw> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_bytes_per_sync(1 << 20);
    let families = [RECORDS, BYTES, NAMES].map(|name| {
        let mut table = BlockBasedOptions::default();
        table.set_bloom_filter(10.0, false);
        let mut options = Options::default();
        options.set_block_based_table_factory(&table);
        if name == BYTES {
            options.set_enable_blob_files(true);
            options.set_write_buffer_size(BUFFER);
            options.set_max_write_buffer_number(3);
        }
        ColumnFamilyDescriptor::new(name, options)
    });
    let db = DB::open_cf_descriptors(&options, directory.join("raw"), families);
    Ok(Raw(db.map_err(failed)?))
}

struct Raw(DB);

impl Raw {
    fn family(&self, name: &str) -> Result<&ColumnFamily> {
        let family = self.0.cf_handle(name);
        family.ok_or_else(|| Error::internal("a column family is missing"))
    }

    fn write(&self, batch: WriteBatch) -> Result<()> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.0.write_opt(batch, &options).map_err(failed)
    }

    fn put<'a>(&self, batch: &mut WriteBatch, blobs: impl Iterator<Item = &'a Blob>) -> Result<()> {
        let (bytes, records) = (self.family(BYTES)?, self.family(RECORDS)?);
        for blob in blobs {
            let digest = Digest::sha256(&blob.data);
            batch.put_cf(bytes, row(digest.as_bytes(), 0), &blob.data);
            batch.put_cf(records, digest.as_bytes(), record(blob.data.len() as u64));
        }
        Ok(())
    }

    fn get(&self, family: &str, key: &[u8]) -> Result<Option<rocksdb::DBPinnableSlice<'_>>> {
        let found = self.0.get_pinned_cf(self.family(family)?, key);
        found.map_err(failed)
    }
}

fn row(key: &[u8], offset: u64) -> Vec<u8> {
    [key, &offset.to_be_bytes()].concat()
}

#[async_trait]
impl Column for Raw {
    async fn put(&self, blobs: &[Blob]) -> Result<()> {
        blobs.iter().try_for_each(|blob| {
            let mut batch = WriteBatch::default();
            self.put(&mut batch, [blob].into_iter())?;
            self.write(batch)
        })
    }

    async fn put_batched(&self, blobs: &[Blob]) -> Result<()> {
        blobs.chunks(TOGETHER).try_for_each(|group| {
            let mut batch = WriteBatch::default();
            self.put(&mut batch, group.iter())?;
            self.write(batch)
        })
    }

    async fn fill(&self, images: &[ImageBlobs]) -> Result<()> {
        for image in images {
            let mut batch = WriteBatch::default();
            self.put(&mut batch, image.children.iter().chain([&image.root]))?;
            let target = image.root.digest.as_bytes();
            batch.put_cf(self.family(NAMES)?, &image.name, target);
            self.0.write(batch).map_err(failed)?;
        }
        self.0.flush_wal(true).map_err(failed)
    }

    async fn put_large(&self, seed: u64, size: u64) -> Result<()> {
        // The digest is known only after the last write, so the seed is the key of the rows. A
        // thread hashes in parallel, as in our store.
        let key = seed.to_le_bytes();
        std::thread::scope(|scope| {
            let hashed = scope.spawn(|| data::hash(seed, size));
            let (bytes, mut at) = (self.family(BYTES)?, 0);
            for piece in data::pieces(seed, size) {
                let mut batch = WriteBatch::default();
                for some in piece.chunks(ROW) {
                    batch.put_cf(bytes, row(&key, at), some);
                    at += some.len() as u64;
                }
                self.0.write_without_wal(batch).map_err(failed)?;
            }
            self.0.flush_cf(bytes).map_err(failed)?;
            let digest = hashed.join();
            let digest = digest.map_err(|_| Error::internal("the hashing thread panicked"))?;
            let mut batch = WriteBatch::default();
            batch.put_cf(self.family(RECORDS)?, digest.as_bytes(), key);
            self.write(batch)
        })
    }

    async fn stat(&self, digests: &[Digest]) -> Result<usize> {
        let mut found = 0;
        for digest in digests {
            found += usize::from(self.get(RECORDS, digest.as_bytes())?.is_some());
        }
        Ok(found)
    }

    async fn read(&self, digests: &[Digest]) -> Result<u64> {
        let mut read = 0;
        for digest in digests {
            let data = self.get(BYTES, &row(digest.as_bytes(), 0))?;
            read += std::hint::black_box(data).map_or(0, |data| data.len() as u64);
        }
        Ok(read)
    }

    async fn read_ranges(&self, digest: &Digest, offsets: &[u64], length: usize) -> Result<u64> {
        let Some(key) = self.get(RECORDS, digest.as_bytes())? else {
            return Ok(0);
        };
        let mut read = 0;
        for offset in offsets {
            let (mut data, mut at) = (Vec::with_capacity(length), *offset);
            while data.len() < length {
                let start = at - at % ROW as u64;
                let Some(found) = self.get(BYTES, &row(&key, start))? else {
                    break;
                };
                let rest = found.get((at - start) as usize..).unwrap_or_default();
                if rest.is_empty() {
                    // The blob ends in this row.
                    break;
                }
                let some = &rest[..rest.len().min(length - data.len())];
                data.extend_from_slice(some);
                at += some.len() as u64;
            }
            read += std::hint::black_box(data).len() as u64;
        }
        Ok(read)
    }

    async fn list(&self) -> Result<usize> {
        let mut rows = self.0.raw_iterator_cf(self.family(RECORDS)?);
        rows.seek_to_first();
        let mut count = 0;
        while let Some(row) = rows.item() {
            std::hint::black_box(row);
            count += 1;
            rows.next();
        }
        rows.status().map_err(failed)?;
        Ok(count)
    }

    async fn label(&self, digests: &[Digest], value: &str) -> Result<()> {
        digests.iter().try_for_each(|digest| {
            let mut batch = WriteBatch::default();
            batch.put_cf(self.family(RECORDS)?, digest.as_bytes(), value);
            self.write(batch)
        })
    }

    async fn tag(&self, names: &[String], target: &Blob) -> Result<()> {
        names.iter().try_for_each(|name| {
            let mut batch = WriteBatch::default();
            batch.put_cf(self.family(NAMES)?, name, target.digest.as_bytes());
            self.write(batch)
        })
    }

    async fn resolve(&self, names: &[String]) -> Result<usize> {
        let mut found = 0;
        for name in names {
            found += usize::from(self.get(NAMES, name.as_bytes())?.is_some());
        }
        Ok(found)
    }

    async fn edges(&self, images: &[ImageBlobs]) -> Result<()> {
        let mut batch = WriteBatch::default();
        for image in images {
            let children = image.children.iter();
            let children: Vec<u8> = children
                .flat_map(|child| child.digest.as_bytes().to_vec())
                .collect();
            let root = image.root.digest.as_bytes();
            batch.put_cf(self.family(RECORDS)?, root, children);
        }
        self.write(batch)
    }
}
