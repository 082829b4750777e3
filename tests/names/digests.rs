//! Digests and their first digits stand for images.

use crate::scene::Scene;

#[test]
fn every_command_takes_a_digest_or_its_first_digits() {
    let scene = Scene::new();
    scene.import(&["app:1", "app:2"]);
    let digest = scene.target("app:1");
    let hex = &digest["sha256:".len()..];
    for (number, typed) in [
        &digest,
        hex,
        &digest[..19],
        &hex[..12],
        &hex[..7],
        &digest[..12],
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(scene.target(typed), digest, "{typed}");
        scene.ok(&["tree", typed]);
        scene.ok(&["unpack", typed, &scene.path(&format!("tree-{number}"))]);
        scene.ok(&["bundle", typed, &scene.path(&format!("bundle-{number}"))]);
        let out = scene.path("out.tar");
        assert!(
            scene
                .ok(&["export", typed, "-o", &out])
                .starts_with("app:1 -> ")
        );
        scene.ok(&["tag", typed, "again:1"]);
        assert_eq!(scene.target("again:1"), digest);
        scene.ok(&["rmi", "again:1"]);
        let why = scene.json(&["why", typed]).remove(0);
        assert_eq!(why["resource"], format!("content/{digest}"));
    }
    scene.ok(&["rmi", &hex[..12]]);
    scene.fails(&["inspect", "app:1"], 3);
    assert_eq!(scene.names().len(), 1);
}

#[test]
fn digits_are_recognised_before_a_name_and_words_after_it() {
    let scene = Scene::new();
    scene.import(&["app:1", "app:2"]);
    let (one, other) = (scene.target("app:1"), scene.target("app:2"));
    let hex = &one["sha256:".len()..];
    for digits in [7, 12, 30, 63] {
        scene.ok(&["tag", "app:2", &hex[..digits]]);
        assert_eq!(scene.target(&hex[..digits]), one, "{digits}");
        assert_eq!(
            scene.target(&format!("{}:latest", &hex[..digits])),
            other,
            "{digits}"
        );
    }
    for digits in [1, 3, 6] {
        scene.ok(&["tag", "app:2", &hex[..digits]]);
        assert_eq!(scene.target(&hex[..digits]), other, "{digits}");
        assert_eq!(
            scene.target(&format!("sha256:{}", &hex[..digits])),
            one,
            "{digits}"
        );
        scene.ok(&["rmi", &format!("{}:latest", &hex[..digits])]);
    }
    // What reads like a digest cannot be given as a name.
    for bad in [&one, hex, "sha256:1", "docker.io/library/sha512:x"] {
        scene.fails(&["tag", "app:2", bad], 2);
    }
}

#[test]
fn digits_of_several_images_are_refused_and_those_of_none_are_not_found() {
    let scene = Scene::new();
    let names: Vec<String> = (0..18).map(|number| format!("app:{number}")).collect();
    scene.import(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let digests: Vec<String> = scene.names().values().map(ToString::to_string).collect();
    let first = |digest: &String| digest[.."sha256:".len() + 1].to_owned();
    // There are more images than first digits.
    let shared = digests.iter().map(first).find(|prefix| {
        digests
            .iter()
            .filter(|digest| digest.starts_with(prefix))
            .count()
            > 1
    });
    let said = scene.fails(&["inspect", &shared.unwrap()], 2);
    assert!(said.matches("(sha256:").count() > 1, "{said}");
    for bad in ["sha256:", "sha256:xyz", &format!("{}0", digests[0])] {
        let said = scene.fails(&["tree", bad], 2);
        assert!(
            said.contains("not a digest: expected all or the first digits"),
            "{said}"
        );
    }
    for absent in [
        "sha256:000000000000",
        "0000000000000",
        &"0".repeat(64),
        "sha512:12",
    ] {
        scene.fails(&["inspect", absent], 3);
        scene.fails(&["rmi", absent], 3);
    }
}

#[test]
fn a_digest_of_several_names_removes_none_of_them() {
    let scene = Scene::new();
    scene.import(&["app:1"]);
    scene.ok(&["tag", "app:1", "me/app:2"]);
    let digest = scene.target("app:1");
    let said = scene.fails(&["rmi", &digest], 2);
    assert!(said.contains("docker.io/me/app:2"), "{said}");
    assert_eq!(scene.names().len(), 2);
    scene.ok(&["rmi", "me/app:2"]);
    scene.ok(&["rmi", &digest]);
    assert!(scene.names().is_empty());
    // Without a name it is still found, until it is collected.
    scene.ok(&["inspect", &digest]);
    scene.ok(&["tag", &digest[..19], "back:1"]);
    assert_eq!(scene.target("back:1"), digest);
}
