//! The tool in `cas-aci/examples`.

#[path = "../../examples/aci_store.rs"]
#[allow(dead_code, unreachable_pub, reason = "its `main` is not called")]
mod aci_store;

use super::common::*;

#[test]
fn the_tool_imports_lists_reads_and_removes() {
    let root = tempfile::TempDir::new().unwrap();
    let (directory, file) = (root.path().join("store"), root.path().join("a.aci"));
    let text = manifest("example.com/app", "");
    let archive = aci(&text);
    std::fs::write(&file, testkit::compress::xz(&archive)).unwrap();
    let tool = |command: &[&str]| {
        let words = [directory.to_str().unwrap()].into_iter();
        let words: Vec<String> = words
            .chain(command.iter().copied())
            .map(str::to_owned)
            .collect();
        let mut out = Vec::new();
        aci_store::run(&words, &mut out).map(|()| out)
    };
    let key = key_of(&archive).half();
    let imported = tool(&["import", file.to_str().unwrap()]).unwrap();
    assert_eq!(imported, format!("{key}\n").as_bytes());
    let listed = tool(&["list"]).unwrap();
    let line = format!("{key} example.com/app {}\n", archive.len());
    assert_eq!(listed, line.as_bytes());
    assert_eq!(tool(&["read", &key[..20]]).unwrap(), archive);
    assert_eq!(tool(&["manifest", &key]).unwrap(), text.as_bytes());
    let image = tool(&["image", &key, "example.com/app:1"]).unwrap();
    assert!(image.starts_with(b"sha256:"));
    assert!(tool(&["remove", &key]).unwrap().is_empty());
    assert!(tool(&["list"]).unwrap().is_empty());
    assert!(tool(&["remove", &key]).is_err());
    assert!(tool(&["unknown"]).is_err());
    let old = crate::rkt::directory_of_rkt();
    let done = tool(&["import-store", old.path().to_str().unwrap()]).unwrap();
    assert_eq!(String::from_utf8(done).unwrap().lines().count(), 2);
}
