//! App Container images (ACI) for tests.

use crate::archive::Tar;

/// Returns the text of an image manifest, a JSON object. `more` contains further members of the
/// object, with a comma before each of them.
pub fn manifest(name: &str, more: &str) -> String {
    format!(r#"{{"acKind":"ImageManifest","acVersion":"0.8.11","name":"{name}"{more}}}"#)
}

/// Returns the text of a manifest with the label `version`.
pub fn versioned(name: &str, version: &str) -> String {
    let labels = format!(r#","labels":[{{"name":"version","value":"{version}"}}]"#);
    manifest(name, &labels)
}

/// Returns an uncompressed ACI with this manifest and the file `/hello`.
pub fn aci(manifest: &str) -> Vec<u8> {
    let tar = Tar::new().file("manifest", manifest).dir("rootfs");
    tar.file("rootfs/hello", "hello\n").end()
}
