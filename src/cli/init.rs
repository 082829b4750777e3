//! `cas init`: choose the engines of a root once.

use cas::{Cas, Engines, Result};
use clap::Args;
use serde_json::json;

use super::Session;

/// Choose the engines of a root once
#[derive(Args)]
#[command(after_help = "Example:
  cas --root /srv/cas --store fs init
  cas --root /srv/cas --store 'by-size://?small=fs&large=fs&threshold=64KiB' init")]
pub(crate) struct Init {}

impl Init {
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let mut engines = Engines::default();
        if let Some(store) = &session.options.store {
            engines.store.clone_from(store);
        }
        if let Some(snapshotter) = &session.options.snapshotter {
            engines.snapshotter.clone_from(snapshotter);
        }
        let (engines, fallen_back) = Cas::init(&session.root, engines)?;
        if let Some(why) = fallen_back {
            session.progress.warn(&why.to_string());
        }
        let root = session.root.display().to_string();
        let made =
            json!({"root": root, "store": engines.store, "snapshotter": engines.snapshotter});
        session.out.item(&made, || {
            format!(
                "{root}: store {}, snapshotter {}",
                engines.store, engines.snapshotter
            )
        })
    }
}
