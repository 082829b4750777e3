//! Runs the steps. In each round, the columns are measured in turn, so that a disturbance of the
//! machine affects all columns alike.

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use cas_core::{Context, ErrorKind, Result};

use crate::child::SelfCommand;
use crate::column::Contender;
use crate::lane::{Fixture, Lane};
use crate::machine::Machine;
use crate::rows::Row;
use crate::scale::Scale;
use crate::steps::{STAGES, Step};
use crate::table::{Cell, Head, Table};

/// If a step takes longer than this many times [`Scale::round_time`] in a column, the step is not
/// run in that column again.
const SLOW: u32 = 4;

/// What to run, and where.
pub struct Plan<'a> {
    /// How much is done for each row.
    pub scale: Scale,
    /// The rows of the table.
    pub rows: Vec<Row>,
    /// The columns of the table.
    pub contenders: &'a [Contender],
    /// The command line that starts this program for a task.
    pub self_command: SelfCommand,
    /// An existing, empty directory for the data of the columns. It is empty again if `run` returns
    /// `Ok`.
    pub directory: &'a Path,
    /// The date that the table shows.
    pub date: String,
    /// Called with a description of each measurement before it begins.
    pub progress: &'a dyn Fn(&str),
}

/// Measures the rows in all columns. Returns the table. If a column does not have the operation of
/// a row, the cell is shown as N/A. If a measurement fails, its cell contains the message of the
/// error, and the run continues.
///
/// # Errors
/// Errors of the file system that [`Plan::directory`] is on.
pub async fn run(plan: &Plan<'_>) -> Result<Table> {
    let mut run = Run {
        plan,
        table: empty_table(plan),
        slow: Vec::new(),
    };
    for stage in STAGES {
        let wanted = |step: &Step| plan.rows.iter().any(|row| step.rows.contains(&row.key));
        if !stage.steps.iter().any(wanted) {
            continue;
        }
        let steps = stage.steps.iter().enumerate();
        let steps: Vec<&'static Step> = steps
            .filter(|(number, step)| stage.on_images && *number == 0 || wanted(step))
            .map(|(_, step)| step)
            .collect();
        let fixture = Fixture::new(&plan.scale, stage.on_images);
        if stage.together {
            run.together(&steps, &fixture).await?;
        } else {
            run.one_by_one(&steps, &fixture).await?;
        }
    }
    Ok(run.table)
}

fn empty_table(plan: &Plan<'_>) -> Table {
    let head = |contender: &Contender| Head {
        name: contender.name.clone(),
        role: contender.role,
        promise: contender.promise,
    };
    let cells = vec![vec![Cell::default(); plan.contenders.len()]; plan.rows.len()];
    Table {
        machine: Machine::of(plan.directory),
        date: plan.date.clone(),
        scale: plan.scale.clone(),
        columns: plan.contenders.iter().map(head).collect(),
        rows: plan.rows.clone(),
        cells,
    }
}

struct Run<'a> {
    plan: &'a Plan<'a>,
    table: Table,
    /// Steps that are too slow in a column to be run there again: the name of the step, and the
    /// number of the column.
    slow: Vec<(&'static str, usize)>,
}

impl Run<'_> {
    async fn together(&mut self, steps: &[&'static Step], fixture: &Fixture) -> Result<()> {
        let count = self.plan.contenders.len();
        let lanes = (0..count).map(|number| open_lane(self.plan, number, fixture));
        let mut lanes: Vec<Lane<'_>> = lanes.collect::<Result<_>>()?;
        for step in steps {
            for round in 0..step.rounds(&self.plan.scale) {
                for turn in 0..count {
                    let number = (round + turn) % count;
                    self.step(step, round, number, &mut lanes[number]).await?;
                }
            }
        }
        lanes.into_iter().try_for_each(remove_lane)
    }

    async fn one_by_one(&mut self, steps: &[&'static Step], fixture: &Fixture) -> Result<()> {
        let count = self.plan.contenders.len();
        let rounds = steps.iter().map(|step| step.rounds(&self.plan.scale));
        for round in 0..rounds.max().unwrap_or(0) {
            for turn in 0..count {
                let number = (round + turn) % count;
                let mut lane = open_lane(self.plan, number, fixture)?;
                for step in steps {
                    if round < step.rounds(&self.plan.scale) {
                        self.step(step, round, number, &mut lane).await?;
                    }
                }
                remove_lane(lane)?;
            }
        }
        Ok(())
    }

    async fn step(
        &mut self,
        step: &'static Step,
        round: usize,
        number: usize,
        lane: &mut Lane<'_>,
    ) -> Result<()> {
        let name = step.name();
        if self.slow.contains(&(name, number)) {
            return Ok(());
        }
        let column = &lane.contender.name;
        (self.plan.progress)(&format!("{name}, round {}, {column}", round + 1));
        lane.round = round;
        let begun = Instant::now();
        let outcome = (step.measure)(lane).await;
        if begun.elapsed() > SLOW * self.plan.scale.round_time {
            self.slow.push((name, number));
        }
        self.record(step, number, &outcome);
        sync(self.plan.directory)
    }

    /// Puts the outcome of a step into the cells of its rows.
    fn record(&mut self, step: &Step, number: usize, outcome: &Result<Vec<f64>>) {
        for (row, cells) in self.table.rows.iter().zip(&mut self.table.cells) {
            let Some(index) = step.rows.iter().position(|key| *key == row.key) else {
                continue;
            };
            let cell = &mut cells[number];
            match outcome {
                Ok(values) => cell.add(values.get(index).copied()),
                Err(error) if error.kind() == ErrorKind::Unsupported => cell.gap(error.to_string()),
                Err(error) => cell.fail(error.to_string()),
            }
        }
    }
}

/// Returns a column in a new directory.
fn open_lane<'a>(plan: &'a Plan<'_>, number: usize, fixture: &'a Fixture) -> Result<Lane<'a>> {
    let directory = plan.directory.join(format!("column-{number}"));
    std::fs::create_dir(&directory).during("create", directory.display())?;
    Ok(Lane {
        contender: &plan.contenders[number],
        self_command: &plan.self_command,
        scale: &plan.scale,
        fixture,
        directory,
        column: None,
        round: 0,
        stored: 0,
    })
}

/// Closes the column and removes its directory.
fn remove_lane(mut lane: Lane<'_>) -> Result<()> {
    lane.column = None;
    let directory = &lane.directory;
    std::fs::remove_dir_all(directory).during("remove", directory.display())
}

/// Writes back what one column left in the page cache, so that the next column is not slowed down.
fn sync(directory: &Path) -> Result<()> {
    let file = File::open(directory).during("open", directory.display())?;
    Ok(rustix::fs::syncfs(&file).map_err(std::io::Error::from)?)
}
