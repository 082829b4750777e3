//! Standard input and output that another process has made non-blocking.

use std::io::{self, Read, Write};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_setfl};

use super::Shelf;

/// Makes the command wait for the pipe.
const PAUSE: Duration = Duration::from_millis(300);

#[test]
fn a_pipe_without_data_or_room_is_waited_for() {
    let shelf = Shelf::new();
    let (reader, mut writer) = io::pipe().unwrap();
    fcntl_setfl(&reader, OFlags::NONBLOCK).unwrap();
    let mut add = shelf.cas(&["blob", "add", "-"]);
    let adding = add.stdin(reader).stdout(Stdio::piped()).spawn().unwrap();
    // The command has a copy of the reading end.
    drop(add);
    thread::sleep(PAUSE);
    writer.write_all(b"late").unwrap();
    thread::sleep(PAUSE);
    writer.write_all(b" bytes").unwrap();
    drop(writer);
    let added = adding.wait_with_output().unwrap();
    assert!(added.status.success(), "{added:?}");
    let digest = String::from_utf8(added.stdout).unwrap();
    assert_eq!(shelf.ok(&["blob", "cat", digest.trim()]), "late bytes");

    let (mut reader, writer) = io::pipe().unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    let mut export = shelf.cas(&["export", "app:1", "-o", "-"]);
    let mut exporting = export.stdout(writer).spawn().unwrap();
    drop(export);
    thread::sleep(PAUSE);
    let mut archive = Vec::new();
    reader.read_to_end(&mut archive).unwrap();
    assert!(exporting.wait().unwrap().success());
    let file = shelf.path("exported.tar");
    std::fs::write(&file, archive).unwrap();
    shelf.ok(&["import", "--name", "again:1", &shelf.text("exported.tar")]);
}
