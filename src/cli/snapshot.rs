//! `cas snapshot`: the snapshotter's own verbs.

use std::collections::BTreeMap;

use cas::snapshot::{Commit, Info, Mount, Usage};
use cas::{Error, Labels, Result, Snapshotter};
use clap::{Args, Subcommand};
use serde_json::json;

use super::Session;
use super::output::{ago, size};

/// Look at snapshots, and make them
#[derive(Subcommand)]
pub(crate) enum Snapshot {
    /// List snapshots
    #[command(after_help = "Example:\n  cas snapshot ls")]
    Ls,
    /// Tell what is known of one
    #[command(after_help = "Example:\n  cas snapshot info work")]
    Info(Key),
    /// Make a writable one; prints its mounts
    #[command(after_help = "Example:\n  cas snapshot prepare work --parent sha256:2c26b46b68ff")]
    Prepare(New),
    /// Make a read-only one; prints its mounts
    #[command(after_help = "Example:\n  cas snapshot view look --parent sha256:2c26b46b68ff")]
    View(New),
    /// Print the mounts of one
    #[command(after_help = "Example:\n  cas snapshot mounts work")]
    Mounts(Key),
    /// Fix what is in a writable one, under another name
    #[command(after_help = "Example:\n  cas snapshot commit layer work")]
    Commit(Fix),
    /// Remove one that no other stands on
    #[command(after_help = "Example:\n  cas snapshot rm work")]
    Rm(Key),
    /// Tell what one takes by itself
    #[command(after_help = "Example:\n  cas snapshot usage work")]
    Usage(Key),
    /// Show which stands on which
    #[command(after_help = "Example:\n  cas snapshot tree")]
    Tree,
}

#[derive(Args)]
pub(crate) struct Key {
    /// Its key; a digest may be a short prefix
    key: String,
}

#[derive(Args)]
pub(crate) struct New {
    /// Its key
    key: String,
    /// The committed snapshot to stand on; a digest may be a short prefix
    #[arg(long)]
    parent: Option<String>,
}

#[derive(Args)]
pub(crate) struct Fix {
    /// The name that it gets
    name: String,
    /// Its key
    key: String,
    /// A committed snapshot that it shall stand on, where it stands on none
    #[arg(long)]
    parent: Option<String>,
}

/// How many are asked for at a time.
const PAGE: usize = 500;

/// Fewest letters of a digest that stand for the whole.
const PREFIX: usize = 4;

impl Snapshot {
    pub(crate) async fn run(self, session: &mut Session) -> Result<()> {
        let cas = session.cas().await?;
        let snapshots = cas.snapshotter()?;
        match self {
            Snapshot::Ls => list(session, snapshots).await,
            Snapshot::Tree => tree(session, snapshots).await,
            Snapshot::Info(Key { key }) => {
                let key = resolve(snapshots, &key).await?;
                let found = snapshots.stat(&key).await?.ok_or_else(|| absent(&key))?;
                let usage = snapshots.usage(&key).await?;
                let text = || described(&found, usage);
                (session.out).item(&json!({"info": found, "usage": usage}), text)
            }
            Snapshot::Prepare(New { key, parent }) => {
                let parent = resolve_some(snapshots, parent).await?;
                let made = snapshots.prepare(&key, parent.as_deref(), Labels::new());
                show(session, &made.await?)
            }
            Snapshot::View(New { key, parent }) => {
                let parent = resolve_some(snapshots, parent).await?;
                let made = snapshots.view(&key, parent.as_deref(), Labels::new());
                show(session, &made.await?)
            }
            Snapshot::Mounts(Key { key }) => {
                let key = resolve(snapshots, &key).await?;
                show(session, &snapshots.mounts(&key).await?)
            }
            Snapshot::Commit(Fix { name, key, parent }) => {
                let options = Commit {
                    parent: resolve_some(snapshots, parent).await?,
                    ..Commit::default()
                };
                snapshots.commit(&name, &key, options).await?;
                (session.out).item(&json!({"committed": name}), || format!("{key} -> {name}"))
            }
            Snapshot::Rm(Key { key }) => {
                let key = resolve(snapshots, &key).await?;
                snapshots.remove(&key).await?;
                (session.out).item(&json!({"removed": key}), || format!("removed {key}"))
            }
            Snapshot::Usage(Key { key }) => {
                let key = resolve(snapshots, &key).await?;
                let usage = snapshots.usage(&key).await?;
                let text = || format!("{} in {} inodes", size(usage.bytes), usage.inodes);
                session.out.item(&json!(usage), text)
            }
        }
    }
}

