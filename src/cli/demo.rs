//! `cas demo`: the main job end to end on an image it makes itself.

mod archive;

use std::path::{Path, PathBuf};
use std::time::Instant;

use cas::image::Reference;
use cas::layer::import::{ImportOptions, Source};
use cas::{Cas, Context, Error, Result};
use clap::Args;

use super::Session;
use super::output::size;

/// Run the main job step by step on an image made here, with times
#[derive(Args)]
#[command(after_help = "Example:\n  cas demo\n  cas demo --keep /tmp/demo")]
pub(crate) struct Demo {
    /// Work in this directory and keep it; it must be absent or empty
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// The name the image gets.
const NAME: &str = "demo:1";

impl Demo {
    pub(crate) async fn run(self, session: &mut Session) -> Result<()> {
        let scratch = tempfile::Builder::new().prefix("cas-demo-").tempdir()?;
        let place = match &self.keep {
            Some(directory) => {
                std::fs::create_dir_all(directory).during("make", directory.display())?;
                if std::fs::read_dir(directory)?.next().is_some() {
                    let why = "the directory is not empty; name another";
                    return Err(Error::precondition(why).subject(directory.display()));
                }
                directory.as_path()
            }
            None => scratch.path(),
        };
        steps(session, place).await?;
        session
            .out
            .say("done; the store is an OCI layout: skopeo and umoci read it")
    }
}

async fn steps(session: &mut Session, place: &Path) -> Result<()> {
    let file = place.join("demo.tar");
    let mut step = Steps::new(session);
    let made = archive::write(&file).during("make the image", file.display())?;
    step.done(&format!(
        "made an OCI archive: {} layers, {} files, {}",
        made.layers,
        made.files,
        size(made.bytes)
    ))?;

    let root = place.join("root");
    let cas = Cas::open(&root).await?;
    step.done(&format!("opened a root at {}", root.display()))?;

    let options = ImportOptions::default().with_name(NAME.parse::<Reference>()?);
    let images = cas
        .import(Source::Path(file), &options, &step.session.progress)
        .await?;
    step.done(&format!(
        "imported {} image, every byte verified and durable",
        images.len()
    ))?;

    for image in cas.images().await? {
        step.done(&format!(
            "lists {} -> {}",
            image.name,
            image.target.digest.short()
        ))?;
    }

    let rootfs = place.join("rootfs");
    cas.unpack(NAME, &rootfs, None, &step.session.progress)
        .await?;
    let found = archive::check(&rootfs).during("check the tree", rootfs.display())?;
    step.done(&format!(
        "unpacked and checked {found} files, whiteouts applied"
    ))?;

    let top = cas.snapshot(NAME, None, &step.session.progress).await?;
    let top = top.map_or_else(|| "none".into(), |top| top.short());
    step.done(&format!("unpacked into snapshots, topmost {top}"))?;

    cas.remove(NAME).await?;
    step.done("removed the name; content stays in the store")
}

/// Prints what was done and how long it took.
struct Steps<'a> {
    session: &'a Session,
    number: usize,
    begun: Instant,
}

impl<'a> Steps<'a> {
    fn new(session: &'a Session) -> Self {
        Steps {
            session,
            number: 0,
            begun: Instant::now(),
        }
    }

    fn done(&mut self, what: &str) -> Result<()> {
        self.number += 1;
        let seconds = self.begun.elapsed().as_secs_f64();
        let step = serde_json::json!({"step": self.number, "done": what, "seconds": seconds});
        let out = &self.session.out;
        match out.is_json() {
            true => out.item(&step, String::new)?,
            false => out.say(format!("{}. {what}  [{seconds:.3} s]", self.number))?,
        }
        self.begun = Instant::now();
        Ok(())
    }
}
