//! `cas init`: makes a root with a chosen store and snapshotter.

use cas::{Cas, Engines, Keep, Result};
use clap::Args;
use serde_json::json;

use super::Context;

/// Create a root with the store and snapshotter given by --store and --snapshotter
#[derive(Args)]
#[command(after_help = "Example:
  cas --root /srv/cas --store redb --snapshotter native init
  cas --root /srv/cas --store 'by-size://?small=redb&large=fs&threshold=64KiB' init
  cas --root /srv/cas --snapshotter erofs init --keep-tars

This command is optional. If the root does not exist, every other command that needs the root,
except fsck, creates it with the store fs. The new root has the snapshotter overlay if overlay works
on this machine, and the snapshotter native otherwise. `cas backends` lists all stores and
snapshotters. The choice of the store and the snapshotter is final for a root.")]
pub(crate) struct Init {
    /// Keep the tar of an unpacked layer in the snapshotter, and not the compressed blob in the
    /// store; this requires the snapshotter erofs
    #[arg(long)]
    keep_tars: bool,
}

impl Init {
    pub(crate) fn run(self, context: &Context) -> Result<()> {
        let mut engines = Engines::default();
        if let Some(store) = &context.store {
            engines.store.clone_from(store);
        }
        if let Some(snapshotter) = &context.snapshotter {
            engines.snapshotter.clone_from(snapshotter);
        }
        if self.keep_tars {
            engines.keep = Keep::Tar;
        }
        let root = context.root()?;
        let (engines, fallen_back) = Cas::init_with(&root, engines, &cas::registry())?;
        if let Some(why) = fallen_back {
            context.progress.warn(&why.to_string());
        }
        let root = root.display().to_string();
        let made =
            json!({"root": root, "store": engines.store, "snapshotter": engines.snapshotter});
        context.out.item(&made, || {
            format!(
                "{root}: store {}, snapshotter {}",
                engines.store, engines.snapshotter
            )
        })
    }
}
