//! Layers that are unpacked in the unpack job of their image, so that a later process can use them.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use cas_core::{Context, Descriptor, Digest, Error, ErrorKind, Result};
use cas_host::calls::undisturbed;
use cas_host::copy_attributes;

use super::jobs::{ImageJob, JobProblem, Jobs, LayerState};
use crate::apply::{DeferredEffects, Tree};

/// A layer in the job of its image.
#[derive(Clone)]
pub(super) struct KeptLayer {
    job: Arc<ImageJob>,
    number: u64,
    layer: Digest,
}

/// Finds the job of the image whose configuration has the digest `image`, or begins one. Returns
/// each of `layers` in the job, with its effects if an earlier process has unpacked it. Removes
/// other layers from the job.
pub(super) fn keep_layers(
    jobs: &Jobs,
    image: Digest,
    layers: &[(Descriptor, Digest)],
) -> Result<Vec<(KeptLayer, Option<DeferredEffects>)>> {
    let now = SystemTime::now();
    let job = match jobs.open(&image, now) {
        Err(error) if JobProblem::of(&error).is_some() => jobs.begin(image, now)?,
        opened => opened?,
    };
    let job = Arc::new(job);
    let mut earlier = job.layers();
    let mut kept = Vec::with_capacity(layers.len());
    for (descriptor, diff_id) in layers {
        let layer = descriptor.digest;
        let is_done = earlier.iter().position(|job| {
            job.state == LayerState::Done && job.layer == layer && job.diff_id == *diff_id
        });
        let done = is_done.and_then(|at| {
            let effects = job.effects(earlier[at].number()).ok()?;
            Some((earlier.remove(at).number(), Some(effects)))
        });
        let (number, effects) = match done {
            Some(done) => done,
            None => (job.add(layer, *diff_id)?, None),
        };
        let job = Arc::clone(&job);
        kept.push((KeptLayer { job, number, layer }, effects));
    }
    for unused in earlier {
        job.cancel(unused.number())?;
        job.remove(unused.number())?;
    }
    Ok(kept)
}

impl KeptLayer {
    /// Makes the directory that the layer is unpacked into, with the attributes of `snapshot`, the
    /// directory of its snapshot. Returns the path of the new directory.
    ///
    /// # Errors
    /// `Unsupported` if the two directories are not in one file system; errors of the file system.
    pub(super) fn make_tree(&self, snapshot: &Path) -> Result<PathBuf> {
        let tree = self.job.make_tree(self.number)?;
        let open = |path: &Path| std::fs::File::open(path).during("open", path.display());
        let (from, to) = (open(snapshot)?, open(&tree)?);
        if undisturbed(|| from.metadata())?.dev() != undisturbed(|| to.metadata())?.dev() {
            return Err(Error::unsupported(
                "the directories of snapshots and of unpack jobs are in different file systems; \
                 unmount the file system that is mounted on one of them",
            )
            .subject(tree.display()));
        }
        copy_attributes(from, to)?;
        Ok(tree)
    }

    /// Records the result of unpacking the layer. A layer that needs its parents is cancelled,
    /// because it will be applied on top of them. A layer whose bytes ended early stays in
    /// progress.
    pub(super) fn record(&self, applied: &Result<Option<DeferredEffects>>) -> Result<()> {
        match applied {
            Ok(Some(effects)) => self.job.finish(self.number, effects),
            Ok(None) => self.job.cancel(self.number),
            Err(error) if error.kind() == ErrorKind::Cancelled => Ok(()),
            Err(error) => self.job.fail(self.number, error),
        }
    }

    /// Claims the layer, and moves its tree to `snapshot`, the directory of a snapshot, which must
    /// be empty.
    ///
    /// # Errors
    /// [`JobProblem`]; `FailedPrecondition` if something is in `snapshot`; errors of the file
    /// system.
    pub(super) fn give_to(&self, snapshot: &Path) -> Result<()> {
        let checked = Tree::open(snapshot).and_then(|tree| tree.check_empty());
        checked.during("unpack", snapshot.display())?;
        let number = self.job.claim(&self.layer)?;
        let renamed = undisturbed(|| std::fs::rename(self.job.tree(number), snapshot));
        renamed.during("move layer to", snapshot.display())
    }

    /// Deletes the job of the image, after its layers were committed.
    pub(super) fn end_job(&self) -> Result<()> {
        self.job.delete()
    }

    /// Ends the work on the job of the image after a failure. If no layer is done, deletes the job.
    /// Otherwise, the layers that are done or have failed stay in the job, and all others are
    /// removed.
    pub(super) fn abandon_job(&self) -> Result<()> {
        let layers = self.job.layers();
        if !layers.iter().any(|layer| layer.state == LayerState::Done) {
            return self.job.delete();
        }
        for layer in layers {
            if matches!(layer.state, LayerState::InProgress | LayerState::Claimed) {
                self.job.cancel(layer.number())?;
            }
            if !matches!(layer.state, LayerState::Done | LayerState::Failed) {
                self.job.remove(layer.number())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::jobs::DiskJobStorage;
    use super::*;

    #[test]
    fn a_layer_is_given_only_to_an_empty_directory() {
        let temp = tempfile::tempdir().unwrap();
        let storage = DiskJobStorage::new(temp.path().join("jobs"));
        let jobs = Jobs::new(Arc::new(storage));
        let descriptor = Descriptor::of(cas_core::MediaType::OCI_LAYER, b"layer");
        let (layers, image) = (
            [(descriptor, Digest::sha256(b"tar"))],
            Digest::sha256(b"image"),
        );
        let snapshot = temp.path().join("fs");
        fs::create_dir(&snapshot).unwrap();

        let kept = |jobs: &Jobs| keep_layers(jobs, image, &layers).unwrap().remove(0);
        let (layer, effects) = kept(&jobs);
        assert!(effects.is_none());
        let tree = layer.make_tree(&snapshot).unwrap();
        fs::write(tree.join("file"), "text").unwrap();
        layer.record(&Ok(Some(DeferredEffects::default()))).unwrap();
        drop(layer);

        // A later process finds the layer.
        let (layer, effects) = kept(&jobs);
        assert!(effects.is_some());
        fs::write(snapshot.join("poison"), "").unwrap();
        let error = layer.give_to(&snapshot).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.to_string().contains("poison"), "{error}");
        fs::remove_file(snapshot.join("poison")).unwrap();
        layer.give_to(&snapshot).unwrap();
        assert_eq!(fs::read(snapshot.join("file")).unwrap(), b"text");
        drop(layer);

        // A process that was killed before the commit has left a claim, and the layer is gone.
        let (layer, effects) = kept(&jobs);
        assert!(effects.is_none());
        assert_eq!(layer.job.layers().len(), 1);
        layer.end_job().unwrap();
        assert_eq!(fs::read_dir(temp.path().join("jobs")).unwrap().count(), 0);
    }
}
