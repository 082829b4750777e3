//! `cas demo`: makes an image, and imports, lists and unpacks it.

mod archive;

use std::path::{Path, PathBuf};
use std::time::Instant;

use cas::image::{Reference, familiar};
use cas::layer::Naming;
use cas::layer::import::Source;
use cas::{Cas, Context as _, Error, ImageRef, ImportOptions, Result, UnpackOptions};
use cas_host::no_directory;
use clap::{Args, value_parser};

use super::Context;
use super::output::size;

/// Make, import, list and unpack an image, and show how long each step takes
#[derive(Args)]
#[command(after_help = "Example:\n  cas demo\n  cas demo --keep /tmp/demo")]
pub(crate) struct Demo {
    /// Work in this directory and keep it; it may exist if it is empty
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Number of files in the first layer of the image, at most 100000
    #[arg(long, value_name = "N", default_value_t = 2000,
        value_parser = value_parser!(u32).range(1..=100_000))]
    files: u32,
}

/// Name of the image.
const NAME: &str = "demo:1";

impl Demo {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let scratch = tempfile::Builder::new().prefix("cas-demo-").tempdir()?;
        let directory = match &self.keep {
            Some(directory) => {
                let made = make_empty(context, directory);
                made.during("make demo", directory.display())?;
                directory.as_path()
            }
            None => scratch.path(),
        };
        steps(context, directory, self.files as usize).await?;
        context.out.say(if self.keep.is_some() {
            "done; the files are kept"
        } else {
            "done; the files of the demo are removed; use --keep DIR to keep them"
        })
    }
}

/// Creates the directory if it is absent.
///
/// # Errors
/// `InvalidArgument` if the path is in the root, if it is not a directory, or if the directory is
/// not empty; errors of the file system.
fn make_empty(context: &Context, directory: &Path) -> Result<()> {
    context.check_output(directory)?;
    std::fs::create_dir_all(directory).map_err(|error| no_directory(error, directory))?;
    match std::fs::read_dir(directory)?.next() {
        None => Ok(()),
        Some(_) => Err(Error::invalid(
            "the directory is not empty; name one that is empty or absent",
        )),
    }
}

async fn steps(context: &Context, directory: &Path, files: usize) -> Result<()> {
    let file = directory.join("demo.tar");
    let mut step = Steps::new(context);
    let made = archive::write(&file, files).during("write the archive", file.display())?;
    step.done(&format!(
        "made an OCI archive with {} layers, {} files, {}",
        made.layers,
        made.files,
        size(made.bytes)
    ))?;

    let root = directory.join("root");
    let cas = Cas::open(&root).await?;
    step.done(&format!("created a root at {}", root.display()))?;

    let progress = &step.context.progress;
    let options = ImportOptions::default()
        .with_name(NAME.parse::<Reference>()?)
        .with_naming(Naming::Docker)
        .with_progress(progress.clone());
    let images = cas.import_with(Source::Path(file), options).await?;
    let options = UnpackOptions::default().with_progress(progress.clone());
    step.done(&format!(
        "imported {} image; its content is verified and durable",
        images.len()
    ))?;

    for image in cas.images().await? {
        step.done(&format!(
            "listed {} -> {}",
            familiar(&image.name),
            image.target.digest.short()
        ))?;
    }

    let rootfs = directory.join("rootfs");
    let superuser = rustix::process::geteuid().is_root();
    let plain = options.clone().with_rootless(!superuser);
    cas.unpack_with(ImageRef::typed(NAME), &rootfs, plain)
        .await?;
    let found = archive::check(&rootfs, files).during("check the tree", rootfs.display())?;
    step.done(&format!(
        "unpacked and checked {found} files; deleted files are absent"
    ))?;

    if superuser {
        let top = cas.snapshot_with(ImageRef::typed(NAME), options).await?;
        let top = top.map_or_else(|| "none".into(), |top| top.short());
        step.done(&format!("unpacked into snapshots; the topmost is {top}"))?;
    } else {
        step.done(
            "skipped snapshots, which need privileges; to see them, run `cas unshare cas demo`",
        )?;
    }

    cas.remove(ImageRef::typed(NAME)).await?;
    step.done("removed the name of the image; its blobs stay in the store until `cas gc`")
}

/// Prints each step and how long it took.
struct Steps<'a> {
    context: &'a Context,
    number: usize,
    begun: Instant,
}

impl<'a> Steps<'a> {
    fn new(context: &'a Context) -> Self {
        Steps {
            context,
            number: 0,
            begun: Instant::now(),
        }
    }

    fn done(&mut self, what: &str) -> Result<()> {
        self.number += 1;
        let seconds = self.begun.elapsed().as_secs_f64();
        let step = serde_json::json!({"step": self.number, "done": what, "seconds": seconds});
        let out = &self.context.out;
        if out.is_json() {
            out.item(&step, String::new)?;
        } else {
            out.say(format!("{}. {what}  [{seconds:.3} s]", self.number))?;
        }
        self.begun = Instant::now();
        Ok(())
    }
}
