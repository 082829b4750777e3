//! `cas blob`: lists, reads, adds, labels and removes blobs.

mod add;
mod change;
mod describe;

use std::path::PathBuf;
use std::sync::Arc;

use cas::blob::{BlobInfo, BlobProblem};
use cas::content::{BlobReader, Stat};
use cas::{Cas, ContentExt as _, Digest, DigestPrefix, Error, Result, Store};
use clap::Subcommand;
use serde_json::{Value, json};

pub(crate) use self::describe::describe;

use super::Context;
use super::output::size;

/// List, read, add, label and remove blobs
#[derive(Subcommand)]
#[command(after_help = "Example:\n  cas blob ls")]
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
    /// Write a blob to standard output and verify its digest; if the blob is damaged, fail after
    /// writing it
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
        #[arg(long, value_parser = Digest::from_text_or_hex)]
        digest: Option<Digest>,
        /// Media type to record
        #[arg(long, default_value = "application/octet-stream")]
        media_type: String,
    },
    /// Remove blobs to which nothing refers, without waiting for gc
    #[command(after_help = "Example:\n  cas blob rm e3b0c442 2c26b46b

If an image, a lease, a label, a snapshot or another blob refers to one of the given blobs, the
command removes none of them. The error names up to three of these references; `cas why` lists more.
References between the given blobs do not prevent the removal.")]
    Rm {
        /// Digests of the blobs, or their first digits
        #[arg(required = true, value_name = "DIGEST")]
        digests: Vec<String>,
        /// Remove the blobs even if something refers to them; an image that refers to one of them
        /// is then incomplete
        #[arg(long)]
        force: bool,
    },
    /// Set labels of a blob; KEY= removes a label
    #[command(after_help = "Example:
  cas blob label e3b0c442 note=mine
  cas blob label e3b0c442 containerd.io/gc.root=yes    # keep the blob and the blobs it lists
  cas blob label e3b0c442 containerd.io/gc.root=       # remove this label

Labels with the prefix `containerd.io/gc.` decide what gc keeps. They have the same meaning in
containerd. A blob with gc.root stays. A blob with gc.ref.content.NAME=DIGEST keeps the blob DIGEST.
A blob with gc.bref.content.NAME=DIGEST is kept by the blob DIGEST. A gc label that has no meaning
on a blob is refused.")]
    Label {
        /// Digest of the blob, or its first digits
        digest: String,
        /// Labels to set; KEY= removes a label
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = change::label)]
        labels: Vec<(String, Option<String>)>,
    },
}

/// Size in bytes of the pieces in which a stream is read and stored.
const PIECE: usize = 1 << 20;

impl Blob {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let cas = match &self {
            Blob::Ls | Blob::Info { .. } | Blob::Cat { .. } => context.cas().await?,
            Blob::Add { .. } | Blob::Rm { .. } | Blob::Label { .. } => {
                context.writable_cas().await?
            }
        };
        let store = cas.store();
        match self {
            Blob::Ls => list(context, &cas).await,
            Blob::Info { digest } => info(context, store, &digest).await,
            Blob::Cat { digest } => cat(context, &cas, &digest).await,
            Blob::Add {
                file,
                digest,
                media_type,
            } => {
                let added = add::add(store, &file, digest, media_type.into()).await?;
                context.out.item(&added, || added.digest.to_string())
            }
            Blob::Rm { digests, force } => change::remove(context, &cas, &digests, force).await,
            Blob::Label { digest, labels } => {
                change::set_labels(context, &cas, &digest, labels).await
            }
        }
    }
}

async fn list(context: &Context, cas: &Cas) -> Result<()> {
    let list = cas.blobs().await?;
    for problem in &list.problems {
        if let BlobProblem::Unreadable(..) = problem {
            context.progress.warn(&problem.to_string());
        }
    }
    let row = |blob: &BlobInfo| json!({"digest": blob.digest, "size": blob.size, "mediaType": blob.media_type});
    let rows: Vec<Value> = list.blobs.iter().map(row).collect();
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
    let found = find(store, digest).await?;
    context.out.document(&describe(store, &found).await?)
}

async fn cat(context: &Context, cas: &Cas, digest: &str) -> Result<()> {
    let Stat { digest, .. } = find(cas.store(), digest).await?;
    let mut reader = cas.read_blob(&digest).await?;
    while let Some(piece) = reader.next().await? {
        context.out.content(&piece)?;
    }
    Ok(())
}

/// Opens a blob that [`find`] has returned.
///
/// # Errors
/// `NotFound` if the blob was removed meanwhile; errors of the store.
async fn open(store: &Store, digest: &Digest) -> Result<Arc<dyn BlobReader>> {
    let reader = store.content.open(digest).await?;
    reader.ok_or_else(|| {
        Error::not_found("the blob was removed before it was read; pull or import its image again")
            .subject(digest)
    })
}

/// Returns the only blob whose digest begins with `text`, ignoring the case of letters. If `text`
/// does not name an algorithm, digests of all algorithms are searched.
///
/// # Errors
/// `InvalidArgument` if no digest can begin with `text`, or if the digests of several blobs begin
/// with `text`; `NotFound` if the store has no blob whose digest begins with `text`; errors of the
/// store.
pub(crate) async fn find(store: &Store, text: &str) -> Result<Stat> {
    let prefix: DigestPrefix = text.to_ascii_lowercase().parse()?;
    let found = store.content.find(&prefix).await?;
    match found[..] {
        [only] => Ok(only),
        [] => Err(
            Error::not_found("no such blob; `cas blob ls` lists all blobs")
                .operation("find blob")
                .subject(text),
        ),
        _ => Err(Error::invalid(
            "the digests of several blobs begin with these digits; give more digits",
        )
        .operation("find blob")
        .subject(text)),
    }
}
