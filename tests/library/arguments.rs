//! The arguments that verbs accept.

use cas::blocking;
use cas::bundle::{Ids, UserIds};
use cas::image::Reference;
use cas::{BundleOptions, Cas, DeleteOptions, ErrorKind, Platforms, QueryOptions, UnpackOptions};

use super::material::Image;

#[tokio::test]
async fn an_image_is_accepted_as_a_name_or_as_itself() {
    let scratch = tempfile::tempdir().unwrap();
    let (layout, other) = (scratch.path().join("layout"), scratch.path().join("other"));
    Image::new(1, 1).write(&layout, "app:1");
    Image::new(1, 2).write(&other, "app:1");
    let cas = Cas::open(scratch.path().join("root")).await.unwrap();
    let image = cas.import(&layout).await.unwrap().remove(0);
    let name: Reference = "app:1".parse().unwrap();
    let digest = image.target.digest;
    for found in [
        cas.manifest("app:1").await,
        cas.manifest(String::from("app:1")).await,
        cas.manifest(&String::from("app:1")).await,
        cas.manifest(&name).await,
        cas.manifest(&image).await,
    ] {
        assert_eq!(found.unwrap().descriptor.digest, digest);
    }
    cas.tag(&image, "kept:1").await.unwrap();

    // The image still has its target, although its name was moved.
    let moved = cas.import(&other).await.unwrap().remove(0);
    assert_ne!(moved.target.digest, digest);
    cas.unpack(&image, scratch.path().join("rootfs"))
        .await
        .unwrap();
    let error = cas.remove(&image).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    cas.remove(&moved).await.unwrap();
    let error = cas.image(&name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn a_synchronous_removal_frees_what_the_name_kept() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = scratch.path().join("layout");
    Image::new(2, 1).write(&layout, "app:1");
    let cas = blocking::Cas::open(scratch.path().join("root")).unwrap();
    let image = cas.import(&layout).unwrap().remove(0);
    cas.tag(&image, "kept:1").unwrap();
    let synchronous = DeleteOptions::default().with_synchronous(true);
    let removed = cas.remove_with("app:1", synchronous.clone()).unwrap();
    assert!(removed.blobs.is_empty(), "another name keeps them");
    let removed = cas.remove_with("kept:1", DeleteOptions::default()).unwrap();
    assert!(removed.blobs.is_empty(), "the next collection removes them");
    assert!(cas.check(&image).unwrap().is_complete());
    cas.import(&layout).unwrap();
    let removed = cas.remove_with("app:1", synchronous).unwrap();
    assert_eq!(removed.blobs.len(), 4);
    assert!(!cas.check(&image).unwrap().available);
}

#[test]
fn a_wrong_argument_is_an_error_of_the_verb() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = scratch.path().join("layout");
    Image::new(1, 1).write(&layout, "app:1");
    let cas = blocking::Cas::open(scratch.path().join("root")).unwrap();
    let image = cas.import(&layout).unwrap().remove(0);
    let error = cas.image("no name").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    #[cfg(feature = "registry")]
    {
        let error = cas.pull("App:1").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    let all = QueryOptions::default().with_platforms(Platforms::All);
    let error = cas.check_with(&image, all).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("one platform"), "{error}");

    // Neither a snapshot nor a mount can belong to one user.
    let rootless = UnpackOptions::default().with_rootless(true);
    let error = cas.snapshot_with(&image, rootless).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("cas unshare"), "{error}");
    let own = |own| Ids { own, more: vec![] };
    let ids = UserIds {
        users: own(1),
        groups: own(1),
    };
    let both = BundleOptions::default()
        .with_mounted(true)
        .with_rootless(ids);
    let directory = scratch.path().join("bundle");
    let error = cas.bundle_with(&image, &directory, both).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(!directory.exists());
    cas.close().unwrap();
}
