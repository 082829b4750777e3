//! `cas gc` as a bounded cache, and `cas images` with last uses.

use serde_json::Value;

use super::Shelf;

/// Returns the familiar names of what a command lists.
fn names(shelf: &Shelf, arguments: &[&str]) -> Vec<String> {
    let listed = shelf.json(arguments).into_iter();
    listed
        .map(|image| image["familiar"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn images_show_their_last_use_and_are_sorted() {
    let shelf = Shelf::new();
    shelf.ok(&["tag", "app:1", "app:0"]);
    let listed = shelf.json(&["images"]);
    assert_eq!(listed[0]["usedAt"], Value::Null);
    assert!(listed[1]["usedAt"].is_string(), "{listed:?}");
    let shown = shelf.ok(&["images"]);
    assert!(
        shown.contains("LAST USED") && shown.contains("never"),
        "{shown}"
    );
    assert_eq!(
        names(&shelf, &["images", "--sort", "used"]),
        ["app:0", "app:1"]
    );
    let reversed = ["images", "--sort", "used", "--reverse"];
    assert_eq!(names(&shelf, &reversed), ["app:1", "app:0"]);
    let created = ["images", "--sort", "created"];
    assert_eq!(names(&shelf, &created), ["app:1", "app:0"]);
    assert_eq!(names(&shelf, &["images", "--reverse"]), ["app:1", "app:0"]);
    assert_eq!(names(&shelf, &["images", "--sort", "size"]).len(), 2);
    let said = shelf.fails(&["images", "--sort", "colour"], 2);
    assert!(said.contains("created"), "{said}");
}

#[test]
fn gc_keeps_a_cache_within_its_bounds() {
    let shelf = Shelf::new();
    shelf.ok(&["tag", "app:1", "app:0"]);
    let dry = shelf.ok(&["gc", "--keep-last", "1", "--dry-run"]);
    assert!(
        dry.contains("images/app:") && dry.contains("would remove 1 image"),
        "{dry}"
    );
    shelf.ok(&["gc", "--older-than", "30d", "--max-size", "20GiB"]);
    assert_eq!(names(&shelf, &["images"]), ["app:0", "app:1"]);
    // The new name counts from its creation, which is later than the import.
    shelf.ok(&["gc", "--keep-last", "1"]);
    assert_eq!(names(&shelf, &["images"]), ["app:0"]);
    shelf.ok(&["tag", "app:0", "app:1"]);
    shelf.ok(&["rmi", "app:0"]);

    let lease = shelf.ok(&["lease", "create", "--id", "audit"]);
    assert_eq!(lease.trim(), "audit");
    let target = format!("content/{}", shelf.target());
    shelf.ok(&["lease", "add", "audit", &target]);
    let said = shelf.json(&["gc", "--max-size", "0"]);
    let total = &said.last().unwrap()["pruned"];
    assert_eq!(total["images"], 0, "{said:?}");
    assert_eq!(total["inUse"].as_array().unwrap().len(), 1);
    assert!(total["missing"].as_u64().unwrap() > 0);
    shelf.ok(&["lease", "rm", "audit"]);
    let said = shelf.ok(&["gc", "--max-size", "0"]);
    assert!(
        said.contains("removed 1 image: ") && said.contains("freed 5 blobs"),
        "{said}"
    );
    assert_eq!(names(&shelf, &["images"]), [] as [&str; 0]);
    assert!(shelf.blobs().is_empty());
}

#[test]
fn bounds_that_do_not_parse_are_explained() {
    let shelf = Shelf::new();
    for (arguments, said) in [
        (["gc", "--max-size", "20G"], "as in 20GiB"),
        (["gc", "--keep-free", "1 GiB"], "--keep-free"),
        (["gc", "--max-size", "99999999999TiB"], "as in 20GiB"),
        (["gc", "--older-than", "soon"], "--older-than"),
        (["gc", "--keep-last", "few"], "--keep-last"),
    ] {
        let shown = shelf.fails(&arguments, 2);
        assert!(shown.contains(said), "{shown}");
    }
}
