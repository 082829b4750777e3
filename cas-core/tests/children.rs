//! The children of documents, and the handlers that filter, order and label them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cas_core::dispatch::{
    children, children_handler, dispatch, filter_platforms, handler_fn, handlers, limit_manifests,
    read,
};
use cas_core::lease::{
    child_gc_labels, child_gc_labels_filter_layers, set_children_labels,
    set_children_mapped_labels, set_labels,
};
use cas_core::platform::{All, Only};
use cas_core::{Descriptor, Digest, ErrorKind, Handler, Labels, MediaType, Next, Store};

mod support;
use support::{config, image, index, manifest, named, parts, put, store};

fn next(listed: &[Descriptor]) -> Next {
    Next::Children(listed.to_vec())
}

#[tokio::test]
async fn a_manifest_has_config_and_layers_as_children_and_a_leaf_has_none() {
    let store = store();
    let layers = [
        put(&store, MediaType::OCI_LAYER_GZIP, b"1").await,
        put(&store, MediaType::OCI_LAYER, b"2").await,
    ];
    let config = config(&store, "linux/amd64", &[]).await;
    let manifest = manifest(&store, config.clone(), &layers).await;
    let listed = children(&*store.content, &manifest).await.unwrap();
    assert_eq!(listed, [vec![config.clone()], layers.to_vec()].concat());
    let root = index(&store, std::slice::from_ref(&manifest)).await;
    let handler = children_handler(&*store.content);
    assert_eq!(handler.handle(&root).await.unwrap(), next(&[manifest]));
    let unknown = Descriptor::of(MediaType::from("application/unheard-of"), b"absent");
    for leaf in [&config, &layers[0], &unknown] {
        assert_eq!(handler.handle(leaf).await.unwrap(), Next::NONE);
    }
    let absent = Descriptor::of(MediaType::OCI_INDEX, b"absent");
    let error = handler.handle(&absent).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// The bytes are stored as a blob of another type, and then listed as a document.
#[tokio::test]
async fn ambiguous_documents_are_refused() {
    let store = store();
    let descriptor = serde_json::to_string(&Descriptor::of(MediaType::OCI_LAYER, b"1")).unwrap();
    let both = format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[],"manifests":[]}}"#);
    let claims = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#,
        MediaType::OCI_MANIFEST
    );
    let empty = format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#,
        serde_json::to_string(&Descriptor::of(MediaType::OCI_EMPTY, b"{ }")).unwrap()
    );
    let schema1 = r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned();
    for (text, media_type) in [
        (&both, MediaType::OCI_MANIFEST),
        (&both, MediaType::OCI_INDEX),
        (&claims, MediaType::OCI_INDEX),
        (&empty, MediaType::OCI_MANIFEST),
        (&schema1, MediaType::DOCKER_MANIFEST),
    ] {
        let opaque = put(&store, MediaType::from("x/y"), text.as_bytes()).await;
        let listed = Descriptor::new(media_type, opaque.digest, opaque.size);
        let error = children(&*store.content, &listed).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{text}");
    }
}

