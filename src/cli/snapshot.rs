//! `cas snapshot`: the operations of the snapshotter.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use cas::backend::Snapshotter;
use cas::snapshot::{Commit, Info, Mount, OnDemandBytes, Usage, all, all_sound};
use cas::{Cas, Error, ErrorKind, Labels, Result, UsageOptions};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Value, json};

use super::output::{ago, size};
use super::{Context, exit};

/// List, show, create, commit and remove snapshots
#[derive(Subcommand)]
#[command(after_help = "Example:\n  cas snapshot ls")]
pub(crate) enum Snapshot {
    /// List the snapshots of all snapshotters of the root, or with --snapshotter, of one
    #[command(after_help = "Example:\n  cas snapshot ls")]
    Ls,
    /// Show the kind, parent, size and labels of a snapshot; for a layer that is read on demand,
    /// also show how much has arrived
    #[command(after_help = "Example:\n  cas snapshot info work")]
    Info(Key),
    /// Create a writable snapshot and print its mounts
    #[command(after_help = "Example:\n  cas snapshot prepare work --parent sha256:2c26b46b68ff")]
    Prepare(New),
    /// Create a read-only view of a snapshot and print its mounts
    #[command(after_help = "Example:\n  cas snapshot view look --parent sha256:2c26b46b68ff")]
    View(New),
    /// Print the mounts of a snapshot, one on each line, as arguments of mount(8)
    #[command(after_help = "Example:
  cas snapshot mounts work

To each line, add the directory to mount at. For a snapshot with layers, the snapshotter erofs
prints one line for each EROFS image, and then one line for an overlay of these images. For a view
of a single EROFS image, it prints no overlay. Mount the images before the overlay, each at its own
directory: `lowerdir` of the overlay lists these directories, in the order of the lines. With
--json, the field `shared` of an image is the directory to mount this image at. Mount images with
mount(2): some versions of mount(8), such as that of util-linux 2.38, put an image on a loop device,
and the mount then fails.")]
    Mounts(Key),
    /// Commit a writable snapshot under a new key
    #[command(after_help = "Example:\n  cas snapshot commit layer work")]
    Commit(CommitArgs),
    /// Remove a snapshot that has no children
    #[command(after_help = "Example:\n  cas snapshot rm work")]
    Rm(Key),
    /// Show the disk usage of a snapshot; with --parents, the usage of its parents is included
    #[command(after_help = "Example:\n  cas snapshot usage work --parents")]
    Usage(UsageArgs),
    /// Show the snapshots that `cas snapshot ls` lists, and their children, as a tree
    #[command(after_help = "Example:\n  cas snapshot tree")]
    Tree,
}

#[derive(Args)]
pub(crate) struct Key {
    /// Key of the snapshot; a digest may be shortened to its first digits, at least four, if no
    /// other key begins with them
    key: String,
}

#[derive(Args)]
pub(crate) struct UsageArgs {
    #[command(flatten)]
    key: Key,
    /// Add the usage of all parents, which other snapshots may share
    #[arg(long)]
    parents: bool,
}

#[derive(Args)]
pub(crate) struct New {
    /// Key of the new snapshot
    key: String,
    /// Key of the committed snapshot to start from; a digest may be shortened [default: an empty
    /// directory]
    #[arg(long, value_name = "KEY")]
    parent: Option<String>,
}

#[derive(Args)]
pub(crate) struct CommitArgs {
    /// Key that the committed snapshot gets
    name: String,
    /// Key of the writable snapshot, in full
    key: String,
    /// Key of a committed snapshot that becomes the parent, if the writable snapshot has no parent;
    /// a digest may be shortened; the snapshotter native does not support this option
    #[arg(long, value_name = "KEY")]
    parent: Option<String>,
}

/// Minimum number of digits of a shortened digest.
const PREFIX: usize = 4;

