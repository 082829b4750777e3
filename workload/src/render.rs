//! The table as Markdown and as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::column::not_applicable;
use crate::number::number;
use crate::table::{Cell, Table};
use crate::targets::{self, Target};

impl Table {
    /// Returns the table in Markdown. Below the table are the reasons why cells have no value, and
    /// the goals that [`targets::of`] returns. If a column does not have the operation of a row, no
    /// reason is stated for the cell.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let rounds = self.scale.rounds;
        writeln!(
            text,
            "{}; {}; {}.\n",
            self.machine.processor, self.machine.disk, self.date
        )?;
        writeln!(
            text,
            "Each value is the median of {rounds} rounds, or the value of one round for slow rows \
             and for rows that always give the same value. A row that is very slow in a column \
             has fewer rounds in that column. \
             The ingest of large blobs has one round for each blob. In each round, the columns are \
             measured in turn. ± is half the range in percent of the median. The best value is in \
             **bold**, and so are the values that tie with it. A value ties with the best value \
             if its range overlaps with the range of the best value, or with the interval from 2 % \
             below to 2 % above the best value (10 % if the best value was measured once). \
             Columns that do not sync compete only in reads and space on disk. Columns in memory \
             do not compete. Peak memory is the maximum memory of the process during the \
             operation, minus its memory after the store was opened.\n"
        )?;
        self.heads(text)?;
        for (number, row) in self.rows.iter().enumerate() {
            let best = self.best(number);
            write!(text, "| {}, {} |", (row.title)(&self.scale), row.unit)?;
            for column in self.shown() {
                let value = shown(&self.cells[number][column]);
                if best.contains(&column) {
                    write!(text, " **{value}** |")?;
                } else {
                    write!(text, " {value} |")?;
                }
            }
            writeln!(text)?;
        }
        self.remarks(text)?;
        ratios(text, &targets::of(self))
    }

    fn heads(&self, text: &mut String) -> std::fmt::Result {
        write!(text, "| durability |")?;
        for column in self.shown() {
            let head = &self.columns[column];
            write!(text, " {}<br>{} |", head.name, head.promise.text())?;
        }
        writeln!(text, "\n|---|{}", "---:|".repeat(self.shown().count()))
    }

    /// Writes why cells have no value. Leaves out the cells whose column does not have the
    /// operation.
    fn remarks(&self, text: &mut String) -> std::fmt::Result {
        let mut remarks: Vec<String> = Vec::new();
        for (row, cells) in self.rows.iter().zip(&self.cells) {
            for column in self.shown() {
                let (cell, name) = (&cells[column], &self.columns[column].name);
                let plain = not_applicable().to_string();
                if let Some(failure) = cell.failure() {
                    remarks.push(format!("- {name}, {}: FAILED: {failure}", row.key));
                } else if let Some(reason) = cell.missing().filter(|reason| *reason != plain) {
                    remarks.push(format!("- {name}, {}: {reason}", row.key));
                }
            }
        }
        if remarks.is_empty() {
            return Ok(());
        }
        writeln!(
            text,
            "\nEach line names a column and a row, and the reason why the cell has no value:\n\n{}",
            remarks.join("\n")
        )
    }

    /// Returns one JSON object with the table and with the goals that [`targets::of`] returns.
    pub fn json(&self) -> Value {
        let cell = |cell: &Cell| match (cell.failure(), cell.range()) {
            (Some(failure), _) => json!({"failed": failure}),
            (None, None) => json!({"missing": cell.missing()}),
            (None, Some((least, most))) => {
                json!({"median": cell.median(), "least": least, "most": most})
            }
        };
        let rows = self.rows.iter().zip(&self.cells).enumerate();
        let rows = rows.map(|(number, (row, cells))| {
            let best = self.best(number);
            let values = self.shown().map(|column| {
                let mut value = cell(&cells[column]);
                value["best"] = best.contains(&column).into();
                (self.columns[column].name.clone(), value)
            });
            let values: serde_json::Map<String, Value> = values.collect();
            json!({"row": row.key, "title": (row.title)(&self.scale), "unit": row.unit,
                "columns": values})
        });
        let columns = self.shown().map(|column| {
            let head = &self.columns[column];
            json!({"name": head.name, "durability": head.promise.text()})
        });
        let ratios = targets::of(self).into_iter().map(|target| {
            json!({"what": target.what, "ratio": target.ratio, "goal": target.goal,
                "met": target.met()})
        });
        json!({"machine": self.machine.processor, "disk": self.machine.disk, "date": self.date,
            "columns": columns.collect::<Vec<_>>(), "rows": rows.collect::<Vec<_>>(),
            "ratios": ratios.collect::<Vec<_>>()})
    }
}

fn ratios(text: &mut String, targets: &[Target]) -> std::fmt::Result {
    if targets.is_empty() {
        return Ok(());
    }
    writeln!(
        text,
        "\nEach ratio compares the value of a column in one row with a baseline. The row `put` is \
         the ingest of small blobs one by one, `batch` their ingest 256 at a time, `large` the \
         ingest of several large blobs, and `collect-50` the collection with 50 % dead blobs. The \
         baseline `the floor` is the slower of SHA-256 and writing to the page cache, and the name \
         after it states which of the two was slower. If the baseline was measured, a ratio above \
         1 means that the column is better than the baseline. If the baseline is an absolute \
         value, the ratio is the measured value divided by the absolute value, so a lower ratio is \
         better.\n"
    )?;
    writeln!(
        text,
        "| ratio | found | goal | result |\n|---|---:|---:|---|"
    )?;
    for target in targets {
        let met = if target.met() { "met" } else { "MISSED" };
        let (what, ratio, goal) = (&target.what, number(target.ratio), number(target.goal));
        let sign = target.sign();
        writeln!(text, "| {what} | {ratio} | {sign} {goal} | {met} |")?;
    }
    Ok(())
}

fn shown(cell: &Cell) -> String {
    match (cell.median(), cell.range()) {
        (Some(median), Some((least, most))) if least < most && median > 0.0 => {
            let percent = (most - least) / 2.0 / median * 100.0;
            format!("{} ±{percent:.0}%", number(median))
        }
        (Some(median), _) => number(median),
        (None, _) if cell.failure().is_some() => "FAILED".to_owned(),
        _ => "N/A".to_owned(),
    }
}