#[tokio::test]
async fn embedded_data_is_checked_and_used_instead_of_the_store() {
    let store = store();
    let text = br#"{"schemaVersion":2,"manifests":[]}"#;
    let mut descriptor = Descriptor::of(MediaType::OCI_INDEX, text);
    descriptor.data = Some(BASE64_STANDARD.encode(text));
    assert_eq!(children(&*store.content, &descriptor).await.unwrap(), []);
    let same_length = [&text[..text.len() - 1], b" "].concat();
    for wrong in [
        "?".to_owned(),
        BASE64_STANDARD.encode(b"{}"),
        BASE64_STANDARD.encode(same_length),
    ] {
        descriptor.data = Some(wrong);
        let error = read(&*store.content, &descriptor).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}

/// Returns the platforms of the children, in order; `-` if a child has none.
async fn left(handler: impl Handler, root: &Descriptor) -> String {
    let Next::Children(listed) = handler.handle(root).await.unwrap() else {
        panic!("expected children");
    };
    let text = |child: &Descriptor| match &child.platform {
        None => "-".to_owned(),
        Some(platform) => platform.to_string(),
    };
    listed.iter().map(text).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn platforms_are_filtered_ordered_and_limited() {
    let store = store();
    let mut listed = vec![image(&store, "linux/riscv64").await];
    for platform in [
        "linux/arm/v5",
        "linux/amd64",
        "linux/arm/v7",
        "linux/arm/v6",
    ] {
        listed.push(named(&store, platform).await);
    }
    let root = index(&store, &listed).await;
    let arm = Only::new(&"linux/arm/v7".parse().unwrap());
    let children = || children_handler(&*store.content);
    let filtered = || filter_platforms(children(), &arm);
    let kept = left(filtered(), &root).await;
    assert_eq!(kept, "- linux/arm/v5 linux/arm/v7 linux/arm/v6");
    let ordered = left(limit_manifests(filtered(), &arm, 0), &root).await;
    assert_eq!(ordered, "linux/arm/v7 linux/arm/v6 linux/arm/v5 -");
    let best = left(limit_manifests(filtered(), &arm, 1), &root).await;
    assert_eq!(best, "linux/arm/v7");
    let stable = left(limit_manifests(children(), &All, 3), &root).await;
    assert_eq!(stable, "linux/arm/v5 linux/amd64 linux/arm/v7");
    let layers = limit_manifests(children(), &arm, 1)
        .handle(&listed[0])
        .await;
    assert_eq!(layers.unwrap(), next(&parts(&store, &listed[0]).await));

    let plan9 = Only::new(&"plan9/mips".parse().unwrap());
    let root = index(&store, &listed[1..]).await;
    let none = || filter_platforms(children(), &plan9);
    assert_eq!(left(limit_manifests(none(), &plan9, 0), &root).await, "");
    let error = limit_manifests(none(), &plan9, 1).handle(&root).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NotFound);
}

async fn labels(store: &Store, blob: &Descriptor) -> Labels {
    let record = store.blobs().load(&blob.digest).await.unwrap();
    record.unwrap().0.labels
}

fn gc(pairs: &[(&str, &Descriptor)]) -> Labels {
    let label = |(key, child): &(&str, &Descriptor)| {
        let key = format!("containerd.io/gc.ref.content.{key}");
        (key, child.digest.to_string())
    };
    pairs.iter().map(label).collect()
}

#[tokio::test]
async fn children_are_labelled_on_their_parents() {
    let store = store();
    let layers = [
        put(&store, MediaType::OCI_LAYER, b"1").await,
        put(&store, MediaType::DOCKER_LAYER_GZIP, b"2").await,
        put(&store, MediaType::from("application/unheard-of"), b"3").await,
    ];
    let config = config(&store, "linux/amd64", &[]).await;
    let manifest = manifest(&store, config.clone(), &layers).await;
    let nested = index(&store, std::slice::from_ref(&manifest)).await;
    let root = index(&store, &[manifest.clone(), nested.clone()]).await;
    let handler = set_children_labels(&store, children_handler(&*store.content));
    dispatch(&handler, None, std::slice::from_ref(&root))
        .await
        .unwrap();
    assert_eq!(
        labels(&store, &manifest).await,
        gc(&[
            ("config", &config),
            ("l.0", &layers[0]),
            ("l.1", &layers[1]),
            ("0", &layers[2])
        ])
    );
    assert_eq!(
        labels(&store, &root).await,
        gc(&[("m.0", &manifest), ("0", &nested)])
    );

    assert_eq!(
        child_gc_labels(&layers[0]),
        ["containerd.io/gc.ref.content.l."]
    );
    assert!(child_gc_labels_filter_layers(&layers[0]).is_empty());
    assert_eq!(
        child_gc_labels_filter_layers(&config),
        child_gc_labels(&config)
    );
}

#[tokio::test]
async fn referrers_are_labelled_by_their_digest() {
    let store = store();
    let subject = image(&store, "linux/amd64").await;
    let mut referrer = named(&store, "linux/arm64").await;
    let key = "io.containerd.manifest.subject".to_owned();
    referrer.annotations.insert(key, subject.digest.to_string());
    let root = index(&store, &[subject.clone(), referrer.clone()]).await;
    let handler = set_children_labels(&store, children_handler(&*store.content));
    handler.handle(&root).await.unwrap();
    let of_referrer = format!("referrer.sha256.{}", &referrer.digest.hex()[..12]);
    assert_eq!(
        labels(&store, &root).await,
        gc(&[("m.0", &subject), (&of_referrer, &referrer)])
    );
}

#[tokio::test]
async fn layers_of_every_type_are_labelled_as_layers() {
    let checkpoint = MediaType::CONTAINERD_CHECKPOINT;
    let options = MediaType::CONTAINERD_CHECKPOINT_OPTIONS;
    let encrypted = "application/vnd.docker.image.rootfs.diff.tar.gzip+encrypted";
    for (media_type, expected) in [
        (checkpoint, "config"),
        (MediaType::CONTAINERD_CHECKPOINT_CONFIG, "config"),
        (options, ""),
        (MediaType::from(encrypted), "l."),
        (
            MediaType::from("application/vnd.oci.image.layer.v1.squashfs"),
            "l.",
        ),
        (MediaType::DOCKER_LAYER_FOREIGN_GZIP, "l."),
    ] {
        let child = Descriptor::of(media_type, b"child");
        let expected = format!("containerd.io/gc.ref.content.{expected}");
        assert_eq!(child_gc_labels(&child), [expected], "{}", child.media_type);
        let is_layer = child.media_type.is_layer();
        assert_eq!(child_gc_labels_filter_layers(&child).is_empty(), is_layer);
    }
}

#[tokio::test]
async fn labels_are_numbered_and_others_stay() {
    let store = store();
    let parent = image(&store, "linux/amd64").await;
    let mine: Labels = [("mine".to_owned(), "1".to_owned())].into();
    set_labels(&store, &parent, &mine).await.unwrap();
    let listed: Vec<_> = (0..3u8)
        .map(|number| Descriptor::of(MediaType::OCI_LAYER, &[number]))
        .collect();
    let lists = || {
        let listed = listed.clone();
        handler_fn(move |_| {
            let listed = listed.clone();
            async move { Ok(Next::Children(listed)) }
        })
    };
    let map = |_: &Descriptor| vec!["plain".to_owned(), "dot.".to_owned()];
    let handler = set_children_mapped_labels(&store, lists(), map);
    let passed = handlers(vec![Box::new(handler)])
        .handle(&parent)
        .await
        .unwrap();
    assert_eq!(passed, next(&listed));
    let text = |number: usize| listed[number].digest.to_string();
    let expected: Labels = [
        ("mine", "1".to_owned()),
        ("plain", text(0)),
        ("plain1", text(1)),
        ("plain2", text(2)),
        ("dot.0", text(0)),
        ("dot.1", text(1)),
        ("dot.2", text(2)),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    assert_eq!(labels(&store, &parent).await, expected);

    let absent = Descriptor::new(MediaType::OCI_MANIFEST, Digest::sha256(b"absent"), 6);
    let handler = set_children_mapped_labels(&store, lists(), map);
    let error = handler.handle(&absent).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// A parent may have more children than the number of labels that a user may set.
#[tokio::test]
async fn every_child_of_a_wide_index_is_labelled() {
    let store = store();
    let child = |number: u32| Descriptor::of(MediaType::OCI_MANIFEST, &number.to_be_bytes());
    let listed: Vec<_> = (0..1000).map(child).collect();
    let root = index(&store, &listed).await;
    let handler = set_children_labels(&store, children_handler(&*store.content));
    handler.handle(&root).await.unwrap();
    assert_eq!(labels(&store, &root).await.len(), 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn labels_that_are_set_at_once_are_all_kept() {
    let store = store();
    let blob = put(&store, MediaType::OCI_LAYER, b"1").await;
    let writers: Vec<_> = (0..32)
        .map(|number| {
            let (store, blob) = (store.clone(), blob.clone());
            tokio::spawn(async move {
                let mine: Labels = [(format!("k{number}"), "v".to_owned())].into();
                set_labels(&store, &blob, &mine).await.unwrap();
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(labels(&store, &blob).await.len(), 32);
}
