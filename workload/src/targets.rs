//! The performance goals of the stores, and whether a table meets them. Most goals compare a store
//! with a baseline from the same run: a floor ([`Role::Floor`](crate::Role::Floor)), a database
//! that is called directly, or plain files. The other goals compare a store with an absolute value.

use crate::rows::Better;
use crate::table::Table;

/// A goal, and the ratio that was measured.
pub struct Target {
    /// The column, the row and the baseline, such as `redb, stat, to redb raw`.
    pub what: String,
    /// The measured ratio. A ratio to a measured baseline is above 1 if the column is better than
    /// the baseline. A ratio to an absolute value is the measured value divided by the absolute
    /// value.
    pub ratio: f64,
    /// The goal for the ratio. A ratio to a measured baseline must be at least the goal. A ratio to
    /// an absolute value must be below the goal.
    pub goal: f64,
    better: Better,
}

impl Target {
    /// Returns whether the goal is met.
    pub fn met(&self) -> bool {
        match self.better {
            Better::Higher => self.ratio >= self.goal,
            Better::Lower => self.ratio < self.goal,
        }
    }

    pub(crate) fn sign(&self) -> &'static str {
        match self.better {
            Better::Higher => ">=",
            Better::Lower => "<",
        }
    }
}

/// The value that a column is compared with.
enum Baseline {
    /// The slower of hashing and writing to the page cache.
    Floor,
    /// The database, called directly. For `fs`, plain files.
    Raw,
    /// Plain files in the row `put`, which stores blobs one by one.
    Files,
    /// A value in the unit of the row.
    Value(f64),
}

/// The goals, each as a column, a row, a baseline and the goal for the ratio.
const GOALS: &[(&str, &str, Baseline, f64)] = &[
    ("fs", "large", Baseline::Floor, 0.8),
    ("redb", "large", Baseline::Raw, 0.85),
    ("rocksdb", "large", Baseline::Raw, 0.85),
    ("fs", "batch", Baseline::Files, 4.0),
    ("redb", "batch", Baseline::Files, 10.0),
    ("rocksdb", "batch", Baseline::Files, 20.0),
    ("fs", "put", Baseline::Files, 0.9),
    ("redb", "put", Baseline::Files, 1.2),
    ("rocksdb", "put", Baseline::Files, 2.0),
    ("fs", "stat", Baseline::Raw, 0.5),
    ("redb", "stat", Baseline::Raw, 0.5),
    ("rocksdb", "stat", Baseline::Raw, 0.5),
    ("redb", "list", Baseline::Value(100.0), 1.0),
    ("rocksdb", "list", Baseline::Value(100.0), 1.0),
    ("redb", "collect-1", Baseline::Value(1.0), 1.0),
    ("redb", "collect-50", Baseline::Value(1.0), 1.0),
    ("redb", "collect-99", Baseline::Value(1.0), 1.0),
    ("rocksdb", "collect-1", Baseline::Value(1.0), 1.0),
    ("rocksdb", "collect-50", Baseline::Value(1.0), 1.0),
    ("rocksdb", "collect-99", Baseline::Value(1.0), 1.0),
    // 64 MiB for the cache of the database, and 64 MiB for the collection.
    ("redb", "collect-memory", Baseline::Value(128.0), 1.0),
    ("rocksdb", "collect-memory", Baseline::Value(128.0), 1.0),
];

/// Returns the goals of the columns and rows that were measured. A goal is left out if its baseline
/// was not measured. Goals in absolute values are left out if
/// [`Scale::image_blobs`](crate::Scale::image_blobs) returns less than 100,000.
pub fn of(table: &Table) -> Vec<Target> {
    GOALS
        .iter()
        .filter_map(|(column, row, baseline, goal)| target(table, column, row, baseline, *goal))
        .collect()
}

fn target(
    table: &Table,
    column: &str,
    row: &str,
    baseline: &Baseline,
    goal: f64,
) -> Option<Target> {
    let median = |row: &str, column: &str| table.cell(row, column)?.median();
    let found = median(row, column)?;
    let title = table.rows.iter().find(|one| one.key == row)?;
    let (what, other) = match baseline {
        Baseline::Floor => {
            let floors = [median(row, "SHA-256")?, median(row, "page cache")?];
            let name = if floors[0] < floors[1] {
                "SHA-256"
            } else {
                "page cache"
            };
            (format!("the floor, {name}"), floors[0].min(floors[1]))
        }
        Baseline::Raw if column == "fs" => ("plain files".to_owned(), median(row, "plain files")?),
        Baseline::Raw => {
            let raw = format!("{column} raw");
            let other = median(row, &raw)?;
            (raw, other)
        }
        Baseline::Files => {
            let files = median("put", "plain files")?;
            ("plain files in the row put".to_owned(), files)
        }
        Baseline::Value(value) => {
            if table.scale.image_blobs() < 100_000 {
                return None;
            }
            let what = format!("{} {}", crate::number::number(*value), title.unit);
            (what, *value)
        }
    };
    let limit = matches!(baseline, Baseline::Value(_));
    let (ratio, better) = match (title.better, limit) {
        (Better::Lower, false) => (other / found, Better::Higher),
        (_, true) => (found / other, Better::Lower),
        (Better::Higher, false) => (found / other, Better::Higher),
    };
    Some(Target {
        what: format!("{column}, {row}, to {what}"),
        ratio,
        goal,
        better,
    })
}
