//! A reader of the database files of the Go package ql. rkt keeps its catalogue in such a file.
//!
//! A file consists of a header with a magic number, a table of free blocks, and blocks of 16-byte
//! atoms. A block is named by its handle, the number of its first atom (the first block has handle
//! 1). The content of a block is a list of values, and may be compressed. Block 1 contains the
//! handle of the first table. The tables form a chain: each contains the handle of the next. The
//! rows of a table form such a chain, too. Indexes and free blocks are not read.

mod block;
mod value;
mod zappy;

use cas_core::{Error, Result};

use self::block::Blocks;
pub(crate) use self::value::Value;

/// A table of a database.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: String,
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
}

impl Table {
    /// Returns the number of rows.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Returns the value that a row has in the first of `columns` that exists in the table. Returns
    /// `Null` if none of them exists, if the row does not have the value, or if the table does not
    /// have the row.
    pub(crate) fn value(&self, row: usize, columns: &[&str]) -> &Value {
        let named = |name: &&str| self.columns.iter().position(|column| column == name);
        let value = columns.iter().find_map(named).and_then(|column| {
            // The first two values are the handle of the next row and the id of this row.
            self.rows.get(row)?.get(column + 2)
        });
        value.unwrap_or(&Value::Null)
    }
}

/// Returns the tables of the database in `file`.
///
/// # Errors
/// `Corrupt` if the file is not a database of ql, if a part that is read is damaged or missing, or
/// if the tables take more than [`limit::QL_TABLES`](cas_core::limit::QL_TABLES) bytes in memory.
pub(crate) fn tables(file: &[u8]) -> Result<Vec<Table>> {
    let blocks = Blocks::new(file)?;
    let mut tables = Vec::new();
    let root = blocks.values(1)?;
    let mut next = match *root {
        [] => 0,
        [ref head] => handle(head)?,
        _ => return Err(damaged("its root block has more than one value")),
    };
    while next != 0 {
        let values = blocks.values(next)?;
        let (after, columns, head, name) = match &*values {
            [after, Value::Text(columns), head, Value::Text(name), ..] => {
                (after, columns, head, name)
            }
            _ => return Err(damaged("the description of a table is malformed")),
        };
        // A letter for the type is before each name. A column that was dropped has no name.
        let names = columns
            .split('|')
            .map(|column| column.get(1..).unwrap_or_default());
        tables.push(Table {
            name: name.clone(),
            columns: names.map(str::to_owned).collect(),
            rows: rows(&blocks, handle(head)?)?,
        });
        next = handle(after)?;
    }
    Ok(tables)
}

/// Returns the rows of a table. The block `head` contains the handle of its first row.
fn rows(blocks: &Blocks<'_>, head: u64) -> Result<Vec<Vec<Value>>> {
    let mut rows = Vec::new();
    let mut next = match &*blocks.values(head)? {
        [first] => handle(first)?,
        _ => {
            return Err(damaged(
                "the handle of the first row of a table is malformed",
            ));
        }
    };
    while next != 0 {
        let row = blocks.values(next)?;
        next = handle(row.first().unwrap_or(&Value::Null))?;
        rows.push(row);
    }
    Ok(rows)
}

fn handle(value: &Value) -> Result<u64> {
    match value {
        Value::Integer(handle) => u64::try_from(*handle).ok(),
        _ => None,
    }
    .ok_or_else(|| damaged("a handle is negative or not a number"))
}

/// Returns the error of a database that cannot be read. `what` says why.
pub(crate) fn damaged(what: &str) -> Error {
    Error::corrupt(format!(
        "the ql database is damaged or truncated: {what}; restore it from a copy"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &[u8] = include_bytes!("../../tests/fixtures/ql/v7.ql");

    #[test]
    fn a_database_of_the_real_engine_is_read() {
        let tables = tables(FILE).unwrap();
        let infos = tables.iter().find(|table| table.name == "aciinfo").unwrap();
        assert_eq!(infos.len(), 2);
        let mut names: Vec<&Value> = (0..2).map(|row| infos.value(row, &["name"])).collect();
        names.sort_by_key(|name| format!("{name:?}"));
        let expected = [0, 1].map(|n| Value::Text(format!("example.com/image{n}")));
        assert_eq!(names, expected.iter().collect::<Vec<_>>());
        assert_eq!(infos.value(0, &["none", "size"]), &Value::Integer(10));
        assert_eq!(infos.value(0, &["none"]), &Value::Null);
        assert_eq!(infos.value(9, &["name"]), &Value::Null);
    }

    #[test]
    fn removed_rows_are_not_read_and_long_texts_are() {
        let large = include_bytes!("../../tests/fixtures/ql/large.ql");
        let tables = tables(large).unwrap();
        let table = |name: &str| tables.iter().find(|table| table.name == name).unwrap();
        assert_eq!(table("aciinfo").len(), 400);
        let long = format!("https://host/{}", "0123456789".repeat(300));
        assert_eq!(table("remote").value(0, &["aciurl"]), &Value::Text(long));
    }

    #[test]
    fn a_truncated_file_is_an_error_or_read_and_never_a_panic() {
        for length in 0..FILE.len() {
            if let Err(error) = tables(&FILE[..length]) {
                assert_eq!(error.kind(), cas_core::ErrorKind::Corrupt);
            }
        }
        assert!(tables(&FILE[..FILE.len() / 2]).is_err());
        assert!(tables(b"").is_err());
    }

    #[test]
    fn a_file_with_any_byte_changed_ends() {
        let mut file = FILE.to_vec();
        for at in 0..file.len() {
            for bit in [0x01, 0x80, 0xff] {
                file[at] ^= bit;
                if let Err(error) = tables(&file) {
                    assert_eq!(error.kind(), cas_core::ErrorKind::Corrupt);
                }
                file[at] ^= bit;
            }
        }
    }
}
