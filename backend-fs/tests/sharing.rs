//! Several processes and handles on one store.

mod support;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use backend_fs::FsStore;
use cas_core::content::{Durability, Expected, Writer};
use cas_core::image::Image;
use cas_core::records::Batch;
use cas_core::{Algorithm, ContentExt, Descriptor, Digest, ErrorKind, MediaType, pool::wait};
use cas_host::{Dir, Lock};
use support::name;

const TASK: &str = "CAS_FS_TASK";

/// The body of the processes that this binary starts: stores a blob and names it.
#[test]
fn task() {
    let Ok(task) = std::env::var(TASK) else {
        return;
    };
    let (step, path) = task.split_once(' ').unwrap();
    let store = FsStore::open(Path::new(path)).unwrap().store();
    let data = step.as_bytes().repeat(20_000);
    let target = Descriptor::of(MediaType::OCI_LAYER, &data);
    wait(async {
        let put = store.put(&target, data.into(), Durability::Full);
        put.await.unwrap();
        let image = Image::new(name(step), target.clone());
        store.images.create(image).await.unwrap();
    });
}

#[test]
fn forty_processes_lose_no_name() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("store");
    let steps: Vec<String> = (0..40).map(|number| format!("step{number}")).collect();
    let children: Vec<_> = steps
        .iter()
        .map(|step| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "task", "--nocapture", "--test-threads=1"])
                .env(TASK, format!("{step} {}", path.display()))
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let store = FsStore::open(&path).unwrap().store();
    wait(async {
        for step in &steps {
            assert!(
                store.images.get(&name(step)).await.unwrap().is_some(),
                "{step}"
            );
        }
        assert_eq!(store.images.list(&[]).await.unwrap().len(), 40);
        assert_eq!(store.content.list(None, 100).await.unwrap().len(), 40);
    });
}

#[test]
fn a_key_has_one_writer_and_another_handle_can_resume_it() {
    let temp = tempfile::tempdir().unwrap();
    let (one, two) = (FsStore::open(temp.path()), FsStore::open(temp.path()));
    let (one, two) = (one.unwrap().content(), two.unwrap().content());
    wait(async {
        let mut writer = Writer::begin(&*one, "a key", Expected::ANY).await.unwrap();
        writer.write("first".into()).await.unwrap();
        let busy = Writer::begin(&*two, "a key", Expected::ANY).await;
        assert_eq!(busy.err().unwrap().kind(), ErrorKind::Busy);
        assert_eq!(
            two.discard("a key").await.unwrap_err().kind(),
            ErrorKind::Busy
        );
        drop(writer);
        let listed = two.ingests().await.unwrap();
        assert_eq!((&*listed[0].key, listed[0].offset), ("a key", 5));
        let mut writer = Writer::begin(&*two, "a key", Expected::ANY).await.unwrap();
        writer.write(" second".into()).await.unwrap();
        let done = writer
            .commit(&Batch::new(), Durability::Full)
            .await
            .unwrap();
        assert_eq!(done.digest, Digest::sha256(b"first second"));
        assert!(one.stat(&done.digest).await.unwrap().is_some());
        assert!(one.ingests().await.unwrap().is_empty());
        assert!(!one.discard("a key").await.unwrap());
    });
}

#[test]
fn concurrent_publishes_of_one_and_of_many_blobs_all_succeed() {
    let temp = tempfile::tempdir().unwrap();
    let content = FsStore::open(temp.path()).unwrap().content();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..48u32)
            .map(|number| {
                let content = content.clone();
                tokio::spawn(async move {
                    let key = format!("key {number}");
                    let mut writer = Writer::begin(&*content, &key, Expected::ANY).await?;
                    // Every third task stores the same blob.
                    let data = (if number % 3 == 0 { 0 } else { number }).to_string();
                    writer.write(data.into_bytes().into()).await?;
                    writer.commit(&Batch::new(), Durability::Batched).await
                })
            })
            .collect();
        for task in tasks {
            let done = task.await.unwrap().unwrap();
            assert_eq!(
                content.stat(&done.digest).await.unwrap().unwrap().size,
                done.size
            );
        }
        assert_eq!(content.list(None, 100).await.unwrap().len(), 33);
        assert!(content.ingests().await.unwrap().is_empty());
    });
}

