//! Runs the rows: contenders in turn, round by round, so that what disturbs hits all alike.

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use cas_core::{Context, ErrorKind, Result};

use crate::child::Again;
use crate::column::Contender;
use crate::machine::Machine;
use crate::rows::{Row, Scale};
use crate::step::{Lane, Shared, Step, measure};
use crate::table::{Cell, Head, Table};

/// How many times patience a step may take and yet be run again.
const SLOW: u32 = 4;

/// What to run, and where.
pub struct Plan<'a> {
    /// How much.
    pub scale: Scale,
    /// Which rows.
    pub rows: Vec<Row>,
    /// Which columns.
    pub contenders: &'a [Contender],
    /// How this program starts itself again.
    pub again: Again,
    /// A directory that is there and empty; what is made in it goes before the end.
    pub directory: &'a Path,
    /// The day, as the table says it.
    pub date: String,
    /// Is told what is measured next.
    pub tell: &'a dyn Fn(&str),
}

/// Steps that share a store.
struct Stage {
    /// What must be there first, whoever asks.
    first: Option<Step>,
    steps: &'static [Step],
    /// Whether the stores of all columns are there at once, so that each step is run for all of
    /// them before the next; else each column has a fresh store a round, for the sake of space.
    together: bool,
}

const STAGES: &[Stage] = &[
    Stage {
        first: None,
        steps: &[Step::Put, Step::Batch, Step::Read, Step::Disk],
        together: true,
    },
    Stage {
        first: None,
        steps: &[Step::Large, Step::DiskLarge, Step::Ranges],
        together: false,
    },
    Stage {
        first: None,
        steps: &[Step::Stream],
        together: false,
    },
    Stage {
        first: None,
        steps: &[Step::Same],
        together: false,
    },
    Stage {
        first: Some(Step::Fill),
        steps: &[
            Step::Stat,
            Step::Absent,
            Step::List,
            Step::Resolve,
            Step::Label,
            Step::Edges,
            Step::Tag,
            Step::Prepare,
            Step::Collect(1),
            Step::Collect(50),
            Step::Collect(99),
        ],
        together: true,
    },
    Stage {
        first: None,
        steps: &[Step::Reopen],
        together: false,
    },
    Stage {
        first: None,
        steps: &[Step::Syncs],
        together: false,
    },
    Stage {
        first: None,
        steps: &[Step::SyncsBatched],
        together: false,
    },
];

/// Measures; what a column cannot do is a gap of the table, what fails in it is told there.
///
/// # Errors
/// Those of the directory.
pub async fn run(plan: &Plan<'_>) -> Result<Table> {
    let mut run = Run {
        plan,
        table: table(plan),
        slow: Vec::new(),
    };
    for stage in STAGES {
        let wanted = |step: &Step| plan.rows.iter().any(|row| row.step == *step);
        let first = stage.first.iter().copied();
        let steps = stage.steps.iter().copied().filter(wanted);
        let steps: Vec<Step> = match stage.first {
            Some(first) if !wanted(&first) && !stage.steps.iter().any(wanted) => continue,
            _ => first.chain(steps).collect(),
        };
        let shared = Shared::of(&plan.scale, stage.first.is_some());
        match stage.together {
            true => run.together(&steps, &shared).await?,
            false => run.one_by_one(&steps, &shared).await?,
        }
    }
    Ok(run.table)
}

fn table(plan: &Plan<'_>) -> Table {
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
    /// Steps that took so long in a column that they are not run there again.
    slow: Vec<(Step, usize)>,
}

impl Run<'_> {
    async fn together(&mut self, steps: &[Step], shared: &Shared) -> Result<()> {
        let count = self.plan.contenders.len();
        let lanes = (0..count).map(|number| lane(self.plan, number, shared));
        let mut lanes: Vec<Lane<'_>> = lanes.collect::<Result<_>>()?;
        for step in steps {
            for round in 0..self.rounds(*step) {
                for turn in 0..count {
                    let number = (round + turn) % count;
                    self.step(*step, round, number, &mut lanes[number]).await?;
                }
            }
        }
        lanes.into_iter().try_for_each(leave)
    }

    async fn one_by_one(&mut self, steps: &[Step], shared: &Shared) -> Result<()> {
        let count = self.plan.contenders.len();
        let rounds = steps.iter().map(|step| self.rounds(*step)).max();
        for round in 0..rounds.unwrap_or(0) {
            for turn in 0..count {
                let number = (round + turn) % count;
                let mut lane = lane(self.plan, number, shared)?;
                for step in steps {
                    if round < self.rounds(*step) {
                        self.step(*step, round, number, &mut lane).await?;
                    }
                }
                leave(lane)?;
            }
        }
        Ok(())
    }

    fn rounds(&self, step: Step) -> usize {
        match step {
            // Each of them takes long, and is as good as a round.
            Step::Large => usize::try_from(self.plan.scale.larges).unwrap_or(usize::MAX),
            step if step.once() => 1,
            _ => self.plan.scale.rounds,
        }
    }

    async fn step(
        &mut self,
        step: Step,
        round: usize,
        number: usize,
        lane: &mut Lane<'_>,
    ) -> Result<()> {
        if self.slow.contains(&(step, number)) {
            return Ok(());
        }
        let name = &lane.contender.name;
        (self.plan.tell)(&format!("{step:?}, round {}, {name}", round + 1));
        lane.round = round;
        let begun = Instant::now();
        let outcome = measure(step, lane).await;
        if begun.elapsed() > SLOW * self.plan.scale.patience {
            self.slow.push((step, number));
        }
        self.note(step, number, outcome);
        settle(self.plan.directory)
    }

    fn note(&mut self, step: Step, number: usize, outcome: Result<Vec<(&'static str, f64)>>) {
        let rows = self.table.rows.iter().zip(&mut self.table.cells);
        for (row, cells) in rows.filter(|(row, _)| row.step == step) {
            let cell = &mut cells[number];
            match &outcome {
                Ok(notes) => {
                    let found = notes.iter().find(|(key, _)| *key == row.key);
                    cell.add(found.map(|(_, value)| *value));
                }
                Err(error) if error.kind() == ErrorKind::Unsupported => cell.gap(error.to_string()),
                Err(error) => cell.fail(error.to_string()),
            }
        }
    }
}

/// A column in a directory that is fresh.
fn lane<'a>(plan: &'a Plan<'_>, number: usize, shared: &'a Shared) -> Result<Lane<'a>> {
    let directory = plan.directory.join(format!("column-{number}"));
    std::fs::create_dir(&directory).during("make", directory.display())?;
    Ok(Lane {
        contender: &plan.contenders[number],
        again: &plan.again,
        scale: &plan.scale,
        shared,
        directory,
        column: None,
        round: 0,
        stored: 0,
    })
}

/// Closes the column and removes what it has made.
fn leave(mut lane: Lane<'_>) -> Result<()> {
    lane.column = None;
    let directory = &lane.directory;
    std::fs::remove_dir_all(directory).during("remove", directory.display())
}

/// What one leaves to be written is not the next one's.
fn settle(directory: &Path) -> Result<()> {
    let file = File::open(directory).during("open", directory.display())?;
    Ok(rustix::fs::syncfs(&file).map_err(std::io::Error::from)?)
}
