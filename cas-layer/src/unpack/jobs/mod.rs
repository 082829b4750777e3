//! Unpack jobs. A job keeps the unpacked layers of one image until the layers are committed to a
//! snapshotter. If the process ends before that, a later process can continue with the job.
//!
//! ```text
//! JOBS/ID/             0700, the job of one image
//!   lock               locked by the process that works on the job
//!   job.json           the image, when the job expires, and the states of its layers
//!   3/fs/              the tree of the layer with the number 3
//!   3/effects          the effects of the layer on the layers below it
//! ```
//! A layer is *in progress* until its tree is whole and verified. Then it is *done*, and a later
//! process can use it. A layer is *claimed* by the process that moves its tree to a snapshot. A
//! layer that could not be unpacked has *failed*. A job unpacks each layer alone. So a layer that
//! can be unpacked only on top of the layers below it is *cancelled*. If the unpack of the image
//! fails, the layers that are in progress or claimed are cancelled, too.
//!
//! If a process is killed, its job stays in the storage. A process that fails to unpack the image
//! deletes the job, unless a layer of the job is done. The next process that unpacks the same image
//! uses the layers that are done, and unpacks the others again. A garbage collection deletes
//! damaged and expired jobs. It also deletes jobs of an earlier boot, because the files of such
//! jobs may not have reached the device.

mod image_job;
mod problem;
mod record;
mod storage;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cas_core::snapshot::Usage;
use cas_core::{Context, Digest, Error, ErrorKind, Result};

pub use image_job::ImageJob;
pub use problem::JobProblem;
pub use record::{LayerJob, LayerState};
pub use storage::{DiskJobStorage, JobStorage};

use self::image_job::lock_job;
use self::record::JobRecord;

/// The unpack jobs of all images. A [`JobStorage`] keeps the jobs.
#[derive(Clone)]
pub struct Jobs {
    storage: Arc<dyn JobStorage>,
    lifetime: Duration,
}

impl Jobs {
    /// The default lifetime of a job. See [`Jobs::with_lifetime`].
    pub const LIFETIME: Duration = Duration::from_secs(2 * 60 * 60);

    /// Returns the jobs in `storage`.
    pub fn new(storage: Arc<dyn JobStorage>) -> Self {
        Jobs {
            storage,
            lifetime: Self::LIFETIME,
        }
    }

    /// Sets the lifetime of jobs. A job expires when its lifetime ends. The lifetime starts when
    /// the job begins, and starts again each time that a process opens the job. The default is
    /// [`Jobs::LIFETIME`].
    #[must_use]
    pub fn with_lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Begins a job for the image whose configuration has the digest `image`. Returns the job,
    /// which has no layers yet.
    ///
    /// # Errors
    /// Errors of [`cas_host::boot_id`], of the storage and of the file system.
    pub fn begin(&self, image: Digest, now: SystemTime) -> Result<ImageJob> {
        let mut record = JobRecord::new(image, cas_host::boot_id()?);
        record.extend(now, self.lifetime);
        ImageJob::create(&self.storage, record)
    }

    /// Finds a job of the image whose configuration has the digest `image`. Skips jobs that are in
    /// use, and jobs with damaged records. If the job that was found has expired or has no layers,
    /// deletes the job. Otherwise, renews the lifetime of the job, and returns the job.
    ///
    /// # Errors
    /// [`JobProblem::NoImageJob`] if no job was found; [`JobProblem::Expired`] if the job has
    /// expired; [`JobProblem::NoLayers`] if the job has no layers; errors of
    /// [`cas_host::boot_id`], of the storage and of the file system.
    pub fn open(&self, image: &Digest, now: SystemTime) -> Result<ImageJob> {
        let boot = cas_host::boot_id()?;
        for id in self.storage.keys()? {
            let job = match ImageJob::open(&self.storage, &id) {
                Ok(Some(job)) if job.image() == *image => job,
                Ok(_) => continue,
                // A collection deletes a job whose record is damaged.
                Err(error)
                    if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::OutOfRange) =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            let problem = if job.is_expired(now, &boot) {
                JobProblem::Expired
            } else if job.layers().is_empty() {
                JobProblem::NoLayers
            } else {
                job.change(|record| {
                    record.extend(now, self.lifetime);
                    Ok(())
                })?;
                return Ok(job);
            };
            job.delete()?;
            return Err(Error::from(problem).subject(image));
        }
        Err(Error::from(JobProblem::NoImageJob).subject(image))
    }

