//! A mounted session: what is read, what is fetched for it, and what faults do. Mounting needs root
//! and FUSE; elsewhere these tests print that they were skipped.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may fail anywhere"
)]

mod fixture;
mod replaced;

use std::fs::{self, File};
use std::io::Read;
use std::net::{Shutdown, UdpSocket};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use cas_lazyfs::{Files, Session};
use fixture::{ID, Mounted, Snapshots};

#[test]
fn every_byte_of_the_tar_is_read_and_each_piece_is_fetched_once() {
    let Some((snapshots, registry)) = Snapshots::new() else {
        return;
    };
    let mounted = Mounted::new(&snapshots, &registry);
    let served = fs::read(mounted.file()).unwrap();
    assert!(served == snapshots.tar[..served.len()], "other bytes");
    assert!(snapshots.tar[served.len()..].iter().all(|&byte| byte == 0));
    let fetched = registry.bytes.load(Ordering::Relaxed);
    let most = registry.layer.len() as u64 + snapshots.pieces;
    assert!(fetched <= most, "{fetched} of {most}");
    assert!(served == fs::read(mounted.file()).unwrap());
    assert_eq!(registry.bytes.load(Ordering::Relaxed), fetched);
}

#[test]
fn only_the_pieces_that_are_read_are_fetched() {
    let Some((snapshots, registry)) = Snapshots::new() else {
        return;
    };
    let mounted = Mounted::new(&snapshots, &registry);
    let file = File::open(mounted.file()).unwrap();
    let mut block = [0; 512];
    let at = 600 << 10;
    file.read_exact_at(&mut block, at).unwrap();
    assert!(block[..] == snapshots.tar[at as usize..][..512]);
    let fetched = registry.bytes.load(Ordering::Relaxed);
    assert!(fetched < registry.layer.len() as u64 / 2, "{fetched}");
}

#[test]
fn readers_at_the_same_time_fetch_each_piece_once() {
    let Some((snapshots, registry)) = Snapshots::new() else {
        return;
    };
    let mounted = Mounted::new(&snapshots, &registry);
    thread::scope(|scope| {
        for reader in 0..8_u64 {
            let (path, tar) = (mounted.file(), &snapshots.tar);
            scope.spawn(move || {
                let file = File::open(path).unwrap();
                let mut block = vec![0; 4096];
                for step in 0..200_u64 {
                    let at = (reader * 37 + step * 61) % 230 * 4096;
                    file.read_exact_at(&mut block, at).unwrap();
                    assert!(block[..] == tar[at as usize..][..4096], "{at}");
                }
            });
        }
    });
    let fetched = registry.bytes.load(Ordering::Relaxed);
    assert!(
        fetched <= registry.layer.len() as u64 + snapshots.pieces,
        "{fetched}"
    );
}

#[test]
fn one_thread_serves_all_readers() {
    let Some((snapshots, registry)) = Snapshots::new() else {
        return;
    };
    let mounted = Mounted::with(&snapshots, &registry, |session| session.with_threads(1));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let served = fs::read(mounted.file()).unwrap();
                assert!(served == snapshots.tar[..served.len()]);
            });
        }
    });
    assert_eq!(registry.most.load(Ordering::Relaxed), 1);
}

#[test]
fn a_later_session_has_what_arrived_and_needs_no_registry_for_it() {
    let Some((snapshots, registry)) = Snapshots::new() else {
        return;
    };
    let whole = fs::read(Mounted::new(&snapshots, &registry).file()).unwrap();
    registry.is_down.store(true, Ordering::Relaxed);
    let mounted = Mounted::new(&snapshots, &registry);
    assert!(fs::read(mounted.file()).unwrap() == whole);
}

