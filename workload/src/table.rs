//! The table: rows, columns, and the values in its cells.

use crate::column::{Promise, Role};
use crate::machine::Machine;
use crate::rows::{Better, Row};
use crate::scale::Scale;

/// A value ties with the best value if its range overlaps with the interval from this fraction
/// below the best value to this fraction above the best value.
const NOISE: f64 = 0.02;
/// The fraction in place of [`NOISE`] if the best value was measured once.
const ONCE: f64 = 0.1;

/// The head of a column.
#[derive(Clone, Debug)]
pub struct Head {
    /// The name of the column.
    pub name: String,
    /// Why the column is in the table.
    pub role: Role,
    /// What the acknowledgement of a write in this column means.
    pub promise: Promise,
}

/// The values of one row in one column.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    /// One value for each round, sorted.
    values: Vec<f64>,
    gap: Option<String>,
    failure: Option<String>,
}

impl Cell {
    pub(crate) fn add(&mut self, value: Option<f64>) {
        self.values.extend(value);
        self.values.sort_by(f64::total_cmp);
    }

    pub(crate) fn gap(&mut self, reason: String) {
        self.gap = Some(reason);
    }

    pub(crate) fn fail(&mut self, reason: String) {
        self.failure.get_or_insert(reason);
    }

    /// Returns the median, or `None` if there are no values or the row failed in this column. The
    /// median of an even number of values is the higher of the two in the middle.
    pub fn median(&self) -> Option<f64> {
        match self.failure {
            None => self.values.get(self.values.len() / 2).copied(),
            Some(_) => None,
        }
    }

    /// Returns the lowest and the highest value, or `None` if [`Cell::median`] returns `None`.
    pub fn range(&self) -> Option<(f64, f64)> {
        self.median()?;
        Some((*self.values.first()?, *self.values.last()?))
    }

    /// Returns why the cell is N/A: the message of the last `Unsupported` error of its measurement.
    /// Returns `None` if there was no such error.
    pub fn missing(&self) -> Option<&str> {
        self.gap.as_deref()
    }

    /// Returns the message of the first error other than `Unsupported`. Returns `None` if the row
    /// did not fail in this column.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Returns the range of the cell. If necessary, extends the range so that it contains the
    /// median minus the noise and the median plus the noise. Another cell ties with this cell if
    /// its range overlaps with the returned range.
    fn spread(&self) -> Option<(f64, f64)> {
        let (median, (least, most)) = (self.median()?, self.range()?);
        let noise = median * if self.values.len() == 1 { ONCE } else { NOISE };
        Some((least.min(median - noise), most.max(median + noise)))
    }
}

/// The table of a run. Its rows are measurements, and its columns are ways to store blobs.
#[derive(Clone, Debug)]
pub struct Table {
    /// The machine and the disk that the table was measured on.
    pub machine: Machine,
    /// When the table was measured.
    pub date: String,
    /// How much was done for each row.
    pub scale: Scale,
    /// The columns.
    pub columns: Vec<Head>,
    /// The rows.
    pub rows: Vec<Row>,
    /// The cells, by row, then by column.
    pub cells: Vec<Vec<Cell>>,
}

impl Table {
    /// Returns the cell in the row with this key and the column with this name. Returns `None` if
    /// the table has no such row or no such column.
    pub fn cell(&self, row: &str, column: &str) -> Option<&Cell> {
        let row = self.rows.iter().position(|one| one.key == row)?;
        let column = self.columns.iter().position(|one| one.name == column)?;
        self.cells.get(row)?.get(column)
    }

    /// Returns the indices of the columns that are shown. The floors are not shown.
    pub(crate) fn shown(&self) -> impl Iterator<Item = usize> {
        let shown = |number: &usize| self.columns[*number].role != Role::Floor;
        (0..self.columns.len()).filter(shown)
    }

    /// Returns the best of the columns that compete in a row. These are the column with the best
    /// median, and the columns that tie with it.
    pub(crate) fn best(&self, row: usize) -> Vec<usize> {
        let (what, cells) = (&self.rows[row], &self.cells[row]);
        let competes = |number: &usize| match self.columns[*number].promise {
            Promise::Durable => true,
            Promise::Written => !what.durable,
            Promise::Volatile => false,
        };
        let competing: Vec<usize> = self
            .shown()
            .filter(competes)
            .filter(|number| cells[*number].median().is_some())
            .collect();
        let by_median = |left: &&usize, right: &&usize| {
            let median = |number: usize| cells[number].median().unwrap_or_default();
            let order = median(**left).total_cmp(&median(**right));
            match what.better {
                Better::Higher => order,
                Better::Lower => order.reverse(),
            }
        };
        let best = competing.iter().max_by(by_median);
        let spread = best.and_then(|best| cells[*best].spread());
        let Some((least, most)) = spread else {
            return Vec::new();
        };
        let ties = |number: &usize| {
            let range = cells[*number].range();
            range.is_some_and(|(low, high)| low <= most && least <= high)
        };
        competing.into_iter().filter(ties).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::rows::rows;
    use crate::*;

    fn cell(values: &[f64]) -> Cell {
        let mut cell = Cell::default();
        values.iter().for_each(|value| cell.add(Some(*value)));
        cell
    }

    fn table(row: &str, columns: &[(Promise, Role, &[f64])]) -> Table {
        let head = |(promise, role, _): &(Promise, Role, &[f64])| Head {
            name: "x".to_owned(),
            role: *role,
            promise: *promise,
        };
        Table {
            machine: Machine::of(std::path::Path::new("/")),
            date: "today".to_owned(),
            scale: Scale::default(),
            columns: columns.iter().map(head).collect(),
            rows: rows(&[row.to_owned()]).unwrap(),
            cells: vec![columns.iter().map(|(.., values)| cell(values)).collect()],
        }
    }

    #[test]
    fn ties_are_all_best_and_floors_do_not_compete() {
        use Promise::Durable;
        let columns: [(Promise, Role, &[f64]); 4] = [
            (Durable, Role::Store, &[90.0, 101.0, 102.0]),
            (Durable, Role::Other, &[100.0, 104.0, 120.0]),
            (Durable, Role::Store, &[50.0, 60.0, 70.0]),
            (Durable, Role::Floor, &[999.0]),
        ];
        assert_eq!(table("put", &columns).best(0), [0, 1]);
        assert_eq!(table("stat", &columns).best(0), [2]);
    }

    #[test]
    fn a_column_that_does_not_sync_competes_only_in_reads() {
        let columns: [(Promise, Role, &[f64]); 4] = [
            (Promise::Written, Role::Other, &[1.0, 1.0]),
            (Promise::Volatile, Role::Store, &[0.1, 0.1]),
            (Promise::Durable, Role::Store, &[5.0, 5.0]),
            (Promise::Durable, Role::Store, &[]),
        ];
        assert_eq!(table("read", &columns).best(0), [0]);
        assert_eq!(table("label", &columns).best(0), [2]);
        assert!(table("label", &columns[3..]).best(0).is_empty());
    }
}
