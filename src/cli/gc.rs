//! `cas gc` and `cas why`: garbage collection, and why a resource is kept.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cas::Result;
use cas::gc::{GcOptions, PruneOptions, Reason, Removed, RootPath};
use cas::image::familiar;
use cas::records::Resource;
use clap::Args;
use serde_json::{Value, json};

use super::output::{Output, count, size};
use super::run::run_dir::sweep;
use super::{Context, prune, resource};

/// The last second of the year 9999, since 1970.
const LATEST: Duration = Duration::from_secs(253_402_300_799);

/// Remove blobs and snapshots that no image, lease or label needs
#[derive(Args)]
#[command(after_help = "Examples:\n  cas gc --dry-run\n  \
    cas gc --older-than 30d --keep-last 5 --max-size 20GiB --keep-free 5GiB

Safe at any time, even while other commands run. With --older-than, --keep-last, --max-size or
--keep-free, `cas gc` also removes names of images. Images that were not used, created or changed
for the time of --older-than lose their names. Then the least recently used images lose their names,
until --max-size and --keep-free are met. The images that --keep-last counts stay, and so do images
that are mounted, leased or being pulled.")]
pub(crate) struct Gc {
    /// List what would be removed, but remove nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    cache: Cache,
}

/// Bounds of a cache of images.
#[derive(Args)]
#[command(next_help_heading = "Options of a cache")]
struct Cache {
    /// Also remove images that were not used, created or changed for this long, as in 12h or 30d
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
    /// Keep this many of the most recently used images; if no other option of this group is given,
    /// remove the remaining images
    #[arg(long, value_name = "NUMBER")]
    keep_last: Option<usize>,
    /// Remove images until the content of the remaining images is at most this large, as in 20GiB
    #[arg(long, value_name = "SIZE", value_parser = cas::parse_size)]
    max_size: Option<u64>,
    /// Remove images until this much of the file system of the store is free, as in 5GiB
    #[arg(long, value_name = "SIZE", value_parser = cas::parse_size)]
    keep_free: Option<u64>,
}

impl Gc {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let cas = context.cas().await?;
        if !self.dry_run {
            cas.check_writable()?;
        }
        let runs = sweep(&cas, self.dry_run, &*context.progress).await?;
        let bounds = PruneOptions::default()
            .with_dry_run(self.dry_run)
            .with_older_than(self.cache.older_than)
            .with_keep_last(self.cache.keep_last)
            .with_max_size(self.cache.max_size)
            .with_keep_free(self.cache.keep_free);
        let out = &context.out;
        let is_cache = !bounds.is_unbounded();
        let removed = if !is_cache {
            let options = GcOptions::default().with_dry_run(self.dry_run);
            cas.gc_with(options).await?
        } else {
            let pruned = cas.prune(bounds).await?;
            prune::report(context, &pruned, self.dry_run)?;
            pruned.removed
        };
        let removed = after_runs(removed, runs);
        if out.is_json() || self.dry_run {
            list(out, &removed)?;
        }
        let done = match self.dry_run {
            true if is_cache => "would also free",
            true => "would free",
            false => "freed",
        };
        out.say(format!("{done} {}", summary(&removed)))
    }
}

/// Returns everything that was removed: first `runs`, which [`sweep`] has removed, and then
/// `removed`, which the collection after `sweep` has removed. In a dry run, `sweep` removes
/// nothing, so the collection finds the snapshots of killed runs again, and `runs` and `removed`
/// both list them. The result lists each of these snapshots once.
fn after_runs(mut removed: Removed, runs: Removed) -> Removed {
    let is_of_run = |snapshot: &Resource| runs.snapshots.iter().any(|(one, _)| one == snapshot);
    removed.snapshots.retain(|(one, _)| !is_of_run(one));
    removed.after(runs)
}

fn list(out: &Output, removed: &Removed) -> Result<()> {
    let blobs = removed.blobs.iter();
    let blobs = blobs.map(|(digest, bytes)| (Resource::Content(*digest), Some(*bytes)));
    let ingests = removed.ingests.iter();
    let ingests = ingests.map(|(key, bytes)| (Resource::Ingest(key.clone()), Some(*bytes)));
    let snapshots = removed.snapshots.iter();
    let snapshots = snapshots.map(|(one, bytes)| (one.clone(), Some(*bytes)));
    let images = removed.images.iter();
    let images = images.map(|name| (Resource::Image(name.clone()), None));
    let resources = images.chain(snapshots).chain(blobs).chain(ingests);
    let resources = resources.map(|(resource, bytes)| (resource.to_string(), bytes));
    let leftovers = removed.leftovers.iter();
    let leftovers =
        leftovers.map(|left| (format!("leftovers/{}", left.place), Some(left.usage.bytes)));
    let rows: Vec<Value> = resources
        .chain(leftovers)
        .map(|(resource, bytes)| json!({"resource": resource, "bytes": bytes}))
        .collect();
    out.list(&["RESOURCE", "SIZE"], &rows, |row| {
        let resource = row["resource"].as_str().unwrap_or_default();
        vec![
            shorten(resource),
            row["bytes"].as_u64().map(size).unwrap_or_default(),
        ]
    })
}

