//! The steps of a run. Each step has a function that measures the values of one or two rows.
//!
//! Each row of [`ROWS`](crate::ROWS) belongs to one step of [`STAGES`].

mod disk;
mod images;
mod ingest;
mod process;
mod read;

use std::pin::Pin;

use cas_core::Result;

use crate::lane::Lane;
use crate::scale::Scale;

/// Measures a column. Returns the values of the rows of the step, in the order of [`Step::rows`].
/// If there are fewer values than rows, the last rows are shown as N/A.
type Measure = for<'a, 'b> fn(&'a mut Lane<'b>) -> Measuring<'a>;

type Measuring<'a> = Pin<Box<dyn Future<Output = Result<Vec<f64>>> + 'a>>;

/// A measurement of a column, for one row or for two rows.
pub(crate) struct Step {
    /// Keys of the rows.
    pub(crate) rows: &'static [&'static str],
    rounds: Rounds,
    pub(crate) measure: Measure,
}

/// How often a step is run.
enum Rounds {
    /// Once for each of the rounds of the scale.
    Scale,
    /// Once for each large blob.
    LargeBlobs,
    /// Once, because the step takes long or always gives the same value.
    Once,
}

impl Step {
    const fn new(rows: &'static [&'static str], measure: Measure) -> Self {
        let rounds = Rounds::Scale;
        Step {
            rows,
            rounds,
            measure,
        }
    }

    const fn rounds_of(mut self, rounds: Rounds) -> Self {
        self.rounds = rounds;
        self
    }

    /// Returns how often the step is run in a column in which it is not too slow.
    pub(crate) fn rounds(&self, scale: &Scale) -> usize {
        match self.rounds {
            Rounds::Scale => scale.rounds,
            Rounds::LargeBlobs => usize::try_from(scale.large_blobs).unwrap_or(usize::MAX),
            Rounds::Once => 1,
        }
    }

    /// Returns the name of the step, which is the key of its first row.
    pub(crate) fn name(&self) -> &'static str {
        self.rows[0]
    }
}

/// Steps that share a store.
pub(crate) struct Stage {
    /// Whether the first step stores the images that the other steps need. The first step then runs
    /// whenever another step of the stage runs.
    pub(crate) on_images: bool,
    /// Whether the stores of all columns exist at the same time. Each step is then run in all
    /// columns before the next step. Otherwise, each column has a new store in each round, to save
    /// space.
    pub(crate) together: bool,
    pub(crate) steps: &'static [Step],
}

impl Stage {
    const fn alone(steps: &'static [Step]) -> Self {
        Stage {
            on_images: false,
            together: false,
            steps,
        }
    }
}

/// All steps, in the order they are run.
pub(crate) const STAGES: &[Stage] = &[
    Stage {
        on_images: false,
        together: true,
        steps: &[
            Step::new(&["put"], |lane| Box::pin(ingest::put(lane))),
            Step::new(&["batch"], |lane| Box::pin(ingest::batch(lane))),
            Step::new(&["read"], |lane| Box::pin(read::blobs(lane))),
            Step::new(&["disk"], |lane| Box::pin(disk::overhead(lane))).rounds_of(Rounds::Once),
        ],
    },
    Stage::alone(&[
        Step::new(&["large"], |lane| Box::pin(ingest::large(lane))).rounds_of(Rounds::LargeBlobs),
        Step::new(&["disk-large"], |lane| Box::pin(disk::overhead(lane))).rounds_of(Rounds::Once),
        Step::new(&["ranges"], |lane| Box::pin(read::ranges(lane))),
    ]),
    Stage::alone(&[Step::new(&["stream", "stream-memory"], |lane| {
        Box::pin(process::stream(lane))
    })
    .rounds_of(Rounds::Once)]),
    Stage::alone(&[Step::new(&["same"], |lane| Box::pin(ingest::same(lane)))]),
    Stage {
        on_images: true,
        together: true,
        steps: &[
            Step::new(&["fill"], |lane| Box::pin(images::fill(lane))).rounds_of(Rounds::Once),
            Step::new(&["stat"], |lane| Box::pin(read::stat(lane))),
            Step::new(&["absent"], |lane| Box::pin(read::absent(lane))),
            Step::new(&["list"], |lane| Box::pin(read::list(lane))),
            Step::new(&["resolve"], |lane| Box::pin(read::resolve(lane))),
            Step::new(&["label"], |lane| Box::pin(images::label(lane))),
            Step::new(&["edges"], |lane| Box::pin(images::edges(lane))),
            Step::new(&["tag"], |lane| Box::pin(images::tag(lane))),
            Step::new(&["prepare"], |lane| Box::pin(images::prepare(lane))),
            Step::new(&["collect-1"], |lane| Box::pin(process::collect(lane, 1)))
                .rounds_of(Rounds::Once),
            Step::new(&["collect-50", "collect-memory"], |lane| {
                Box::pin(process::collect(lane, 50))
            })
            .rounds_of(Rounds::Once),
            Step::new(&["collect-99"], |lane| Box::pin(process::collect(lane, 99)))
                .rounds_of(Rounds::Once),
        ],
    },
    Stage::alone(&[Step::new(&["reopen"], |lane| {
        Box::pin(process::reopen(lane))
    })]),
    Stage::alone(&[
        Step::new(&["syncs"], |lane| Box::pin(process::syncs(lane))).rounds_of(Rounds::Once)
    ]),
    Stage::alone(&[Step::new(&["syncs-batch"], |lane| {
        Box::pin(process::syncs_batch(lane))
    })
    .rounds_of(Rounds::Once)]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::ROWS;

    #[test]
    fn every_row_belongs_to_one_step() {
        let steps = STAGES.iter().flat_map(|stage| stage.steps);
        let mut measured: Vec<&str> = steps.flat_map(|step| step.rows).copied().collect();
        let mut rows: Vec<&str> = ROWS.iter().map(|row| row.key).collect();
        measured.sort_unstable();
        rows.sort_unstable();
        assert_eq!(measured, rows);
    }
}