async fn list(session: &Session, snapshots: &dyn Snapshotter) -> Result<()> {
    let mut found = Vec::new();
    for info in all(snapshots).await? {
        let usage = snapshots.usage(&info.key).await?;
        found.push((info, usage));
    }
    if session.out.is_json() {
        return found.iter().try_for_each(|(info, usage)| {
            let item = json!({"info": info, "usage": usage});
            session.out.item(&item, String::new)
        });
    }
    let columns = ["KEY", "KIND", "PARENT", "SIZE", "INODES", "CREATED"];
    session.out.list(&columns, &found, |(info, usage)| {
        vec![
            short(&info.key),
            info.kind.as_str().into(),
            info.parent.as_deref().map(short).unwrap_or_default(),
            size(usage.bytes),
            usage.inodes.to_string(),
            ago(info.created_at),
        ]
    })
}

async fn tree(session: &Session, snapshots: &dyn Snapshotter) -> Result<()> {
    let mut above: BTreeMap<Option<String>, Vec<Info>> = BTreeMap::new();
    for info in all(snapshots).await? {
        above.entry(info.parent.clone()).or_default().push(info);
    }
    let mut waiting: Vec<(usize, Info)> = Vec::new();
    let mut next = above.remove(&None);
    let mut depth = 0;
    loop {
        let infos = next.take().unwrap_or_default().into_iter().rev();
        waiting.extend(infos.map(|info| (depth, info)));
        let Some((level, info)) = waiting.pop() else {
            return Ok(());
        };
        let item = json!({"depth": level, "info": info});
        let text = || {
            format!(
                "{}{} ({})",
                "  ".repeat(level),
                short(&info.key),
                info.kind.as_str()
            )
        };
        session.out.item(&item, text)?;
        depth = level + 1;
        next = above.remove(&Some(info.key));
    }
}

/// All snapshots, in the order of their keys.
pub(super) async fn all(snapshots: &dyn Snapshotter) -> Result<Vec<Info>> {
    let mut found: Vec<Info> = Vec::new();
    loop {
        let after = found.last().map(|info| info.key.clone());
        let page = snapshots.walk(after.as_deref(), PAGE).await?;
        let last = page.len() < PAGE;
        found.extend(page);
        if last {
            return Ok(found);
        }
    }
}

/// The key that a person means: as it is, or as the prefix of one digest.
async fn resolve(snapshots: &dyn Snapshotter, key: &str) -> Result<String> {
    if snapshots.stat(key).await?.is_some() {
        return Ok(key.to_owned());
    }
    let prefix = match key.contains(':') {
        true => key.to_owned(),
        false => format!("sha256:{key}"),
    };
    let letters = prefix.split_once(':').map_or(0, |(_, hex)| hex.len());
    let mut meant = all(snapshots).await?;
    meant.retain(|info| letters >= PREFIX && info.key.starts_with(&prefix));
    match &meant[..] {
        [info] => Ok(info.key.clone()),
        [] => Err(absent(key)),
        _ => Err(Error::invalid(format!(
            "{} snapshots begin with it; give more of it",
            meant.len()
        ))
        .subject(key)),
    }
}

async fn resolve_some(snapshots: &dyn Snapshotter, key: Option<String>) -> Result<Option<String>> {
    match key {
        Some(key) => resolve(snapshots, &key).await.map(Some),
        None => Ok(None),
    }
}

fn absent(key: &str) -> Error {
    Error::not_found("no such snapshot; `cas snapshot ls` lists them").subject(key)
}

fn show(session: &Session, mounts: &[Mount]) -> Result<()> {
    let shown = |mount| session.out.item(&json!(mount), || line(mount));
    mounts.iter().try_for_each(shown)
}

/// A mount as the arguments of mount(8), which takes as many layers as fit into a page.
fn line(mount: &Mount) -> String {
    match mount {
        Mount::Bind { source, read_only } => {
            let options = if *read_only { "bind,ro" } else { "bind" };
            format!("-o {options} {}", source.display())
        }
        Mount::Overlay {
            lower,
            upper,
            work,
            options,
        } => {
            let lower: Vec<String> = lower.iter().map(|one| one.display().to_string()).collect();
            let mut all = vec![format!("lowerdir={}", lower.join(":"))];
            all.extend(
                upper
                    .iter()
                    .map(|upper| format!("upperdir={}", upper.display())),
            );
            all.extend(
                work.iter()
                    .map(|work| format!("workdir={}", work.display())),
            );
            all.extend(options.iter().cloned());
            format!("-t overlay -o {} overlay", all.join(","))
        }
    }
}

fn described(info: &Info, usage: Usage) -> String {
    let mut lines = vec![
        format!("key      {}", info.key),
        format!("kind     {}", info.kind.as_str()),
        format!("parent   {}", info.parent.as_deref().unwrap_or("none")),
        format!("size     {} in {} inodes", size(usage.bytes), usage.inodes),
        format!("created  {}", ago(info.created_at)),
    ];
    let labels = info.labels.iter();
    lines.extend(labels.map(|(key, value)| format!("label    {key}={value}")));
    lines.join("\n")
}

/// A digest in its short form; another key as it is.
fn short(key: &str) -> String {
    key.parse::<cas::Digest>()
        .map_or_else(|_| key.to_owned(), |digest| digest.short())
}
