//! Makes the benchmark table, with every column on the same file system.
//!
//! `--on` names a directory on this file system. Without `--on`, `table` makes a journaled ext4 on
//! a loop device. This needs superuser rights. `--write` names a page, and puts the table between
//! the markers `<!-- table -->` and `<!-- /table -->` of the page. Without `--write`, the table is
//! printed.

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, bail};
use oci_cas_benches::columns;
use oci_cas_benches::scratch::Scratch;
use workload::{Plan, Scale, SelfCommand, Table, rows, run, run_task};

const USAGE: &str = "usage: table [--on DIR] [--rows ROW,ROW] [--columns NAME,NAME] \
                     [--quick|--full] [--write PAGE] [--plots DIR]";
/// The first argument of the child process of a task.
const CHILD: &str = "--task";
/// Size in bytes of the file system for all columns together. Its file is sparse.
const SIZE: u64 = 32 << 30;
/// The markers before and after the table in its page.
const MARKS: [&str; 2] = ["<!-- table -->", "<!-- /table -->"];

#[derive(Default)]
struct Options {
    on: Option<PathBuf>,
    rows: Vec<String>,
    columns: Vec<String>,
    scale: Scale,
    page: Option<PathBuf>,
    plots: Option<PathBuf>,
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, column, one, directory] = &arguments[..]
        && first == CHILD
    {
        let contenders = columns::all();
        let done = run_task(&contenders, column, one, Path::new(directory));
        return Ok(runtime.block_on(done)?);
    }
    let options = options(arguments)?;
    let mut contenders = columns::all();
    let known = |name: &&String| contenders.iter().any(|contender| contender.name == **name);
    if let Some(unknown) = options.columns.iter().find(|name| !known(name)) {
        let names: Vec<_> = contenders.iter().map(|known| &*known.name).collect();
        bail!(
            "{unknown}: unknown column; the columns are: {}",
            names.join(", ")
        );
    }
    let wanted = |name: &String| match &options.columns[..] {
        [] => name != columns::SLOW,
        named => named.contains(name),
    };
    contenders.retain(|contender| wanted(&contender.name));
    // Without `--on`, the new file system is beside the program, not in memory, because the rows
    // measure the cost of syncs.
    let program = std::env::current_exe()?;
    let parent = program.parent().with_context(|| {
        let path = program.display();
        format!("cannot find the directory of this program, whose path is {path}; please report it")
    })?;
    let scratch = Scratch::new(options.on.as_deref(), parent, SIZE)?;
    let begun = Instant::now();
    let plan = Plan {
        scale: options.scale,
        rows: rows(&options.rows)?,
        contenders: &contenders,
        self_command: SelfCommand {
            program: program.clone(),
            arguments: vec![CHILD.into()],
        },
        directory: scratch.path(),
        date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        progress: &|what| eprintln!("{:6.1} s  {what}", begun.elapsed().as_secs_f64()),
    };
    let mut table = runtime.block_on(run(&plan))?;
    table.machine.disk = format!("{} ({})", table.machine.disk, scratch.kind());
    eprintln!("{:6.1} s  done", begun.elapsed().as_secs_f64());
    publish(&table, options.page.as_deref(), options.plots.as_deref())
}

fn options(arguments: Vec<String>) -> Result<Options> {
    let mut options = Options::default();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .with_context(|| format!("{argument} needs a value"))
        };
        let names = |text: String| text.split(',').map(str::to_owned).collect();
        match argument.as_str() {
            "--on" => options.on = Some(value()?.into()),
            "--rows" => options.rows = names(value()?),
            "--columns" => options.columns = names(value()?),
            "--quick" => options.scale = Scale::quick(),
            "--full" => options.scale = Scale::full(),
            "--write" => options.page = Some(value()?.into()),
            "--plots" => options.plots = Some(value()?.into()),
            "--help" | "-h" => {
                println!("{USAGE}");
                std::process::exit(0);
            }
            _ => bail!("unknown argument {argument:?}\n{USAGE}"),
        }
    }
    Ok(options)
}

/// Writes the table into its page or prints it, and writes the plots.
fn publish(table: &Table, page: Option<&Path>, plots: Option<&Path>) -> Result<()> {
    let text = table.markdown();
    match page {
        None => print!("{text}"),
        Some(page) => {
            let before = std::fs::read_to_string(page)
                .with_context(|| format!("cannot read {}", page.display()))?;
            std::fs::write(page, between(&before, &text)?)?;
        }
    }
    if let Some(directory) = plots {
        std::fs::create_dir_all(directory)?;
        for (row, plot) in table.plots() {
            std::fs::write(directory.join(format!("{row}.svg")), plot)?;
        }
    }
    Ok(())
}

/// Returns the page with another text between the markers.
fn between(page: &str, text: &str) -> Result<String> {
    let [from, to] = MARKS;
    let (head, rest) = page
        .split_once(from)
        .with_context(|| format!("the page does not contain {from}; add it"))?;
    let (_, tail) = rest
        .split_once(to)
        .with_context(|| format!("the page does not contain {to} below {from}; add it"))?;
    Ok(format!("{head}{from}\n{text}{to}{tail}"))
}
