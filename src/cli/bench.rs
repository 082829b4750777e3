//! `cas bench`: the rows of the table, on the user's own disk.

mod columns;

use std::cell::RefCell;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cas::{Context, Error, Result};
use clap::Args;
use indicatif::ProgressBar;
use tokio::signal::unix::{SignalKind, signal};
use workload::{Contender, Plan, Row, Scale, SelfCommand, Table, free_space, rows, run, run_task};

use super::Session;
use super::output::size;

/// Name of the command that does a task in a process of its own.
const TASK: &str = "bench-task";
/// How often the removal of what was made is tried, while the last of the work ends.
const ATTEMPTS: usize = 100;

/// Measure stores on this machine's disk, beside plain files that promise the same
#[derive(Args)]
#[command(after_help = "Example:
  cas bench --on /srv
  cas bench --store redb --store 'redb://?cache=512MiB' --on /srv --rows put,batch,stat")]
pub(crate) struct Bench {
    /// A store to measure: a scheme, or a URL for its options; several give several columns
    #[arg(long, value_name = "URL", default_value = "fs")]
    store: Vec<String>,
    /// Work below this directory [default: that of the first URL, else the current one]
    #[arg(long, value_name = "DIR")]
    on: Option<PathBuf>,
    /// Only these rows
    #[arg(long, value_name = "ROW", value_delimiter = ',')]
    rows: Vec<String>,
    /// A tenth of everything
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// With a blob of 10 GiB
    #[arg(long)]
    full: bool,
    /// Write a plot of each row, as SVG, into this directory
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
}

impl Bench {
    pub(crate) async fn run(self, session: &mut Session) -> Result<()> {
        let contenders = columns::all(&self.store)?;
        let rows = rows(&self.rows)?;
        let scale = match (self.quick, self.full) {
            (true, _) => Scale::quick(),
            (_, true) => Scale::full(),
            _ => Scale::default(),
        };
        let parent = match &self.on {
            Some(directory) => directory.clone(),
            None => columns::place(&self.store)?,
        };
        make_sure_of_space(&parent, scale.space(contenders.len()))?;
        let self_command = SelfCommand {
            program: std::env::current_exe()?,
            arguments: task_arguments(&self.store),
        };
        let scratch = tempfile::Builder::new()
            .prefix("cas-bench-")
            .tempdir_in(&parent);
        let scratch = scratch.during("make a directory in", parent.display())?;
        let measured = measure(
            session,
            &contenders,
            rows,
            scale,
            self_command,
            scratch.path(),
        )
        .await;
        remove(scratch.path())?;
        let table = measured?;
        if let Some(directory) = &self.plots {
            plot(&table, directory)?;
        }
        match session.out.is_json() {
            true => session.out.document(&table.json()),
            false => session.out.bytes(table.markdown().as_bytes()),
        }
    }
}

/// Runs the rows until they end, or until a signal says so.
async fn measure(
    session: &Session,
    contenders: &[Contender],
    rows: Vec<Row>,
    scale: Scale,
    self_command: SelfCommand,
    directory: &Path,
) -> Result<Table> {
    let steps = Steps::new(session);
    let tell = |what: &str| steps.tell(what);
    let plan = Plan {
        scale,
        rows,
        contenders,
        self_command,
        directory,
        date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        progress: &tell,
    };
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stopped = || {
        Err(Error::cancelled(
            "stopped by a signal; nothing is left of it",
        ))
    };
    tokio::select! {
        measured = run(&plan) => measured,
        _ = interrupt.recv() => stopped(),
        _ = terminate.recv() => stopped(),
    }
}

fn make_sure_of_space(directory: &Path, needed: u64) -> Result<()> {
    let free = free_space(directory)?;
    let (needed_text, free_text) = (size(needed), size(free));
    if free < needed {
        return Err(Error::new(
            cas::ErrorKind::Full,
            format!("needs up to {needed_text}, {free_text} are free; try --quick or another --on"),
        )
        .operation("bench")
        .subject(directory.display()));
    }
    Ok(())
}

/// Arguments that lead to [`BenchTask`] with the same columns.
fn task_arguments(stores: &[String]) -> Vec<std::ffi::OsString> {
    let stores = stores.iter().map(|store| format!("--store={store}").into());
    [TASK.into()].into_iter().chain(stores).collect()
}

/// Removes what was made, once what still writes there has ended.
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
    std::fs::create_dir_all(directory).during("make", directory.display())?;
    for (row, text) in table.plots() {
        let path = directory.join(format!("{row}.svg"));
        std::fs::write(&path, text).during("write", path.display())?;
    }
    Ok(())
}

/// Tells what is measured: in one line on a terminal, else a line each.
struct Steps {
    bar: ProgressBar,
    lines: bool,
    last: RefCell<String>,
}

impl Steps {
    fn new(session: &Session) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = match session.speaks && terminal {
            true => ProgressBar::new_spinner(),
            false => ProgressBar::hidden(),
        };
        Steps {
            bar,
            lines: session.speaks && !terminal,
            last: RefCell::default(),
        }
    }

    fn tell(&self, what: &str) {
        self.bar.set_message(what.to_owned());
        self.bar.tick();
        // Where lines stay, one for all columns and rounds is enough.
        let step = what.split(',').next().unwrap_or(what);
        if self.lines && self.last.replace(step.to_owned()) != step {
            eprintln!("cas: measuring {step}");
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Do one task of a measurement, in a process of its own
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
