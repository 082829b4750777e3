//! Measures how long it takes to apply hostile layers, and a layer of ordinary files. The paths or
//! links of a hostile layer lead through directories that are about 500 deep. A path may have at
//! most 512 components. Each layer repeats a member or a group of members. With twice as many
//! repetitions, applying the layer must take less than 2.3 times as long.
//!
//! `cargo bench -p oci-cas-benches --bench hostile`. The layers are applied in `/dev/shm` if that
//! directory exists.
#![allow(missing_docs, reason = "a bench has no API")]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;
use cas::layer::apply::Tree;
use cas::layer::tar::Reader;
use tar::{Builder, EntryType, Header};

const ROUNDS: usize = 5;
const GOAL: f64 = 2.3;

/// An archive that is being made.
struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn file(&mut self, path: &str) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(0);
        Ok(self.0.append_data(&mut header, path, &[][..])?)
    }

    fn link(&mut self, path: &str, target: &str) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        Ok(self.0.append_link(&mut header, path, target)?)
    }

    /// Adds a file in 490 nested directories, and forty links. The last link leads through all
    /// other links, and through the 490 directories before each of them.
    fn long_way(&mut self) -> Result<()> {
        let (deep, up) = ("d/".repeat(490), "../".repeat(490));
        self.file(&format!("{deep}file"))?;
        self.link("l1", &deep)?;
        for n in 2..=40 {
            self.link(&format!("l{n}"), &format!("{deep}{up}l{}", n - 1))?;
        }
        Ok(())
    }
}

/// The name of a kind of layer, a number of repetitions, and the function that adds a layer's
/// members with this many repetitions.
type Kind = (&'static str, u32, fn(&mut Layer, u32) -> Result<()>);

const KINDS: [Kind; 9] = [
    ("ordinary files", 10_000, |layer, count| {
        (0..count).try_for_each(|n| layer.file(&format!("usr/share/{}/{n}", n / 20)))
    }),
    ("new directories behind 40 links", 10_000, |layer, count| {
        layer.long_way()?;
        (0..count).try_for_each(|n| layer.file(&format!("l40/{n}/file")))
    }),
    ("40 links, resolved again each time", 40, |layer, count| {
        layer.long_way()?;
        (0..count).try_for_each(|n| {
            layer.link("other", ".")?;
            layer.file(&format!("l40/{n}/file"))
        })
    }),
    ("500 new directories for each file", 30, |layer, count| {
        let deep = "d/".repeat(499);
        (0..count).try_for_each(|n| layer.file(&format!("{n}/{deep}file")))
    }),
    ("a new directory, 500 deep", 10_000, |layer, count| {
        let deep = "d/".repeat(500);
        (0..count).try_for_each(|n| layer.file(&format!("{deep}{n}/file")))
    }),
    ("whiteouts, 490 deep", 5_000, |layer, count| {
        let deep = "d/".repeat(490);
        (0..count).try_for_each(|n| layer.file(&format!("{deep}{n}/.wh.x")))
    }),
    ("opaque directories, 490 deep", 5_000, |layer, count| {
        let deep = "d/".repeat(490);
        (0..count).try_for_each(|n| layer.file(&format!("{deep}{n}/.wh..wh..opq")))
    }),
    (
        "links to `..` through a deep link",
        5_000,
        |layer, count| {
            let deep = "d/".repeat(490);
            layer.file(&format!("{deep}file"))?;
            layer.link("l", &deep)?;
            (0..count).try_for_each(|n| {
                layer.link(&format!("l/{n}"), "..")?;
                layer.file(&format!("l/{n}/below{n}/file"))
            })
        },
    ),
    ("two new directories, 500 deep", 10_000, |layer, count| {
        let deep = "d/".repeat(500);
        (0..count).try_for_each(|n| layer.file(&format!("{deep}{n}/below/file")))
    }),
];

fn main() -> Result<()> {
    for standalone in [false, true] {
        for (what, count, make) in KINDS {
            let once = median(make, count, standalone)?;
            let twice = median(make, count * 2, standalone)?;
            let ratio = twice.as_secs_f64() / once.as_secs_f64();
            let verdict = if ratio < GOAL { "met" } else { "MISSED" };
            let mut line = format!("{what}: {count} repetitions in {once:.1?}, ");
            write!(
                line,
                "twice as many in {twice:.1?}, {ratio:.2} times as long"
            )?;
            let way = if standalone { ", standalone" } else { "" };
            println!("{line}, goal below {GOAL} {verdict}{way}");
        }
    }
    Ok(())
}

fn median(make: fn(&mut Layer, u32) -> Result<()>, count: u32, alone: bool) -> Result<Duration> {
    let mut layer = Layer(Builder::new(Vec::new()));
    make(&mut layer, count)?;
    let bytes = layer.0.into_inner()?;
    let mut took = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let place = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
        let tree = Tree::open(place.path())?;
        let begun = Instant::now();
        let mut reader = Reader::new(&bytes[..]);
        if alone {
            tree.apply_standalone(&mut reader)?;
        } else {
            tree.apply(&mut reader)?;
        }
        took.push(begun.elapsed());
    }
    took.sort();
    Ok(took[ROUNDS / 2])
}
