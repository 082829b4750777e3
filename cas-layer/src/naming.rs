//! How names are read and written.

use cas_core::Result;
use cas_core::image::{FullName, Reference};

/// How an import reads names, and how an export writes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Naming {
    /// Unchanged.
    #[default]
    Exact,
    /// As docker understands them: in full, so that `app` is `docker.io/library/app:latest`. If
    /// docker does not accept a name, an export writes the name unchanged, and an import refuses
    /// it. Exception: an import keeps such a name unchanged if the name comes from an image layout
    /// and the OCI image-spec allows it there.
    Docker,
}

impl Naming {
    /// Returns the name that `text` stands for.
    ///
    /// # Errors
    /// `InvalidArgument` if `text` is not a name.
    pub(crate) fn read(self, text: &str) -> Result<Reference> {
        match self {
            Naming::Exact => text.parse(),
            Naming::Docker => text.parse::<FullName>().map(|full| full.name()),
        }
    }

    /// Returns the form in which an export writes a stored name.
    pub(crate) fn write(self, name: &Reference) -> Reference {
        let full = FullName::of(name).filter(|_| self == Naming::Docker);
        full.map_or_else(|| name.clone(), |full| full.name())
    }
}
