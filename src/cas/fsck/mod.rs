//! Checking and repairing a root.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cas_core::check::{self, CheckOptions, Finding, Problem, ReadData, Repair, Report};
use cas_core::progress::{Progress, Silent};
use cas_core::snapshot::Info;
use cas_core::{Context, Error, ErrorKind, Result, Snapshotter, pool, snapshot};
use cas_host::MountedDirs;
use cas_host::calls::is_file;

use super::each_snapshotter::collected;
use super::{Cas, OpenOptions, mounted};
use crate::root::{Root, examine_settings};

mod rebuilder;
mod sources;

use self::rebuilder::LayerRebuilder;
use self::sources::RepairSources;

/// Maximum time between making a snapshot for a mount and mounting it.
const MAKING: Duration = Duration::from_secs(3);

/// Options of [`Cas::fsck`].
#[non_exhaustive]
pub struct FsckOptions {
    /// How the root is opened.
    pub open: OpenOptions,
    /// The blobs that are read and hashed, and the snapshots whose files are read. The indexes and
    /// manifests of images are always read and hashed.
    pub read_data: ReadData,
    /// Whether the reading of blobs and snapshots continues where an interrupted check with the
    /// same `read_data` stopped. With [`ReadData::Percent`], the reading continues where the
    /// previous check with a percentage stopped, even if `resume` is false.
    pub resume: bool,
    /// Maximum number of bytes of blobs and snapshots that are read per second. `None` sets no
    /// limit.
    pub bytes_per_second: Option<u64>,
    /// Whether to repair damage. By default, damage is only reported.
    pub repair: bool,
    /// The source of blobs for a repair: the directory of a root or of an image layout, the URL of
    /// a store, or the reference of an image in a registry. By default, the registries that the
    /// names of the images refer to. After a directory or a URL, `#` and the name of an image may
    /// follow, as in the arguments of `cas copy`. In place of a URL before `#`, a scheme or the
    /// name of a table in `cas.toml` may be given. The source must then have this image. Blobs are
    /// also taken from its other images.
    pub from: Option<String>,
    /// Whether registries are contacted over http instead of https.
    pub plain_http: bool,
    /// The file of logins that is read first when a repair fetches from a registry. By default, the
    /// file that a pull reads first: the file that `cas.toml` names, or else the file that
    /// `$REGISTRY_AUTH_FILE` names.
    pub auth_file: Option<PathBuf>,
    /// Receives the progress. By default, nothing is reported.
    pub progress: Arc<dyn Progress>,
}

impl Default for FsckOptions {
    fn default() -> Self {
        FsckOptions {
            open: OpenOptions::default(),
            read_data: ReadData::Nothing,
            resume: false,
            bytes_per_second: None,
            repair: false,
            from: None,
            plain_http: false,
            auth_file: None,
            progress: Arc::new(Silent),
        }
    }
}

impl Cas {
    /// Checks the store and the snapshots of a root, and repairs them if [`FsckOptions::repair`] is
    /// set. Returns what was found. A root can be checked even if it is so damaged that
    /// [`Cas::open`] fails. The report then has only the damage that must be repaired before the
    /// rest can be checked. Other jobs may use the root during the check, if the store allows
    /// several processes at a time.
    ///
    /// # Errors
    /// `NotFound` if the directory is not a root; `Corrupt` if `cas.toml` is lost, and the root has
    /// stores in other directories than `store`; `Busy` if the store allows only one process at a
    /// time, and another process has it open; errors of [`Cas::open_with`] that are not due to
    /// damage; errors of the source of a repair. A source in [`FsckOptions::from`] is opened even
    /// if nothing is repaired.
    pub async fn fsck(root: impl AsRef<Path>, options: FsckOptions) -> Result<Report> {
        let path = root.as_ref();
        let mut findings = examine(path, &options).await?;
        if !has_settings(path) {
            return Ok(Report {
                findings,
                ..Report::default()
            });
        }
        let FsckOptions {
            open,
            read_data,
            resume,
            bytes_per_second,
            repair,
            from,
            plain_http,
            auth_file,
            progress,
        } = options;
        let cas = match Cas::open_with(path, open).await {
            Err(error) if is_damage(&error, &findings) => {
                findings.push(unchecked(path, &error));
                return Ok(Report {
                    findings,
                    ..Report::default()
                });
            }
            opened => opened?,
        };
        let sources = RepairSources::open(&cas, from.as_deref(), plain_http, auth_file).await?;
        let handles = cas.with_each_snapshotter().await?;
        let rebuilder = LayerRebuilder::new(&cas.store, &handles, &sources, &progress);
        let check = CheckOptions {
            read_data,
            resume,
            bytes_per_second,
            names_lost: findings.iter().any(may_have_lost_names),
            repair: repair.then_some(Repair {
                sources: &sources,
                rebuilder: Some(&rebuilder),
            }),
            progress: Arc::clone(&progress),
        };
        let snapshotters = collected(&handles);
        let checked = check::check(&cas.store, &snapshotters, &check).await;
        #[cfg(feature = "registry")]
        sources.warn_of_skipped(&*progress);
        let mut report = match checked {
            // The damage that was found before explains the error, unless all of it was repaired.
            // Damage that is left must be repaired before the rest can be checked.
            Err(error) if error.kind() == ErrorKind::Corrupt && !findings.is_empty() => {
                if findings.iter().all(|finding| finding.repaired) {
                    findings.push(unchecked(path, &error));
                }
                return Ok(Report {
                    findings,
                    ..Report::default()
                });
            }
            checked => checked?,
        };
        // Damage that was found before and not repaired may be the reason why the rest cannot be
        // read.
        let is_damaged = |findings: &[Finding]| {
            let mut all = findings.iter().chain(&report.findings);
            all.any(|finding| !finding.repaired)
        };
        for snapshotter in snapshotters {
            let left = match check_mounts(snapshotter, repair).await {
                Err(error) if error.kind() == ErrorKind::Corrupt && is_damaged(&findings) => {
                    continue;
                }
                left => left?,
            };
            if left.iter().any(|finding| finding.repaired) {
                // Removes the files that only these snapshots used.
                snapshotter.cleanup().await?;
            }
            findings.extend(left);
        }
        for cas in handles.iter().filter(|one| one.store.owner().is_none()) {
            let left = match cas.left_beside(SystemTime::now(), repair).await {
                Err(_) if is_damaged(&findings) => Vec::new(),
                left => left?,
            };
            // A free lock file may be one that a job is just about to lock.
            let left = left.iter().filter(|left| left.usage.bytes > 0);
            findings.extend(left.map(|left| Finding::left(left, repair)));
        }
        report.findings.splice(0..0, findings);
        Ok(report)
    }
}

