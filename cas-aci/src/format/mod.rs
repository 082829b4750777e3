//! The format of the catalogue, and the migration from an older format.
//!
//! The room `aci`, a namespace of [`Notes`], has a note with the number of the format. The other
//! notes of the first format are also in this room. Each later format has a room of its own for its
//! notes. A migration writes the notes of the new format and then the number. It does not change
//! the notes of the old format. These notes are the backup until the next migration removes them.
//! While a migration runs, the note with the number also has, after the number, the id of the lease
//! of the migration.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use cas_core::error::excerpt;
use cas_core::lease::{CLOCK_SKEW, LeaseGuard, cannot_write};
use cas_core::records::{Expect, Notes, Record, Records, Revision, retry};
use cas_core::{Error, Result, Store};

/// The room of the number, and of the notes of the first format.
const ROOM: &str = "aci";
/// The note with the number.
const FORMAT: &str = "format";
/// Maximum number of notes in one batch.
const BATCH: usize = 256;

/// A function that converts a note of a format to the next format. The key of the note does not
/// contain the room.
pub(crate) type Step = fn(Record) -> Result<Record>;

/// The formats that can be read.
pub(crate) struct Formats {
    /// The oldest format.
    first: u32,
    /// The conversions from each format to the next.
    steps: &'static [Step],
}

/// The formats of this version: there is only one.
pub(crate) const FORMATS: Formats = Formats {
    first: 1,
    steps: &[],
};

/// The content of the note with the number.
#[derive(Debug, PartialEq, Eq)]
struct State {
    number: u32,
    /// The lease of a migration that runs, or was killed.
    lease: Option<String>,
}

impl Formats {
    fn newest(&self) -> u32 {
        self.first + self.steps.len() as u32
    }
}

/// Returns the notes of the catalogue in `store`. Creates an empty catalogue if there is none and
/// the store can be written, and migrates a catalogue of an older format.
///
/// # Errors
/// `FailedPrecondition` if the catalogue has a newer format, or an older format and the store
/// cannot be written; `Busy` while another process migrates the catalogue, and after a migration
/// was killed, until its lease has expired; `Corrupt` if the number does not parse or is below the
/// oldest format, or if a note cannot be converted; errors of the store. A migration that fails
/// leaves the catalogue in the format that it had.
pub(crate) async fn open(store: &Store, formats: &Formats) -> Result<Notes> {
    let opened = retry(|| prepare(store, formats)).await;
    opened.map_err(|error| error.operation("open catalogue of ACIs"))?;
    notes_of(&store.records, formats.newest())
}

async fn prepare(store: &Store, formats: &Formats) -> Result<()> {
    let notes = Notes::new(Arc::clone(&store.records), ROOM)?;
    let newest = formats.newest();
    let Some((value, revision)) = notes.load(FORMAT).await? else {
        let created = notes.put(FORMAT, number(newest), Expect::Absent).await;
        return match created {
            // In a store that is read-only or full, a missing catalogue counts as empty.
            Err(error) if cannot_write(&error) => Ok(()),
            outcome => outcome,
        };
    };
    let state = State::parse(&value)?;
    if state.number > newest {
        return Err(Error::newer_format(newest, state.number));
    }
    if state.number < formats.first {
        return Err(unknown(&value));
    }
    if state.number == newest {
        return Ok(());
    }
    match migrate(store, &notes, formats, &state, revision).await {
        Err(error) if cannot_write(&error) => Err(Error::precondition(format!(
            "the catalogue has format {} and must be migrated to {newest}, but the \
             store is read-only or full; make it writable or free space, and open it again",
            state.number
        ))
        .source(error)),
        outcome => outcome,
    }
}

