//! The table of `cas` beside skopeo and umoci, run interleaved on a file system of its own.
//!
//! `peers [--rounds N] [--on DIR] [--image LAYOUT:TAG]`. Without `--on` it makes a journaled ext4
//! on a loop device (root), since a file system without a journal would lie. Every run gets a
//! fresh directory; the order is rotated from round to round; memory is touched first. It prints
//! medians, ranges, the ratio of medians and the peak memory of each.

mod place;
mod run;
mod warm;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use place::Place;
use run::{Sample, measure};

struct Options {
    rounds: usize,
    on: Option<PathBuf>,
    image: String,
}

fn main() -> Result<()> {
    if let Some(code) = run::as_child()? {
        std::process::exit(code);
    }
    let options = options()?;
    let cas = Path::new("target/release/cas").canonicalize().context(
        "no target/release/cas; run `cargo build --release` first, or `cargo xtask bench`",
    )?;
    let (layout, tag) = options
        .image
        .rsplit_once(':')
        .context("--image is LAYOUT:TAG")?;
    let layout = Path::new(layout).canonicalize().with_context(|| {
        format!("no image at {layout}; `cargo xtask long` makes it, see CONTRIBUTING.md")
    })?;
    let place = Place::new(options.on.as_deref())?;
    println!("{}\n", header(&place)?);
    let job = Job {
        cas,
        layout,
        tag: tag.to_owned(),
        place: &place,
    };
    job.prepare()?;
    println!("| job | ours, s (range) | peer, s (range) | ratio | peak, MiB: ours / peer |");
    println!("|---|---|---|---|---|");
    job.row(
        "import of an OCI archive, Full / `skopeo copy` (none)",
        options.rounds,
        &|fresh| job.import(fresh),
        &|fresh| job.skopeo(fresh),
    )?;
    job.row(
        "unpack to a plain tree, synced / `umoci unpack` (not)",
        options.rounds,
        &|fresh| job.unpack(fresh),
        &|fresh| job.umoci(fresh),
    )?;
    Ok(())
}

fn options() -> Result<Options> {
    let mut options = Options {
        rounds: 5,
        on: None,
        image: "target/images/debian-multi:plain".into(),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .with_context(|| format!("{argument} wants a value"))
        };
        match argument.as_str() {
            "--rounds" => options.rounds = value()?.parse()?,
            "--on" => options.on = Some(value()?.into()),
            "--image" => options.image = value()?,
            _ => bail!("usage: peers [--rounds N] [--on DIR] [--image LAYOUT:TAG]"),
        }
    }
    Ok(options)
}

fn header(place: &Place) -> Result<String> {
    let version = |program: &str| -> Result<String> {
        let out = Command::new(program).arg("--version").output()?;
        Ok(String::from_utf8_lossy(&out.stdout)
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned())
    };
    Ok(format!(
        "{}; {}; {}; {} cores",
        version("skopeo")?,
        version("umoci")?,
        place.kind(),
        std::thread::available_parallelism()?
    ))
}

struct Job<'a> {
    cas: PathBuf,
    layout: PathBuf,
    tag: String,
    place: &'a Place,
}

impl Job<'_> {
    /// Makes the archive and a root that has the image.
    fn prepare(&self) -> Result<()> {
        let (layout, tag) = (self.layout.display(), &self.tag);
        let archive = format!("oci-archive:{}:{tag}", self.archive().display());
        let mut skopeo = Command::new("skopeo");
        finish(skopeo.args(["copy", "-q", &format!("oci:{layout}:{tag}"), &archive]))?;
        finish(&mut self.import(&self.place.path().join("present")))?;
        warm::touch_memory(self.place.path())
    }

    fn archive(&self) -> PathBuf {
        self.place.path().join("image.oci.tar")
    }

    fn import(&self, root: &Path) -> Command {
        let mut command = Command::new(&self.cas);
        command
            .arg("--root")
            .arg(root)
            .args(["-q", "import", "--name", "bench"]);
        command.arg(self.archive());
        command
    }

    fn skopeo(&self, fresh: &Path) -> Command {
        let mut command = Command::new("skopeo");
        command.args(["copy", "-q"]);
        command.arg(format!(
            "oci-archive:{}:{}",
            self.archive().display(),
            self.tag
        ));
        command.arg(format!("oci:{}:{}", fresh.display(), self.tag));
        command
    }

    fn unpack(&self, fresh: &Path) -> Command {
        let mut command = Command::new(&self.cas);
        command.arg("--root").arg(self.place.path().join("present"));
        command.args(["-q", "unpack", "bench"]).arg(fresh);
        command
    }

    fn umoci(&self, fresh: &Path) -> Command {
        let mut command = Command::new("umoci");
        command.args(["unpack", "--image"]);
        command
            .arg(format!("{}:{}", self.layout.display(), self.tag))
            .arg(fresh);
        command
    }

    fn row(
        &self,
        name: &str,
        rounds: usize,
        ours: &dyn Fn(&Path) -> Command,
        peer: &dyn Fn(&Path) -> Command,
    ) -> Result<()> {
        let mut samples: [Vec<Sample>; 2] = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            for turn in 0..2 {
                let side = (round + turn) % 2;
                let fresh = self.place.path().join(format!("run-{round}-{turn}"));
                let command = if side == 0 {
                    ours(&fresh)
                } else {
                    peer(&fresh)
                };
                samples[side].push(measure(&command)?);
                std::fs::remove_dir_all(&fresh)?;
            }
        }
        let [ours, peer] = samples.map(Summary::of);
        println!(
            "| {name} | {ours} | {peer} | {:.2} | {} / {} |",
            ours.median / peer.median,
            ours.peak >> 20,
            peer.peak >> 20
        );
        Ok(())
    }
}

struct Summary {
    median: f64,
    least: f64,
    most: f64,
    peak: u64,
}

impl Summary {
    fn of(samples: Vec<Sample>) -> Self {
        let mut seconds: Vec<f64> = samples.iter().map(|sample| sample.seconds).collect();
        seconds.sort_by(f64::total_cmp);
        Summary {
            median: seconds[seconds.len() / 2],
            least: seconds[0],
            most: seconds[seconds.len() - 1],
            peak: samples
                .iter()
                .map(|sample| sample.peak)
                .max()
                .unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ({:.2}-{:.2})", self.median, self.least, self.most)
    }
}

fn finish(command: &mut Command) -> Result<()> {
    let status = command.stdout(std::process::Stdio::null()).status()?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}
