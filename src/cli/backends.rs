//! `cas backends`: the stores, compositions and snapshotters compiled in.

use std::path::Path;

use cas::Result;
use cas::backend::SnapshotterOpener;
use clap::Args;
use serde_json::{Value, json};

use super::Context;

/// List the stores, compositions and snapshotters compiled in
#[derive(Args)]
#[command(after_help = "Example:
  cas backends --json

CAPABILITIES lists what a store promises (conformance tests check this), or what a snapshotter can
do. GAPS lists the conformance tests that a store does not pass, with the reasons. HERE shows
whether a snapshotter works on this machine for this root, and if not, why. A composition is a store
made of other stores, its members.")]
pub(crate) struct Backends {}

impl Backends {
    pub(crate) fn run(self, context: &Context) -> Result<()> {
        let registry = cas::registry();
        let root = context.root()?;
        let stores = registry.openers().map(|opener| {
            let capabilities = opener.capabilities();
            let capabilities: Vec<&str> = capabilities.iter().map(|one| one.name()).collect();
            let gaps: Vec<Value> = opener
                .gaps()
                .iter()
                .map(|(law, reason)| json!({"law": law, "reason": reason}))
                .collect();
            json!({"kind": "store", "name": opener.scheme(), "capabilities": capabilities,
                "gaps": gaps})
        });
        let compositions = registry.composers().map(|composer| {
            json!({"kind": "composition", "name": composer.scheme(), "capabilities": [],
                "gaps": [], "members": composer.members()})
        });
        let snapshotters = registry
            .snapshotters()
            .map(|opener| snapshotter(&root, opener));
        let all: Vec<Value> = stores.chain(compositions).chain(snapshotters).collect();
        context.out.list(
            &["KIND", "NAME", "CAPABILITIES", "GAPS", "HERE"],
            &all,
            |one| {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let words = |values: &Value, word: &dyn Fn(&Value) -> String| {
                    let list = values.as_array().map(Vec::as_slice).unwrap_or_default();
                    list.iter().map(word).collect::<Vec<_>>().join(", ")
                };
                let members = words(&one["members"], &text);
                let capabilities = if members.is_empty() {
                    words(&one["capabilities"], &text)
                } else {
                    format!("those of its members ({members})")
                };
                let gap = |gap: &Value| format!("{} ({})", text(&gap["law"]), text(&gap["reason"]));
                vec![
                    text(&one["kind"]),
                    text(&one["name"]),
                    capabilities,
                    words(&one["gaps"], &gap),
                    match (one["works"].as_bool(), one["why"].as_str()) {
                        (Some(true), _) => "works".to_owned(),
                        (_, Some(why)) => why.to_owned(),
                        _ => String::new(),
                    },
                ]
            },
        )
    }
}

/// Returns what a snapshotter can do, whether it works in the root, and if not, why not, as JSON.
fn snapshotter(root: &Path, opener: &dyn SnapshotterOpener) -> Value {
    let own = root.join("snapshots").join(opener.scheme());
    let own = std::path::absolute(&own).unwrap_or(own);
    // The root may be absent, and must not be created.
    let directory = own.ancestors().find(|directory| directory.is_dir());
    let probed = opener.probe(directory.unwrap_or(&own));
    let mut shown = json!({"kind": "snapshotter", "name": opener.scheme(),
        "capabilities": opener.abilities(), "gaps": [], "works": probed.is_ok()});
    if let Err(error) = probed {
        shown["why"] = json!(error.to_string());
    }
    shown
}
