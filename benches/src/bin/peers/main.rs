//! Prints a table that compares `cas` with its peers. The runs of all tools are interleaved on one
//! file system.
//!
//! `peers [--rounds N] [--on DIR] [--ctr DIR] [--image LAYOUT:TAG] [ROW...]`. The default is 5
//! rounds and all rows. `ROW` names a job, such as `import`, or a group of jobs, such as
//! `snapshotters`. `--ctr` names a directory that contains the programs `containerd` and `ctr`.
//! Without `--ctr`, `peers` uses the programs on `PATH`. `--on` names the directory for the runs.
//! Without `--on`, `peers` makes a journaled ext4 on a loop device, which needs superuser rights. A
//! file system without a journal would give false results. Every run has a new directory, and the
//! order of the tools changes from round to round. Before the first run, `peers` writes to most of
//! the free memory, because the first use of memory is slow in a virtual machine.
//!
//! For each job, the table has one line per tool. A line has the median and the range of the time,
//! the median processor time, and the peak memory. A ratio is the value of the job's first tool
//! divided by the value of the tool in the line. The processor time of `ctr` includes the time of
//! its containerd. No processor time includes the time that the kernel takes to write back the page
//! cache.

mod daemon;
mod floor;
mod jobs;
mod lazy;
mod network;
mod served;
mod shaped;
mod snapshotters;
mod warm;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use daemon::{Programs, Registry};
use jobs::{Contender, Jobs, Subject};
use oci_cas_benches::images::{self, Image};
use oci_cas_benches::process::{self, Sample, finish};
use oci_cas_benches::scratch::{self, Scratch};

const USAGE: &str = "usage: peers [--rounds N] [--on DIR] [--ctr DIR] [--image LAYOUT:TAG] \
                     [import|unpacked|zstd|fat|tree|mount|tall|pull|fetch|relaxed|link|slow|push|\
                     large|lazy|served|snapshotters]...";

/// Size in bytes of the file system that is made if `--on` is not given. It is in a sparse file.
const SIZE: u64 = 12 << 30;
/// A link to a distant registry.
const FAR: shaped::Link = shaped::Link {
    bytes_per_second: 50_000_000,
    per_connection: u64::MAX,
    delay: Duration::from_millis(20),
};
/// A link whose connections are slow.
const SLOW: shaped::Link = shaped::Link {
    bytes_per_second: u64::MAX,
    per_connection: 8_000_000,
    delay: Duration::ZERO,
};
/// Sizes of the layers of the large image, in MiB.
const LARGE: [u64; 4] = [400, 300, 200, 100];
/// Number of layers of the tall image.
const TALL: usize = 128;

struct Options {
    rounds: usize,
    on: Option<PathBuf>,
    containerd: Programs,
    image: String,
    rows: Vec<String>,
}

fn main() -> Result<()> {
    if let Some(code) = process::as_child()? {
        std::process::exit(code);
    }
    if floor::as_child()? {
        return Ok(());
    }
    let options = options()?;
    let cas = Path::new("target/release/cas").canonicalize().context(
        "no target/release/cas; run `cargo build --release` first, or `cargo xtask bench`",
    )?;
    let image = Image::parse(&options.image)?;
    let scratch = Scratch::new(options.on.as_deref(), Path::new(scratch::MEMORY), SIZE)?;
    println!("{}\n", header(&scratch, &options.containerd)?);
    let table = Table {
        jobs: Jobs {
            cas,
            containerd: &options.containerd,
        },
        directory: scratch.path(),
        options: &options,
    };
    table.print(image)
}

fn options() -> Result<Options> {
    let mut options = Options {
        rounds: 5,
        on: None,
        containerd: Programs(None),
        image: "target/images/debian-multi:plain".into(),
        rows: Vec::new(),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .with_context(|| format!("{argument} needs a value"))
        };
        match argument.as_str() {
            "--rounds" => {
                let rounds = value()?.parse::<NonZeroUsize>();
                options.rounds = rounds.context("--rounds needs a number, at least 1")?.get();
            }
            "--on" => options.on = Some(value()?.into()),
            "--ctr" => options.containerd = Programs(Some(value()?.into())),
            "--image" => options.image = value()?,
            row if !row.starts_with('-') => options.rows.push(argument),
            _ => bail!(USAGE),
        }
    }
    Ok(options)
}

