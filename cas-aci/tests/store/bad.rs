//! Every verb with a bad key, an unknown key, and after close.

use std::io::Cursor;

use cas_aci::{AciStore, Remote, WriteOptions};
use cas_core::pool::wait;
use cas_core::records::{Expect, Notes};
use cas_core::{Error, ErrorKind};

use super::common::*;

/// Calls every verb that takes a key. Returns their errors.
fn errors(acis: &AciStore, key: &str) -> Vec<Error> {
    vec![
        wait(acis.resolve_key(key)).unwrap_err(),
        wait(acis.get_aci_info(key)).unwrap_err(),
        wait(acis.read_stream(key)).err().unwrap(),
        wait(acis.get_image_manifest(key)).unwrap_err(),
        wait(acis.get_image_manifest_json(key)).unwrap_err(),
        wait(acis.update_tree_store_size(key, 1)).unwrap_err(),
        wait(acis.remove_aci(key)).unwrap_err(),
    ]
}

#[test]
fn a_bad_or_unknown_key_is_an_error_of_every_verb_that_names_it() {
    let acis = open(&memory());
    write(&acis, &aci(&manifest("a", "")));
    let long = format!("sha512-{}", "0".repeat(129));
    for bad in [
        "",
        "a",
        "sha512-",
        "sha512-0",
        "sha512-0g",
        "SHA512-00",
        "../../etc",
        &long,
    ] {
        for error in errors(&acis, bad) {
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad}: {error}");
            assert!(error.to_string().contains("expected sha512-"), "{error}");
        }
    }
    let unknown = key_of(b"unknown").to_string();
    for error in errors(&acis, &unknown) {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains(&unknown[..20]), "{error}");
    }
    assert_eq!(wait(acis.get_all_aci_infos(&[], true)).unwrap().len(), 1);
}

#[test]
fn after_close_every_verb_of_every_handle_fails() {
    let acis = open(&memory());
    let key = write(&acis, &aci(&manifest("a", "")));
    let mut reader = wait(acis.read_stream(&key.half())).unwrap();
    wait(acis.clone().close()).unwrap();
    let server = crate::remotes::unused();
    let mut failed = errors(&acis, &key.half());
    failed.extend([
        wait(acis.close()).unwrap_err(),
        wait(acis.write_aci(Cursor::new(Vec::new()))).unwrap_err(),
        wait(acis.has_full_key(&key.half())).unwrap_err(),
        wait(acis.resolve_name("a")).unwrap_err(),
        wait(acis.get_aci("a", &[])).unwrap_err(),
        wait(acis.get_all_aci_infos(&[], true)).unwrap_err(),
        wait(acis.get_remote("u")).unwrap_err(),
        wait(acis.get_all_remotes()).unwrap_err(),
        wait(acis.write_remote(&Remote::new("u", ""))).unwrap_err(),
        wait(acis.fetch(&server, "u", "", WriteOptions::default())).unwrap_err(),
        wait(acis.sweep(std::time::SystemTime::now())).unwrap_err(),
        wait(acis.dump(false, |_| ())).unwrap_err(),
    ]);
    for error in failed {
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
        assert!(error.to_string().contains("open it again"), "{error}");
    }
    // A reader that was opened before can still be read.
    std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
}

#[test]
fn a_catalogue_of_a_newer_version_or_a_damaged_one_is_refused() {
    let store = memory();
    let acis = open(&store);
    write(&acis, &aci(&manifest("a", "")));
    let notes = Notes::new(store.records.clone(), "aci").unwrap();
    for (format, kind) in [
        ("2", ErrorKind::FailedPrecondition),
        ("x", ErrorKind::Corrupt),
        ("0", ErrorKind::Corrupt),
    ] {
        wait(notes.put("format", format.into(), Expect::Any)).unwrap();
        let error = wait(AciStore::open(store.clone())).err().unwrap();
        assert_eq!(error.kind(), kind, "{error}");
    }
    wait(notes.put("format", "1".into(), Expect::Any)).unwrap();
    assert_eq!(
        wait(open(&store).get_all_aci_infos(&[], true))
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn a_damaged_note_is_reported_and_not_passed_over() {
    let store = memory();
    let acis = open(&store);
    let key = write(&acis, &aci(&manifest("a", "")));
    let notes = Notes::new(store.records.clone(), "aci").unwrap();
    let image = format!("image/{}", key.hex());
    wait(notes.put(&image, "{".into(), Expect::Any)).unwrap();
    let error = wait(acis.get_all_aci_infos(&[], true)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains(&key.to_string()), "{error}");
}
