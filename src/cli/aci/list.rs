//! `cas aci ls`: lists ACIs.

use cas::Result;
use cas::aci::{AciInfo, AciStore, Remote, SortField};
use cas::error::url_excerpt;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::cli::Context;
use crate::cli::gc::when;
use crate::cli::output::{ago, size};

/// Number of characters of a key in a table: `sha512-` and 12 digits.
const SHORT: usize = 19;

/// List ACIs
#[derive(Args)]
#[command(after_help = "Example:
  cas aci ls --sort used,name --reverse
  cas aci ls example.com/app --json")]
pub(crate) struct Ls {
    /// Show only ACIs with exactly this name
    name: Option<String>,
    /// Sort by these fields, the most important first; the smallest or oldest values come first
    #[arg(
        long,
        value_name = "FIELD",
        value_delimiter = ',',
        default_value = "name"
    )]
    sort: Vec<Field>,
    /// Reverse the order
    #[arg(long)]
    reverse: bool,
}

/// What ACIs are sorted by.
#[derive(Clone, Copy, ValueEnum)]
enum Field {
    /// The key
    Key,
    /// The name
    Name,
    /// When the ACI was last imported
    Imported,
    /// When the ACI was last read
    Used,
    /// The size of the uncompressed archive
    Size,
    /// The size in the store
    Packed,
    /// The size of the file trees that a container runtime has unpacked from the ACI
    Tree,
    /// Whether the ACI was imported with --latest; ACIs without --latest come first
    Latest,
}

impl From<Field> for SortField {
    fn from(field: Field) -> Self {
        match field {
            Field::Key => SortField::Key,
            Field::Name => SortField::Name,
            Field::Imported => SortField::ImportTime,
            Field::Used => SortField::LastUsed,
            Field::Size => SortField::Size,
            Field::Packed => SortField::PackedSize,
            Field::Tree => SortField::TreeStoreSize,
            Field::Latest => SortField::Latest,
        }
    }
}

impl Ls {
    pub(super) async fn run(self, context: &Context, acis: &AciStore) -> Result<()> {
        let fields: Vec<SortField> = self.sort.into_iter().map(SortField::from).collect();
        let mut infos = acis.get_all_aci_infos(&fields, !self.reverse).await?;
        infos.retain(|info| self.name.as_ref().is_none_or(|name| *name == info.name));
        if context.out.is_json() {
            let remotes = acis.get_all_remotes().await?;
            return infos.iter().try_for_each(|info| {
                let mut shown = describe(info);
                let own = remotes.iter().filter(|one| one.key == Some(info.key));
                shown["remotes"] = own.map(origin).collect();
                context.out.item(&shown, String::new)
            });
        }
        show(context, &infos)
    }
}

/// Prints ACIs as a table.
pub(super) fn show(context: &Context, infos: &[AciInfo]) -> Result<()> {
    let columns = ["KEY", "NAME", "SIZE", "PACKED", "IMPORTED", "LAST USED"];
    context.out.list(&columns, infos, |info| {
        vec![
            info.key.to_string()[..SHORT].to_owned(),
            info.name.clone(),
            size(info.size),
            size(info.packed_size()),
            ago(info.import_time),
            ago(info.last_used),
        ]
    })
}

/// Returns the record of a URL that an ACI was fetched from, as JSON. Others may read the output,
/// so parts of URLs that may be secret are left out.
fn origin(remote: &Remote) -> Value {
    json!({
        "url": url_excerpt(&remote.aci_url),
        "signature": url_excerpt(&remote.sig_url),
        "etag": remote.etag,
        "maxAge": remote.cache_max_age.as_secs(),
        "downloadedAt": when(remote.download_time),
    })
}

/// Returns the entry of an ACI in the catalogue, as JSON.
pub(super) fn describe(info: &AciInfo) -> Value {
    json!({
        "key": info.key,
        "name": info.name,
        "importedAt": when(info.import_time),
        "usedAt": when(info.last_used),
        "size": info.size,
        "packedSize": info.packed_size(),
        "treeSize": info.tree_store_size,
        "latest": info.latest,
        "blob": info.blob.digest,
        "manifest": info.manifest.digest,
    })
}
