//! Imports that unpack, tags, removals and collections.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use cas::gc::GcOptions;
use cas::image::Reference;
use cas::layer::import::Source;
use cas::{ErrorKind, ImportOptions};
use testkit::random::Random;

use super::{Worker, each_thread};
use crate::material::IMAGES;
use crate::promise::{ABSENT, Resource};

/// The number of changes that each thread makes.
const CHANGES: u64 = 14;
/// The number of names that each thread uses.
const NAMES: u64 = 4;
/// Longer than content without a name is kept.
const LATER: Duration = Duration::from_secs(3 * 86_400);
/// The file that fills a disk, next to the root.
pub(crate) const FILLER: &str = "filler";

/// Works until each thread has made its changes. If `fill` is a directory, its file system is full
/// for a while.
pub(super) fn run(worker: &Worker, seed: u64, fill: Option<&Path>) -> Result<()> {
    // A collection that believes that it is days later also ends the leases of jobs that run.
    let collecting = RwLock::new(());
    each_thread(seed, |thread, mut random| {
        for change in 0..CHANGES {
            match fill {
                Some(directory) if thread == 0 && change == 4 => fill_disk(directory)?,
                Some(directory) if thread == 0 && change == 9 => {
                    fs::remove_file(directory.join(FILLER))?;
                }
                _ => {}
            }
            if random.below(8) == 0 {
                let _alone = collecting.write().unwrap_or_else(PoisonError::into_inner);
                let later = GcOptions::default().with_now(SystemTime::now() + LATER);
                accept_full(worker.cas.gc_with(later).map(|_| ()), fill)?;
            } else {
                let _together = collecting.read().unwrap_or_else(PoisonError::into_inner);
                let name = format!("t{thread}-{}", random.below(NAMES));
                change_name(worker, &name, &mut random, fill)?;
            }
        }
        Ok(())
    })
}

fn change_name(
    worker: &Worker,
    name: &str,
    random: &mut Random,
    fill: Option<&Path>,
) -> Result<()> {
    let (image, tree) = (Resource::Image(name.into()), Resource::Tree(name.into()));
    let notes = &worker.notes;
    if random.below(4) == 0 {
        notes.trying(&image, ABSENT)?;
        notes.trying(&tree, ABSENT)?;
        match worker.cas.remove(full_name(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return accept_full(Err(error), fill);
            }
            _ => {}
        }
        notes.did(&image, ABSENT)?;
        return notes.did(&tree, ABSENT);
    }
    let number = random.below(IMAGES);
    let (target, _) = worker.material.facts(number)?;
    notes.trying(&image, &target)?;
    notes.trying(&tree, &number.to_string())?;
    let options = ImportOptions::default()
        .with_name(full_name(name).parse::<Reference>()?)
        .with_unpack(true);
    let source = Source::Path(worker.material.layout(number));
    match worker.cas.import_with(source, options) {
        Err(error) => accept_full(Err(error), fill),
        Ok(_) => {
            notes.did(&image, &target)?;
            notes.did(&tree, &number.to_string())
        }
    }
}

/// Returns the name of an image as it is stored.
pub(crate) fn full_name(name: &str) -> String {
    format!("cut.example/{name}:1")
}

/// Accepts that a change failed if the disk is filled. An engine whose file could not grow refuses
/// everything until it is opened again, so the error may be any.
fn accept_full(end: cas::Result<()>, fill: Option<&Path>) -> Result<()> {
    match end {
        Err(_) if fill.is_some() => Ok(()),
        end => Ok(end?),
    }
}

/// Writes a file until its file system is full.
fn fill_disk(directory: &Path) -> Result<()> {
    let mut file = File::create(directory.join(FILLER))?;
    let mut piece = vec![1_u8; 1 << 20];
    while piece.len() >= 4096 {
        if file
            .write_all(&piece)
            .and_then(|()| file.sync_data())
            .is_err()
        {
            piece.truncate(piece.len() / 4);
        }
    }
    Ok(())
}
