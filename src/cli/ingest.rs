//! `cas ingest`: blobs that are being written, or whose writing was interrupted.

use cas::{Cas, Digest, DigestPrefix, Error, IngestInfo, Result};
use clap::Subcommand;
use serde_json::{Value, json};

use super::Context;
use super::gc::when;
use super::output::{beginning, size};

/// List and remove ingests: blobs that are not completely written
#[derive(Subcommand)]
#[command(after_help = "Example:\n  cas ingest ls")]
pub(crate) enum Ingests {
    /// List ingests, how much of each is written, and the owners of the leases that keep them
    #[command(after_help = "Example:\n  cas ingest ls --json")]
    Ls,
    /// Remove ingests, in the given order; stop at the first ingest that does not exist or that a
    /// job is writing
    #[command(after_help = "Example:
  cas ingest rm sha256:2c26b46b68ff

If the ingest of a blob is removed, the next pull fetches the whole blob. `cas gc` removes an ingest
that has not grown for a day, unless a job or a lease keeps it.")]
    Rm {
        /// Keys of ingests; if a key is a digest, its first digits are enough
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
    },
}

impl Ingests {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        match self {
            Ingests::Ls => list(context, &context.cas().await?.ingests().await?),
            Ingests::Rm { keys } => {
                let cas = context.writable_cas().await?;
                for typed in keys {
                    let key = find(&cas, &typed).await?;
                    cas.discard_ingest(&key).await?;
                    context
                        .out
                        .item(&json!({"removed": key}), || format!("removed {key}"))?;
                }
                Ok(())
            }
        }
    }
}

fn list(context: &Context, ingests: &[IngestInfo]) -> Result<()> {
    let rows: Vec<Value> = ingests.iter().map(shown).collect();
    let columns = ["KEY", "WRITTEN", "TOTAL", "UPDATED", "OWNER"];
    context.out.list(&columns, &rows, |row| {
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let bytes = |name: &str| row[name].as_u64().map_or_else(|| "-".to_owned(), size);
        let short = text("key").parse::<Digest>().map(|digest| digest.short());
        let owners = row["owners"].as_array().into_iter().flatten();
        let owners: Vec<&str> = owners.filter_map(Value::as_str).collect();
        vec![
            short.unwrap_or_else(|_| text("key")),
            bytes("offset"),
            bytes("total"),
            text("updatedAt"),
            owners.join(", "),
        ]
    })
}

fn shown(one: &IngestInfo) -> Value {
    json!({
        "key": one.key,
        "offset": one.offset,
        "total": one.total,
        "updatedAt": when(one.updated_at),
        "owners": one.owners,
    })
}

/// Returns `typed` if an ingest has this key. Otherwise, returns the only key that is a digest and
/// begins with `typed`.
///
/// # Errors
/// `NotFound` if no key is `typed` or a digest that begins with `typed`; `InvalidArgument` if
/// several keys are digests that begin with `typed`; errors of the store.
async fn find(cas: &Cas, typed: &str) -> Result<String> {
    let mut keys = cas.ingests().await?.into_iter().map(|one| one.key);
    if keys.clone().any(|key| key == typed) {
        return Ok(typed.to_owned());
    }
    let prefix = typed.to_ascii_lowercase().parse::<DigestPrefix>().ok();
    let begins = |key: &String| {
        let digest = key.parse().ok();
        digest.is_some_and(|digest| prefix.as_ref().is_some_and(|one| one.matches(&digest)))
    };
    let mut found = keys.by_ref().filter(begins);
    let failed = match (found.next(), found.next()) {
        (Some(only), None) => return Ok(only),
        (None, _) => Error::not_found("no such ingest; `cas ingest ls` lists all ingests"),
        _ => Error::invalid(
            "ambiguous: the keys of several ingests begin with this text; give more digits",
        ),
    };
    Err(failed.operation("find ingest").subject(beginning(typed)))
}
