//! `cas aci rm` and `cas aci gc`: commands that remove ACIs.

use std::time::{Duration, SystemTime};

use cas::aci::{AciStore, KeyPrefix};
use cas::{Cas, Result};
use serde_json::json;

use super::{list, parse_name};
use crate::cli::Context;
use crate::cli::gc::summary;
use crate::cli::output::count;

/// Removes ACIs one after the other. Each is named by its key, by the first digits of its key, or
/// by a name and labels that only one ACI has.
pub(super) async fn remove(context: &Context, acis: &AciStore, named: &[String]) -> Result<()> {
    for text in named {
        let key = match text.parse::<KeyPrefix>() {
            Ok(_) => text.clone(),
            Err(_) => {
                let (name, labels) = parse_name(text)?;
                acis.get_only_aci(name, &labels).await?.to_string()
            }
        };
        let info = acis.get_aci_info(&key).await?;
        acis.remove_aci(&info.key.to_string()).await?;
        let gone = json!({"removed": info.key, "name": info.name});
        let removed = || format!("removed {}", info.key.half());
        context.out.item(&gone, removed)?;
    }
    Ok(())
}

/// Removes ACIs that were neither imported nor read for `older_than`, then the leftovers of killed
/// jobs, and then unused content. Leftovers, and content that was stored without a lease, stay
/// until they are a day old. Without `older_than`, removes no ACIs. A dry run only lists the ACIs
/// that would be removed.
pub(super) async fn gc(
    context: &Context,
    cas: &Cas,
    acis: &AciStore,
    older_than: Option<Duration>,
    dry_run: bool,
) -> Result<()> {
    let now = SystemTime::now();
    // A result that `SystemTime` cannot represent is so early that no ACI was last read before it.
    let time = older_than.map(|age| now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH));
    let out = &context.out;
    let infos = match time {
        None => Vec::new(),
        Some(time) if dry_run => acis.unused(time).await?,
        Some(time) => acis.remove_unused(time).await?,
    };
    let acis_gone = count(infos.len() as u64, "ACI");
    if out.is_json() {
        for info in &infos {
            out.item(&list::describe(info), String::new)?;
        }
    } else if dry_run {
        list::show(context, &infos)?;
    }
    if dry_run {
        return out.say(format!("would remove {acis_gone}"));
    }
    let swept = acis.sweep(now).await?;
    let freed = cas.gc().await?;
    let left = swept.leases.len() + swept.names.len() + swept.files.len();
    if out.is_json() {
        let total = json!({"total": {"acis": infos.len(), "leftovers": left,
            "bytes": freed.bytes()}});
        return out.item(&total, String::new);
    }
    let left = count(left as u64, "leftover");
    out.say(format!(
        "removed {acis_gone} and {left}, freed {}",
        summary(&freed)
    ))
}
