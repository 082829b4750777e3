//! Keys and names.

use std::time::{Duration, SystemTime};

use cas_aci::{Label, WriteOptions};
use cas_core::ErrorKind;
use cas_core::pool::wait;

use super::common::*;

#[test]
fn a_key_is_found_by_its_first_digits_and_all_given_digits_count() {
    on_every_store(|store| {
        let acis = open(&store);
        let key = write(&acis, &aci(&manifest("a", "")));
        let whole = key.to_string();
        for digits in [2, 3, 64, 65, 128] {
            let found = wait(acis.resolve_key(&whole[..7 + digits])).unwrap();
            assert_eq!(found, key, "{digits}");
        }
        assert!(wait(acis.has_full_key(&whole)).unwrap());
        assert!(wait(acis.has_full_key(&key.half())).unwrap());
        for other in [&whole[..20], &whole[..72], "sha512-zz", "", "sha512-"] {
            assert!(!wait(acis.has_full_key(other)).unwrap(), "{other}");
        }
        // rkt cuts a key after 64 digits, and so finds an ACI although a later digit is wrong.
        let last = if whole.ends_with('0') { '1' } else { '0' };
        let wrong = format!("{}{last}", &whole[..134]);
        let error = wait(acis.resolve_key(&wrong)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(!wait(acis.has_full_key(&wrong)).unwrap());
    });
}

#[test]
fn an_ambiguous_key_lists_the_candidates() {
    let acis = open(&memory());
    // Of 257 keys, at least two begin with the same two digits.
    let mut keys: Vec<_> = (0..257)
        .map(|number| write(&acis, &aci(&versioned("a", &number.to_string()))))
        .collect();
    keys.sort();
    let same = |pair: &&[cas_aci::Key]| pair[0].hex()[..2] == pair[1].hex()[..2];
    let pair = keys.windows(2).find(same).unwrap();
    let error = wait(acis.resolve_key(&pair[0].half()[..9])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let said = error.to_string();
    assert!(
        said.contains(&pair[0].half()) && said.contains(&pair[1].half()),
        "{said}"
    );
    let prefix = pair[0].half()[..9].parse().unwrap();
    let found = wait(acis.catalogue().get_aci_infos_with_key_prefix(&prefix)).unwrap();
    let expected = keys.iter().filter(|key| prefix.matches(key));
    assert!(found.iter().map(|info| &info.key).eq(expected));
}

#[test]
fn a_name_finds_all_of_its_images_and_no_others() {
    on_every_store(|store| {
        let acis = open(&store);
        let mut keys =
            ["1", "2"].map(|version| write(&acis, &aci(&versioned("example.com/a", version))));
        keys.sort();
        write(&acis, &aci(&manifest("example.com/a/b", "")));
        write(&acis, &aci(&manifest("example.com/a-b", "")));
        assert_eq!(wait(acis.resolve_name("example.com/a")).unwrap(), keys);
        let infos = wait(acis.catalogue().get_aci_infos_with_name("example.com/a")).unwrap();
        assert_eq!(infos.len(), 2);
        assert!(wait(acis.resolve_name("example.com")).unwrap().is_empty());
        let error = wait(acis.resolve_name("Not a name")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    });
}

#[test]
fn the_latest_is_preferred_and_then_the_last_import() {
    let acis = open(&memory());
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let import = |version: &str, seconds, latest| {
        let options = WriteOptions::default()
            .with_latest(latest)
            .with_import_time(at(seconds));
        write_with(&acis, &aci(&versioned("a", version)), options)
    };
    let (old, new) = (import("1", 10, false), import("2", 20, false));
    let get = |labels: &[Label]| wait(acis.get_aci("a", labels));
    assert_eq!(get(&[]).unwrap(), new);
    let latest = import("3", 5, true);
    assert_eq!(get(&[]).unwrap(), latest);
    assert_eq!(get(&[Label::new("version", "1")]).unwrap(), old);
    assert_eq!(get(&[Label::new("version", "3")]).unwrap(), latest);
    // Of two ACIs with `latest`, the ACI that was imported last is found.
    let later = import("4", 6, true);
    assert_eq!(get(&[]).unwrap(), later);
    for labels in [
        [Label::new("version", "5")],
        [Label::new("os", "linux")],
        [Label::new("version", "")],
    ] {
        assert_eq!(get(&labels).unwrap_err().kind(), ErrorKind::NotFound);
    }
    let error = wait(acis.get_aci("b", &[])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn a_lost_manifest_does_not_hide_the_other_images() {
    let store = memory();
    let acis = open(&store);
    let lost = write(&acis, &aci(&versioned("a", "1")));
    let lost = wait(acis.get_aci_info(&lost.half())).unwrap();
    cas_core::pool::wait(cas_core::ContentExt::remove(
        &*store.content,
        &lost.manifest.digest,
    ))
    .unwrap();
    let error = wait(acis.get_aci("a", &[])).unwrap_err();
    assert!(
        error.to_string().contains("import the ACI again"),
        "{error}"
    );
    let other = write(&acis, &aci(&versioned("a", "2")));
    assert_eq!(wait(acis.get_aci("a", &[])).unwrap(), other);
    // Importing it again brings it back.
    write(&acis, &aci(&versioned("a", "1")));
    wait(acis.get_aci("a", &[Label::new("version", "1")])).unwrap();
}
