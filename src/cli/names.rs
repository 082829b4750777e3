//! Names of images in results.

use cas::image::{Reference, familiar};
use serde_json::{Value, json};

/// Adds the name of an image to a result in JSON: `name` is the name in the store, and `familiar`
/// is the short name that people type and that docker shows. Leaves out `familiar` if the two are
/// equal.
pub(crate) fn add(result: &mut Value, name: &Reference) {
    result["name"] = json!(name);
    let familiar = familiar(name);
    if familiar != name.as_str() {
        result["familiar"] = json!(familiar);
    }
}