    /// Finds the jobs that have expired, were begun in an earlier boot, or have no valid record.
    /// Skips jobs that are in use. If `delete` is set, deletes the jobs that were found. Returns
    /// the space that these jobs take, or took until they were deleted.
    ///
    /// # Errors
    /// Errors of [`cas_host::boot_id`], of the storage and of the file system.
    pub fn collect(&self, now: SystemTime, delete: bool) -> Result<Usage> {
        let (mut found, keys) = (Usage::default(), self.storage.keys()?);
        if keys.is_empty() {
            return Ok(found);
        }
        let boot = cas_host::boot_id()?;
        for id in keys {
            let Some((path, dir, _lock)) = lock_job(&*self.storage, &id)? else {
                continue;
            };
            let is_alive = match JobRecord::read(&dir) {
                Ok(record) => record.is_some_and(|record| !record.is_expired(now, &boot)),
                Err(error)
                    if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::OutOfRange) =>
                {
                    false
                }
                Err(error) => return Err(error.within(path.display())),
            };
            if is_alive {
                continue;
            }
            let opened = std::fs::File::open(&path).during("open directory", path.display())?;
            found += cas_host::measure(&opened)?;
            found.inodes += 1;
            if delete {
                self.storage.delete(&id)?;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use cas_core::limit;
    use cas_host::Dir;

    use super::*;
    use crate::apply::DeferredEffects;

    fn digest(text: &str) -> Digest {
        Digest::sha256(text.as_bytes())
    }

    fn jobs(temp: &tempfile::TempDir) -> Jobs {
        Jobs::new(Arc::new(DiskJobStorage::new(temp.path().join("jobs"))))
    }

    fn problem<T>(result: Result<T>) -> JobProblem {
        JobProblem::of(&result.err().unwrap()).unwrap()
    }

    fn done(job: &ImageJob, layer: &str) -> u64 {
        let number = job.add(digest(layer), digest("plain")).unwrap();
        let tree = job.make_tree(number).unwrap();
        fs::write(tree.join("file"), layer).unwrap();
        job.finish(number, &DeferredEffects::default()).unwrap();
        number
    }

    #[test]
    fn the_first_layer_that_is_done_is_claimed() {
        let temp = tempfile::tempdir().unwrap();
        let job = jobs(&temp)
            .begin(digest("image"), SystemTime::now())
            .unwrap();
        assert_eq!(problem(job.claim(&digest("a"))), JobProblem::NoLayers);
        let running = job.add(digest("a"), digest("plain")).unwrap();
        assert_eq!(problem(job.claim(&digest("b"))), JobProblem::NoLayerJob);
        assert_eq!(problem(job.claim(&digest("a"))), JobProblem::NoneClaimable);
        let (one, two) = (done(&job, "a"), done(&job, "a"));
        assert_eq!(job.claim(&digest("a")).unwrap(), one);
        assert_eq!(job.claim(&digest("a")).unwrap(), two);
        assert_eq!(problem(job.claim(&digest("a"))), JobProblem::NoneClaimable);
        let states: Vec<_> = job.layers().iter().map(|layer| layer.state).collect();
        use LayerState::{Claimed, InProgress};
        assert_eq!(states, [InProgress, Claimed, Claimed]);
        job.fail(running, &Error::corrupt("no archive")).unwrap();
        assert_eq!(job.layers()[0].error.as_deref(), Some("no archive"));
        let none = DeferredEffects::default();
        let error = job.finish(running, &none).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(job.effects(running).is_err(), "nothing was written");
        assert_eq!(problem(job.finish(9, &none)), JobProblem::UnknownLayerJob);
        assert_eq!(
            problem(job.fail(9, &Error::corrupt("x"))),
            JobProblem::UnknownLayerJob
        );
    }

    #[test]
    fn only_what_is_claimed_or_cancelled_is_removed_and_the_last_ends_the_job() {
        let temp = tempfile::tempdir().unwrap();
        let jobs = jobs(&temp);
        let job = jobs.begin(digest("image"), SystemTime::now()).unwrap();
        let (claimed, failed) = (done(&job, "a"), job.add(digest("b"), digest("c")).unwrap());
        for number in [claimed, failed] {
            assert_eq!(problem(job.remove(number)), JobProblem::CannotBeRemoved);
        }
        job.claim(&digest("a")).unwrap();
        job.fail(failed, &Error::corrupt("x")).unwrap();
        assert_eq!(problem(job.remove(failed)), JobProblem::CannotBeRemoved);
        job.cancel(failed).unwrap();
        assert!(!job.remove(claimed).unwrap());
        assert_eq!(problem(job.remove(claimed)), JobProblem::UnknownLayerJob);
        assert!(job.remove(failed).unwrap());
        drop(job);
        let opened = jobs.open(&digest("image"), SystemTime::now());
        assert_eq!(problem(opened), JobProblem::NoImageJob);
    }

    #[test]
    fn a_job_is_used_by_one_process_and_survives_it() {
        let temp = tempfile::tempdir().unwrap();
        let (jobs, now) = (jobs(&temp), SystemTime::now());
        let job = jobs.begin(digest("image"), now).unwrap();
        let number = done(&job, "a");
        job.add(digest("b"), digest("plain")).unwrap();
        let open = || jobs.open(&digest("image"), now);
        assert_eq!(problem(open()), JobProblem::NoImageJob, "it is in use");
        assert_eq!(
            jobs.collect(now + Jobs::LIFETIME, true).unwrap(),
            Usage::default()
        );
        let layers = job.layers();
        drop(job);
        let again = open().unwrap();
        assert_eq!(again.layers(), layers);
        assert_eq!(again.claim(&digest("a")).unwrap(), number);
        assert_eq!(fs::read(again.tree(number).join("file")).unwrap(), b"a");
        again.effects(number).unwrap();
        assert!(again.effects(7).is_err());
    }

    /// Extends a file with `filler` to `size` bytes.
    fn fill(file: &Path, filler: u8, size: u64) {
        let mut bytes = fs::read(file).unwrap();
        bytes.resize(usize::try_from(size).unwrap(), filler);
        fs::write(file, bytes).unwrap();
    }

    #[test]
    fn a_record_is_read_up_to_its_largest_size() {
        let temp = tempfile::tempdir().unwrap();
        let (jobs, now) = (jobs(&temp), SystemTime::now());
        let job = jobs.begin(digest("image"), now).unwrap();
        done(&job, "a");
        let (id, most) = (job.id().to_owned(), limit::UNPACK_JOB);
        drop(job);
        let record = temp.path().join("jobs").join(id).join("job.json");
        fill(&record, b' ', most + 1);
        let dir = Dir::open(record.parent().unwrap()).unwrap();
        let error = JobRecord::read(&dir).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
        fill(&record, b' ', most);
        assert_eq!(JobRecord::read(&dir).unwrap().unwrap().layers.len(), 1);
    }

    #[test]
    fn effects_are_read_up_to_their_largest_size() {
        let temp = tempfile::tempdir().unwrap();
        let jobs = jobs(&temp);
        let job = jobs.begin(digest("image"), SystemTime::now()).unwrap();
        let number = done(&job, "a");
        let file = job.tree(number).with_file_name("effects");
        let none = DeferredEffects::default().to_bytes();
        let write = |size: u64| {
            // A hidden name: a byte with its kind, its length, and the name.
            let length = size - none.len() as u64 - 5;
            let head = [&[0], &u32::try_from(length).unwrap().to_le_bytes()[..]].concat();
            fs::write(&file, [&none[..], &head].concat()).unwrap();
            fill(&file, b'x', size);
        };
        let most = limit::UNPACK_EFFECTS;
        write(most);
        assert_eq!(job.effects(number).unwrap().to_bytes().len() as u64, most);
        write(most + 1);
        let error = job.effects(number).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
    }

    #[test]
    fn a_job_expires_after_its_lifetime_and_a_use_renews_it() {
        let temp = tempfile::tempdir().unwrap();
        let (jobs, now) = (jobs(&temp), SystemTime::now());
        done(&jobs.begin(digest("image"), now).unwrap(), "a");
        let open = |later| jobs.open(&digest("image"), now + later);
        let almost = Jobs::LIFETIME - Duration::from_secs(2);
        open(almost).unwrap();
        open(2 * almost).unwrap();
        let late = 2 * almost + Jobs::LIFETIME + Duration::from_secs(1);
        assert_eq!(problem(open(late)), JobProblem::Expired);
        assert_eq!(
            problem(open(late)),
            JobProblem::NoImageJob,
            "it was deleted"
        );
        let short = jobs.clone().with_lifetime(Duration::ZERO);
        drop(short.begin(digest("image"), now).unwrap());
        assert_eq!(problem(open(Duration::ZERO)), JobProblem::Expired);
        drop(jobs.begin(digest("image"), now).unwrap());
        assert_eq!(problem(open(Duration::ZERO)), JobProblem::NoLayers);
    }

    #[test]
    fn what_nobody_will_use_is_collected() {
        let temp = tempfile::tempdir().unwrap();
        let (jobs, now) = (jobs(&temp), SystemTime::now());
        let at = |id: &str| temp.path().join("jobs").join(id);
        let begun = |image: &str| {
            let job = jobs.begin(digest(image), now).unwrap();
            done(&job, "a");
            job.id().to_owned()
        };
        let (alive, damaged, old) = (begun("alive"), begun("damaged"), begun("old boot"));
        fs::write(at(&damaged).join("job.json"), "{").unwrap();
        let text = fs::read_to_string(at(&old).join("job.json")).unwrap();
        let boot = cas_host::boot_id().unwrap();
        fs::write(at(&old).join("job.json"), text.replace(&boot, "another")).unwrap();
        let empty = jobs.storage.create().unwrap();
        let found = jobs.collect(now, false).unwrap();
        assert!(found.inodes >= 10, "{found:?}");
        assert!(
            [&alive, &damaged, &old, &empty]
                .iter()
                .all(|id| at(id).exists())
        );
        let opened = jobs.open(&digest("old boot"), now);
        assert_eq!(problem(opened), JobProblem::Expired);
        jobs.collect(now, true).unwrap();
        assert_eq!(jobs.storage.keys().unwrap(), std::slice::from_ref(&alive));
        jobs.collect(now + Jobs::LIFETIME, true).unwrap();
        assert!(!at(&alive).exists());
    }
}
