//! Lists, and what they are sorted by.

use std::time::{Duration, SystemTime};

use cas_aci::{AciInfo, Catalogue, Key, SortField, WriteOptions};
use cas_core::pool::wait;
use cas_core::records::Batch;
use cas_core::{Algorithm, Digest};

use super::common::*;

#[test]
fn information_is_sorted_by_any_field_in_either_direction() {
    let acis = open(&memory());
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let mut batch = Batch::new();
    let key = |text: &str| Key::new(Digest::of(Algorithm::Sha512, text.as_bytes())).unwrap();
    for (name, latest, imported, used, size, packed, tree) in [
        ("a", true, 3, 9, 10, 1, 7),
        ("b", false, 2, 8, 10, 3, 8),
        ("c", false, 1, 7, 30, 2, 9),
    ] {
        let mut info = AciInfo::new(key(name), name, latest, at(imported), size, tree);
        info.last_used = at(used);
        info.blob.size = packed;
        acis.catalogue().write_aci_info(&mut batch, &info).unwrap();
    }
    wait(acis.catalogue().commit(&batch)).unwrap();
    let sorted = |fields: &[SortField], ascending| -> String {
        let infos = wait(acis.get_all_aci_infos(fields, ascending)).unwrap();
        infos.into_iter().map(|info| info.name).collect()
    };
    for (field, expected) in [
        (SortField::Name, "abc"),
        (SortField::ImportTime, "cba"),
        (SortField::LastUsed, "cba"),
        (SortField::PackedSize, "acb"),
        (SortField::TreeStoreSize, "abc"),
    ] {
        assert_eq!(sorted(&[field], true), expected, "{field:?}");
        let reverse: String = expected.chars().rev().collect();
        assert_eq!(sorted(&[field], false), reverse, "{field:?}");
    }
    assert_eq!(
        sorted(&[SortField::Size, SortField::ImportTime], true),
        "bac"
    );
    assert_eq!(sorted(&[SortField::Latest, SortField::Name], false), "acb");
    let by_key = sorted(&[SortField::Key], true);
    assert_eq!(sorted(&[], true), by_key);
}

#[test]
fn changes_of_one_batch_are_made_together() {
    on_every_store(|store| {
        let acis = open(&store);
        let key = write(&acis, &aci(&manifest("a", "")));
        let catalogue: &Catalogue = acis.catalogue();
        let mut info = wait(catalogue.get_aci_info(&key)).unwrap().unwrap();
        info.tree_store_size = 7;
        let mut batch = Batch::new();
        catalogue.write_aci_info(&mut batch, &info).unwrap();
        let remote = cas_aci::Remote::new("https://host/a.aci", "");
        catalogue.write_remote(&mut batch, &remote).unwrap();
        wait(catalogue.commit(&batch)).unwrap();
        let found = wait(catalogue.get_all_aci_infos(&[SortField::Name], true)).unwrap();
        assert_eq!(found, std::slice::from_ref(&info));
        assert_eq!(
            wait(catalogue.get_all_remotes()).unwrap(),
            std::slice::from_ref(&remote)
        );
        let mut batch = Batch::new();
        catalogue.remove_aci_info(&mut batch, &info).unwrap();
        catalogue.remove_remote(&mut batch, &remote).unwrap();
        wait(catalogue.commit(&batch)).unwrap();
        assert_eq!(wait(catalogue.get_aci_info(&key)).unwrap(), None);
        assert!(wait(acis.resolve_name("a")).unwrap().is_empty());
        assert!(wait(catalogue.get_all_remotes()).unwrap().is_empty());
    });
}

#[test]
fn a_dump_shows_the_beginning_of_each_blob() {
    let store = memory();
    let acis = open(&store);
    let text = versioned("example.com/long", &"9".repeat(200));
    let key = write_with(&acis, &aci(&text), WriteOptions::default());
    let dump = |hex| {
        let mut lines = Vec::new();
        wait(acis.dump(hex, |line| lines.push(line.to_owned()))).unwrap();
        lines
    };
    let lines = dump(false);
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line.starts_with(&key.half())));
    assert!(
        lines[1].contains(r#"{\"acKind\":\"ImageManifest\""#),
        "{}",
        lines[1]
    );
    let digits = dump(true).remove(1);
    assert_eq!(digits.rsplit(' ').next().unwrap().len(), 256);
    let info = wait(acis.get_aci_info(&key.half())).unwrap();
    wait(cas_core::ContentExt::remove(
        &*store.content,
        &info.blob.digest,
    ))
    .unwrap();
    assert!(dump(false)[0].ends_with(" missing"));
}
