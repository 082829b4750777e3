//! `cas rootfs`: the root directories of containers.

use std::path::PathBuf;

use cas::{ImageRef, Platform, Result, RootDirOptions, UnmountOptions};
use clap::{Args, Subcommand};
use serde_json::json;

use super::Context;
use super::mount::{advise, check_right};

/// Prepare, unmount and remove root directories of containers
#[derive(Subcommand)]
#[command(after_help = EXAMPLE)]
pub(crate) enum Rootfs {
    /// Mount a writable snapshot of an image at PATH/rootfs, and write two files about the image
    #[command(after_help = "Example:
  cas rootfs prepare /run/app/6f1c#0.container --image app:1

Writes PATH/image-config.json and PATH/image-name. The last component of PATH is the key of the
snapshot. Anything that an earlier root directory has left at PATH is removed first.")]
    Prepare(Prepare),
    /// Unmount a root directory and keep what was written to it
    #[command(after_help = "Example:
  cas rootfs unmount /run/app/6f1c#0.container

If nothing is mounted on PATH/rootfs, the command changes nothing and succeeds.")]
    Unmount(Unmount),
    /// Unmount and remove a root directory with its snapshot
    #[command(after_help = "Example:
  cas rootfs remove /run/app/6f1c#0.container

If neither PATH nor its snapshot exists, the command succeeds. While the root directory is in use,
the command fails and removes nothing.")]
    Remove(Remove),
}

const EXAMPLE: &str = "Example:
  cas rootfs prepare /run/app/6f1c#0.container --image app:1
  cas rootfs remove /run/app/6f1c#0.container";

#[derive(Args)]
pub(crate) struct Prepare {
    /// Directory to prepare; its parent must exist
    path: PathBuf,
    /// Name or digest of the image
    #[arg(long, value_name = "REF")]
    image: String,
    /// Platform, as in linux/arm64 [default: this machine's, or the image's own if the image is not
    /// an index]
    #[arg(long)]
    platform: Option<Platform>,
}

#[derive(Args)]
pub(crate) struct Unmount {
    /// Directory that `cas rootfs prepare` prepared
    path: PathBuf,
    /// Abort pending requests to a file system that does not answer
    #[arg(long)]
    force: bool,
    /// Detach the mount even if it is in use; the mount ends when nothing uses it any more
    #[arg(long)]
    lazy: bool,
}

#[derive(Args)]
pub(crate) struct Remove {
    /// Directory that `cas rootfs prepare` prepared
    path: PathBuf,
}

impl Rootfs {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let cas = match self {
            Rootfs::Prepare(_) => context.cas_to_mount().await?,
            _ => context.cas().await?,
        };
        match self {
            Rootfs::Prepare(Prepare {
                path,
                image,
                platform,
            }) => {
                check_right(&cas)?;
                let options = RootDirOptions::default()
                    .with_platforms(platform)
                    .with_progress(context.progress.clone());
                let typed = ImageRef::typed(&image);
                cas.prepare_root_dir_with(&path, typed, options).await?;
                let path = path.display().to_string();
                let made = json!({"image": image, "path": path});
                context.out.item(&made, || format!("{image} -> {path}"))
            }
            Rootfs::Unmount(Unmount { path, force, lazy }) => {
                let options = UnmountOptions::default().with_force(force).with_lazy(lazy);
                let unmounted = cas.unmount_root_dir_with(&path, options).await;
                let (unmounted, path) = (unmounted.map_err(advise)?, path.display().to_string());
                let done = json!({"path": path, "unmounted": unmounted});
                context.out.item(&done, || match unmounted {
                    true => format!("unmounted {path}"),
                    false => format!("not mounted: {path}"),
                })
            }
            Rootfs::Remove(Remove { path }) => {
                let removed = cas.remove_root_dir(&path).await.map_err(advise)?;
                let path = path.display().to_string();
                let done = json!({"path": path, "removed": removed});
                context.out.item(&done, || match removed {
                    true => format!("removed {path}"),
                    false => format!("nothing to remove: {path}"),
                })
            }
        }
    }
}
