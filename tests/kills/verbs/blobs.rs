//! The verbs that change single blobs and ingests.

use std::process::Command;

use cas::blocking::Cas;
use cas::content::{Expected, Writer};

use super::{Verb, at};
use crate::common::ok;
use crate::place::Place;

/// The label that the verbs change.
const LABEL: &str = "containerd.io/gc.root=";
/// The ingest that a verb removes.
const INGEST: &str = "mine";
/// The size of this ingest. Some stores keep a shorter ingest only in memory.
const INGESTED: usize = 3 << 20;

pub(crate) const VERBS: &[Verb] = &[
    Verb {
        name: "blob add",
        prepare: |place| place.collect(),
        command: add_blob,
        recover: |_| {},
    },
    Verb {
        name: "blob label",
        prepare: |_| {},
        command: |place| {
            let digest = add_blob_and_print(place);
            place.cas(&["blob", "label", &digest, &format!("{LABEL}yes")])
        },
        recover: |place| {
            let digest = add_blob_and_print(place);
            ok(&mut place.cas(&["blob", "label", &digest, LABEL]));
        },
    },
    Verb {
        name: "blob rm",
        prepare: |_| {},
        command: |place| place.cas(&["blob", "rm", &add_blob_and_print(place)]),
        recover: |_| {},
    },
];

/// The verbs of stores that keep an unfinished ingest when its process ends.
pub(crate) const OF_INGESTS: &[Verb] = &[Verb {
    name: "ingest rm",
    prepare: begin_ingest,
    command: |place| place.cas(&["ingest", "rm", INGEST]),
    recover: |_| {},
}];

fn add_blob(place: &Place) -> Command {
    at(place.cas(&["blob", "add"]), place, "file")
}

/// Adds the blob, unless it is there. Returns its digest.
fn add_blob_and_print(place: &Place) -> String {
    ok(&mut add_blob(place)).trim_end().to_owned()
}

/// Leaves an unfinished ingest.
fn begin_ingest(place: &Place) {
    let cas = Cas::open(&place.root).unwrap();
    let content = &*cas.store().content;
    let begun = async {
        let mut writer = Writer::begin(content, INGEST, Expected::ANY).await?;
        writer.rewind().await?;
        writer.write(vec![7_u8; INGESTED].into()).await
    };
    cas::backend::pool::wait(begun).unwrap();
    cas.close().unwrap();
}