#[test]
fn without_the_registry_a_read_fails_and_later_reads_work() {
    let Some((snapshots, registry)) = Snapshots::new() else {
        return;
    };
    registry.is_down.store(true, Ordering::Relaxed);
    let mounted = Mounted::new(&snapshots, &registry);
    let error = fs::read(mounted.file()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
    registry.is_down.store(false, Ordering::Relaxed);
    // The registry is not asked again at once, if a busy machine has delayed the first request.
    thread::sleep(Duration::from_secs(5));
    let served = fs::read(mounted.file()).unwrap();
    assert!(served == snapshots.tar[..served.len()]);
}

#[test]
fn readers_do_not_wait_for_a_fetch_that_panicked() {
    let Some((snapshots, registry)) = Snapshots::new() else {
        return;
    };
    registry.panics.store(true, Ordering::Relaxed);
    let mounted = Mounted::new(&snapshots, &registry);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let error = fs::read(mounted.file()).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(5), "{error}");
            });
        }
    });
    registry.panics.store(false, Ordering::Relaxed);
    let served = fs::read(mounted.file()).unwrap();
    assert!(served == snapshots.tar[..served.len()]);
}

#[test]
fn wrong_bytes_are_never_served() {
    let Some((snapshots, registry)) = Snapshots::new() else {
        return;
    };
    // One wrong answer is repeated; then the right bytes come.
    registry.lies.store(1, Ordering::Relaxed);
    let mounted = Mounted::new(&snapshots, &registry);
    let served = fs::read(mounted.file()).unwrap();
    assert!(served == snapshots.tar[..served.len()]);
    drop(mounted);

    let Some((snapshots, registry)) = Snapshots::new() else {
        return;
    };
    registry.lies.store(usize::MAX, Ordering::Relaxed);
    let mounted = Mounted::new(&snapshots, &registry);
    let error = fs::read(mounted.file()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
}

#[test]
fn a_table_that_contradicts_the_headers_gives_no_file() {
    let Some((snapshots, registry)) = Snapshots::with(|ztoc| ztoc.files[1].mode = 0o4755) else {
        return;
    };
    let mounted = Mounted::new(&snapshots, &registry);
    let file = File::open(mounted.file()).unwrap();
    let mut block = [0; 512];
    // Pages that have nothing of the member are served.
    let fourth = snapshots.offsets[4] + 200_000;
    file.read_exact_at(&mut block, fourth).unwrap();
    let error = file
        .read_exact_at(&mut block, snapshots.offsets[1])
        .unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
}

#[test]
fn a_data_file_that_was_cut_off_is_fetched_again() {
    let Some((snapshots, registry)) = Snapshots::new() else {
        return;
    };
    let whole = fs::read(Mounted::new(&snapshots, &registry).file()).unwrap();
    let data = snapshots.directory().join("lazy.data");
    File::options()
        .write(true)
        .open(&data)
        .unwrap()
        .set_len(9000)
        .unwrap();
    let mounted = Mounted::new(&snapshots, &registry);
    assert!(fs::read(mounted.file()).unwrap() == whole);
}

/// Bytes that were changed on the disk, and a record that names bytes that have not arrived, are
/// found when a process uses them for the first time.
#[test]
fn what_was_changed_on_the_disk_is_fetched_again() {
    let Some((snapshots, registry)) = Snapshots::new() else {
        return;
    };
    let whole = fs::read(Mounted::new(&snapshots, &registry).file()).unwrap();
    let arrived = snapshots.recorded(ID);
    assert!(arrived.iter().all(|is_recorded| *is_recorded) && arrived.len() > 3);
    let pieces = snapshots.directory().join("lazy.pieces");
    let data = snapshots.directory().join("lazy.data");
    let change = |path: &Path, at: u64| {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    };
    let (one, all) = ((64 << 10) * 3 / 2, registry.layer.len() as u64);
    for (damage, fetched) in [
        (&(|| ()) as &dyn Fn(), 0..=0),
        (&|| change(&data, 1000), 1..=one),
        (&|| change(&pieces, 9), 1..=one),
        (&|| fs::write(&pieces, "").unwrap(), all / 2..=all * 2),
        (
            &|| fs::write(&pieces, [1; 4096]).unwrap(),
            all / 2..=all * 2,
        ),
        (
            &|| fs::write(&data, vec![0; whole.len()]).unwrap(),
            all / 2..=all * 2,
        ),
    ] {
        damage();
        let before = registry.bytes.load(Ordering::Relaxed);
        let mounted = Mounted::new(&snapshots, &registry);
        assert!(fs::read(mounted.file()).unwrap() == whole);
        let now = registry.bytes.load(Ordering::Relaxed) - before;
        assert!(fetched.contains(&now), "{now}, expected {fetched:?}");
    }
}

#[test]
fn names_that_are_no_layers_do_not_exist() {
    let Some((snapshots, registry)) = Snapshots::new() else {
        return;
    };
    let mounted = Mounted::new(&snapshots, &registry);
    for name in ["8", "07", "x", "7x"] {
        let error = fs::metadata(mounted.root().join(name)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(2), "{name}: {error}");
    }
    assert!(fs::write(mounted.file(), "x").is_err());
}

/// The session completes no layers, and nothing reads the data.
#[test]
fn spans_of_a_prefetch_artifact_are_fetched_when_the_image_is_mounted() {
    let Some((snapshots, registry)) = Snapshots::new() else {
        return;
    };
    // The last span of a range may be beyond the layer.
    let last = snapshots.pieces - 1;
    snapshots.prefetch(ID, &[last as u32 - 1..=last as u32 + 5]);
    let mounted = Mounted::new(&snapshots, &registry);
    File::open(mounted.file()).unwrap();
    let mut expected = vec![false; last as usize - 1];
    expected.extend([true, true]);
    await_pieces(&snapshots, &expected);
}

/// Waits until exactly these pieces are recorded.
fn await_pieces(snapshots: &Snapshots, expected: &[bool]) {
    let begun = Instant::now();
    while snapshots.recorded(ID) != expected {
        assert!(begun.elapsed() < Duration::from_secs(60), "not fetched");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn spans_that_come_first_are_requested_together_and_neighbors_by_one_request() {
    const REQUESTS: usize = 5;
    let Some((snapshots, registry)) = Snapshots::new() else {
        return;
    };
    registry.together.store(REQUESTS, Ordering::Relaxed);
    snapshots.prefetch(ID, &[0..=0, 1..=2, 1..=1, 4..=4, 6..=6, 8..=8, 10..=10]);
    let mounted = Mounted::new(&snapshots, &registry);
    File::open(mounted.file()).unwrap();
    let expected = [1, 1, 1, 0, 1, 0, 1, 0, 1, 0, 1].map(|piece| piece == 1);
    await_pieces(&snapshots, &expected);
    assert_eq!(registry.most.load(Ordering::Relaxed), REQUESTS);
    assert_eq!(registry.answers.load(Ordering::Relaxed), REQUESTS);
    let served = fs::read(mounted.file()).unwrap();
    assert!(served == snapshots.tar[..served.len()]);
}

#[test]
fn layers_are_completed_only_after_readers_were_quiet() {
    let Some((snapshots, registry)) = Snapshots::new() else {
        return;
    };
    let mounted = Mounted::completing(&snapshots, &registry, Duration::from_secs(3600));
    let mut block = [0; 512];
    let file = File::open(mounted.file()).unwrap();
    file.read_exact_at(&mut block, snapshots.offsets[1])
        .unwrap();
    thread::sleep(Duration::from_millis(300));
    assert_eq!(registry.answers.load(Ordering::Relaxed), 1);
    drop((file, mounted));

    let mounted = Mounted::completing(&snapshots, &registry, Duration::from_millis(1));
    File::open(mounted.file()).unwrap();
    let tar = snapshots.directory().join("layer.tar");
    let begun = Instant::now();
    while !tar.exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "not completed");
        thread::sleep(Duration::from_millis(10));
    }
    assert!(fs::read(tar).unwrap() == snapshots.tar);
}

/// After the first request, the next one would begin hours later.
#[test]
fn readers_do_not_wait_for_the_turns_of_threads_that_complete_layers() {
    let Some((snapshots, registry)) = Snapshots::new() else {
        return;
    };
    snapshots.add("8", "other.example/app:1");
    let mounted = Mounted::slow(&snapshots, &registry);
    let files = [ID, "8"].map(|id| File::open(mounted.root().join(id)).unwrap());
    let begun = Instant::now();
    while registry.answers.load(Ordering::Relaxed) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing fetched");
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(Duration::from_millis(200));
    let begun = Instant::now();
    for mut file in files {
        let mut read = Vec::new();
        file.read_to_end(&mut read).unwrap();
        assert!(read == snapshots.tar[..read.len()]);
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "a reader waited");
}

/// A container reads all the time while it starts.
#[test]
fn spans_that_come_first_are_fetched_while_a_reader_waits() {
    let Some((snapshots, registry)) = Snapshots::new() else {
        return;
    };
    snapshots.add("8", "other.example/app:1");
    snapshots.prefetch("8", &[0..=1]);
    registry.is_stuck.store(true, Ordering::Relaxed);
    let mounted = Mounted::new(&snapshots, &registry);
    thread::scope(|scope| {
        let other = scope.spawn(|| fs::read(mounted.file()).unwrap());
        while registry.now.load(Ordering::Relaxed) == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        File::open(mounted.root().join("8")).unwrap();
        let begun = Instant::now();
        let fetched = || snapshots.recorded("8");
        while fetched() != [true, true] && begun.elapsed() < Duration::from_secs(60) {
            thread::sleep(Duration::from_millis(10));
        }
        registry.is_stuck.store(false, Ordering::Relaxed);
        assert_eq!(fetched(), [true, true]);
        other.join().unwrap();
    });
}

#[test]
fn a_wrong_span_that_comes_first_is_not_served() {
    let Some((snapshots, registry)) = Snapshots::new() else {
        return;
    };
    snapshots.prefetch(ID, &[0..=0, 2..=2, 4..=4]);
    registry.lies.store(usize::MAX, Ordering::Relaxed);
    let mounted = Mounted::new(&snapshots, &registry);
    let file = File::open(mounted.file()).unwrap();
    while registry.answers.load(Ordering::Relaxed) < 2 {
        thread::sleep(Duration::from_millis(1));
    }
    let error = file.read_exact_at(&mut [0; 512], 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
    assert!(
        fs::read(snapshots.directory().join("lazy.pieces"))
            .unwrap()
            .is_empty()
    );
    registry.lies.store(0, Ordering::Relaxed);
    let served = fs::read(mounted.file()).unwrap();
    assert!(served == snapshots.tar[..served.len()]);
}

#[test]
fn a_registry_that_does_not_answer_delays_no_reader_of_another() {
    let Some((snapshots, registry)) = Snapshots::new() else {
        return;
    };
    snapshots.add("8", "other.example/app:1");
    registry.is_stuck.store(true, Ordering::Relaxed);
    let mounted = Mounted::new(&snapshots, &registry);
    thread::scope(|scope| {
        // These are more readers than threads.
        for reader in 0..40_u64 {
            let (path, tar) = (mounted.file(), &snapshots.tar);
            scope.spawn(move || {
                let mut block = [0; 512];
                let at = reader * 20_000;
                File::open(path)
                    .unwrap()
                    .read_exact_at(&mut block, at)
                    .unwrap();
                assert!(block[..] == tar[at as usize..][..512], "{at}");
            });
        }
        while registry.now.load(Ordering::Relaxed) == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(200));
        let (sender, receiver) = mpsc::channel();
        let other = mounted.root().join("8");
        scope.spawn(move || sender.send(fs::read(other).unwrap()).unwrap());
        let served = receiver.recv_timeout(Duration::from_secs(60));
        registry.is_stuck.store(false, Ordering::Relaxed);
        let served = served.expect("the other registry answers");
        assert!(served == snapshots.tar[..served.len()]);
    });
}

/// Returns a request of the kernel about the file of the snapshot [`ID`].
fn request(operation: u32, unique: u64, body: &[u8]) -> Vec<u8> {
    /// The number of the root directory, after which the files follow.
    const ROOT: u64 = 1;
    let node = ROOT + 1 + ID.parse::<u64>().unwrap();
    let length = (40 + body.len()) as u32;
    let mut request = [length.to_ne_bytes(), operation.to_ne_bytes()].concat();
    request.extend([unique.to_ne_bytes(), node.to_ne_bytes()].concat());
    request.extend([0; 16]);
    request.extend(body);
    request
}

/// Returns a request to open the file. The first 8 bytes of the reply are the handle for reads.
fn open_request() -> Vec<u8> {
    request(14, 0, &[0; 8])
}

/// Returns a request to read the beginning of the file.
fn read_request(unique: u64, handle: &[u8], size: u32) -> Vec<u8> {
    let body = [handle, &[0; 8], &size.to_ne_bytes(), &[0; 20]].concat();
    request(15, unique, &body)
}

/// A socket stands for the device. Its first read fails, because nothing receives what was sent.
#[test]
fn a_thread_that_fails_leaves_the_others_serving() {
    let Some((snapshots, registry)) = Snapshots::new() else {
        return;
    };
    // No other test uses this address, so none can take the port meanwhile.
    let closed = UdpSocket::bind("127.0.0.77:0").unwrap();
    let address = closed.local_addr().unwrap();
    let device = UdpSocket::bind("127.0.0.1:0").unwrap();
    device.connect(address).unwrap();
    drop(closed);
    device.send(b"lost").unwrap();
    let kernel = UdpSocket::bind(address).unwrap();
    kernel.connect(device.local_addr().unwrap()).unwrap();
    kernel
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let directory = snapshots.directory();
    let files = Files::new(directory.parent().unwrap().to_owned(), registry).with_speed(0);
    let session = Session::new(device.into(), files).with_threads(2);
    let server = thread::spawn(move || session.serve());
    thread::sleep(Duration::from_millis(200));
    let mut reply = vec![0; 4096];
    kernel.send(&open_request()).unwrap();
    kernel.recv(&mut reply).expect("the other thread answers");
    let handle = reply[16..24].to_vec();
    kernel.send(&read_request(1, &handle, 512)).unwrap();
    let length = kernel.recv(&mut reply).expect("the other thread answers");
    assert_eq!(reply[4..8], [0; 4], "the request fails");
    assert!(reply[16..length] == snapshots.tar[..512]);
    // An empty message ends the session.
    kernel.send(&[]).unwrap();
    let error = server.join().unwrap().unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
}

/// A socket stands for the device. It takes small messages only.
#[test]
fn a_read_whose_reply_is_not_taken_fails_and_others_are_served() {
    let Some((snapshots, registry)) = Snapshots::new() else {
        return;
    };
    let (kernel, device) = UnixDatagram::pair().unwrap();
    let end = device.try_clone().unwrap();
    let directory = snapshots.directory();
    let files = Files::new(directory.parent().unwrap().to_owned(), registry).with_speed(0);
    let session = Session::new(device.into(), files).with_threads(1);
    let server = thread::spawn(move || session.serve());
    kernel
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let mut reply = vec![0; 1 << 20];
    kernel.send(&open_request()).unwrap();
    kernel.recv(&mut reply).expect("every request is answered");
    let handle = reply[16..24].to_vec();
    let mut ask = |unique: u64, size: u32| {
        kernel.send(&read_request(unique, &handle, size)).unwrap();
        let length = kernel.recv(&mut reply).expect("every request is answered");
        let of = u64::from_ne_bytes(reply[8..16].try_into().unwrap());
        assert_eq!(of, unique);
        let error = i32::from_ne_bytes(reply[4..8].try_into().unwrap());
        (error, reply[16..length].to_vec())
    };
    assert_eq!(ask(1, 1 << 20), (-5, Vec::new()));
    assert_eq!(ask(2, 512), (0, snapshots.tar[..512].to_vec()));
    end.shutdown(Shutdown::Read).unwrap();
    server.join().unwrap().unwrap();
}
