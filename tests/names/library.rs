//! The library keeps names exactly as programs give them.

use cas::image::{FullName, Reference};
use cas::layer::Naming;
use cas::layer::import::Source;
use cas::{Cas, ErrorKind, ImageRef, ImportOptions};

use crate::scene::{Scene, ref_name};

#[tokio::test]
async fn names_of_other_systems_come_back_as_they_were_put() {
    for store in ["fs", "redb"] {
        let scene = Scene::on(store);
        scene.import(&["app:1"]);
        let cas = Cas::open(&scene.root).await.unwrap();
        let image = cas.image("docker.io/library/app:1").await.unwrap();
        let long = "n".repeat(cas::limit::NAME);
        let names = [
            "6ba7b810-9dad-11d1-80b4-00c04fd430c8-library/alpine:3.12",
            "example.com/reduce-worker~1.0.0,os=linux",
            "import-2024-01-02@sha256:abc",
            "app",
            "app:1",
            "UPPER/Case",
            "a__b---c..d/",
            "größe:名前",
            &long,
        ];
        for name in names {
            assert_eq!(cas.tag(&image, name).await.unwrap().name.as_str(), name);
            assert_eq!(cas.image(name).await.unwrap().name.as_str(), name);
            let name: Reference = name.parse().unwrap();
            assert_eq!(cas.image(&name).await.unwrap().name, name);
        }
        let all: Vec<String> = cas
            .images()
            .await
            .unwrap()
            .iter()
            .map(|one| one.name.to_string())
            .collect();
        assert_eq!(all.len(), names.len() + 1, "{store}: {all:?}");
        for name in names {
            assert!(all.iter().any(|one| one == name), "{name}");
            cas.remove(name).await.unwrap();
        }
        let left = cas.images().await.unwrap();
        assert_eq!(left, [image], "{store}");
        let long = "n".repeat(cas::limit::NAME + 1);
        for bad in ["", "a b", "a\n", "../x", "a\u{202e}b", &long] {
            let error = cas.tag("docker.io/library/app:1", bad).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad:?}");
        }
    }
}

#[tokio::test]
async fn what_is_stored_exactly_comes_before_what_docker_takes_for_it() {
    let scene = Scene::new();
    scene.import(&["app:1", "app:2"]);
    let cas = Cas::open(&scene.root).await.unwrap();
    let one = cas.image("app:1").await.unwrap();
    assert_eq!(one.name.as_str(), "docker.io/library/app:1");
    let other = cas.image("docker.io/library/app:2").await.unwrap();
    cas.tag(&other, "app:1").await.unwrap();
    assert_eq!(cas.image("app:1").await.unwrap().target, other.target);
    assert_eq!(cas.image(&one.name).await.unwrap().target, one.target);
    let typed = cas.image(ImageRef::typed("app:1")).await.unwrap_err();
    assert_eq!(typed.kind(), ErrorKind::InvalidArgument);
    // A name in full takes the place of its spellings.
    let full: FullName = "app:1".parse().unwrap();
    cas.tag(&other, &full).await.unwrap();
    let found = cas.image(&full).await.unwrap();
    assert_eq!((found.name, found.target), (full.name(), other.target));
    assert_eq!(cas.images().await.unwrap().len(), 2);
    cas.remove("app:1").await.unwrap();
    let error = cas.remove("app:1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn an_import_reads_names_as_it_is_told() {
    let scene = Scene::new();
    let layout = scene.layout(&[(ref_name("v1"), "one"), (ref_name("a~b"), "other")]);
    let cas = Cas::open(&scene.root).await.unwrap();
    let names = |images: &[cas::Image]| -> Vec<String> {
        images.iter().map(|image| image.name.to_string()).collect()
    };
    let images = cas.import(&layout).await.unwrap();
    assert_eq!(names(&images), ["a~b", "v1"]);
    let source = || Source::Path((&layout).into());
    let docker = || ImportOptions::default().with_naming(Naming::Docker);
    let error = cas.import_with(source(), docker()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    for (naming, given, expected) in [
        (Naming::Exact, "mine", ["mine:a~b", "mine:v1"]),
        (Naming::Exact, "x y", ["", ""]),
        (Naming::Docker, "mine", ["", ""]),
    ] {
        let Ok(given) = given.parse::<Reference>() else {
            continue;
        };
        let options = ImportOptions::default()
            .with_naming(naming)
            .with_name(given);
        match cas.import_with(source(), options).await {
            Ok(stored) => {
                let images: Vec<cas::Image> = stored.into_iter().map(|one| one.image).collect();
                assert_eq!(names(&images), expected);
            }
            Err(error) => assert_eq!(
                (error.kind(), expected[0]),
                (ErrorKind::InvalidArgument, "")
            ),
        }
    }
}

#[cfg(feature = "registry")]
#[tokio::test]
async fn references_of_registries_are_read_as_docker_reads_them() {
    let scene = Scene::new();
    let cas = Cas::open(&scene.root).await.unwrap();
    for bad in ["", "App", "a b", "https://x.test/a", &"ab".repeat(32)] {
        let error = cas.pull(bad).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad}");
    }
    scene.import(&["app:latest"]);
    let never = || cas::PullOptions::default().with_policy(cas::Policy::Never);
    for typed in ["app", "docker.io/app", "index.docker.io/library/app:latest"] {
        let pulled = cas.pull_with(typed, never()).await.unwrap();
        assert_eq!(pulled.image.name.as_str(), "docker.io/library/app:latest");
    }
    let error = cas.pull_with("app:2", never()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
