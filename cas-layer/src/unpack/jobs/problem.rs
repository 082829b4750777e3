//! What a job cannot do.

use std::fmt;

use cas_core::{Error, ErrorKind};

/// Why a job of an image or of a layer cannot be used. It is the source of the [`Error`] that
/// reports it; [`JobProblem::of`] returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobProblem {
    /// The image has no job.
    NoImageJob,
    /// The job of the image has no layers.
    NoLayers,
    /// The job of the image is too old, or its machine was started again since.
    Expired,
    /// The image has no job for the layer.
    NoLayerJob,
    /// The jobs for the layer cannot be claimed: none is done.
    NoneClaimable,
    /// The image has no job of this number.
    UnknownLayerJob,
    /// The job of a layer cannot be removed: it is neither claimed nor cancelled.
    CannotBeRemoved,
}

impl JobProblem {
    /// Returns the problem that an error reports, if it reports one.
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
            JobProblem::NoImageJob => "the image has no unpack job",
            JobProblem::NoLayers => "the unpack job of the image has no layers",
            JobProblem::Expired => "the unpack job of the image has expired",
            JobProblem::NoLayerJob => "the unpack job of the image has no job for the layer",
            JobProblem::NoneClaimable => "no job for the layer is done, so none can be claimed",
            JobProblem::UnknownLayerJob => "the unpack job of the image has no such layer job",
            JobProblem::CannotBeRemoved => {
                "the job of the layer cannot be removed: it is neither claimed nor cancelled"
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
