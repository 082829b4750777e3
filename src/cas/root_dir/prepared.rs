//! A root directory that is being prepared.

use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use cas_core::progress::Progress;
use cas_core::{Context, Manifest, Result, Snapshotter, background, pool};
use cas_host::calls::undisturbed;
use cas_host::mount::Rights;
use cas_host::{Dir, DirLock};
use rustix::fs::OFlags;

use super::super::Cas;
use super::super::mounted::{Mounted, NewSnapshot, State};
use super::PREPARE;
use super::place::{CONFIG, NAME, RootDir};

/// What a root directory is prepared from.
pub(super) struct Request {
    pub(super) snapshotter: Arc<dyn Snapshotter>,
    pub(super) place: RootDir,
    /// Whether the directory was created for this request.
    pub(super) created: bool,
    pub(super) manifest: Manifest,
    pub(super) documents: Documents,
    pub(super) progress: Arc<dyn Progress>,
}

/// The content of the files of a root directory.
pub(super) struct Documents {
    pub(super) config: Vec<u8>,
    pub(super) name: String,
}

/// A root directory that was prepared. If this value is dropped before [`Self::keep`] is called,
/// the root directory is removed in the background.
pub(super) struct Prepared {
    snapshotter: Arc<dyn Snapshotter>,
    place: RootDir,
    /// Whether the snapshot was made.
    made: bool,
    /// `None` once nothing is left to undo.
    locked: Option<DirLock>,
}

impl Prepared {
    /// Removes what is in the locked directory, and prepares it.
    ///
    /// # Errors
    /// As [`RootDir::check`], and `Busy` as [`RootDir::clear`]; the content of the directory then
    /// stays. As [`Cas::make`] and [`Mounted::attach`]; nothing is then left of the directory.
    /// Errors of the file system.
    pub(super) async fn make(cas: &Cas, request: Request, locked: DirLock) -> Result<Self> {
        let Request {
            snapshotter,
            place,
            created,
            manifest,
            documents,
            progress,
        } = request;
        let path = place.path().to_owned();
        if let Err(error) = make_room(cas, &snapshotter, &place, &locked).await {
            if created {
                let _ = undisturbed(|| std::fs::remove_dir(&path));
            }
            return Err(error).during(PREPARE, path.display());
        }
        let mut prepared = Prepared {
            snapshotter,
            place,
            made: false,
            locked: Some(locked),
        };
        match prepared.fill(cas, &manifest, documents, &progress).await {
            Ok(()) => Ok(prepared),
            Err(error) => {
                // The first error is reported, even if something cannot be removed.
                let _ = prepared.undo().await;
                Err(error).during(PREPARE, path.display())
            }
        }
    }

    /// Makes the snapshot, writes the files, and mounts the snapshot.
    async fn fill(
        &mut self,
        cas: &Cas,
        manifest: &Manifest,
        documents: Documents,
        progress: &Arc<dyn Progress>,
    ) -> Result<()> {
        let rootfs = self.place.rootfs();
        let new = NewSnapshot {
            key: self.place.key(),
            writable: true,
            labels: State::Mounting.label_at(&rootfs)?,
        };
        // From here on, this value removes the snapshot, but only after the files: after a kill, a
        // collection finds the files by the snapshot.
        cas.make(manifest, &new, progress).await?.keep();
        self.made = true;
        let place = self.place.clone();
        pool::run(move || Ok(write(&place, &documents)?)).await?;
        // The container needs the set-id programs and devices of the image. The directory is closed
        // to other users.
        let rights = Rights {
            suid: true,
            devices: true,
        };
        let (snapshotter, key) = (&self.snapshotter, self.place.key());
        let mounts = snapshotter.mounts(key).await?;
        let snapshot = Mounted::existing(Arc::clone(snapshotter), key.to_owned(), mounts);
        snapshot.attach(rootfs, None, rights).await?.keep();
        State::Mounted.write(&**snapshotter, key).await
    }

    /// Keeps the root directory.
    pub(super) fn keep(mut self) {
        self.locked = None;
    }

    /// Unmounts and removes the root directory.
    async fn undo(&mut self) -> Result<()> {
        match self.locked.take() {
            Some(locked) => undo(&*self.snapshotter, &self.place, self.made, locked).await,
            None => Ok(()),
        }
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        let Some(locked) = self.locked.take() else {
            return;
        };
        let (snapshotter, place) = (Arc::clone(&self.snapshotter), self.place.clone());
        let made = self.made;
        background::run(async move {
            let _ = undo(&*snapshotter, &place, made, locked).await;
        });
    }
}

/// Removes the root directory, and its snapshot if it was `made`. If a kill interrupts this, a
/// collection continues, unless only the empty directory is left.
async fn undo(
    snapshotter: &dyn Snapshotter,
    place: &RootDir,
    made: bool,
    locked: DirLock,
) -> Result<()> {
    if made {
        let snapshot = snapshotter.stat(place.key()).await?;
        place.clear(snapshotter, snapshot.as_ref(), &locked).await?;
    }
    place.remove_directory(&locked).await
}

/// Removes what is in the directory and the snapshot of the earlier root directory, and closes the
/// directory to other users. A handle with another snapshotter may have made that snapshot.
async fn make_room(
    cas: &Cas,
    own: &Arc<dyn Snapshotter>,
    place: &RootDir,
    locked: &DirLock,
) -> Result<()> {
    let mut earlier = Vec::new();
    if let Some(info) = own.stat(place.key()).await? {
        earlier.push((Arc::clone(own), info));
    }
    let others = cas.others_with(place.key()).await?.into_iter();
    earlier.extend(others.filter(|(_, info)| place.is_last(info)));
    if earlier.is_empty() {
        place.check(None)?;
        let list = || std::fs::read_dir(place.path());
        if undisturbed(list)?.next().is_some() {
            place.clear(&**own, None, locked).await?;
        }
    }
    for (_, info) in &earlier {
        place.check(Some(info))?;
    }
    for (snapshotter, info) in &earlier {
        place.clear(&**snapshotter, Some(info), locked).await?;
    }
    Ok(locked.set_mode(0o700)?)
}

/// Writes the files of a root directory durably, and makes the directory to mount on.
fn write(place: &RootDir, documents: &Documents) -> io::Result<()> {
    undisturbed(|| DirBuilder::new().mode(0o700).create(place.rootfs()))?;
    let dir = Dir::open(place.path())?;
    write_file(&dir, CONFIG, &documents.config)?;
    write_file(&dir, NAME, documents.name.as_bytes())?;
    dir.sync()?;
    Dir::open(place.path().parent().unwrap_or(Path::new("/")))?.sync()
}

fn write_file(dir: &Dir, name: &str, data: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let mut file = dir.open_file(name, flags, 0o600)?;
    file.write_all(data)?;
    file.sync_all()
}