fn header(scratch: &Scratch, containerd: &Programs) -> Result<String> {
    let version_of = |mut command: Command| -> Result<String> {
        let program = command.get_program().display().to_string();
        let out = command.arg("--version").output();
        let out = out.with_context(|| {
            format!(
                "cannot start {program}; run `cargo xtask setup` to install it on PATH; a \
                 directory given with --ctr must contain containerd and ctr"
            )
        })?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        Ok(text.lines().next().unwrap_or_default().to_owned())
    };
    let version = |program: &str| version_of(Command::new(program));
    let inflates = match version("unpigz") {
        Ok(_) => "with pigz",
        Err(_) => "without pigz",
    };
    Ok(format!(
        "{}; {}; {} ({inflates}); {}; {} cores",
        version("skopeo")?,
        version("umoci")?,
        version_of(containerd.call("containerd"))?,
        scratch.kind(),
        std::thread::available_parallelism()?
    ))
}

struct Table<'a> {
    jobs: Jobs<'a>,
    directory: &'a Path,
    options: &'a Options,
}

impl Table<'_> {
    fn wants(&self, row: &str) -> bool {
        let rows = &self.options.rows;
        rows.is_empty() || rows.iter().any(|wanted| wanted == row)
    }

    fn print(&self, image: Image) -> Result<()> {
        let at = |name: &str| self.directory.join(name);
        let plain = Subject::new(image, at("plain.tar"))?;
        let present = at("present");
        self.jobs.present(&present, &plain.archive)?;
        warm::touch_memory()?;
        println!(
            "| job | by | s (range) | ratio | processor, s | ratio | peak, MiB |\n\
             |---|---|---|---|---|---|---|"
        );
        if self.wants("import") {
            self.job("import", &self.jobs.imports(&plain))?;
        }
        if self.wants("unpacked") {
            self.job("import and unpack", &self.jobs.unpacked_imports(&plain))?;
        }
        if self.wants("zstd") {
            let image = images::zstd(&plain.image, &at("zstd"))?;
            let zstd = Subject::new(image, at("zstd.tar"))?;
            self.job(
                "import and unpack, zstd",
                &self.jobs.unpacked_imports(&zstd),
            )?;
        }
        if self.wants("fat") {
            let fat = Subject::new(images::fat(&plain.image, &at("fat"))?, at("fat.tar"))?;
            self.job(
                "import and unpack, one layer",
                &self.jobs.unpacked_imports(&fat),
            )?;
        }
        if self.wants("tree") {
            self.job("unpack to a plain tree", &self.jobs.trees(&present, &plain))?;
        }
        if self.wants("mount") {
            self.job("mount of a present image", &self.jobs.mounts(&present))?;
        }
        if self.wants("tall") {
            let tall = Subject::new(images::tall(TALL, &at("tall"))?, at("tall.tar"))?;
            let present = at("tall-present");
            self.jobs.present(&present, &tall.archive)?;
            self.job("mount, 128 layers", &self.jobs.mounts(&present))?;
        }
        if self.wants("push") {
            self.job("push, loopback", &self.jobs.pushes(&present, &plain))?;
        }
        let pulls = [
            "pull", "fetch", "relaxed", "link", "slow", "large", "lazy", "served",
        ];
        if pulls.into_iter().any(|row| self.wants(row)) {
            let registry = Registry::start(&at("registry"))?;
            self.print_pulls(&registry.host, &plain, &present)?;
        }
        if self.wants("snapshotters") {
            self.print_snapshotters(&plain)?;
        }
        Ok(())
    }

    fn print_pulls(&self, host: &str, plain: &Subject, present: &Path) -> Result<()> {
        let (jobs, image) = (&self.jobs, &plain.image);
        network::push(image, host, "bench:1")?;
        if self.wants("pull") {
            self.job("pull and unpack, loopback", &jobs.pulls(host, plain))?;
        }
        if self.wants("fetch") {
            self.job("pull, loopback", &jobs.fetches(host))?;
        }
        if self.wants("relaxed") {
            self.job("pull into memory, loopback", &jobs.relaxed_fetches(host))?;
        }
        if self.wants("link") {
            let link = shaped::start(host, FAR)?;
            let mut contenders = jobs.ranged_fetches(&link, "bench:1", &["1"]);
            contenders.push(network::wire(image, FAR.bytes_per_second)?);
            self.job("pull, 20 ms and 50 MB/s", &contenders)?;
        }
        if self.wants("slow") {
            let fat = images::fat(image, &self.directory.join("fat-pulled"))?;
            network::push(&fat, host, "bench:fat")?;
            let link = shaped::start(host, SLOW)?;
            let contenders = jobs.ranged_fetches(&link, "bench:fat", &["4", "1"]);
            self.job("pull of one layer, 8 MB/s a connection", &contenders)?;
        }
        if self.wants("large") {
            let large = images::random(&LARGE, &self.directory.join("large"))?;
            network::push(&large, host, "bench:large")?;
            let contenders = jobs.ranged_fetches(host, "bench:large", &["1", "4", "8"]);
            self.job("pull of a large image, loopback", &contenders)?;
        }
        if self.wants("lazy") {
            let link = shaped::start(host, FAR)?;
            for span in lazy::SPANS {
                let name = format!("bench:lazy-{span}").to_lowercase();
                jobs.push_lazy(present, &format!("{host}/{name}"), span)?;
                let reference = format!("{link}/{name}");
                for (program, command) in lazy::COMMANDS {
                    let fresh = self.directory.join(format!("{program}-{span}"));
                    let pushed = format!("{host}/{name}-{program}");
                    jobs.push_listed(present, &fresh, (&reference, command), (&pushed, span))?;
                    let listed = format!("{link}/{name}-{program}");
                    let contenders = jobs.first_commands(&listed, &reference, command);
                    let job =
                        format!("first run of {program}, SOCI spans of {span}, 20 ms and 50 MB/s");
                    self.job(&job, &contenders)?;
                }
            }
        }
        if self.wants("served") {
            let link = shaped::start(host, FAR)?;
            jobs.push_lazy(present, &format!("{host}/bench:served"), "4MiB")?;
            let far = format!("{link}/bench:served");
            let contenders = [
                jobs.completion(&far),
                network::wire(image, FAR.bytes_per_second)?,
            ];
            self.job("completion of layers, 20 ms and 50 MB/s", &contenders)?;
            jobs.push_chunked(present, image, &format!("{host}/chunked:1"))?;
            let chunked = format!("{link}/chunked:1");
            let mut contenders = jobs.ranged_fetches(&link, "chunked:1", &["1"]);
            contenders.insert(0, jobs.completion(&chunked));
            self.job(
                "completion of zstd:chunked layers, 20 ms and 50 MB/s",
                &contenders,
            )?;
            self.job("mount without a network", &[jobs.restart(&far)])?;
            let near = format!("{host}/bench:served");
            self.job("second read of all files", &jobs.second_reads(&near))?;
        }
        Ok(())
    }

    /// Measures a job and prints its lines. Returns what each contender took.
    fn job(&self, name: &str, contenders: &[Contender<'_>]) -> Result<Vec<Summary>> {
        let mut samples: Vec<Vec<Sample>> = contenders.iter().map(|_| Vec::new()).collect();
        for round in 0..self.options.rounds {
            for turn in 0..contenders.len() {
                let one = (round + turn) % contenders.len();
                let fresh = self.directory.join(format!("run-{round}-{turn}"));
                samples[one].push((contenders[one].run)(&fresh)?);
                std::fs::remove_dir_all(&fresh)?;
                // Writes back the page cache, so that the next run does not have to.
                finish(Command::new("sync").arg("-f").arg(self.directory))?;
            }
        }
        let summaries: Vec<Summary> = samples.into_iter().map(Summary::of).collect();
        let first = &summaries[0];
        for (contender, summary) in contenders.iter().zip(&summaries) {
            let [part, processor_part] = first.parts_of(summary);
            let (by, peak) = (&contender.name, summary.peak >> 20);
            // Only a contender without a program, `network::wire`, takes no processor time.
            let processor = match summary.processor {
                0.0 => "- | -".to_owned(),
                processor => format!("{processor:.3} | {processor_part:.2}"),
            };
            println!("| {name} | {by} | {summary} | {part:.2} | {processor} | {peak} |");
        }
        Ok(summaries)
    }
}

struct Summary {
    median: f64,
    least: f64,
    most: f64,
    /// The median of the processor times.
    processor: f64,
    peak: u64,
}

impl Summary {
    fn of(samples: Vec<Sample>) -> Self {
        let sorted = |part: fn(&Sample) -> f64| {
            let mut all: Vec<f64> = samples.iter().map(part).collect();
            all.sort_by(f64::total_cmp);
            all
        };
        let seconds = sorted(|sample| sample.seconds);
        let processor = sorted(|sample| sample.processor);
        let middle = samples.len() / 2;
        Summary {
            median: seconds[middle],
            least: seconds[0],
            most: seconds[seconds.len() - 1],
            processor: processor[middle],
            peak: samples
                .iter()
                .map(|sample| sample.peak)
                .max()
                .unwrap_or_default(),
        }
    }

    /// Returns the ratios of the time and of the processor time to those of another contender.
    fn parts_of(&self, other: &Summary) -> [f64; 2] {
        [self.median / other.median, self.processor / other.processor]
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = if self.median < 0.1 { 4 } else { 2 };
        let (median, least, most) = (self.median, self.least, self.most);
        write!(f, "{median:.digits$} ({least:.digits$}-{most:.digits$})")
    }
}
