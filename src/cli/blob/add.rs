//! `cas blob add`: a file as a blob.

use std::fs::File;
use std::io::{Read, stdin};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use cas::content::{Durability, Expected, OwnIngest, Writer};
use cas::{Context as _, Descriptor, Digest, Error, MediaType, Result, Store};

use super::PIECE;
use crate::cli::patient::Patient;

/// Stores a file as a blob, or standard input if `file` is `-`. Returns the descriptor of the blob.
pub(super) async fn add(
    store: &Store,
    file: &PathBuf,
    digest: Option<Digest>,
    media_type: MediaType,
) -> Result<Descriptor> {
    let source = match file.to_str() {
        Some("-") => None,
        _ => Some(File::open(file).during("open", file.display())?),
    };
    let expected = Expected { digest, size: None };
    let ingest = OwnIngest::new(&store.content, "blob-add");
    let mut writer = Writer::begin(&*store.content, ingest.key(), expected).await?;
    writer.rewind().await?;
    let copied = match source {
        Some(file) => copy_file(file, &mut writer).await,
        None => copy(&mut Patient(stdin().lock()), &mut writer).await,
    };
    copied.during("read", file.display())?;
    let stored = publish(store, writer, digest, media_type).await?;
    ingest.published();
    Ok(stored)
}

async fn publish(
    store: &Store,
    mut writer: Writer,
    expected: Option<Digest>,
    media_type: MediaType,
) -> Result<Descriptor> {
    let digest = match expected {
        Some(digest) => digest,
        None => writer.digest().await?,
    };
    let descriptor = Descriptor::new(media_type, digest, writer.offset());
    let published = store.publish(writer, &descriptor, Vec::new(), Durability::Full);
    published.await.map(|_| descriptor.clone())
}

/// Writes a file into the ingest. A regular file is read up to the size that it has when this
/// function starts, and the store may share the data with the file (reflink) instead of copying the
/// data. A file that is not regular, such as a pipe, is read to its end. So is a file whose size is
/// stated as 0, such as a file of `/proc`.
async fn copy_file(mut file: File, writer: &mut Writer) -> Result<()> {
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() == 0 {
        return copy(&mut file, writer).await;
    }
    let file = Arc::new(file);
    writer
        .write_file(&file, 0, metadata.len())
        .await
        .map(|_| ())
}

async fn copy(source: &mut dyn Read, writer: &mut Writer) -> Result<()> {
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        source
            .take(PIECE as u64)
            .read_to_end(&mut piece)
            .map_err(Error::from)?;
        if piece.is_empty() {
            return Ok(());
        }
        writer.write(Bytes::from(piece)).await?;
    }
}