impl Cas {
    /// Explains an error that a verb on this root has returned. If something misplaced in the root
    /// may have caused `error`, for example a file in the place of a directory, returns an error of
    /// the kind `Corrupt` that names the misplaced entry and the repair. Otherwise returns `error`.
    #[must_use]
    pub fn explain_error(root: impl AsRef<Path>, error: Error) -> Error {
        let (root, registry) = (root.as_ref(), crate::registry());
        // Opening an absent root would make one.
        if !has_settings(root) {
            return error;
        }
        match Root::open(root, &registry) {
            Ok(root) => root.explain(&registry, error),
            Err(_) => error,
        }
    }
}

/// Returns whether a root has its `cas.toml`, or something that leads to a file in its place.
fn has_settings(root: &Path) -> bool {
    is_file(&root.join("cas.toml"))
}

/// Returns whether a repair may have lost names.
fn may_have_lost_names(finding: &Finding) -> bool {
    let has_names = finding.problem == Problem::DatabaseDamaged || finding.subject == "index.json";
    has_names && finding.repaired
}

/// Examines the files of the root, of the store and of the local records, before the root is
/// opened. Returns what was found.
async fn examine(path: &Path, options: &FsckOptions) -> Result<Vec<Finding>> {
    let default = crate::registry();
    let registry = options.open.registry.as_ref().unwrap_or(&default);
    let repair = options.repair;
    let settings = examine_settings(path, registry, repair);
    let settings = settings.during("check root", path.display())?;
    let mut findings: Vec<Finding> = settings.into_iter().collect();
    if findings.iter().any(|finding| !finding.repaired) {
        // Opening the root would make the file again, which only a repair may do.
        return Ok(findings);
    }
    let root = Root::open(path, registry)?;
    findings.extend(root.examine_places(registry, repair)?);
    let location = match &options.open.store {
        Some(store) => root.locate(store, registry)?,
        None => root.store(registry)?,
    };
    if root.check_made(&location, registry).is_err() {
        // The store is lost, so there are no files to examine. Opening the root reports the loss.
        return Ok(findings);
    }
    findings.extend(registry.examine(&location, options.repair).await?);
    let database = root.local_database();
    let local = pool::run(move || cas_records_sqlite::examine(&database, repair)).await?;
    findings.extend(local);
    Ok(findings)
}

/// Returns whether a root cannot be opened because of damage.
fn is_damage(error: &Error, findings: &[Finding]) -> bool {
    match error.kind() {
        ErrorKind::Corrupt => true,
        ErrorKind::Busy | ErrorKind::Denied | ErrorKind::Full => false,
        _ => !findings.is_empty(),
    }
}

/// Returns the finding for a root that cannot be opened or checked because of `error`.
fn unchecked(path: &Path, error: &Error) -> Finding {
    Finding {
        problem: Problem::StoreDamaged,
        subject: path.display().to_string(),
        detail: error.to_string(),
        repaired: false,
    }
}

/// Returns a finding for each snapshot that was made for a mount and is not mounted. A repair
/// removes these snapshots.
async fn check_mounts(snapshotter: &dyn Snapshotter, repair: bool) -> Result<Vec<Finding>> {
    let mut left = unmounted(snapshotter).await?;
    let now = SystemTime::now();
    let is_new = |info: &Info| now.duration_since(info.created_at).unwrap_or_default() < MAKING;
    if left.iter().any(is_new) {
        tokio::time::sleep(MAKING).await;
        let still = unmounted(snapshotter).await?;
        left.retain(|info| still.contains(info));
    }
    let mut findings = Vec::new();
    for info in left {
        let Some(directory) = mounted::directory(&info.key) else {
            continue;
        };
        let repaired = repair && snapshotter.remove_seen(&info).await?;
        let outcome = match repaired {
            true => "the snapshot was removed",
            false => "a repair removes the snapshot",
        };
        findings.push(Finding {
            problem: Problem::MountLeft,
            subject: directory.display().to_string(),
            detail: format!(
                "a snapshot was made for a mount at this directory, but is not mounted there; \
                 {outcome}"
            ),
            repaired,
        });
    }
    Ok(findings)
}

/// Returns the snapshots that were made for mounts and are not mounted.
async fn unmounted(snapshotter: &dyn Snapshotter) -> Result<Vec<Info>> {
    let (found, mut left) = (snapshot::all(snapshotter).await?, Vec::new());
    let there = MountedDirs::read();
    for info in found {
        let Some(directory) = mounted::directory(&info.key) else {
            continue;
        };
        let mounts = mounted::mounts(snapshotter, &info.key).await?;
        if !mounted::is_at(&there, &directory, &mounts) {
            left.push(info);
        }
    }
    Ok(left)
}