/// Returns the number of resources of each kind in `removed`, and their total size. For a dry run,
/// these are the resources that would be removed.
pub(crate) fn summary(removed: &Removed) -> String {
    let mut parts = vec![
        count(removed.blobs.len() as u64, "blob"),
        count(removed.snapshots.len() as u64, "snapshot"),
    ];
    if !removed.ingests.is_empty() {
        parts.push(count(removed.ingests.len() as u64, "ingest"));
    }
    if !removed.images.is_empty() {
        parts.push(count(removed.images.len() as u64, "expired name"));
    }
    let files = removed.leftovers.iter().map(|left| left.usage.inodes).sum();
    if files > 0 {
        parts.push(count(files, "leftover file"));
    }
    format!("{}: {}", parts.join(", "), size(removed.bytes()))
}

/// Show what keeps a blob, a snapshot, an ingest or an image, and until when
#[derive(Args)]
#[command(after_help = "Example:\n  cas why sha256:2c26b46b68ff\n  \
    cas why snapshots/native/sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae")]
pub(crate) struct Why {
    /// Digest of a blob (the first digits are enough), name of an image, content/DIGEST,
    /// images/NAME, ingests/KEY or snapshots/SNAPSHOTTER/KEY
    resource: String,
}

impl Why {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let cas = context.cas().await?;
        let resource = resource::find_or_image(&cas, &self.resource).await?;
        let why = cas.explain(&resource).await?;
        let until = why.until.map(when);
        let paths: Vec<Value> = why.paths.iter().map(describe).collect();
        let shown = json!({"resource": resource, "held": !paths.is_empty(), "until": until,
            "paths": paths});
        context
            .out
            .item(&shown, || text(&resource, &why.paths, why.until))
    }
}

fn describe(path: &RootPath) -> Value {
    let reason = match &path.reason {
        Reason::Name => json!({"kind": "name"}),
        Reason::Unnamed => json!({"kind": "unnamed"}),
        Reason::Lease { id, until } => {
            json!({"kind": "lease", "id": id, "until": until.map(when)})
        }
        Reason::Claim { owner } => json!({"kind": "claim", "owner": owner}),
        Reason::Label => json!({"kind": "label"}),
        Reason::Young { until } => json!({"kind": "young", "until": when(*until)}),
    };
    json!({"reason": reason, "steps": path.steps})
}

fn text(resource: &Resource, paths: &[RootPath], until: Option<SystemTime>) -> String {
    if paths.is_empty() {
        let what = shorten(&resource.to_string());
        return format!("nothing keeps {what}: the next `cas gc` removes it");
    }
    let mut lines: Vec<String> = paths.iter().map(line).collect();
    lines.extend(until.map(|until| format!("kept until {} at the latest", when(until))));
    lines.join("\n")
}

fn line(path: &RootPath) -> String {
    let reason = match &path.reason {
        Reason::Name => "name".to_owned(),
        Reason::Unnamed => "image without a name".to_owned(),
        Reason::Lease { id, .. } => format!("lease {id}"),
        Reason::Claim { owner } => format!("owner {owner}"),
        Reason::Label => "label".to_owned(),
        Reason::Young { .. } => "stored recently".to_owned(),
    };
    let steps = path.steps.iter().map(|step| shorten(&step.to_string()));
    format!("{reason}: {}", steps.collect::<Vec<_>>().join(" -> "))
}

/// Returns a resource as people read it: an image has its familiar name, and a digest at the end is
/// in its short form.
pub(crate) fn shorten(resource: &str) -> String {
    let name = resource.strip_prefix("images/");
    if let Some(name) = name.and_then(|name| name.parse().ok()) {
        return format!("images/{}", familiar(&name));
    }
    let cut = |(kind, digest): (&str, &str)| {
        let digest = digest.parse::<cas::Digest>().ok()?;
        Some(format!("{kind}/{}", digest.short()))
    };
    resource
        .rsplit_once('/')
        .and_then(cut)
        .unwrap_or_else(|| resource.to_owned())
}

/// Returns a time as in `2026-11-30T19:00:00Z`. A time that this format does not have is replaced
/// by the nearest one: a time before 1970 by the beginning of 1970, and a time after the year 9999
/// by the last second of 9999.
pub(crate) fn when(time: SystemTime) -> String {
    let time = time.clamp(UNIX_EPOCH, UNIX_EPOCH + LATEST);
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_the_format_does_not_have_is_the_nearest_one() {
        let second = Duration::from_secs(1);
        for (time, shown) in [
            (UNIX_EPOCH - second, "1970-01-01T00:00:00Z"),
            (UNIX_EPOCH + second, "1970-01-01T00:00:01Z"),
            (UNIX_EPOCH + LATEST, "9999-12-31T23:59:59Z"),
            (UNIX_EPOCH + LATEST + second, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(when(time), shown);
        }
    }

    /// A run that was killed while it mounted its snapshot.
    #[test]
    fn a_snapshot_of_a_run_that_the_collection_finds_again_counts_once() {
        let snapshots = |keys: &[&str]| Removed {
            snapshots: keys
                .iter()
                .map(|key| {
                    let snapshotter = "native".to_owned();
                    let key = (*key).to_owned();
                    (Resource::Snapshot { snapshotter, key }, 10)
                })
                .collect(),
            ..Removed::default()
        };
        let removed = after_runs(snapshots(&["one", "run"]), snapshots(&["run"]));
        assert_eq!(removed, snapshots(&["run", "one"]));
        assert_eq!(removed.bytes(), 20);
    }
}