impl Snapshot {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let cas = match self {
            Snapshot::Prepare(_) | Snapshot::View(_) => context.cas_to_mount().await?,
            Snapshot::Commit(_) | Snapshot::Rm(_) => context.writable_cas().await?,
            _ => context.cas().await?,
        };
        let snapshots = &**cas.snapshotter()?;
        match self {
            Snapshot::Ls => list(context, &cas).await,
            Snapshot::Tree => tree(context, &cas).await,
            Snapshot::Info(Key { key }) => {
                let (found, usage) = find(snapshots, &key).await?;
                let arrived = snapshots.on_demand(&found.key).await?;
                let text = || described(&found, usage, arrived);
                let mut value = json!({"info": found, "usage": usage});
                if let Some(arrived) = arrived {
                    value["on_demand"] = json!(arrived);
                }
                context.out.item(&value, text)
            }
            Snapshot::Prepare(New { key, parent }) => {
                let parent = resolve_some(snapshots, parent).await?;
                let made = snapshots.prepare(&key, parent.as_deref(), Labels::new());
                show(context, &made.await?)
            }
            Snapshot::View(New { key, parent }) => {
                let parent = resolve_some(snapshots, parent).await?;
                let made = snapshots.view(&key, parent.as_deref(), Labels::new());
                show(context, &made.await?)
            }
            Snapshot::Mounts(Key { key }) => {
                let key = resolve(snapshots, &key).await?;
                show(context, &snapshots.mounts(&key).await?)
            }
            Snapshot::Commit(CommitArgs { name, key, parent }) => {
                let options = Commit {
                    parent: resolve_some(snapshots, parent).await?,
                    ..Commit::default()
                };
                snapshots.commit(&name, &key, options).await?;
                (context.out).item(&json!({"committed": name}), || format!("{key} -> {name}"))
            }
            Snapshot::Rm(Key { key }) => {
                let key = resolve(snapshots, &key).await?;
                cas.remove_snapshot(&key).await?;
                (context.out).item(&json!({"removed": key}), || format!("removed {key}"))
            }
            Snapshot::Usage(UsageArgs { key, parents }) => {
                let key = resolve(snapshots, &key.key).await?;
                let options = UsageOptions::default().with_parents(parents);
                let usage = cas.snapshot_usage_with(&key, options).await?;
                let text = || format!("{} in {} inodes", size(usage.bytes), usage.inodes);
                context.out.item(&json!(usage), text)
            }
        }
    }
}

/// Returns the snapshot that `key` means, its usage and its snapshotter, as JSON.
pub(crate) async fn describe(snapshots: &dyn Snapshotter, key: &str) -> Result<Value> {
    let (info, usage) = find(snapshots, key).await?;
    Ok(json!({"snapshotter": snapshots.name(), "info": info, "usage": usage}))
}

async fn find(snapshots: &dyn Snapshotter, key: &str) -> Result<(Info, Usage)> {
    let key = resolve(snapshots, key).await?;
    let found = snapshots
        .stat(&key)
        .await?
        .ok_or_else(|| absent(snapshots, &key))?;
    let usage = snapshots.usage(&key).await?;
    Ok((found, usage))
}

/// Returns the handles whose snapshots are listed: one for each snapshotter that has files in the
/// root, or only the one of the snapshotter that the user has chosen.
async fn listed(context: &Context, cas: &Cas) -> Result<Vec<Cas>> {
    match context.snapshotter {
        Some(_) => Ok(vec![cas.clone()]),
        None => cas.with_each_snapshotter().await,
    }
}

/// A snapshot in a list.
#[derive(Serialize)]
struct Listed {
    snapshotter: &'static str,
    info: Info,
    usage: Usage,
}

async fn list(context: &Context, cas: &Cas) -> Result<()> {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for cas in listed(context, cas).await? {
        let snapshots = &**cas.snapshotter()?;
        let sound = all_sound(snapshots).await?;
        problems.extend(sound.problems);
        for info in sound.snapshots {
            let usage = match snapshots.usage(&info.key).await {
                // The snapshot was removed after it was listed.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                usage => usage?,
            };
            found.push(Listed {
                snapshotter: snapshots.name(),
                info,
                usage,
            });
        }
    }
    let first = found.first().map(|one| one.snapshotter);
    let several = found.iter().any(|one| Some(one.snapshotter) != first);
    let mut columns = vec!["KEY", "KIND", "PARENT", "SIZE", "INODES", "CREATED"];
    if several {
        columns.push("SNAPSHOTTER");
    }
    context.out.list(&columns, &found, |one| {
        let (info, usage) = (&one.info, &one.usage);
        let mut row = vec![
            short(&info.key),
            info.kind.as_str().into(),
            info.parent.as_deref().map(short).unwrap_or_default(),
            size(usage.bytes),
            usage.inodes.to_string(),
            ago(info.created_at),
        ];
        if several {
            row.push(one.snapshotter.into());
        }
        row
    })?;
    exit::damaged(problems)
}

