//! How far the goals are met: ratios to the floor, the raw engine and the baseline of files, all
//! of the same run.

use crate::rows::Better;
use crate::table::Table;

/// A goal, and what was found.
pub struct Target {
    /// What is held against what.
    pub what: String,
    /// What was found.
    pub ratio: f64,
    /// What it should be.
    pub goal: f64,
    better: Better,
}

impl Target {
    /// Whether it is met.
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

/// What a column is held against.
enum Against {
    /// The slower of hashing and writing to the page cache.
    Floor,
    /// The engine called directly.
    Raw,
    /// Plain files, one by one.
    Files,
    /// A value in the unit of the row.
    Value(f64),
}

/// Column, row, goal.
const GOALS: &[(&str, &str, Against, f64)] = &[
    ("fs", "large", Against::Floor, 0.8),
    ("redb", "large", Against::Raw, 0.85),
    ("rocksdb", "large", Against::Raw, 0.85),
    ("fs", "batch", Against::Files, 4.0),
    ("redb", "batch", Against::Files, 10.0),
    ("rocksdb", "batch", Against::Files, 20.0),
    ("fs", "put", Against::Files, 0.9),
    ("redb", "put", Against::Files, 1.2),
    ("rocksdb", "put", Against::Files, 2.0),
    ("fs", "stat", Against::Raw, 0.5),
    ("redb", "stat", Against::Raw, 0.5),
    ("rocksdb", "stat", Against::Raw, 0.5),
    ("redb", "list", Against::Value(100.0), 1.0),
    ("rocksdb", "list", Against::Value(100.0), 1.0),
    ("redb", "collect-1", Against::Value(1.0), 1.0),
    ("redb", "collect-50", Against::Value(1.0), 1.0),
    ("redb", "collect-99", Against::Value(1.0), 1.0),
    ("rocksdb", "collect-1", Against::Value(1.0), 1.0),
    ("rocksdb", "collect-50", Against::Value(1.0), 1.0),
    ("rocksdb", "collect-99", Against::Value(1.0), 1.0),
    // 64 MiB beside the cache, which is as large again.
    ("redb", "collect-memory", Against::Value(128.0), 1.0),
    ("rocksdb", "collect-memory", Against::Value(128.0), 1.0),
];

/// The goals of the columns and rows that were measured. The goals of lists and collections are
/// of 100,000 blobs, and are left out where there were fewer.
pub fn of(table: &Table) -> Vec<Target> {
    GOALS
        .iter()
        .filter_map(|(column, row, against, goal)| target(table, column, row, against, *goal))
        .collect()
}

fn target(table: &Table, column: &str, row: &str, against: &Against, goal: f64) -> Option<Target> {
    let median = |row: &str, column: &str| table.cell(row, column)?.median();
    let found = median(row, column)?;
    let title = table.rows.iter().find(|one| one.key == row)?;
    let (what, other) = match against {
        Against::Floor => {
            let floors = [median(row, "SHA-256")?, median(row, "page cache")?];
            let name = if floors[0] < floors[1] {
                "SHA-256"
            } else {
                "page cache"
            };
            (format!("the floor, {name}"), floors[0].min(floors[1]))
        }
        Against::Raw if column == "fs" => ("plain files".to_owned(), median(row, "plain files")?),
        Against::Raw => {
            let raw = format!("{column} raw");
            let other = median(row, &raw)?;
            (raw, other)
        }
        Against::Files => {
            let files = median("put", "plain files")?;
            ("plain files, one by one".to_owned(), files)
        }
        Against::Value(value) => {
            if table.scale.many() < 100_000 {
                return None;
            }
            let what = format!("{} {}", crate::render::number(*value), title.unit);
            (what, *value)
        }
    };
    let limit = matches!(against, Against::Value(_));
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
