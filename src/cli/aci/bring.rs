//! `cas aci import`, `fetch` and `import-store`: commands that bring ACIs into the store.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

#[cfg(feature = "registry")]
use cas::aci::HttpFetcher;
use cas::aci::{AciStore, Key, KeyPrefix, WriteOptions};
use cas::{Context as _, Error, Result};
use clap::Args;
use serde_json::json;

use super::list::describe;
use crate::cli::Context;
use crate::cli::patient::Patient;

/// Import an ACI and print its key
#[derive(Args)]
#[command(after_help = "Example:
  cas aci import app.aci --name example.com/app
  cas aci import https://example.com/app-v1.0.aci

The key is the SHA-512 of the uncompressed archive. Without --json, only its first 64 digits are
printed, as in rkt. For a URL, the max-age and the ETag of the server have the same effect as in
`cas aci fetch`.")]
pub(crate) struct Import {
    /// File (plain, gzip, bzip2, xz or zstd), - for standard input, or URL
    #[arg(value_name = "FILE|URL")]
    source: String,
    /// Fail unless the ACI has this name
    #[arg(long)]
    name: Option<String>,
    /// Fail unless the key of the ACI begins with this text
    #[arg(long)]
    key: Option<KeyPrefix>,
    /// Prefer this ACI when its name is looked up without a version
    #[arg(long)]
    latest: bool,
    /// Allow a URL with http:// on hosts other than this machine
    #[arg(long)]
    plain_http: bool,
}

impl Import {
    pub(super) async fn run(self, context: &Context, acis: &AciStore) -> Result<()> {
        let options = WriteOptions::default()
            .with_name(self.name)
            .with_key(self.key)
            .with_latest(self.latest);
        let is_url = ["http://", "https://"].map(|scheme| self.source.starts_with(scheme));
        let key = if is_url.contains(&true) {
            fetch_one(acis, &self.source, options, self.plain_http).await?
        } else {
            let source: Box<dyn Read + Send> = match &*self.source {
                "-" => Box::new(Patient(io::stdin())),
                path => Box::new(File::open(path).during("open", path)?),
            };
            let imported = acis.write_aci_with(source, options).await;
            imported.map_err(|error| error.within(&self.source))?
        };
        show(context, acis, &key).await
    }
}

#[cfg(feature = "registry")]
async fn fetch_one(
    acis: &AciStore,
    url: &str,
    options: WriteOptions,
    plain_http: bool,
) -> Result<Key> {
    let fetcher = HttpFetcher::default().with_plain_http(plain_http);
    acis.fetch(&fetcher, url, "", options).await
}

#[cfg(not(feature = "registry"))]
async fn fetch_one(_: &AciStore, url: &str, _: WriteOptions, _: bool) -> Result<Key> {
    let why = "this build cannot fetch ACIs; download the file, or build with the feature \
               `registry`";
    let error = Error::unsupported(why).operation("fetch ACI");
    Err(error.subject(cas::error::url_excerpt(url)))
}

/// Fetches the ACIs at these URLs. With `all`, also fetches the ACI at each URL that was fetched
/// before. If a fetch fails, the other ACIs are still fetched.
///
/// # Errors
/// The error of the first fetch that failed; errors of the store.
#[cfg(feature = "registry")]
pub(super) async fn fetch(
    context: &Context,
    acis: &AciStore,
    mut urls: Vec<String>,
    all: bool,
    plain_http: bool,
) -> Result<()> {
    if all {
        let remotes = acis.get_all_remotes().await?.into_iter();
        urls.extend(remotes.map(|remote| remote.aci_url));
    }
    let mut failed: Option<Error> = None;
    for url in urls {
        match fetch_one(acis, &url, WriteOptions::default(), plain_http).await {
            Ok(key) => show(context, acis, &key).await?,
            Err(error) if failed.is_some() => context.progress.warn(&error.to_string()),
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Imports the ACIs of a store directory of rkt. Warns of each ACI that could not be imported, and
/// of each remote (the record of a URL) that could not be imported.
///
/// # Errors
/// As [`AciStore::import_store`]; if archives were refused, an error of the same kind as the error
/// of the first refused archive.
pub(super) async fn import_store(
    context: &Context,
    acis: &AciStore,
    directory: &Path,
) -> Result<()> {
    let done = acis.import_store(directory).await?;
    for key in &done.imported {
        show(context, acis, key).await?;
    }
    for key in &done.without_blob {
        let warning = format!(
            "{key}: not imported: rkt lists this ACI, but its archive is gone; import the ACI from \
             its file or URL with `cas aci import`"
        );
        context.progress.warn(&warning);
    }
    for key in &done.without_row {
        let warning = format!(
            "{key}: not imported: rkt has this archive, but does not list it; if rkt is importing \
             the ACI now, run the command again when rkt has finished"
        );
        context.progress.warn(&warning);
    }
    for (key, error) in &done.refused {
        context.progress.warn(&format!("{key}: {error}"));
    }
    for (_, error) in &done.refused_remotes {
        context.progress.warn(&format!("not imported: {error}"));
    }
    let refused: Vec<&String> = done.refused.iter().map(|(key, _)| key).collect();
    if context.out.is_json() {
        let total = json!({"total": {
            "imported": done.imported.len(),
            "remotes": done.remotes,
            "refusedRemotes": done.refused_remotes.len(),
            "withoutArchive": done.without_blob,
            "unlisted": done.without_row,
            "refused": refused,
        }});
        context.out.item(&total, String::new)?;
    }
    match done.refused.first() {
        None => Ok(()),
        Some((_, first)) => {
            let count = refused.len();
            let why = format!(
                "could not import {count} of the archives, for the reasons in the warnings; all \
                 other archives that rkt lists were imported"
            );
            let error = Error::new(first.kind(), why).operation("import rkt's image store");
            Err(error.subject(directory.display()))
        }
    }
}

/// With `--json`, prints the entry of an ACI in the catalogue. Otherwise, prints `sha512-` and the
/// first 64 digits of the key of the ACI.
async fn show(context: &Context, acis: &AciStore, key: &Key) -> Result<()> {
    let info = acis.get_aci_info(&key.to_string()).await?;
    context.out.item(&describe(&info), || key.half())
}
