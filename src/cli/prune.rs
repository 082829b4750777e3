//! The report of `cas gc` on the images that it removes because of `--older-than`, `--keep-last`,
//! `--max-size` or `--keep-free`.

use cas::Result;
use cas::gc::{Pruned, PrunedImage};
use serde_json::{Value, json};

use super::Context;
use super::gc::{shorten, when};
use super::output::{count, size};

/// Prints the number of removed images, how much space their removal has freed, and how much it
/// will free later. With `dry_run`, prints what would be removed and freed. With `dry_run` or JSON,
/// also prints the images. Warns if --max-size or --keep-free cannot be met.
pub(crate) fn report(context: &Context, pruned: &Pruned, dry_run: bool) -> Result<()> {
    let out = &context.out;
    if out.is_json() || dry_run && !pruned.images.is_empty() {
        let rows: Vec<Value> = pruned.images.iter().map(describe).collect();
        out.list(&["IMAGE", "LAST USED", "SIZE"], &rows, |row| {
            let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
            let bytes = row["bytes"].as_u64();
            vec![
                shorten(&text("resource")),
                text("usedAt"),
                bytes.map(size).unwrap_or_default(),
            ]
        })?;
    }
    if out.is_json() {
        let total = json!({"pruned": {
            "images": pruned.images.len(),
            "freed": pruned.freed,
            "later": pruned.later,
            "inUse": pruned.in_use,
            "missing": pruned.missing,
        }});
        out.item(&total, String::new)?;
    }
    let images = count(pruned.images.len() as u64, "image");
    let (done, freed) = match dry_run {
        true => ("would remove", "would be freed"),
        false => ("removed", "is freed"),
    };
    let mut said = format!("{done} {images}: {} {freed} now", size(pruned.freed));
    if pruned.later > 0 {
        said += &format!(
            "; a later collection frees another {}, which was stored less than a day ago or is \
             kept by a lease",
            size(pruned.later)
        );
    }
    out.say(said)?;
    if pruned.missing > 0 {
        context.progress.warn(&format!(
            "--max-size or --keep-free is not met: {} more must be freed, but `cas gc` does not \
             remove images that are in use ({} found), images that --keep-last keeps, or files of \
             other programs; unmount images, end leases, lower --keep-last or remove other files, \
             and try again",
            size(pruned.missing),
            pruned.in_use.len()
        ));
    }
    Ok(())
}

fn describe(image: &PrunedImage) -> Value {
    json!({
        "resource": format!("images/{}", image.name),
        "bytes": image.bytes,
        "usedAt": when(image.used_at),
    })
}
