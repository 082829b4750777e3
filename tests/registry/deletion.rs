//! `cas registry rm`: tags, manifests and blobs.

use super::artifacts::{Artifacts, SBOM};
use super::fake::Fake;
use super::spec::{Abilities, Spec};
use crate::common::docker::{PROGRAM, Registry};
use crate::common::{can, fails, ok};

fn repository(registry: &Fake) -> String {
    format!("{}/team/app", registry.host)
}

#[test]
fn a_tag_a_manifest_and_a_blob_are_deleted_and_nothing_else() {
    let artifacts = Artifacts::new();
    let spec = Spec::new(Abilities::ALL);
    let registry = spec.start();
    let place = repository(&registry);
    ok(&mut artifacts.cas("own", &["push", "app:1", &registry.image()]));
    let digest = artifacts.image.digest.to_string();
    let rm = |more: &[&str]| artifacts.cas("own", &[&["registry", "rm"][..], more].concat());
    let said = ok(&mut rm(&[&registry.image()]));
    assert_eq!(said, format!("deleted {place}:1\n"));
    assert!(spec.get("1").is_none() && spec.get(&digest).is_some());
    fails(&mut rm(&[&registry.image()]), 3);
    ok(&mut rm(&[&format!("{place}@{digest}")]));
    assert!(spec.get(&digest).is_none());
    fails(&mut rm(&[&format!("{place}@{digest}")]), 3);
    ok(&mut rm(&["--blob", &format!("{place}@{digest}")]));
    assert_eq!(registry.count("DELETE", &format!("/blobs/{digest}")), 1);
    // Without a tag, the default tag is not deleted; `--blob` does not take a tag.
    let before = registry.seen().len();
    for arguments in [&[&*place][..], &["--blob", &format!("{place}:1")]] {
        fails(&mut rm(arguments), 2);
    }
    assert_eq!(registry.seen().len(), before);
}

#[test]
fn a_deleted_artifact_leaves_the_tag_that_lists_it() {
    let artifacts = Artifacts::new();
    for deletes in [true, false] {
        let spec = Spec::new(Abilities {
            deletes,
            ..Abilities::OLD
        });
        let registry = spec.start();
        let push = ["push", "--referrers", "app:1", &registry.image()];
        ok(&mut artifacts.cas("own", &push));
        let digest = artifacts.sbom.digest.to_string();
        let name = format!("{}@{digest}", repository(&registry));
        let mut rm = artifacts.cas("own", &["registry", "rm", &name]);
        let image = artifacts.image.digest.to_string();
        assert_eq!(spec.listed_by_tag(&image), std::slice::from_ref(&digest));
        if deletes {
            ok(&mut rm);
            assert!(spec.listed_by_tag(&image).is_empty());
            assert!(spec.get(&digest).is_none());
        } else {
            // What was not deleted is listed again.
            let said = fails(&mut rm, 2);
            assert!(said.contains("does not allow this deletion"), "{said}");
            assert_eq!(spec.listed_by_tag(&image), [digest]);
            assert_eq!(
                spec.get(&image.replace(':', "-")).unwrap()["manifests"][0]["artifactType"],
                SBOM
            );
        }
    }
}

#[test]
fn a_registry_of_docker_refuses_until_it_is_told_to_delete() {
    if !can(&[PROGRAM]) {
        return;
    }
    let artifacts = Artifacts::new();
    let registry = Registry::open(&artifacts.path(""));
    let there = registry.at("team/app:1");
    ok(&mut artifacts.cas("own", &["push", "--referrers", "app:1", &there]));
    let by_digest = registry.at(&format!("team/app@{}", artifacts.signature.digest));
    for name in [&there, &by_digest] {
        fails(&mut artifacts.cas("own", &["registry", "rm", name]), 2);
    }
    ok(&mut artifacts.cas("new", &["pull", "--referrers", &there]));
    artifacts.are_in("new", &there);
    assert_eq!(
        ok(&mut artifacts.cas("new", &["registry", "ls", &registry.host])),
        "team/app\n"
    );
}
