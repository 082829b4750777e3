//! Names of images in results.

use cas::image::{Reference, familiar};
use serde_json::{Value, json};

/// Adds the name of an image to a result: the name in the store, and the familiar name if it is
/// another one.
pub(crate) fn add(result: &mut Value, name: &Reference) {
    result["name"] = json!(name);
    let familiar = familiar(name);
    if familiar != name.as_str() {
        result["familiar"] = json!(familiar);
    }
}
