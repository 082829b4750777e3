//! Notes: small values that do not have a table of their own, such as how far a check has come, or
//! when each image was last used.

use std::sync::Arc;

use bytes::Bytes;

use super::each::each;
use super::{Batch, Expect, Record, Records, Revision, Table};
use crate::error::{Error, Result, excerpt};
use crate::limit;

/// The notes of one room. Notes are stored in [`Table::Notes`].
///
/// A room is a namespace of notes that serve one purpose, such as the progress of checks. In the
/// table, the key of a note is `room/key`. A note does not protect anything from a garbage
/// collection.
#[derive(Clone)]
pub struct Notes {
    records: Arc<dyn Records>,
    /// The room, and the slash after it.
    prefix: String,
}

impl Notes {
    /// Returns the notes of one room of `records`.
    ///
    /// # Errors
    /// `InvalidArgument` if the room is empty, contains anything except ASCII letters and digits,
    /// `-` and `.`, or is so long that no key fits after it.
    pub fn new(records: Arc<dyn Records>, room: &str) -> Result<Self> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        let longest = limit::KEY - "/k".len();
        if room.is_empty() || room.len() > longest || !room.bytes().all(fits) {
            return Err(Error::invalid(format!(
                "invalid room: expected 1 to {longest} ASCII letters, digits, - or ."
            ))
            .operation("open notes")
            .subject(excerpt(room)));
        }
        Ok(Notes {
            records,
            prefix: format!("{room}/"),
        })
    }

    /// Returns the value of a note and its revision, or `None` if there is none.
    ///
    /// # Errors
    /// `InvalidArgument` as for [`Notes::put`]; errors of the store.
    pub async fn load(&self, key: &str) -> Result<Option<(Bytes, Revision)>> {
        let key = self.key(key)?;
        let record = self.records.load(Table::Notes, &key).await?;
        Ok(record.map(|record| (record.value, record.revision)))
    }

    /// Writes a note.
    ///
    /// # Errors
    /// `Conflict` if the note is not in the expected state; `InvalidArgument` if the key is empty
    /// or contains control characters, or if `room/key` is longer than [`limit::KEY`] bytes;
    /// `OutOfRange` if the value is larger than [`limit::NOTE`] bytes; errors of the store.
    pub async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<()> {
        let mut batch = Batch::new();
        self.put_in(&mut batch, key, value, expect)?;
        self.records.commit(&batch).await
    }

    /// Adds the write of a note to `batch`.
    ///
    /// # Errors
    /// `InvalidArgument` and `OutOfRange` as for [`Notes::put`].
    pub fn put_in(&self, batch: &mut Batch, key: &str, value: Bytes, expect: Expect) -> Result<()> {
        let key = self.key(key)?;
        let value = bounded(value, &key)?;
        batch.put(Table::Notes, key, expect, value);
        Ok(())
    }

    /// Deletes a note. With [`Expect::Any`] the note may be absent.
    ///
    /// # Errors
    /// `Conflict` if the note is not in the expected state; `InvalidArgument` as for
    /// [`Notes::put`]; errors of the store.
    pub async fn delete(&self, key: &str, expect: Expect) -> Result<()> {
        let mut batch = Batch::new();
        self.delete_in(&mut batch, key, expect)?;
        self.records.commit(&batch).await
    }

    /// Adds the deletion of a note to `batch`. With [`Expect::Any`] the note may be absent.
    ///
    /// # Errors
    /// `InvalidArgument` as for [`Notes::put`].
    pub fn delete_in(&self, batch: &mut Batch, key: &str, expect: Expect) -> Result<()> {
        batch.delete(Table::Notes, self.key(key)?, expect);
        Ok(())
    }

    /// Writes and deletes notes in one batch, whatever their state. A note whose new value is
    /// `None` is deleted.
    ///
    /// # Errors
    /// `InvalidArgument` and `OutOfRange` as for [`Notes::put`]; errors of the store.
    pub async fn write_all(
        &self,
        notes: impl IntoIterator<Item = (String, Option<Bytes>)> + Send,
    ) -> Result<()> {
        let mut batch = Batch::new();
        for (key, value) in notes {
            match value {
                Some(value) => self.put_in(&mut batch, &key, value, Expect::Any)?,
                None => self.delete_in(&mut batch, &key, Expect::Any)?,
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.records.commit(&batch).await
    }

    /// Returns the notes of the room whose keys begin with `prefix`, in the order of their keys.
    /// The keys do not contain the room.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Record>> {
        let mut notes = Vec::new();
        self.each(prefix, |note| {
            notes.push(note);
            Ok(())
        })
        .await?;
        Ok(notes)
    }

    /// Returns the first notes that [`Notes::list`] returns, at most `limit` of them.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn first(&self, prefix: &str, limit: usize) -> Result<Vec<Record>> {
        let whole = format!("{}{prefix}", self.prefix);
        let found = self.records.scan(Table::Notes, &whole, None, limit).await?;
        Ok(found.into_iter().map(|note| self.inside(note)).collect())
    }

    /// Calls `visit` for every note that [`Notes::list`] returns, without holding all notes in
    /// memory at once.
    ///
    /// # Errors
    /// The first error of `visit`; errors of the store.
    pub async fn each(
        &self,
        prefix: &str,
        mut visit: impl FnMut(Record) -> Result<()> + Send,
    ) -> Result<()> {
        let whole = format!("{}{prefix}", self.prefix);
        each(&*self.records, Table::Notes, &whole, |record| {
            visit(self.inside(record.clone()))
        })
        .await
    }

    /// Returns a note with its key inside the room.
    fn inside(&self, note: Record) -> Record {
        Record {
            key: note.key[self.prefix.len()..].to_owned(),
            ..note
        }
    }

    /// Returns the key in the table.
    fn key(&self, key: &str) -> Result<String> {
        let longest = limit::KEY - self.prefix.len();
        if key.is_empty() || key.len() > longest || key.chars().any(char::is_control) {
            return Err(Error::invalid(format!(
                "invalid key: expected 1 to {longest} bytes without control characters"
            ))
            .operation("find note")
            .subject(format!("{}{}", self.prefix, excerpt(key))));
        }
        Ok(format!("{}{key}", self.prefix))
    }
}

