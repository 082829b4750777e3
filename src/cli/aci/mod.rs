//! `cas aci`: App Container images, as in rkt's image store.

mod bring;
mod collect;
mod list;

use std::path::PathBuf;
use std::time::Duration;

use cas::aci::{AciStore, KeyPrefix, Label};
use cas::image::{FullName, familiar};
use cas::{Cas, Error, Result};
use clap::Subcommand;
use serde_json::json;

use self::bring::Import;
use self::list::Ls;
use super::output::beginning;
use super::{Context, names};

/// Manage App Container images (ACI), as in rkt's image store
#[derive(Subcommand)]
#[command(after_help = "Example:\n  cas aci import-store /var/lib/rkt/cas\n  cas aci ls")]
pub(crate) enum Aci {
    Import(Import),
    /// Fetch ACIs by URL and print their keys; an ACI with an unchanged ETag is not fetched again
    #[cfg(feature = "registry")]
    #[command(after_help = "Example:
  cas aci fetch https://example.com/app-v1.0.aci
  cas aci fetch --all

A server may give an ACI a max-age. The ACI is not requested again before this time has passed.
Afterwards, if the server sent an ETag, the ACI is fetched only if it has changed. Without an ETag,
the ACI is fetched even if it has not changed. Signatures are not verified.")]
    Fetch {
        /// URLs of ACIs
        #[arg(required_unless_present = "all", value_name = "URL")]
        urls: Vec<String>,
        /// Fetch all ACIs that were fetched before
        #[arg(long, conflicts_with = "urls")]
        all: bool,
        /// Allow http:// on hosts other than this machine
        #[arg(long)]
        plain_http: bool,
    },
    /// Import all ACIs of an rkt store directory, with their names, times and URLs
    #[command(after_help = "Example:
  cas aci import-store /var/lib/rkt/cas

The directory is only read, and rkt may use it meanwhile. You may import it more than once.")]
    ImportStore {
        /// Directory with db/ql.db and blob/sha512
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    Ls(Ls),
    /// Write the manifest of an ACI to standard output, as its author wrote it
    #[command(after_help = "Example:\n  cas aci cat-manifest example.com/app:1.0")]
    CatManifest {
        /// Key, its first digits, or NAME[:VERSION][,LABEL=VALUE]...
        #[arg(value_name = "ACI")]
        aci: String,
    },
    /// Make an OCI image from an ACI and the ACIs that it depends on
    #[command(
        after_help = "Example:\n  cas aci to-image example.com/app:1.0 app:1\n  cas run app:1"
    )]
    ToImage {
        /// Key, its first digits, or NAME[:VERSION][,LABEL=VALUE]...
        #[arg(value_name = "ACI")]
        aci: String,
        /// Name for the image; an existing name is moved to this image
        name: FullName,
    },
    /// Remove ACIs with their content, and the records of the URLs they came from
    #[command(after_help = "Examples:
  cas aci rm sha512-0c45e8c0ab2
  cas aci rm example.com/app:1.0,os=linux

If several ACIs have the name and the labels, none of them is removed. The error lists at most 8 of
their keys.")]
    Rm {
        /// Keys, their first digits, or NAME[:VERSION][,LABEL=VALUE]...
        #[arg(required = true, value_name = "ACI")]
        acis: Vec<String>,
    },
    /// Remove unused content and the leftovers of killed jobs; with --older-than, also remove ACIs
    /// that were neither imported nor read in that time
    #[command(after_help = "Example:
  cas aci gc --older-than 30d

Unused content that was stored without a lease stays for a day. `cas gc` removes unused content,
too, but does not remove ACIs.")]
    Gc {
        /// Also remove ACIs that were neither imported nor read in this time, such as 12h or 30d
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        older_than: Option<Duration>,
        /// Only list the ACIs that would be removed
        #[arg(long, requires = "older_than")]
        dry_run: bool,
    },
}

impl Aci {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let cas = match &self {
            Aci::Ls(_) | Aci::CatManifest { .. } | Aci::Gc { dry_run: true, .. } => {
                context.cas().await?
            }
            _ => context.writable_cas().await?,
        };
        let acis = AciStore::open(cas.store().clone()).await?;
        let done = self.execute(context, &cas, &acis).await;
        let closed = acis.close().await;
        done.and(closed)
    }

    async fn execute(self, context: &Context, cas: &Cas, acis: &AciStore) -> Result<()> {
        match self {
            Aci::Import(import) => import.run(context, acis).await,
            #[cfg(feature = "registry")]
            Aci::Fetch {
                urls,
                all,
                plain_http,
            } => bring::fetch(context, acis, urls, all, plain_http).await,
            Aci::ImportStore { directory } => bring::import_store(context, acis, &directory).await,
            Aci::Ls(ls) => ls.run(context, acis).await,
            Aci::CatManifest { aci } => {
                let key = find(acis, &aci).await?;
                context
                    .out
                    .content(&acis.get_image_manifest_json(&key).await?)
            }
            Aci::ToImage { aci, name } => {
                let key = find(acis, &aci).await?;
                let image = acis.to_image(&key, name.name()).await?;
                // Removes the other spellings of the name, which would refer to another image.
                let image = cas.tag(image, &name).await?;
                let mut made = json!({"target": image.target, "key": key});
                names::add(&mut made, &image.name);
                context.out.item(&made, || familiar(&image.name))
            }
            Aci::Rm { acis: named } => collect::remove(context, acis, &named).await,
            Aci::Gc {
                older_than,
                dry_run,
            } => collect::gc(context, cas, acis, older_than, dry_run).await,
        }
    }
}

/// Returns `text` if it is a key or the first digits of a key. Otherwise, takes `text` as a name
/// with labels, and returns the key of the ACI with this name and these labels.
///
/// # Errors
/// `InvalidArgument` for a label without `=`; as [`AciStore::get_aci`].
async fn find(acis: &AciStore, text: &str) -> Result<String> {
    if text.parse::<KeyPrefix>().is_ok() {
        return Ok(text.to_owned());
    }
    let (name, labels) = parse_name(text)?;
    acis.get_aci(name, &labels).await.map(|key| key.to_string())
}

/// Returns the name and the labels in `NAME[:VERSION][,LABEL=VALUE]...`.
///
/// # Errors
/// `InvalidArgument` for a label without `=`.
fn parse_name(text: &str) -> Result<(&str, Vec<Label>)> {
    let mut parts = text.split(',');
    let named = parts.next().unwrap_or_default();
    let (name, version) = match named.split_once(':') {
        Some((name, version)) => (name, Some(Label::new("version", version))),
        None => (named, None),
    };
    let mut labels: Vec<Label> = version.into_iter().collect();
    for part in parts {
        let (label, value) = part.split_once('=').ok_or_else(|| {
            Error::invalid("expected a key, or NAME[:VERSION][,LABEL=VALUE]...")
                .operation("find ACI")
                .subject(beginning(text))
        })?;
        labels.push(Label::new(label, value));
    }
    Ok((name, labels))
}
