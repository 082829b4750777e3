//! Temporary files.

use std::fs;
use std::io::Write;
use std::time::SystemTime;

use cas_aci::{AciStore, OpenOptions};
use cas_core::ErrorKind;
use cas_core::pool::wait;
use cas_core::records::UNLEASED_TTL;

use super::common::*;

#[test]
fn a_named_file_goes_on_at_its_end() {
    let root = tempfile::TempDir::new().unwrap();
    let options = OpenOptions::default().with_directory(root.path().join("tmp"));
    let acis = wait(AciStore::open_with(memory(), options)).unwrap();
    for text in ["one ", "two"] {
        let (mut file, _) = acis.tmp_named_file("download").unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }
    let (_, path) = acis.tmp_named_file("download").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "one two");
    let (one, other) = (acis.tmp_file().unwrap(), acis.tmp_file().unwrap());
    assert_ne!(one.path(), other.path());
    let gone = one.path().to_owned();
    drop(one);
    assert!(!gone.exists() && other.path().exists());
    let directory = acis.tmp_dir().unwrap();
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    for bad in ["", ".", "..", "a/b", "/a", "a\n", &"x".repeat(256)] {
        let error = acis.tmp_named_file(bad).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad}");
    }
    let now = SystemTime::now();
    assert!(wait(acis.sweep(now)).unwrap().files.is_empty());
    let mut swept = wait(acis.sweep(now + 2 * UNLEASED_TTL)).unwrap().files;
    let mut expected = vec![path, directory, other.path().to_owned()];
    swept.sort();
    expected.sort();
    assert_eq!(swept, expected);
    wait(acis.close()).unwrap();
    assert_eq!(
        acis.tmp_dir().unwrap_err().kind(),
        ErrorKind::FailedPrecondition
    );
}

#[test]
fn a_store_without_a_directory_has_no_files() {
    let acis = open(&memory());
    for error in [
        acis.tmp_dir().err(),
        acis.tmp_file().err(),
        acis.tmp_named_file("a").err(),
    ] {
        assert_eq!(error.unwrap().kind(), ErrorKind::Unsupported);
    }
}