/// Returns the value of a note, after checking its size.
fn bounded(value: Bytes, key: &str) -> Result<Bytes> {
    let (allowed, found) = (limit::NOTE, value.len());
    if found <= allowed {
        return Ok(value);
    }
    Err(Error::out_of_range(format!(
        "expected a note of at most {allowed} bytes, found {found}; store a blob instead"
    ))
    .operation("write note")
    .subject(key))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

    use super::*;
    use crate::error::ErrorKind;
    use crate::pool::wait;
    use crate::testing::memory::MemoryStore;

    fn notes(store: &MemoryStore, room: &str) -> Notes {
        Notes::new(Arc::new(store.clone()), room).unwrap()
    }

    fn keys(notes: &Notes, prefix: &str) -> Vec<String> {
        let listed = wait(notes.list(prefix)).unwrap();
        listed.into_iter().map(|note| note.key).collect()
    }

    #[test]
    fn rooms_are_separate_and_lists_have_keys_without_the_room() {
        let store = MemoryStore::new();
        let (jobs, more) = (notes(&store, "jobs"), notes(&store, "jobs-2"));
        for key in ["a/b", "ab", "b"] {
            wait(jobs.put(key, "x".into(), Expect::Absent)).unwrap();
        }
        wait(more.put("ab", "y".into(), Expect::Absent)).unwrap();
        assert_eq!(keys(&jobs, ""), ["a/b", "ab", "b"]);
        assert_eq!(keys(&jobs, "a"), ["a/b", "ab"]);
        assert_eq!(keys(&more, ""), ["ab"]);
        wait(jobs.delete("ab", Expect::Any)).unwrap();
        assert_eq!(wait(jobs.load("ab")).unwrap(), None);
        assert_eq!(wait(more.load("ab")).unwrap().unwrap().0, "y");
    }

    #[test]
    fn notes_of_one_batch_are_written_together_and_the_first_are_found() {
        let store = MemoryStore::new();
        let (jobs, other) = (notes(&store, "jobs"), notes(&store, "jobs2"));
        let mut batch = Batch::new();
        for key in ["b", "a1", "a2", "a3"] {
            jobs.put_in(&mut batch, key, "x".into(), Expect::Absent)
                .unwrap();
        }
        other
            .put_in(&mut batch, "a", "x".into(), Expect::Absent)
            .unwrap();
        jobs.delete_in(&mut batch, "a1", Expect::Any).unwrap();
        assert!(
            jobs.put_in(&mut batch, "", "x".into(), Expect::Any)
                .is_err()
        );
        assert!(jobs.delete_in(&mut batch, "", Expect::Any).is_err());
        wait(store.commit(&batch)).unwrap();
        let first = |prefix: &str, limit| -> Vec<String> {
            let found = wait(jobs.first(prefix, limit)).unwrap();
            found.into_iter().map(|note| note.key).collect()
        };
        assert_eq!(first("a", 1), ["a2"]);
        assert_eq!(first("a", 9), ["a2", "a3"]);
        assert_eq!(first("", 9), ["a2", "a3", "b"]);
        assert!(wait(store.commit(&batch)).is_err());
    }

    #[test]
    fn a_note_is_changed_from_the_expected_state_only() {
        let notes = notes(&MemoryStore::new(), "catalogue.1");
        wait(notes.put("k", "one".into(), Expect::Absent)).unwrap();
        let (value, seen) = wait(notes.load("k")).unwrap().unwrap();
        assert_eq!(value, "one");
        let expect = Expect::Revision(seen);
        wait(notes.put("k", "two".into(), expect.clone())).unwrap();
        let late = wait(notes.put("k", "three".into(), expect.clone())).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Conflict);
        assert!(late.to_string().contains("notes/catalogue.1/k"), "{late}");
        let late = wait(notes.delete("k", expect)).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Conflict);
        assert_eq!(wait(notes.load("k")).unwrap().unwrap().0, "two");
    }

    #[test]
    fn bounds_are_exact() {
        let store = MemoryStore::new();
        for room in ["", "a/b", "a_b", "ä", " ", &"r".repeat(limit::KEY - 1)] {
            let error = Notes::new(Arc::new(store.clone()), room).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{room:?}");
        }
        let short = notes(&store, &"r".repeat(limit::KEY - 2));
        wait(short.put("k", "".into(), Expect::Any)).unwrap();
        let notes = notes(&store, "r");
        let long = "k".repeat(limit::KEY - 2);
        let largest = Bytes::from(vec![0; limit::NOTE]);
        wait(notes.put(&long, largest, Expect::Any)).unwrap();
        for key in ["", "a\n", &format!("{long}k")] {
            let error = wait(notes.load(key)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{key:?}");
        }
        let larger = Bytes::from(vec![0; limit::NOTE + 1]);
        let error = wait(notes.put("k", larger, Expect::Any)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
    }
}
