//! Why jobs cannot be used.

use std::fmt;

use cas_core::{Error, ErrorKind};

/// Why the job of an image, or a layer of the job, cannot be used. The methods of
/// [`Jobs`](super::Jobs) and [`ImageJob`](super::ImageJob) return the problem as the source of an
/// [`Error`]. [`JobProblem::of`] returns the problem of such an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobProblem {
    /// The image has no job, or all its jobs are in use or have damaged records.
    NoImageJob,
    /// The job of the image has no layers.
    NoLayers,
    /// The lifetime of the job has ended, or the machine was restarted after the job began.
    Expired,
    /// The job of the image does not have the layer.
    NoLayerJob,
    /// The job of the image has the layer, but the layer is not done and so cannot be claimed.
    NoneClaimable,
    /// The job of the image has no layer with this number.
    UnknownLayerJob,
    /// The layer cannot be removed from the job: it is neither claimed nor cancelled.
    CannotBeRemoved,
}

impl JobProblem {
    /// Returns the problem that is the source of an error. Returns `None` if the error has another
    /// source, or does not have a source.
    pub fn of(error: &Error) -> Option<JobProblem> {
        let source = std::error::Error::source(error)?;
        source.downcast_ref().copied()
    }

    fn kind(self) -> ErrorKind {
        match self {
            JobProblem::NoImageJob | JobProblem::NoLayerJob | JobProblem::UnknownLayerJob => {
                ErrorKind::NotFound
            }
            _ => ErrorKind::FailedPrecondition,
        }
    }

    fn advice(self) -> &'static str {
        match self {
            JobProblem::CannotBeRemoved => "cancel it first",
            JobProblem::NoneClaimable => "unpack the layer first",
            _ => "begin a new job for the image",
        }
    }
}

impl fmt::Display for JobProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            JobProblem::NoImageJob => "the image has no unpack job that can be used",
            JobProblem::NoLayers => "the unpack job of the image has no layers",
            JobProblem::Expired => "the unpack job of the image has expired",
            JobProblem::NoLayerJob => "the unpack job of the image does not have the layer",
            JobProblem::NoneClaimable => "the layer is not done, so it cannot be claimed",
            JobProblem::UnknownLayerJob => {
                "the unpack job of the image has no layer with this number"
            }
            JobProblem::CannotBeRemoved => {
                "the layer cannot be removed from the job: it is neither claimed nor cancelled"
            }
        })
    }
}

impl std::error::Error for JobProblem {}

impl From<JobProblem> for Error {
    fn from(problem: JobProblem) -> Self {
        let message = format!("{problem}; {}", problem.advice());
        Error::new(problem.kind(), message)
            .operation("unpack")
            .source(problem)
    }
}
