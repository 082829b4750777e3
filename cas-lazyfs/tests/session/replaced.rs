//! Layers and files that were replaced while a session was served, and registries that fail slowly.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt, symlink};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

use crate::fixture::{Mounted, Snapshots};

/// Asserts that the data file has the bytes of `tar`, without the padding at its end.
#[track_caller]
fn assert_serves(mounted: &Mounted, tar: &[u8]) {
    let served = fs::read(mounted.file()).unwrap();
    assert!(!served.is_empty() && served == tar[..served.len()]);
}

/// The kernel reads the pages of a failed read again one by one.
#[test]
fn after_a_failure_reads_do_not_wait_for_the_registry_again_for_a_while() {
    const READS: usize = 8;
    let Some((snapshots, registry)) = Snapshots::new() else {
        return;
    };
    registry.is_down.store(true, Ordering::Relaxed);
    registry.delay.store(3000, Ordering::Relaxed);
    let mounted = Mounted::new(&snapshots, &registry);
    let file = File::open(mounted.file()).unwrap();
    for read in 0..READS as u64 {
        let error = file.read_exact_at(&mut [0; 512], read << 16).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5), "{error}");
    }
    let failures = registry.failures.load(Ordering::Relaxed);
    assert!((1..READS / 2).contains(&failures), "{failures}");
    registry.is_down.store(false, Ordering::Relaxed);
    let begun = Instant::now();
    let mut block = [0; 512];
    while let Err(error) = file.read_exact_at(&mut block, 0) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{error}");
        thread::sleep(Duration::from_millis(50));
    }
    assert!(block[..] == snapshots.tar[..512]);
}

/// The numbers of snapshots begin again if the records of a root are lost.
#[test]
fn a_layer_with_the_number_of_a_removed_one_never_has_its_bytes() {
    let Some((snapshots, registry)) = Snapshots::new() else {
        return;
    };
    let mounted = Mounted::new(&snapshots, &registry);
    assert_serves(&mounted, &snapshots.tar);
    let cached = File::open(mounted.file()).unwrap();
    // Reads of this file do not use the memory of the kernel.
    let direct = File::options()
        .read(true)
        .custom_flags(OFlags::DIRECT.bits().cast_signed())
        .open(mounted.file())
        .unwrap();
    let at = snapshots.offsets[1] + 200_000;
    let old = snapshots.tar[at as usize..][..4096].to_vec();
    let other = snapshots.replace(&registry);
    assert!(old != other[at as usize..][..4096]);
    let begun = Instant::now();
    let mut block = vec![0; 4096];
    let error = loop {
        match direct.read_exact_at(&mut block, at) {
            Ok(()) => assert!(block == old),
            Err(error) => break error,
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "not closed");
        thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
    assert_serves(&mounted, &other);
    let error = cached.read_exact_at(&mut block, at).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
}

/// The session does not close the removed layer before the other one is looked up.
#[test]
fn a_look_up_finds_the_layer_that_has_the_number_now() {
    let Some((snapshots, registry)) = Snapshots::new() else {
        return;
    };
    let mounted = Mounted::completing(&snapshots, &registry, Duration::from_millis(1));
    assert_serves(&mounted, &snapshots.tar);
    let other = snapshots.replace(&registry);
    assert_serves(&mounted, &other);
    let tar = snapshots.directory().join("layer.tar");
    let begun = Instant::now();
    while !tar.exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "not completed");
        thread::sleep(Duration::from_millis(10));
    }
    assert!(fs::read(tar).unwrap() == other);
}

#[test]
fn a_session_that_is_not_valid_any_more_only_serves_open_files() {
    let Some((snapshots, registry)) = Snapshots::new() else {
        return;
    };
    let is_valid = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&is_valid);
    let mounted = Mounted::with(&snapshots, &registry, |session| {
        session.with_validity(move || asked.load(Ordering::Relaxed))
    });
    let file = File::open(mounted.file()).unwrap();
    rustix::fs::statfs(mounted.root()).unwrap();
    is_valid.store(false, Ordering::Relaxed);
    rustix::fs::statfs(mounted.root()).unwrap_err();
    File::open(mounted.file()).unwrap_err();
    let mut block = [0; 512];
    file.read_exact_at(&mut block, snapshots.offsets[1])
        .unwrap();
    assert!(block[..] == snapshots.tar[snapshots.offsets[1] as usize..][..512]);
}

#[test]
fn something_else_in_the_place_of_a_data_file_is_replaced() {
    let Some((snapshots, registry)) = Snapshots::new() else {
        return;
    };
    let outside = snapshots.directory().with_file_name("outside");
    for name in ["lazy.data", "lazy.pieces", "lazy.bytes.new"] {
        let path = snapshots.directory().join(name);
        let make: [&dyn Fn(); 3] = [
            &|| fs::create_dir(&path).unwrap(),
            &|| symlink(&outside, &path).unwrap(),
            &|| mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap(),
        ];
        for make in make {
            drop(fs::read(Mounted::new(&snapshots, &registry).file()).unwrap());
            let _ = fs::remove_file(&path);
            make();
            let mounted = Mounted::new(&snapshots, &registry);
            assert_serves(&mounted, &snapshots.tar);
            drop(mounted);
            let found = fs::symlink_metadata(&path);
            assert!(found.is_ok_and(|found| found.is_file()) || name.ends_with("new"));
            assert!(!outside.exists(), "{name}");
        }
    }
}
