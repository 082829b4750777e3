//! `cas ingest`: what a command is writing, and what a killed one has left.

use std::io::Write as _;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Shelf;

/// Starts a command that reads from a pipe, of which only these bytes arrive.
fn begin(shelf: &Shelf, arguments: &[&str], bytes: &[u8]) -> Child {
    let mut command = shelf.cas(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    child
}

/// Waits until there is an ingest, and returns how it is listed.
fn listed(shelf: &Shelf) -> Value {
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing began");
        if let [only] = &shelf.json(&["ingest", "ls"])[..] {
            return only.clone();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_ingest_is_listed_and_removed_once_nobody_writes_it() {
    let shelf = Shelf::new();
    assert!(shelf.json(&["ingest", "ls"]).is_empty());
    let mut child = begin(&shelf, &["blob", "add", "-"], b"begun");
    let listed = listed(&shelf);
    let key = listed["key"].as_str().unwrap();
    assert!(
        key.starts_with("blob-add-") && listed["updatedAt"].is_string(),
        "{listed}"
    );
    assert_eq!(
        (&listed["total"], &listed["owners"]),
        (&Value::Null, &Value::Array(vec![]))
    );
    assert!(shelf.ok(&["ingest", "ls"]).contains(key));
    shelf.fails(&["ingest", "rm", key], 5);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(shelf.json(&["ingest", "rm", key])[0]["removed"], key);
    assert!(shelf.json(&["ingest", "ls"]).is_empty());
    for (bad, code) in [
        (&["ingest", "rm"][..], 2),
        (&["ingest"], 2),
        (&["ingest", "rm", key], 3),
        (&["ingest", "rm", "abc"], 3),
        (&["ingest", "rm", "-"], 3),
        (&["ingest", "rm", ""], 3),
    ] {
        shelf.fails(bad, code);
    }
}

/// The key is a digest, so the size of the blob and the job that writes it are known.
#[test]
fn the_ingest_of_a_known_blob_has_a_total_and_an_owner() {
    let shelf = Shelf::new();
    let layer = shelf.layer();
    let size = shelf.json(&["blob", "info", &layer]).remove(0)["size"].clone();
    shelf.ok(&["blob", "rm", "--force", &layer]);
    let archive = std::fs::read(shelf.path("demo.tar")).unwrap();
    let half = &archive[..archive.len() / 2];
    let mut child = begin(&shelf, &["import", "-", "--name", "app:1"], half);
    let listed = listed(&shelf);
    child.kill().unwrap();
    child.wait().unwrap();
    let key = listed["key"].as_str().unwrap();
    if key == layer {
        assert_eq!(listed["total"], size);
        let owner = listed["owners"][0].as_str().unwrap();
        assert!(owner.contains(&child.id().to_string()), "{listed}");
        shelf.ok(&["ingest", "rm", &key[7..15]]);
    } else {
        shelf.ok(&["ingest", "rm", key]);
    }
    assert!(shelf.json(&["ingest", "ls"]).is_empty());
}
