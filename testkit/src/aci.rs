//! App Container images (ACI) for tests.

use crate::archive::Tar;

/// Returns the text of a manifest. `more` has further members, each with a comma before it.
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
