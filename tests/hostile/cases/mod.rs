//! The cases. Each is an image whose layers attack something outside the directory that they are
//! unpacked into, the control data of overlayfs, or the unpacking process, or are at the bounds of
//! what is accepted. The tests of `cas-layer` check each rule by itself.

mod content;
mod cost;
mod formats;
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

#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) layers: Vec<Layer>,
    pub(crate) media_type: MediaType,
    pub(crate) outcome: Outcome,
}

#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) blob: Vec<u8>,
    pub(crate) diff_id: Digest,
}

impl Layer {
    /// Returns an archive as a layer.
    pub(crate) fn of(archive: Vec<u8>) -> Self {
        Layer {
            diff_id: Digest::sha256(&archive),
            blob: archive,
        }
    }
}

fn case(name: &'static str, outcome: Outcome, layers: Vec<Tar>) -> Case {
    // The top directory has an entry, because otherwise its time is the time of unpacking.
    let whole = |layer: Tar| Layer::of(Tar::new().dir("./").raw(layer.0).end());
    Case {
        name: name.to_owned(),
        layers: layers.into_iter().map(whole).collect(),
        media_type: MediaType::OCI_LAYER,
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

pub(crate) type Make = fn(&Cage) -> Case;

pub(crate) const ALL: [&[Make]; 5] = [
    paths::ALL,
    links::ALL,
    content::ALL,
    formats::ALL,
    cost::ALL,
];

/// Returns an archive with two files, the second of which has one pax record.
fn pax(key: &str, value: &[u8]) -> Tar {
    Tar::new()
        .file("before", "x")
        .pax(&[(key, value)])
        .file("f", "")
}