/// Writes the notes of the newest format, and then the number. If an earlier migration was killed
/// and its lease has expired, takes over from it.
async fn migrate(
    store: &Store,
    notes: &Notes,
    formats: &Formats,
    state: &State,
    revision: Revision,
) -> Result<()> {
    if let Some(id) = &state.lease
        && let Some((lease, _)) = store.leases().load(id).await?
        && lease
            .expires_at
            .is_none_or(|at| at + CLOCK_SKEW > SystemTime::now())
    {
        return Err(Error::busy(format!(
            "another process migrates the catalogue; wait until the migration ends, or until its \
             lease {id} has expired"
        )));
    }
    let guard = LeaseGuard::begin(store, "aci-migration").await?;
    let mine: Bytes = format!("{} {}", state.number, guard.id()).into();
    let locked = notes.put(FORMAT, mine.clone(), Expect::Revision(revision));
    if let Err(error) = locked.await {
        return guard.finish_with(Err(error)).await;
    }
    let mut outcome = copy(store, formats, state.number).await;
    if outcome.is_ok() {
        outcome = guard.confirm().await;
    }
    let next = match &outcome {
        Ok(()) => formats.newest(),
        Err(_) => state.number,
    };
    let released = release(notes, &mine, next).await;
    guard.finish_with(outcome.and(released)).await
}

/// Writes the number `next` if the note with the number still has the content `mine`, which this
/// migration wrote.
///
/// # Errors
/// `Conflict` if another migration has changed the note; errors of the store.
async fn release(notes: &Notes, mine: &Bytes, next: u32) -> Result<()> {
    match notes.load(FORMAT).await? {
        Some((value, revision)) if value == *mine => {
            let expect = Expect::Revision(revision);
            notes.put(FORMAT, number(next), expect).await
        }
        _ => Err(Error::conflict(
            "another process has taken over the migration; open the store again",
        )),
    }
}

/// Converts the notes of format `from` to the newest format, and writes the results. Before that,
/// removes the notes of all other formats: older backups, and the notes that a killed migration has
/// left.
async fn copy(store: &Store, formats: &Formats, from: u32) -> Result<()> {
    for unused in formats.first..=formats.newest() {
        if unused != from {
            write(store, unused, clear(store, unused).await?).await?;
        }
    }
    let mut migrated = Vec::new();
    for mut note in list(store, from).await? {
        for step in &formats.steps[(from - formats.first) as usize..] {
            note = step(note)?;
        }
        migrated.push((note.key, Some(note.value)));
    }
    write(store, formats.newest(), migrated).await
}

/// Returns the changes that remove all notes of a format, for the function `write`.
async fn clear(store: &Store, format: u32) -> Result<Vec<(String, Option<Bytes>)>> {
    let notes = list(store, format).await?.into_iter();
    Ok(notes.map(|note| (note.key, None)).collect())
}

/// Returns the notes of a format, without the number.
async fn list(store: &Store, format: u32) -> Result<Vec<Record>> {
    let mut notes = notes_of(&store.records, format)?.list("").await?;
    notes.retain(|note| note.key != FORMAT);
    Ok(notes)
}

async fn write(store: &Store, format: u32, notes: Vec<(String, Option<Bytes>)>) -> Result<()> {
    let room = notes_of(&store.records, format)?;
    for some in notes.chunks(BATCH) {
        room.write_all(some.iter().cloned()).await?;
    }
    Ok(())
}

fn notes_of(records: &Arc<dyn Records>, format: u32) -> Result<Notes> {
    match format {
        1 => Notes::new(Arc::clone(records), ROOM),
        other => Notes::new(Arc::clone(records), &format!("{ROOM}.{other}")),
    }
}

fn number(format: u32) -> Bytes {
    format.to_string().into()
}

impl State {
    /// Parses the content of the note.
    ///
    /// # Errors
    /// `Corrupt` if the content is not a number. A space and the id of a lease may follow the
    /// number.
    fn parse(value: &[u8]) -> Result<Self> {
        let text = str::from_utf8(value).map_err(|_| unknown(value))?;
        let (number, lease) = match text.split_once(' ') {
            Some((number, lease)) => (number, Some(lease.to_owned())),
            None => (text, None),
        };
        let number = number.parse().map_err(|_| unknown(value))?;
        Ok(State { number, lease })
    }
}

fn unknown(value: &[u8]) -> Error {
    let text = excerpt(&String::from_utf8_lossy(value));
    Error::corrupt(format!(
        "expected the number of the catalogue's format, found \"{text}\"; restore the store from a \
         copy"
    ))
}

#[cfg(test)]
mod tests;
