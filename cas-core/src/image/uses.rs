//! When images were last used.
//!
//! A use is first recorded in memory. This takes less than a microsecond. The recorded uses are
//! written later to notes, which are small records of the store. [`Uses::note`] begins such a write
//! at most once a minute. [`Uses::flush`] writes at once. Dropping the [`Uses`] begins a write at
//! once. As with the mount option `relatime` of a file system, a time is written only if no time is
//! stored, or if the stored time is older by more than [`USE_PRECISION`]. Writing a note changes no
//! record that a garbage collection reads. If the process is killed or the disk is full, recorded
//! times may be lost. The loss of a time does not make the use of an image fail.

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::{ImageStore, Reference};
use crate::background;
use crate::capability::Capability;
use crate::error::{Error, Result};
use crate::limit;
use crate::records::{Notes, Records};
use crate::sync::lock;

/// The room (the namespace) of the notes, whose keys are names of images.
const ROOM: &str = "image-uses";
/// A use is written only if no time is stored, or if the use is later than the stored time by more
/// than this duration.
pub const USE_PRECISION: Duration = Duration::from_secs(60);
/// Minimum time between two writes that [`Uses::note`] begins.
const FLUSH_AFTER: Duration = Duration::from_secs(60);

/// The value of a note.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LastUse {
    #[serde(with = "crate::time")]
    used_at: SystemTime,
}

/// The last uses of the images of a store. When the value is dropped, uses in its memory that were
/// not written yet are written in the background. If only one process can have the store open, the
/// drop waits until they are written.
pub struct Uses {
    parts: Parts,
    pending: Mutex<Pending>,
}

#[derive(Clone)]
struct Parts {
    notes: Notes,
    images: Arc<dyn ImageStore>,
    /// Whether only this process can have the store open.
    has_one_owner: bool,
}

type Times = HashMap<Reference, SystemTime>;

struct Pending {
    times: Times,
    /// When a write last took the times out of memory, or when this value was created.
    taken: Instant,
}

impl Uses {
    /// Returns the last uses of the images in `images`. The uses are stored in `records`.
    ///
    /// # Errors
    /// Errors of [`Notes::new`].
    pub fn new(records: Arc<dyn Records>, images: Arc<dyn ImageStore>) -> Result<Self> {
        let has_one_owner = !records.capabilities().has(Capability::Shared);
        Ok(Uses {
            parts: Parts {
                notes: Notes::new(records, ROOM)?,
                images,
                has_one_owner,
            },
            pending: Mutex::new(Pending {
                times: Times::new(),
                taken: Instant::now(),
            }),
        })
    }

    /// Records in memory that an image is used now. If the last flush began at least a minute ago,
    /// another flush begins in the background. The first flush that this method begins is at least
    /// a minute after this value was created.
    pub fn note(&self, name: &Reference) {
        self.note_at(name, SystemTime::now());
        let due = {
            let mut pending = lock(&self.pending);
            let is_due = pending.taken.elapsed() >= FLUSH_AFTER;
            is_due.then(|| pending.take())
        };
        if let Some(times) = due {
            let parts = self.parts.clone();
            background::run(async move {
                let _ = parts.write(times).await;
            });
        }
    }

    /// Records in memory that an image was used at `time`. Drops the time if the memory already has
    /// the last uses of [`limit::USES`] other images, which is the maximum.
    pub fn note_at(&self, name: &Reference, time: SystemTime) {
        let times = &mut lock(&self.pending).times;
        if let Some(known) = times.get_mut(name) {
            *known = time.max(*known);
        } else if times.len() < limit::USES {
            times.insert(name.clone(), time);
        }
    }

    /// Writes the times in memory to the store. Skips a time if the stored time of the image is
    /// later, or is older by at most [`USE_PRECISION`]. Skips the times of names that do not exist.
    ///
    /// # Errors
    /// Errors of the store. After an error, the times that this call could not write are lost.
    pub async fn flush(&self) -> Result<()> {
        let times = lock(&self.pending).take();
        self.parts.write(times).await
    }

    /// Returns the last uses that are stored or in memory, by name. A returned time may be up to
    /// [`USE_PRECISION`] older than the last use. It may be older still if the last use was lost,
    /// if another [`Uses`] or process has not written it yet, or while a flush writes it.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn all(&self) -> Result<BTreeMap<String, SystemTime>> {
        let mut all = BTreeMap::new();
        let stored = self.parts.notes.each("", |note| {
            if let Some(time) = parse(&note.value) {
                all.insert(note.key, time);
            }
            Ok(())
        });
        stored.await?;
        for (name, time) in &lock(&self.pending).times {
            let known = all.entry(name.to_string()).or_insert(*time);
            *known = (*known).max(*time);
        }
        Ok(all)
    }

    /// Removes the stored last uses of names that do not exist.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn forget_removed(&self) -> Result<()> {
        let Parts { notes, images, .. } = &self.parts;
        let mut found = BTreeMap::new();
        let keys = notes.each("", |note| {
            found.insert(note.key, None);
            Ok(())
        });
        keys.await?;
        if found.is_empty() {
            return Ok(());
        }
        for root in images.roots().await? {
            root.name.map(|name| found.remove(name.as_str()));
        }
        notes.write_all(found).await
    }
}

