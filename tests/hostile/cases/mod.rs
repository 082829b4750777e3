//! The layers. Each attacks something outside its root, the control data of overlayfs, or the
//! unpacking process. `cas-layer` tests the rules for each of them one by one.

mod content;
mod paths;

use cas::{Digest, ErrorKind, MediaType};

use super::cage::Cage;
use testkit::archive::Tar;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Unpacked into the root and nowhere else.
    Harmless,
    Refused(ErrorKind),
}

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) layers: Vec<Vec<u8>>,
    pub(crate) media_type: MediaType,
    /// As of a compressed layer.
    pub(crate) diff_id: Option<Digest>,
    pub(crate) outcome: Outcome,
}

fn case(name: &'static str, outcome: Outcome, layers: Vec<Tar>) -> Case {
    // The root has an entry, too, because otherwise its time is the time of unpacking.
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

pub(crate) const ALL: [&[Make]; 2] = [paths::ALL, content::ALL];

/// Returns a file with one record before it.
fn pax(key: &str, value: &[u8]) -> Tar {
    Tar::new()
        .file("before", "x")
        .pax(&[(key, value)])
        .file("f", "")
}
