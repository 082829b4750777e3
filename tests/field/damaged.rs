//! Images of several platforms, of which one is damaged.

use std::fs;

use serde_json::{Value, json};

use crate::common::{fails, ok, text};
use crate::scene::{Files, INDEX, Place, hello, host};

/// The platforms are stated by the entries of the index, or only by the configurations.
#[test]
fn an_image_with_a_damaged_platform_can_be_named_and_shown() {
    for states_platforms in [true, false] {
        let place = Place::new();
        let mut files = Files::layout();
        let entries = [host(), "s390x".to_owned()].map(|processor| {
            let mut entry = files.image(&processor, &hello());
            if states_platforms {
                entry["platform"] = json!({"os": "linux", "architecture": processor});
            }
            entry
        });
        let index = json!({"schemaVersion": 2, "manifests": entries});
        let index = files.document(INDEX, &index);
        files.lists(&index);
        place.import(&files.write(&place.path("source")), "app:1");
        let damage = |entry: &Value| {
            let blob = entry["digest"].as_str().unwrap().replace(':', "/");
            let blob = place.path("root/store/blobs").join(blob);
            let size = fs::read(&blob).unwrap().len();
            fs::remove_file(&blob).unwrap();
            fs::write(&blob, "x".repeat(size)).unwrap();
        };
        let [own, other] = &entries;

        damage(other);
        let tagged = place.cas().args(["tag", "app:1", "app:2"]).output();
        let tagged = tagged.unwrap();
        let said = text(&tagged.stderr);
        assert!(tagged.status.success(), "{said}");
        let digest = other["digest"].as_str().unwrap();
        assert!(said.contains(digest) && said.contains("cas fsck"), "{said}");
        let shown = ok(place.cas().args(["inspect", "app:2", "--json"]));
        let shown: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["descriptor"]["digest"], own["digest"]);
        let listed = shown["platforms"].as_array().unwrap().len();
        assert_eq!(listed, if states_platforms { 2 } else { 1 }, "{shown}");
        let asked = ["inspect", "app:2", "--platform", "linux/s390x"];
        let said = fails(place.cas().args(asked), 4);
        assert!(said.contains(digest), "{said}");

        damage(own);
        fails(place.cas().args(["tag", "app:1", "app:3"]), 4);
        fails(place.cas().args(["inspect", "app:1"]), 4);
        let names = ok(place.cas().args(["images", "--json"]));
        assert_eq!(names.lines().count(), 2, "{names}");
    }
}
