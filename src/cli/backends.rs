//! `cas backends`: what is compiled in, and how it can be composed.

use cas::Result;
use clap::Args;
use serde_json::{Value, json};

use super::Session;

/// List the backends compiled in, with what they promise and the laws they do not keep
#[derive(Args)]
#[command(after_help = "Example:\n  cas backends --json")]
pub(crate) struct Backends {}

impl Backends {
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let registry = cas::registry();
        let stores = registry.openers().map(|opener| {
            let promises: Vec<&str> = opener.capabilities().iter().map(|one| one.name()).collect();
            let gaps: Vec<Value> = opener
                .gaps()
                .iter()
                .map(|(law, reason)| json!({"law": law, "reason": reason}))
                .collect();
            json!({"kind": "store", "name": opener.scheme(), "capabilities": promises, "gaps": gaps})
        });
        let compositions = registry.composers().map(|composer| {
            json!({"kind": "composition", "name": composer.scheme(), "capabilities": [],
                "gaps": [], "members": composer.members()})
        });
        let snapshotters = registry.snapshotters().map(|opener| {
            json!({"kind": "snapshotter", "name": opener.scheme(), "capabilities": [], "gaps": []})
        });
        let all: Vec<Value> = stores.chain(compositions).chain(snapshotters).collect();
        session
            .out
            .list(&["KIND", "NAME", "CAPABILITIES", "GAPS"], &all, |one| {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let words = |values: &Value, word: &dyn Fn(&Value) -> String| {
                    let list = values.as_array().map(Vec::as_slice).unwrap_or_default();
                    list.iter().map(word).collect::<Vec<_>>().join(", ")
                };
                let promises = match words(&one["members"], &text) {
                    none if none.is_empty() => words(&one["capabilities"], &text),
                    members => format!("as its members: {members}"),
                };
                let gap = |gap: &Value| format!("{} ({})", text(&gap["law"]), text(&gap["reason"]));
                vec![
                    text(&one["kind"]),
                    text(&one["name"]),
                    promises,
                    words(&one["gaps"], &gap),
                ]
            })
    }
}
