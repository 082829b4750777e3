//! The crate cacache, called synchronously: content under its digest, and an index by key. The
//! crate never syncs.

use std::io::Write;
use std::path::PathBuf;

use async_trait::async_trait;
use cacache::{Integrity, WriteOpts};
use cas::{Digest, Error, Result};
use workload::{Blob, Column, Contender, ImageBlobs, Promise, Role, data};

use super::failed;

/// Returns the column of cacache.
pub(super) fn contender() -> Contender {
    Contender::new(
        "cacache",
        Role::Other,
        Promise::Written,
        |directory| async move { Ok(Box::new(Cache(directory)) as Box<dyn Column>) },
    )
}

struct Cache(PathBuf);

impl Cache {
    fn put_one(&self, blob: &Blob) -> Result<()> {
        let key = blob.digest.to_string();
        let found = cacache::write_sync(&self.0, key, &blob.data).map_err(failed)?;
        match found == integrity(&blob.digest)? {
            true => Ok(()),
            false => Err(
                Error::corrupt(format!("expected this digest, found {found}")).subject(blob.digest),
            ),
        }
    }
}

fn integrity(digest: &Digest) -> Result<Integrity> {
    Integrity::from_hex(digest.hex(), cacache::Algorithm::Sha256).map_err(failed)
}

#[async_trait]
impl Column for Cache {
    async fn put(&self, blobs: &[Blob]) -> Result<()> {
        blobs.iter().try_for_each(|blob| self.put_one(blob))
    }

    async fn fill(&self, images: &[ImageBlobs]) -> Result<()> {
        let blobs = images
            .iter()
            .flat_map(|image| image.children.iter().chain([&image.root]));
        for blob in blobs {
            self.put_one(blob)?;
        }
        Ok(())
    }

    async fn put_large(&self, seed: u64, size: u64) -> Result<()> {
        let writer = WriteOpts::new().open_sync(&self.0, format!("large-{seed}"));
        let mut writer = writer.map_err(failed)?;
        for piece in data::pieces(seed, size) {
            writer.write_all(&piece)?;
        }
        writer.commit().map(drop).map_err(failed)
    }

    async fn stat(&self, digests: &[Digest]) -> Result<usize> {
        let mut found = 0;
        for digest in digests {
            let entry = cacache::metadata_sync(&self.0, digest.to_string()).map_err(failed)?;
            found += usize::from(entry.is_some());
        }
        Ok(found)
    }

    async fn read(&self, digests: &[Digest]) -> Result<u64> {
        let mut read = 0;
        for digest in digests {
            let data = cacache::read_hash_sync(&self.0, &integrity(digest)?).map_err(failed)?;
            read += data.len() as u64;
        }
        Ok(read)
    }

    async fn list(&self) -> Result<usize> {
        let mut count = 0;
        for entry in cacache::list_sync(&self.0) {
            std::hint::black_box(entry.map_err(failed)?.size);
            count += 1;
        }
        Ok(count)
    }
}
