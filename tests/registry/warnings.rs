//! Warnings that a registry sends.

use super::artifacts::Artifacts;
use super::fake::Fake;
use super::sample::Sample;
use super::spec::{Abilities, Spec};
use crate::common::text;

#[test]
fn each_warning_of_a_registry_is_shown_once_and_escaped() {
    let sample = Sample::new(&[1000, 2000]);
    let registry = Fake::start(move |request| {
        sample
            .answer(request)
            .with("Warning", "299 - \"this registry ends \\\"soon\\\"\"")
            .with("Warning", "299 - \"\u{202e}eltit\"")
            .with("Warning", "110 proxy \"stale\"")
    });
    let artifacts = Artifacts::new();
    let pull = artifacts
        .cas("new", &["pull", &registry.image()])
        .output()
        .unwrap();
    assert!(pull.status.success());
    let said = text(&pull.stderr);
    let host = registry.image().split(':').next().unwrap().to_owned();
    assert_eq!(said.matches("says: ").count(), 2, "{said}");
    assert_eq!(
        said.matches("says: this registry ends \"soon\"").count(),
        1,
        "{said}"
    );
    assert_eq!(said.matches("says: \\u{202e}eltit").count(), 1, "{said}");
    assert!(said.contains(&format!("cas: warning: {host}")), "{said}");
    // `-q` suppresses the warnings.
    let pull = artifacts
        .cas("new", &["pull", "-q", &registry.image()])
        .output()
        .unwrap();
    assert_eq!(text(&pull.stderr), "");
}

#[test]
fn a_warning_about_an_upload_is_shown() {
    let spec = Spec::new(Abilities::ALL);
    let registry = spec.start_with(|request, spec| {
        let is_upload = request.is("PUT", "/uploads/");
        let warned = || {
            spec.answer(request)
                .with("Warning", "299 - \"nearly full\"")
        };
        is_upload.then(warned)
    });
    let artifacts = Artifacts::new();
    let push = artifacts
        .cas("own", &["push", "app:1", &registry.image()])
        .output()
        .unwrap();
    assert!(push.status.success());
    let said = text(&push.stderr);
    assert_eq!(said.matches("says: nearly full").count(), 1, "{said}");
}
