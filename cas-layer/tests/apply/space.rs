//! How much disk space a layer uses.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use cas_core::ErrorKind;

use crate::common::{Apply, Cage, Tar};

#[test]
fn sparse_files_stay_sparse() {
    let cage = Cage::new();
    let size = (32u64 << 30).to_string();
    Tar::new()
        .pax(&[
            ("GNU.sparse.size", size.as_bytes()),
            ("GNU.sparse.map", b"1073741824,5"),
        ])
        .file("sparse", "abcde")
        .apply(&cage.root())
        .unwrap();
    let meta = fs::metadata(cage.root().join("sparse")).unwrap();
    assert_eq!(meta.len(), 32 << 30);
    assert!(meta.blocks() * 512 < 1 << 20);
    let mut bytes = [0; 7];
    let file = fs::File::open(cage.root().join("sparse")).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, (1 << 30) - 1).unwrap();
    assert_eq!(&bytes, b"\0abcde\0");
}

#[test]
fn a_file_that_does_not_fit_is_refused_before_it_is_written() {
    let cage = Cage::new();
    let root = cage.root();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m,nr_inodes=20", "none"])
        .arg(&root)
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: a tmpfs cannot be mounted here");
        return;
    }
    let big = Tar::new().file("big", vec![1; 1 << 20]).apply(&root);
    let mut many = Tar::new();
    for n in 0..30 {
        many = many.file(n.to_string(), "");
    }
    let many = many.apply(&root);
    let unmounted = Command::new("umount")
        .arg("-l")
        .arg(&root)
        .status()
        .unwrap();
    assert!(unmounted.success());
    assert_eq!(big.unwrap_err().kind(), ErrorKind::Full);
    assert_eq!(many.unwrap_err().kind(), ErrorKind::Full);
}
