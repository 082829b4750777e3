//! `cas gc` and `cas why`: what goes, and what holds the rest.

use std::time::SystemTime;

use cas::gc::{Reason, Removed, RootPath};
use cas::records::Resource;
use cas::{Result, Store};
use clap::Args;
use serde_json::{Value, json};

use super::Session;
use super::output::{Output, size};

/// Remove what no name, lease or label holds
#[derive(Args)]
#[command(after_help = "Example:\n  cas gc --dry-run")]
pub(crate) struct Gc {
    /// Remove nothing, and tell what would go
    #[arg(long)]
    dry_run: bool,
}

impl Gc {
    pub(crate) async fn run(self, session: &mut Session) -> Result<()> {
        let cas = session.cas().await?;
        if !self.dry_run {
            super::run::place::sweep(&cas, &session.root, &*session.progress).await?;
        }
        let collected = cas.collect(self.dry_run).await?;
        let out = &session.out;
        if out.is_json() || self.dry_run {
            list(out, &collected)?;
        }
        let done = if self.dry_run { "would free" } else { "freed" };
        out.say(format!("{done} {}", sum(&collected)))
    }
}

fn list(out: &Output, collected: &Removed) -> Result<()> {
    let blobs = collected.blobs.iter();
    let blobs = blobs.map(|(digest, bytes)| (Resource::Content(*digest), Some(*bytes)));
    let ingests = collected.ingests.iter();
    let ingests = ingests.map(|(key, bytes)| (Resource::Ingest(key.clone()), Some(*bytes)));
    let snapshots = collected.snapshots.iter().map(|one| (one.clone(), None));
    let images = collected.images.iter();
    let images = images.map(|name| (Resource::Image(name.clone()), None));
    let rows: Vec<Value> = images
        .chain(snapshots)
        .chain(blobs)
        .chain(ingests)
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

/// What was collected, in a few words.
pub(crate) fn sum(collected: &Removed) -> String {
    let mut parts = vec![
        count(collected.blobs.len(), "blob"),
        count(collected.snapshots.len(), "snapshot"),
    ];
    if !collected.ingests.is_empty() {
        parts.push(count(collected.ingests.len(), "ingest"));
    }
    if !collected.images.is_empty() {
        parts.push(count(collected.images.len(), "expired name"));
    }
    format!("{}: {}", parts.join(", "), size(collected.bytes()))
}

fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

/// Tell what holds a blob: every way to it from a name, a lease or a label
#[derive(Args)]
#[command(after_help = "Example:\n  cas why sha256:2c26b46b68ff\n  \
    cas why snapshots/native/sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae")]
pub(crate) struct Why {
    /// A digest, or the beginning of one; or content/…, images/…, ingests/…, snapshots/…
    what: String,
}

impl Why {
    pub(crate) async fn run(self, session: &mut Session) -> Result<()> {
        let cas = session.cas().await?;
        let resource = resource(cas.store(), &self.what).await?;
        let why = cas.why(&resource).await?;
        let until = why.until.map(when);
        let paths: Vec<Value> = why.paths.iter().map(describe).collect();
        let shown = json!({"resource": resource, "held": !paths.is_empty(), "until": until,
            "paths": paths});
        session
            .out
            .item(&shown, || text(&resource, &why.paths, why.until))
    }
}

/// The thing that is meant.
async fn resource(store: &Store, text: &str) -> Result<Resource> {
    match text.contains('/') {
        true => text.parse(),
        false => Ok(Resource::Content(
            super::blob::find(store, text).await?.digest,
        )),
    }
}

fn describe(path: &RootPath) -> Value {
    let reason = match &path.reason {
        Reason::Name => json!({"kind": "name"}),
        Reason::Lease { id, until } => {
            json!({"kind": "lease", "id": id, "until": until.map(when)})
        }
        Reason::Label => json!({"kind": "label"}),
        Reason::Young { until } => json!({"kind": "young", "until": when(*until)}),
    };
    json!({"reason": reason, "steps": path.steps})
}

fn text(resource: &Resource, paths: &[RootPath], until: Option<SystemTime>) -> String {
    let mut lines: Vec<String> = paths.iter().map(line).collect();
    lines.push(match (paths.is_empty(), until) {
        (true, _) => {
            let what = shorten(&resource.to_string());
            format!("nothing holds {what}: the next `cas gc` takes it")
        }
        (false, Some(until)) => format!("held until {} at the most", when(until)),
        (false, None) => return lines.join("\n"),
    });
    lines.join("\n")
}

fn line(path: &RootPath) -> String {
    let reason = match &path.reason {
        Reason::Name => "name".to_owned(),
        Reason::Lease { id, .. } => format!("lease {id}"),
        Reason::Label => "label".to_owned(),
        Reason::Young { .. } => "young".to_owned(),
    };
    let steps = path.steps.iter().map(|step| shorten(&step.to_string()));
    format!("{reason}: {}", steps.collect::<Vec<_>>().join(" -> "))
}

/// A resource with its digest, if it ends with one, in the short form.
pub(crate) fn shorten(resource: &str) -> String {
    let cut = |(kind, digest): (&str, &str)| {
        let digest = digest.parse::<cas::Digest>().ok()?;
        Some(format!("{kind}/{}", digest.short()))
    };
    resource
        .rsplit_once('/')
        .and_then(cut)
        .unwrap_or_else(|| resource.to_owned())
}

pub(crate) fn when(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