async fn tree(context: &Context, cas: &Cas) -> Result<()> {
    let (mut trees, mut problems) = (Vec::new(), Vec::new());
    for cas in listed(context, cas).await? {
        let snapshots = &**cas.snapshotter()?;
        let sound = all_sound(snapshots).await?;
        problems.extend(sound.problems);
        if !sound.snapshots.is_empty() {
            trees.push((snapshots.name(), nested(sound.snapshots)));
        }
    }
    let several = trees.len() > 1;
    for (snapshotter, tree) in trees {
        for (depth, info) in tree {
            let item = json!({"snapshotter": snapshotter, "depth": depth, "info": info});
            let text = || {
                let (indent, key, kind) =
                    ("  ".repeat(depth), short(&info.key), info.kind.as_str());
                match several {
                    true => format!("{indent}{key} ({kind}, {snapshotter})"),
                    false => format!("{indent}{key} ({kind})"),
                }
            };
            context.out.item(&item, text)?;
        }
    }
    exit::damaged(problems)
}

/// Returns snapshots with their depths in a tree, each before its children. The depth is 0 for a
/// snapshot that has no parent, or whose parent is not in `infos`.
fn nested(infos: Vec<Info>) -> Vec<(usize, Info)> {
    let keys: BTreeSet<String> = infos.iter().map(|info| info.key.clone()).collect();
    let mut above: BTreeMap<Option<String>, Vec<Info>> = BTreeMap::new();
    for info in infos {
        let parent = info.parent.clone().filter(|parent| keys.contains(parent));
        above.entry(parent).or_default().push(info);
    }
    let (mut nested, mut waiting) = (Vec::new(), Vec::new());
    let (mut next, mut depth) = (above.remove(&None), 0);
    loop {
        let infos = next.unwrap_or_default().into_iter().rev();
        waiting.extend(infos.map(|info| (depth, info)));
        let Some((level, info)) = waiting.pop() else {
            return nested;
        };
        (next, depth) = (above.remove(&Some(info.key.clone())), level + 1);
        nested.push((level, info));
    }
}

/// Returns `key` if a snapshot has exactly this key. Otherwise takes `key` as a prefix, and puts
/// `sha256:` before a prefix without a colon. Returns the only key that begins with the prefix.
///
/// # Errors
/// `NotFound` if no key begins with the prefix, or if the prefix has fewer than [`PREFIX`] digits;
/// `InvalidArgument` if several keys begin with the prefix; errors of the snapshotter.
pub(crate) async fn resolve(snapshots: &dyn Snapshotter, key: &str) -> Result<String> {
    if snapshots.stat(key).await?.is_some() {
        return Ok(key.to_owned());
    }
    let prefix = if key.contains(':') {
        key.to_owned()
    } else {
        format!("sha256:{key}")
    };
    let digits = prefix.split_once(':').map_or(0, |(_, hex)| hex.len());
    let mut found = all(snapshots).await?;
    found.retain(|info| digits >= PREFIX && info.key.starts_with(&prefix));
    match &found[..] {
        [info] => Ok(info.key.clone()),
        [] => Err(absent(snapshots, key)),
        _ => {
            let count = found.len();
            let why = format!("ambiguous: {count} snapshots have this prefix; give more digits");
            Err(Error::invalid(why).subject(key))
        }
    }
}

async fn resolve_some(snapshots: &dyn Snapshotter, key: Option<String>) -> Result<Option<String>> {
    match key {
        Some(key) => resolve(snapshots, &key).await.map(Some),
        None => Ok(None),
    }
}

fn absent(snapshots: &dyn Snapshotter, key: &str) -> Error {
    Error::not_found(format!(
        "the snapshotter {} does not have this snapshot; `cas snapshot ls` lists all snapshots, \
         and --snapshotter chooses another snapshotter",
        snapshots.name()
    ))
    .subject(key)
}

fn show(context: &Context, mounts: &[Mount]) -> Result<()> {
    mounts.iter().try_for_each(|mount| {
        let text = line(mount)?;
        context.out.item(&json!(mount), || text)
    })
}

