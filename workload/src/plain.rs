//! The baseline and the floors. The baseline is plain files that are as durable as a store. The
//! floors are bounds that no store on a disk can beat.
//!
//! The baseline writes a blob to a temporary file, syncs and renames the file, and syncs the
//! directory. It then appends a line about the blob to another file, and syncs that file. In the
//! row `fill`, it writes each blob directly to its final file, and then syncs all of them together.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use async_trait::async_trait;
use cas_core::{Algorithm, Context, Digest, Error, Hasher, Result};

use crate::column::{Blob, Column, Contender, ImageBlobs, Promise, Role};
use crate::data;

/// Returns the baseline, the column of plain files.
pub fn plain() -> Contender {
    Contender::new(
        "plain files",
        Role::Other,
        Promise::Durable,
        |directory| async move {
            Plain::open(&directory).map(|column| Box::new(column) as Box<dyn Column>)
        },
    )
}

struct Plain {
    blobs: PathBuf,
    names: PathBuf,
    records: Mutex<File>,
}

impl Plain {
    fn open(directory: &Path) -> Result<Self> {
        let (blobs, names) = (directory.join("blobs"), directory.join("names"));
        for directory in [&blobs, &names] {
            fs::create_dir_all(directory).during("create", directory.display())?;
        }
        let records = directory.join("records");
        let opened = File::options().append(true).create(true).open(&records);
        Ok(Plain {
            blobs,
            names,
            records: Mutex::new(opened.during("open", records.display())?),
        })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    fn append(&self, lines: &str) -> Result<()> {
        let mut records = self
            .records
            .lock()
            .map_err(|_| Error::internal("a writer panicked"))?;
        records.write_all(lines.as_bytes())?;
        Ok(records.sync_data()?)
    }

    fn put_one(&self, blob: &Blob) -> Result<()> {
        check(blob)?;
        write_durably(&self.blobs, &blob.digest.hex(), |file| {
            file.write_all(&blob.data)
        })?;
        self.append(&format!("{} {}\n", blob.digest, blob.data.len()))
    }
}

/// Writes a temporary file, syncs and renames it, and syncs the directory.
fn write_durably(
    directory: &Path,
    name: &str,
    write: impl FnOnce(&mut File) -> std::io::Result<()>,
) -> Result<()> {
    let temporary = directory.join("temporary");
    let mut file = File::create(&temporary).during("create", temporary.display())?;
    write(&mut file)?;
    file.sync_data()?;
    fs::rename(&temporary, directory.join(name))?;
    Ok(File::open(directory)?.sync_all()?)
}

fn check(blob: &Blob) -> Result<()> {
    let found = Digest::sha256(&blob.data);
    if found == blob.digest {
        return Ok(());
    }
    Err(Error::corrupt(format!("expected this digest, found {found}")).subject(blob.digest))
}

#[async_trait]
impl Column for Plain {
    async fn put(&self, blobs: &[Blob]) -> Result<()> {
        for blob in blobs {
            self.put_one(blob)?;
            // A signal can stop the run here.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn fill(&self, images: &[ImageBlobs]) -> Result<()> {
        let mut lines = String::new();
        for image in images {
            for blob in image.children.iter().chain([&image.root]) {
                check(blob)?;
                fs::write(self.path(&blob.digest), &blob.data)?;
                lines.push_str(&format!("{} {}\n", blob.digest, blob.data.len()));
            }
            tokio::task::yield_now().await;
        }
        let root = File::open(&self.blobs)?;
        rustix::fs::syncfs(&root).map_err(std::io::Error::from)?;
        self.append(&lines)?;
        for image in images {
            self.tag(std::slice::from_ref(&image.name), &image.root)
                .await?;
        }
        Ok(())
    }

    async fn put_large(&self, seed: u64, size: u64) -> Result<()> {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let name = format!("large-{seed}");
        write_durably(&self.blobs, &name, |file| {
            data::pieces(seed, size).try_for_each(|piece| {
                hasher.update(&piece);
                file.write_all(&piece)
            })
        })?;
        let digest = hasher.finish();
        fs::rename(self.blobs.join(name), self.path(&digest))?;
        File::open(&self.blobs)?.sync_all()?;
        self.append(&format!("{digest} {size}\n"))
    }

    async fn stat(&self, digests: &[Digest]) -> Result<usize> {
        let there = digests
            .iter()
            .filter(|digest| fs::metadata(self.path(digest)).is_ok());
        Ok(there.count())
    }

    async fn read(&self, digests: &[Digest]) -> Result<u64> {
        let read = digests.iter().map(|digest| {
            let path = self.path(digest);
            fs::read(&path)
                .during("read", path.display())
                .map(|data| data.len() as u64)
        });
        read.sum()
    }

    async fn read_ranges(&self, digest: &Digest, offsets: &[u64], length: usize) -> Result<u64> {
        let path = self.path(digest);
        let file = File::open(&path).during("open", path.display())?;
        let mut bytes = 0;
        for offset in offsets {
            // Each range gets its own buffer, as it does when a store reads it.
            let mut piece = vec![0; length];
            bytes += file.read_at(&mut piece, *offset)? as u64;
            std::hint::black_box(piece);
        }
        Ok(bytes)
    }

    async fn list(&self) -> Result<usize> {
        let mut count = 0;
        for entry in fs::read_dir(&self.blobs)? {
            count += usize::from(entry?.metadata()?.is_file());
        }
        Ok(count)
    }

    async fn label(&self, digests: &[Digest], value: &str) -> Result<()> {
        for digest in digests {
            self.append(&format!("{digest} {value}\n"))?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn tag(&self, names: &[String], target: &Blob) -> Result<()> {
        let text = target.digest.to_string();
        for name in names {
            let file = name.replace('/', "%");
            write_durably(&self.names, &file, |file| file.write_all(text.as_bytes()))?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn resolve(&self, names: &[String]) -> Result<usize> {
        let read = names
            .iter()
            .map(|name| fs::read(self.names.join(name.replace('/', "%"))));
        Ok(read.filter(|found| found.is_ok()).count())
    }

    async fn edges(&self, images: &[ImageBlobs]) -> Result<()> {
        let mut lines = String::new();
        for image in images {
            for child in &image.children {
                lines.push_str(&format!("{} {}\n", image.root.digest, child.digest));
            }
        }
        self.append(&lines)
    }
}

/// Returns the floors of storing large blobs: hashing them, and writing them to the page cache.
pub fn floors() -> [Contender; 2] {
    [
        Contender::new("SHA-256", Role::Floor, Promise::Volatile, |_| async {
            Ok(Box::new(HashOnly) as Box<dyn Column>)
        }),
        Contender::new(
            "page cache",
            Role::Floor,
            Promise::Written,
            |directory| async { Ok(Box::new(WriteOnly(directory)) as Box<dyn Column>) },
        ),
    ]
}

struct HashOnly;

#[async_trait]
impl Column for HashOnly {
    async fn put_large(&self, seed: u64, size: u64) -> Result<()> {
        std::hint::black_box(data::hash(seed, size));
        Ok(())
    }
}

struct WriteOnly(PathBuf);

#[async_trait]
impl Column for WriteOnly {
    async fn put_large(&self, seed: u64, size: u64) -> Result<()> {
        fs::create_dir_all(&self.0)?;
        let mut file = File::create(self.0.join(seed.to_string()))?;
        for piece in data::pieces(seed, size) {
            file.write_all(&piece)?;
        }
        Ok(())
    }
}
