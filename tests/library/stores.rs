//! Several stores in one program: copies between them, and single blobs and ingests in one.

use std::collections::BTreeMap;

use cas::blocking::Cas;
use cas::gc::RemoveOptions;
use cas::image::FullName;
use cas::{CopyOptions, Digest, ErrorKind};

use super::material::Image;

fn root(scratch: &tempfile::TempDir, name: &str) -> Cas {
    Cas::open(scratch.path().join(name)).unwrap()
}

#[test]
fn an_image_is_copied_from_handle_to_handle() {
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let (here, there) = (root(&scratch, "here"), root(&scratch, "there"));
    let image = Image::new(1, 1);
    image.write(&scratch.path().join("layout"), "docker.io/library/app:1");
    here.import(scratch.path().join("layout")).unwrap();

    let copied = here.copy("app:1", there.inner()).unwrap();
    assert_eq!(copied.name.as_str(), "docker.io/library/app:1");
    assert!(there.check("app:1").unwrap().is_complete());
    let name: FullName = "team/app:2".parse().unwrap();
    let options = || CopyOptions::default().with_name(&name);
    let copied = here.copy_with("app:1", there.inner(), options()).unwrap();
    assert_eq!(copied.name, name.name());
    // A copy within one store, even by two handles, needs a new name.
    let again = root(&scratch, "here");
    let error = here.copy("app:1", again.inner()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    here.copy_with("app:1", again.inner(), options()).unwrap();
    assert_eq!(here.images().unwrap().len(), 2);
    let error = here.copy("absent", there.inner()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let options = CopyOptions::default().with_name("not a name");
    let error = here.copy_with("app:1", there.inner(), options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn blobs_and_ingests_are_removed_one_by_one() {
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let cas = root(&scratch, "root");
    let image = Image::new(1, 2);
    image.write(&scratch.path().join("layout"), "app");
    cas.import(scratch.path().join("layout")).unwrap();
    let layer = image.layers[0].digest;
    let error = cas.remove_blobs([layer]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    let changes = BTreeMap::from([("note".to_owned(), Some("mine".to_owned()))]);
    let labels = cas.label_blob(&layer, &changes).unwrap();
    assert_eq!(labels["note"], "mine");
    let force = RemoveOptions::default().with_force(true);
    let removed = cas.remove_blobs_with([layer], force).unwrap();
    assert_eq!(removed.blobs, [(layer, image.layers[0].size)]);
    assert!(!cas.check("app").unwrap().is_complete());

    assert_eq!(cas.ingests().unwrap(), []);
    let key = Digest::sha256(b"begun").to_string();
    cas::backend::pool::wait(async {
        let mut ingest = cas.store().content.begin(&key).await.unwrap();
        ingest.append("be".into()).await.unwrap();
        let error = cas.inner().discard_ingest(&key).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
    });
    let listed = cas.ingests().unwrap();
    assert_eq!((listed[0].key.as_str(), listed[0].offset), (&*key, 2));
    cas.discard_ingest(&key).unwrap();
    let error = cas.discard_ingest(&key).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