/// Returns a mount as arguments of mount(8), without the target. mount(8) may refuse options that
/// are longer than a page of memory.
fn line(mount: &Mount) -> Result<String> {
    match mount {
        Mount::Bind { source, read_only } => {
            let options = if *read_only { "bind,ro" } else { "bind" };
            Ok(format!(
                "-o {options} {}",
                quoted(&source.to_string_lossy())
            ))
        }
        Mount::Overlay {
            lower,
            upper,
            work,
            options,
        } => {
            let lower: Vec<String> = lower.iter().map(|one| escaped(one)).collect();
            let mut all = vec![format!("lowerdir={}", lower.join(":"))];
            all.extend(
                upper
                    .iter()
                    .map(|upper| format!("upperdir={}", escaped(upper))),
            );
            all.extend(work.iter().map(|work| format!("workdir={}", escaped(work))));
            all.extend(options.iter().cloned());
            Ok(format!("-t overlay -o {} overlay", quoted(&all.join(","))))
        }
        Mount::Erofs { image, devices, .. } => {
            if let Some(device) = devices.iter().find(|one| has_comma(one)) {
                let why = "mount(8) ends an option at a comma, and this path has a comma; use \
                           `cas mount`, or move the root to a path without a comma";
                return Err(Error::unsupported(why).subject(device.display()));
            }
            let device = |one: &PathBuf| format!(",device={}", one.display());
            let devices: String = devices.iter().map(device).collect();
            let options = quoted(&format!("ro{devices}"));
            let image = quoted(&image.to_string_lossy());
            Ok(format!("-t erofs -o {options} {image}"))
        }
        other => Err(other.unsupported()),
    }
}

fn has_comma(path: &Path) -> bool {
    path.as_os_str().as_bytes().contains(&b',')
}

/// Returns a path in which backslashes, and the characters that separate directories and options of
/// an overlay mount, are escaped.
fn escaped(path: &Path) -> String {
    let mut text = path.to_string_lossy().replace('\\', "\\\\");
    for separator in [":", ","] {
        text = text.replace(separator, &format!("\\{separator}"));
    }
    text
}

/// Returns a word, quoted for a shell if that is necessary.
fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "/._-+=:,@%".contains(letter);
    if word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn described(info: &Info, usage: Usage, arrived: Option<OnDemandBytes>) -> String {
    let mut lines = vec![
        format!("key      {}", info.key),
        format!("kind     {}", info.kind.as_str()),
        format!("parent   {}", info.parent.as_deref().unwrap_or("none")),
        format!("size     {} in {} inodes", size(usage.bytes), usage.inodes),
        format!("created  {}", ago(info.created_at)),
    ];
    lines.extend(arrived.map(|arrived| {
        format!(
            "arrived  {} of {}; fetched {} of compressed data; readers requested {}",
            size(arrived.verified),
            size(arrived.total),
            size(arrived.fetched),
            size(arrived.read)
        )
    }));
    let labels = info.labels.iter();
    lines.extend(labels.map(|(key, value)| format!("label    {key}={value}")));
    lines.join("\n")
}

/// Returns a digest in its short form, and any other key unchanged.
fn short(key: &str) -> String {
    key.parse::<cas::Digest>()
        .map_or_else(|_| key.to_owned(), |digest| digest.short())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use cas::snapshot::{Backing, SnapshotKind};

    use super::*;

    #[test]
    fn a_device_is_printed_only_if_mount_can_read_its_path() {
        let printed = |device: &str| {
            line(&Mount::Erofs {
                image: "/r,1/i".into(),
                devices: vec![device.into()],
                shared: "/r,1/mounts/i".into(),
                backing: Backing::default(),
            })
        };
        let expected = "-t erofs -o ro,device=/r/a /r,1/i";
        assert_eq!(printed("/r/a").unwrap(), expected);
        let error = printed("/r,1/a").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }

    #[test]
    fn a_tree_has_every_snapshot_even_if_its_parent_was_lost() {
        let info = |key: &str, parent: Option<&str>| Info {
            key: key.to_owned(),
            kind: SnapshotKind::Committed,
            parent: parent.map(str::to_owned),
            labels: Labels::new(),
            created_at: SystemTime::UNIX_EPOCH,
            updated_at: SystemTime::UNIX_EPOCH,
        };
        let infos = vec![
            info("a", Some("lost")),
            info("b", None),
            info("c", Some("a")),
            info("d", Some("b")),
            info("e", Some("b")),
        ];
        let nested = nested(infos);
        let shown: Vec<(usize, &str)> = nested
            .iter()
            .map(|(depth, info)| (*depth, &*info.key))
            .collect();
        let expected = [(0, "a"), (1, "c"), (0, "b"), (1, "d"), (1, "e")];
        assert_eq!(shown, expected);
    }
}