#[test]
fn a_blob_of_the_wrong_size_is_replaced() {
    let temp = tempfile::tempdir().unwrap();
    let content = FsStore::open(temp.path()).unwrap().content();
    let data = b"the right bytes";
    let path = temp
        .path()
        .join("blobs/sha256")
        .join(Digest::sha256(data).hex());
    std::fs::write(&path, "").unwrap();
    wait(content.put(data[..].into())).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), data);
}

/// Two publishes find that a blob is damaged, and the one that syncs its bytes replaces the blob
/// first. If the other one then replaced these bytes, a loss of power could lose the blob.
#[test]
fn synced_bytes_that_replace_a_damaged_blob_are_kept_by_an_unsynced_publish() {
    let temp = tempfile::tempdir().unwrap();
    let content = FsStore::open(temp.path()).unwrap().content();
    let data = b"the right bytes";
    let place = temp
        .path()
        .join("blobs/sha256")
        .join(Digest::sha256(data).hex());
    std::fs::write(&place, "damaged").unwrap();
    let dir = Dir::open(temp.path().join(".cas")).unwrap();
    let lock = Lock::exclusive(&dir, "remove.lock").unwrap();
    let unsynced = thread::spawn(move || {
        wait(async {
            let mut writer = Writer::begin(&*content, "a key", Expected::ANY).await?;
            writer.write(data[..].into()).await?;
            writer.commit(&Batch::new(), Durability::Relaxed).await
        })
    });
    // The thread waits for the lock, after it has found the damage.
    thread::sleep(Duration::from_millis(200));
    let synced = temp.path().join("synced");
    std::fs::write(&synced, data).unwrap();
    let inode = std::fs::metadata(&synced).unwrap().ino();
    std::fs::rename(&synced, &place).unwrap();
    drop(lock);
    unsynced.join().unwrap().unwrap();
    assert_eq!(std::fs::metadata(&place).unwrap().ino(), inode);
    assert_eq!(std::fs::read(&place).unwrap(), data);
    let ingests = std::fs::read_dir(temp.path().join(".cas/ingest")).unwrap();
    assert_eq!(ingests.count(), 0);
}

#[test]
fn a_directory_in_the_place_of_a_blob_is_replaced_and_what_is_in_it_is_kept() {
    for (algorithm, durability) in [
        (Algorithm::Sha256, Durability::Full),
        (Algorithm::Sha512, Durability::Full),
        (Algorithm::Sha256, Durability::Relaxed),
    ] {
        let temp = tempfile::tempdir().unwrap();
        let store = FsStore::open(temp.path()).unwrap().store();
        let data = b"the right bytes";
        let digest = Digest::of(algorithm, data);
        let blobs = temp.path().join("blobs").join(algorithm.name());
        let place = blobs.join(digest.hex());
        let descriptor = Descriptor::new(MediaType::BYTES, digest, data.len() as u64);
        for round in 1..=3 {
            std::fs::create_dir_all(&place).unwrap();
            // The last directory is empty.
            if round < 3 {
                std::fs::write(place.join("theirs"), [round]).unwrap();
            }
            wait(store.put(&descriptor, data[..].into(), durability)).unwrap();
            assert_eq!(std::fs::read(&place).unwrap(), data);
            std::fs::remove_file(&place).unwrap();
        }
        let aside = |number: u8| {
            let name = format!(".cas/{}.damaged-{number}", digest.hex());
            std::fs::read(temp.path().join(name).join("theirs")).ok()
        };
        assert_eq!([1, 2, 3].map(aside), [Some(vec![1]), Some(vec![2]), None]);
        assert_eq!(std::fs::read_dir(blobs).unwrap().count(), 0);
    }
}

/// The other process is stood for by a lock that another task releases.
#[test]
fn a_removal_that_waits_for_another_process_lets_other_tasks_run() {
    let temp = tempfile::tempdir().unwrap();
    let content = FsStore::open(temp.path()).unwrap().content();
    let digest = wait(content.put("bytes".into())).unwrap();
    let version = wait(content.stat(&digest)).unwrap().unwrap().version;
    let dir = Dir::open(temp.path().join(".cas")).unwrap();
    let lock = Lock::exclusive(&dir, "remove.lock").unwrap();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let removed = { runtime }.build().unwrap().block_on(async {
            let release = async { drop(lock) };
            tokio::join!(content.remove_version(&digest, version), release).0
        });
        sender.send(removed.unwrap()).unwrap();
    });
    assert_eq!(receiver.recv_timeout(Duration::from_secs(60)), Ok(true));
}
