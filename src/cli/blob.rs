//! `cas blob`: blobs by digest.

use std::fs::File;
use std::io::{Read, stdin};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use cas::content::{Durability, Expected, OwnIngest, Stat, Writer};
use cas::{
    ContentExt as _, Context as _, Descriptor, Digest, Error, Hasher, MediaType, Result, Store,
};
use clap::Subcommand;
use serde_json::json;

use super::Context;
use super::output::size;

/// Inspect and add blobs
#[derive(Subcommand)]
pub(crate) enum Blob {
    /// List blobs
    #[command(after_help = "Example:\n  cas blob ls")]
    Ls,
    /// Show the size, media type, labels and children of a blob
    #[command(after_help = "Example:\n  cas blob info sha256:e3b0c4")]
    Info {
        /// Digest of the blob, or its first digits
        digest: String,
    },
    /// Write a blob to standard output and verify its digest
    #[command(after_help = "Example:\n  cas blob cat e3b0c4 > layer.tar.gz")]
    Cat {
        /// Digest of the blob, or its first digits
        digest: String,
    },
    /// Store a file as a blob and print its digest
    #[command(
        after_help = "Example:\n  cas blob add disk.qcow2 --media-type application/x-qemu-disk"
    )]
    Add {
        /// File to store, or - for standard input
        file: PathBuf,
        /// Fail unless the content has this digest
        #[arg(long)]
        digest: Option<Digest>,
        /// Media type to record
        #[arg(long, default_value = "application/octet-stream")]
        media_type: String,
    },
}

const PAGE: usize = 1000;
const PIECE: usize = 1 << 20;

impl Blob {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let cas = match &self {
            Blob::Add { .. } => context.writable_cas().await?,
            _ => context.cas().await?,
        };
        let store = cas.store();
        match self {
            Blob::Ls => list(context, store).await,
            Blob::Info { digest } => info(context, store, &digest).await,
            Blob::Cat { digest } => cat(context, store, &digest).await,
            Blob::Add {
                file,
                digest,
                media_type,
            } => {
                let added = add(store, &file, digest, media_type.into()).await?;
                context.out.item(&added, || added.digest.to_string())
            }
        }
    }
}

async fn list(context: &Context, store: &Store) -> Result<()> {
    let mut all = Vec::new();
    loop {
        let after = all.last().map(|stat: &Stat| stat.digest);
        let page = store.content.list(after.as_ref(), PAGE).await?;
        let last = page.len() < PAGE;
        all.extend(page);
        if last {
            break;
        }
    }
    let mut rows = Vec::with_capacity(all.len());
    for stat in all {
        let record = store.blobs().load(&stat.digest).await?;
        let media_type = record.and_then(|(record, _)| record.media_type);
        rows.push(json!({"digest": stat.digest, "size": stat.size, "mediaType": media_type}));
    }
    context.out.list(&["DIGEST", "SIZE", "TYPE"], &rows, |row| {
        let digest = row["digest"].as_str().unwrap_or_default();
        let short = digest
            .parse::<Digest>()
            .map(|digest| digest.short())
            .unwrap_or_default();
        let media_type = row["mediaType"].as_str().unwrap_or_default().to_owned();
        vec![
            short,
            size(row["size"].as_u64().unwrap_or_default()),
            media_type,
        ]
    })
}

async fn info(context: &Context, store: &Store, digest: &str) -> Result<()> {
    let Stat { digest, size, .. } = find(store, digest).await?;
    let mut shown = json!({"digest": digest, "size": size});
    if let Some((record, _)) = store.blobs().load(&digest).await? {
        let time = |time| humantime::format_rfc3339_seconds(time).to_string();
        shown["mediaType"] = json!(record.media_type);
        shown["labels"] = json!(record.labels);
        shown["children"] = json!(record.children);
        shown["createdAt"] = json!(time(record.created_at));
        shown["updatedAt"] = json!(time(record.updated_at));
    }
    context.out.document(&shown)
}

async fn cat(context: &Context, store: &Store, digest: &str) -> Result<()> {
    let Stat { digest, .. } = find(store, digest).await?;
    let gone = || {
        Error::not_found("the blob was removed before it was read; import or pull it again")
            .subject(digest)
    };
    let reader = store.content.open(&digest).await?.ok_or_else(gone)?;
    let mut hasher = Hasher::new(digest.algorithm());
    let mut at = 0;
    while at < reader.size() {
        let piece = reader.read_at(at, PIECE).await?;
        if piece.is_empty() {
            break;
        }
        at += piece.len() as u64;
        hasher.update(&piece);
        context.out.bytes(&piece)?;
    }
    let found = hasher.finish();
    if found != digest {
        return Err(Error::corrupt(format!(
            "the stored blob is damaged: its bytes hash to {found}; discard the output, and pull \
             or import the image again"
        ))
        .operation("read blob")
        .subject(digest));
    }
    Ok(())
}

async fn add(
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
        None => copy(&mut stdin().lock(), &mut writer).await,
    };
    copied.during("read", file.display())?;
    publish(store, writer, digest, media_type).await
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

/// Writes a file into the ingest. The store may share the data of a regular file instead of copying
/// it. Anything else, such as a pipe, is read to its end.
async fn copy_file(mut file: File, writer: &mut Writer) -> Result<()> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
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

/// Returns the only blob whose digest begins with `text`. If `text` has no algorithm, blobs of all
/// algorithms are searched.
pub(crate) async fn find(store: &Store, text: &str) -> Result<Stat> {
    let found = match text.parse() {
        Ok(prefix) => store.content.find(&prefix).await?,
        Err(_) => Vec::new(),
    };
    match found[..] {
        [only] => Ok(only),
        [] => Err(
            Error::not_found("no such blob; `cas blob ls` lists all blobs")
                .operation("find blob")
                .subject(format!("{text:.150}")),
        ),
        _ => Err(Error::invalid("ambiguous digest prefix; give more digits")
            .operation("find blob")
            .subject(text)),
    }
}
