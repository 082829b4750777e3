//! `cas bench`: the workloads of docs/BACKENDS.md, measured on the user's own disk.

mod columns;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use cas::{Context as _, Error, Result};
use clap::Args;
use indicatif::ProgressBar;
use workload::{Plan, Scale, SelfCommand, Table, free_space, rows, run, run_task};

use super::Context;
use super::message::tell;
use super::output::size;
use super::stop;

/// Name of the hidden command that does one task in a separate process.
const TASK: &str = "bench-task";
/// Maximum number of attempts to remove the scratch directory, into which the last tasks may still
/// write.
const ATTEMPTS: usize = 100;

/// Measure stores on this machine's disk, compared with plain files
#[derive(Args)]
#[command(after_help = "Example:
  cas bench --on /srv
  cas bench --store redb --store 'redb://?cache=512MiB' --on /srv --rows put,batch,stat")]
pub(crate) struct Bench {
    /// Kind of store to measure: a scheme, or a URL without a host; repeat the option to measure
    /// several. A new store with the options of the URL is measured; a store at the path of the URL
    /// is neither read nor changed
    #[arg(long, value_name = "URL", default_value = "fs")]
    store: Vec<String>,
    /// Work below this directory [default: the nearest existing directory outside of the root and
    /// above the path of the first --store with a path, otherwise the current directory]
    #[arg(long, value_name = "DIR")]
    on: Option<PathBuf>,
    /// Measure only these rows of the table, as in put,stat; the error for an unknown name lists
    /// all names
    #[arg(long, value_name = "ROW", value_delimiter = ',')]
    rows: Vec<String>,
    /// Measure less: a tenth of the small blobs and of the images, 3 large blobs of 64 MiB instead
    /// of 4 of 256 MiB, a blob of 256 MiB instead of 512 MiB for the rows stream and stream-memory,
    /// and shorter rounds
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Use a blob of 10 GiB instead of 512 MiB for the rows stream and stream-memory
    #[arg(long)]
    full: bool,
    /// Write a plot of each row into this directory, as SVG
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
}

impl Bench {
    /// Measures, and prints the table. If a signal ends the measurement, returns 128 plus the
    /// number of the signal, as other commands do.
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode> {
        let contenders = columns::all(&self.store)?;
        let rows = rows(&self.rows)?;
        let scale = match (self.quick, self.full) {
            (true, _) => Scale::quick(),
            (_, true) => Scale::full(),
            _ => Scale::default(),
        };
        let parent = match &self.on {
            Some(directory) => directory.clone(),
            None => columns::directory(&self.store, |above| context.check_output(above).is_ok())?,
        };
        for output in self.plots.iter().chain([&parent]) {
            let outside = context.check_output(output);
            outside.during("bench", output.display())?;
        }
        make_sure_of_space(&parent, scale.space(contenders.len()))?;
        let self_command = SelfCommand {
            program: std::env::current_exe()?,
            arguments: task_arguments(&self.store),
        };
        // The handler of signals is set before the directory is made. Otherwise, a signal between
        // the two would leave the directory behind.
        let stop = stop::signalled()?;
        let scratch = tempfile::Builder::new()
            .prefix("cas-bench-")
            .tempdir_in(&parent);
        let scratch = scratch.during("create a directory in", parent.display())?;
        let measured = {
            let steps = Steps::new(context);
            let plan = Plan {
                scale,
                rows,
                contenders: &contenders,
                self_command,
                directory: scratch.path(),
                date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
                progress: &|what| steps.tell(what),
            };
            tokio::select! {
                measured = run(&plan) => Ok(measured),
                stop = stop => Err(stop),
            }
        };
        // Work that began before a signal may still be writing.
        stop::last_work().await;
        remove(scratch.path())?;
        let table = match measured {
            Ok(measured) => measured?,
            Err(stop) => return stop::stopped(stop).await,
        };
        if let Some(directory) = &self.plots {
            plot(&table, directory)?;
        }
        if context.out.is_json() {
            context.out.document(&table.json())?;
        } else {
            context.out.bytes(table.markdown().as_bytes())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn make_sure_of_space(directory: &Path, needed: u64) -> Result<()> {
    let free = free_space(directory)?;
    let (needed_text, free_text) = (size(needed), size(free));
    if free < needed {
        return Err(Error::new(
            cas::ErrorKind::Full,
            format!(
                "expected {needed_text} of free space, found {free_text}; \
                 use --quick, or another disk with --on"
            ),
        )
        .operation("bench")
        .subject(directory.display()));
    }
    Ok(())
}

/// Returns the first arguments of each [`BenchTask`] process: the hidden command and the stores.
fn task_arguments(stores: &[String]) -> Vec<std::ffi::OsString> {
    let stores = stores.iter().map(|store| format!("--store={store}").into());
    [TASK.into()].into_iter().chain(stores).collect()
}

/// Removes the scratch directory. Tries again while the last tasks still write into it.
fn remove(directory: &Path) -> Result<()> {
    let mut outcome = Ok(());
    for _ in 0..ATTEMPTS {
        outcome = std::fs::remove_dir_all(directory);
        if !directory.exists() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    outcome.during("remove", directory.display())
}

fn plot(table: &Table, directory: &Path) -> Result<()> {
    let made = std::fs::create_dir_all(directory);
    let made = made.map_err(|error| cas_host::no_directory(error, directory));
    made.during("create", directory.display())?;
    for (row, text) in table.plots() {
        let path = directory.join(format!("{row}.svg"));
        std::fs::write(&path, text).during("write", path.display())?;
    }
    Ok(())
}

/// Shows what is being measured. On a terminal that can move its cursor, the text is one line that
/// changes. Elsewhere, each step prints a line.
struct Steps {
    bar: ProgressBar,
    lines: bool,
    last: RefCell<String>,
}

impl Steps {
    fn new(context: &Context) -> Self {
        // `ProgressBar` hides itself where it cannot be shown.
        let bar = match context.shows_progress {
            true => ProgressBar::new_spinner(),
            false => ProgressBar::hidden(),
        };
        Steps {
            lines: context.shows_progress && bar.is_hidden(),
            bar,
            last: RefCell::default(),
        }
    }

    fn tell(&self, what: &str) {
        self.bar.set_message(what.to_owned());
        self.bar.tick();
        // Lines stay visible, so one line covers all columns and rounds of a step.
        let step = what.split(',').next().unwrap_or(what);
        if self.lines && self.last.replace(step.to_owned()) != step {
            tell(format_args!("cas: measuring {step}"));
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Do one task of a measurement (started by `cas bench`)
#[derive(Args)]
pub(crate) struct BenchTask {
    #[arg(long)]
    store: Vec<String>,
    column: String,
    task: String,
    directory: PathBuf,
}

impl BenchTask {
    pub(crate) async fn run(self) -> Result<()> {
        let contenders = columns::all(&self.store)?;
        run_task(&contenders, &self.column, &self.task, &self.directory).await
    }
}
