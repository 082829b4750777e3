//! `cas fsck`: checking and repairing a root.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use cas::check::{Finding, ReadData, Report, parse_rate};
use cas::{Cas, Digest, FsckOptions, Result};
use cas_host::calls::is_file;
use clap::Args;

use super::Context;
use super::output::{count, printable, size};
use super::run::run_dir::sweep;

/// The exit code for damage that remains.
const DAMAGED: u8 = 4;

/// Check the store and the snapshots for damage, and with --repair, repair it
#[derive(Args)]
#[command(after_help = "Examples:
  cas fsck
  cas fsck --read-data
  cas fsck --read-data=5% --rate 50MiB
  cas fsck --repair --from registry.example/app:1
  cas fsck --repair --from /srv/b#app:1

Without --read-data, only indexes and manifests are read and hashed. --read-data=2/7 reads the
second of seven parts of the blobs, and of the files of snapshots. With --read-data=5%, each call
reads the next 5% of the bytes.

SOURCE is DIR, URL or the name of an image in a registry. DIR is a root or an image layout, and URL
names a store. DIR#NAME and URL#NAME mean the same as DIR and URL, if the store has the image NAME.
In place of a URL before #, you may write a scheme or the name of a table in cas.toml.

Exit codes: 0 no damage, or all damage was repaired; 2 wrong usage, for example another form of
SOURCE; 3 not a root, or the path or the image in --from does not exist; 4 damage remains; 5 another
process has the store open.")]
pub(crate) struct Fsck {
    /// Read blobs and the files of snapshots: all, a part as in 2/7, or a share as in 5%
    #[arg(long, value_name = "PART", num_args = 0..=1, require_equals = true,
        default_missing_value = "all")]
    read_data: Option<String>,
    /// Continue where an interrupted --read-data stopped
    #[arg(long, requires = "read_data")]
    resume: bool,
    /// Read at most this many bytes per second, as in 50MiB
    #[arg(long, value_name = "SIZE", requires = "read_data")]
    rate: Option<String>,
    /// Repair damage where possible; if no source has the right bytes of a blob, the lease
    /// `quarantine` keeps the damaged bytes under their own digest
    #[arg(long)]
    repair: bool,
    /// Where to fetch missing and damaged blobs from: a root, an image layout, the URL of a store,
    /// or an image in a registry [default: the registry of each image's name]
    #[arg(long, value_name = "SOURCE", requires = "repair")]
    from: Option<String>,
    /// Use plain HTTP for registries, unless hosts.toml or registries.conf sets the scheme
    #[arg(long, requires = "repair")]
    plain_http: bool,
    /// Look for the login in this file before any other file [default: the file in cas.toml, or
    /// $REGISTRY_AUTH_FILE]
    #[arg(long, value_name = "FILE", requires = "repair")]
    authfile: Option<PathBuf>,
}

impl Fsck {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode> {
        let mut options = FsckOptions::default();
        options.open = context.open_options();
        options.read_data = match &self.read_data {
            Some(part) => ReadData::parse(part)?,
            None => ReadData::Nothing,
        };
        options.resume = self.resume;
        options.bytes_per_second = self.rate.as_deref().map(parse_rate).transpose()?;
        options.repair = self.repair;
        options.from = self.from;
        options.plain_http = self.plain_http;
        options.auth_file = self.authfile;
        options.progress = Arc::clone(&context.progress);
        let root = context.root()?;
        let checked = Cas::fsck(&root, options).await;
        if checked.is_err()
            && self.repair
            && is_file(&root.join("cas.toml"))
            && let Ok(cas) = context.cas().await
        {
            // The message is then the one of all commands that change the root.
            cas.check_writable()?;
        }
        let mut report = checked?;
        // A root that is too damaged to be opened is checked again after its repair. Opening a root
        // that has lost its cas.toml would make the file again, which only a repair may do.
        if is_file(&root.join("cas.toml"))
            && let Ok(cas) = context.cas().await
        {
            match sweep(&cas, !self.repair, &*context.progress).await {
                // The damage that was found before may be in the directory of the runs.
                Err(_) if !report.is_sound() => {}
                left => {
                    let left = left?.leftovers.into_iter();
                    let left = left.map(|run| Finding::left(&run, self.repair));
                    report.findings.extend(left);
                }
            }
        }
        print(context, &report, self.repair)?;
        Ok(match report.is_sound() {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(DAMAGED),
        })
    }
}

fn print(context: &Context, report: &Report, repair: bool) -> Result<()> {
    let out = &context.out;
    for finding in &report.findings {
        out.item(finding, || {
            let state = if finding.repaired {
                "repaired"
            } else {
                "found"
            };
            // Texts of an image are on one line, so that none looks like another finding.
            let (subject, detail) = (printable(&finding.subject), printable(&finding.detail));
            format!("{state}: {}: {subject}: {detail}", finding.problem)
        })?;
    }
    for (key, bytes) in &report.resumable {
        let short = key.parse::<Digest>().map_or(key.clone(), |key| key.short());
        out.say(format!(
            "kept: the first {} of {short}, left by an interrupted job; the next pull of this blob \
             continues after these bytes",
            size(*bytes)
        ))?;
    }
    if report.unrecorded > 0 {
        let blobs = count(report.unrecorded, "blob");
        out.say(match repair {
            true => format!("recorded: {blobs} that another program has stored"),
            false => format!(
                "not recorded: {blobs} that another program has stored; this is not damage, but \
                 without a record, no collection removes a blob; a repair makes the records"
            ),
        })?;
    }
    if report.unlisted > 0 {
        out.say(format!(
            "not checked: the files of {}, because the list of these files is missing: an earlier \
             release has unpacked them, or the machine lost power; this is not damage",
            count(report.unlisted, "snapshot")
        ))?;
    }
    let left = report.findings.iter().filter(|one| !one.repaired).count();
    let repaired = report.findings.len() - left;
    out.say(format!(
        "checked {}, {} ({} read) and {}: {} left, {repaired} repaired",
        count(report.images, "image"),
        count(report.blobs, "blob"),
        size(report.bytes_read),
        count(report.snapshots, "snapshot"),
        count(left as u64, "problem"),
    ))
}
