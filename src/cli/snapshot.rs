//! `cas snapshot`: what the snapshotter holds.

use cas::Result;
use cas::snapshot::Kind;
use clap::Subcommand;
use serde_json::json;

use super::Session;
use super::output::{ago, size};

/// Look at snapshots
#[derive(Subcommand)]
pub(crate) enum Snapshot {
    /// List snapshots
    #[command(after_help = "Example:\n  cas snapshot ls")]
    Ls,
}

/// How many are asked for at a time.
const PAGE: usize = 500;

impl Snapshot {
    pub(crate) async fn run(self, session: &mut Session) -> Result<()> {
        let Snapshot::Ls = self;
        let cas = session.cas().await?;
        let snapshotter = cas.snapshotter();
        let mut found = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = snapshotter.walk(after.as_deref(), PAGE).await?;
            after = page.last().map(|info| info.key.clone());
            let full = page.len() == PAGE;
            for info in page {
                let usage = snapshotter.usage(&info.key).await?;
                found.push((info, usage));
            }
            if !full {
                break;
            }
        }
        if session.out.is_json() {
            return found.iter().try_for_each(|(info, usage)| {
                session
                    .out
                    .item(&json!({"info": info, "usage": usage}), String::new)
            });
        }
        let columns = ["KEY", "KIND", "PARENT", "SIZE", "INODES", "CREATED"];
        session.out.list(&columns, &found, |(info, usage)| {
            let kind = match info.kind {
                Kind::View => "view",
                Kind::Active => "active",
                Kind::Committed => "committed",
            };
            vec![
                short(&info.key),
                kind.into(),
                info.parent.as_deref().map(short).unwrap_or_default(),
                size(usage.bytes),
                usage.inodes.to_string(),
                ago(info.created_at),
            ]
        })
    }
}

/// A digest in its short form; another key as it is.
fn short(key: &str) -> String {
    key.parse::<cas::Digest>()
        .map_or_else(|_| key.to_owned(), |digest| digest.short())
}