impl Drop for Uses {
    fn drop(&mut self) {
        let times = lock(&self.pending).take();
        if times.is_empty() {
            return;
        }
        let (parts, has_one_owner) = (self.parts.clone(), self.parts.has_one_owner);
        let (ended, end) = mpsc::channel::<()>();
        background::run(async move {
            let _ = parts.write(times).await;
            drop((parts, ended));
        });
        // The task keeps the store open. If only one process can open the store, this waits for the
        // task, so that the store can be opened again.
        if has_one_owner {
            let _ = end.recv();
        }
    }
}

impl Pending {
    fn take(&mut self) -> Times {
        self.taken = Instant::now();
        mem::take(&mut self.times)
    }
}

impl Parts {
    async fn write(&self, times: Times) -> Result<()> {
        let mut changed = Vec::new();
        for (name, used_at) in times {
            let stored = self.notes.load(name.as_str()).await?;
            let stored = stored.and_then(|(value, _)| parse(&value));
            if stored.is_some_and(|stored| stored + USE_PRECISION >= used_at) {
                continue;
            }
            if self.images.get(&name).await?.is_some() {
                let value = serde_json::to_vec(&LastUse { used_at }).map_err(|error| {
                    Error::internal("a time could not be serialized; please report it")
                        .source(error)
                })?;
                changed.push((name.to_string(), Some(value.into())));
            }
        }
        self.notes.write_all(changed).await
    }
}

/// Returns the time in a note, or `None` if it does not parse: the image then counts as not used.
fn parse(value: &[u8]) -> Option<SystemTime> {
    let parsed = serde_json::from_slice::<LastUse>(value);
    parsed.ok().map(|last| last.used_at)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

    use super::*;
    use crate::descriptor::Descriptor;
    use crate::image::Image;
    use crate::media_type::MediaType;
    use crate::pool::wait;
    use crate::store::Store;
    use crate::testing::memory::MemoryStore;

    const MINUTE: Duration = Duration::from_secs(60);

    fn store(names: &[&str]) -> Store {
        let store = MemoryStore::new().with_images();
        for name in names {
            let target = Descriptor::of(MediaType::OCI_MANIFEST, b"{}");
            wait(
                store
                    .images
                    .create(Image::new(name.parse().unwrap(), target)),
            )
            .unwrap();
        }
        store
    }

    fn uses(store: &Store) -> Uses {
        Uses::new(store.records.clone(), store.images.clone()).unwrap()
    }

    fn name(text: &str) -> Reference {
        text.parse().unwrap()
    }

    fn stored(store: &Store) -> Vec<(String, SystemTime)> {
        wait(uses(store).all()).unwrap().into_iter().collect()
    }

    #[test]
    fn a_use_is_known_at_once_and_stored_by_a_flush_if_the_name_exists() {
        let store = store(&["a"]);
        let (uses, now) = (uses(&store), SystemTime::now());
        uses.note_at(&name("a"), now);
        uses.note_at(&name("a"), now - MINUTE);
        uses.note_at(&name("removed"), now);
        let known = wait(uses.all()).unwrap();
        assert_eq!((known["a"], known["removed"]), (now, now));
        assert_eq!(stored(&store), []);
        wait(uses.flush()).unwrap();
        assert_eq!(stored(&store), [("a".to_owned(), now)]);
    }

    #[test]
    fn a_time_is_written_again_only_if_the_stored_one_is_older_than_the_precision() {
        let store = store(&["a"]);
        let (uses, first) = (uses(&store), SystemTime::now());
        let revision = || wait(uses.parts.notes.load("a")).unwrap().unwrap().1;
        uses.note_at(&name("a"), first);
        wait(uses.flush()).unwrap();
        let written = revision();
        uses.note_at(&name("a"), first + USE_PRECISION);
        wait(uses.flush()).unwrap();
        assert_eq!(revision(), written);
        let later = first + USE_PRECISION + MINUTE;
        uses.note_at(&name("a"), later);
        wait(uses.flush()).unwrap();
        assert_ne!(revision(), written);
        assert_eq!(stored(&store), [("a".to_owned(), later)]);
    }

    #[test]
    fn what_was_noted_is_stored_when_the_handle_of_a_store_with_one_owner_is_dropped() {
        let store = store(&["a"]);
        let mut uses = uses(&store);
        uses.parts.has_one_owner = true;
        uses.note(&name("a"));
        drop(uses);
        assert_eq!(stored(&store).len(), 1);
    }

    #[test]
    fn notes_of_removed_names_are_removed() {
        let store = store(&["a", "b"]);
        let (uses, now) = (uses(&store), SystemTime::now());
        uses.note_at(&name("a"), now);
        uses.note_at(&name("b"), now);
        wait(uses.flush()).unwrap();
        wait(store.images.delete(&name("a"), None)).unwrap();
        wait(uses.forget_removed()).unwrap();
        assert_eq!(stored(&store), [("b".to_owned(), now)]);
    }

    #[test]
    fn memory_is_bounded_and_known_images_are_still_noted() {
        let uses = uses(&store(&[]));
        let now = SystemTime::now();
        for number in 0..=limit::USES {
            uses.note_at(&name(&format!("image-{number}")), now);
        }
        uses.note_at(&name("image-0"), now + MINUTE);
        let known = wait(uses.all()).unwrap();
        assert_eq!(known.len(), limit::USES);
        assert_eq!(known["image-0"], now + MINUTE);
    }
}
