//! The layers. Each attacks something outside the directory that it is unpacked into, the control
//! data of overlayfs, or the unpacking process. The tests of `cas-layer` check each rule by itself.

mod content;
mod links;
mod paths;

use cas::{Digest, ErrorKind, MediaType};

use super::cage::Cage;
use testkit::archive::Tar;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Unpacked into its directory and nowhere else.
    Harmless,
    Refused(ErrorKind),
}

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) layers: Vec<Vec<u8>>,
    pub(crate) media_type: MediaType,
    /// The diff ID, if it is not the digest of the blob.
    pub(crate) diff_id: Option<Digest>,
    pub(crate) outcome: Outcome,
}

fn case(name: &'static str, outcome: Outcome, layers: Vec<Tar>) -> Case {
    // The top directory has an entry, because otherwise its time is the time of unpacking.
    let whole = |layer: Tar| Tar::new().dir("./").raw(layer.0).end();
    Case {
        name,
        layers: layers.into_iter().map(whole).collect(),
        media_type: MediaType::OCI_LAYER,
        diff_id: None,
        outcome,
    }
}

fn harmless(name: &'static str, layers: Vec<Tar>) -> Case {
    case(name, Outcome::Harmless, layers)
}

/// Returns a case that is refused at the last of its layers.
fn refused(name: &'static str, kind: ErrorKind, layers: Vec<Tar>) -> Case {
    case(name, Outcome::Refused(kind), layers)
}

const CORRUPT: ErrorKind = ErrorKind::Corrupt;

type Make = fn(&Cage) -> Case;

pub(crate) const ALL: [&[Make]; 3] = [paths::ALL, links::ALL, content::ALL];

/// Returns an archive with a file that has one pax record.
fn pax(key: &str, value: &[u8]) -> Tar {
    Tar::new()
        .file("before", "x")
        .pax(&[(key, value)])
        .file("f", "")
}
