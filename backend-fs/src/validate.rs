//! Checking an image layout of any program, without writing to it.

use std::path::Path;

use cas_core::check::{CheckOptions, Finding, Problem, ReadData, Report, check};
use cas_core::layout::{INDEX, OCI_LAYOUT};
use cas_core::{Error, ErrorKind, Result, limit, pool};
use cas_host::Dir;

use crate::index::Index;
use crate::index_file::missing;
use crate::store::FsStore;
use crate::{layout, refs};

/// Checks the image layout in the directory `path`, which this or another program made. Reads all
/// blobs, and writes nothing. Returns what is wrong; the subject of a finding is a file of the
/// layout, the digest of a blob or the name of an image.
///
/// # Errors
/// `FailedPrecondition` if the directory is not an image layout; `OutOfRange` if `index.json` has
/// more than [`limit::DOCUMENT_READ`] bytes; errors of the file system.
pub async fn validate(path: impl AsRef<Path>) -> Result<Report> {
    let path = path.as_ref().to_owned();
    let found = pool::run(move || match files(&path)? {
        found if found.is_empty() => Ok(Ok(FsStore::open_read_only(path)?)),
        findings => Ok(Err(findings)),
    });
    let store = match found.await? {
        Ok(store) => store.store(),
        // The blobs and names that damaged files list cannot be checked.
        Err(findings) => {
            return Ok(Report {
                findings,
                ..Report::default()
            });
        }
    };
    let options = CheckOptions {
        read_data: ReadData::All,
        ..CheckOptions::default()
    };
    let mut report = check(&store, &[], &options).await?;
    // A layout of another program has no records, so a missing record is not a fault.
    report
        .findings
        .retain(|finding| finding.problem != Problem::RecordMissing);
    Ok(report)
}

/// Checks the files that are not blobs.
fn files(path: &Path) -> Result<Vec<Finding>> {
    let root = Dir::open(path)?;
    let mut findings = Vec::new();
    if let Some(why) = layout::check_oci_layout(&root).err() {
        if why.kind() == ErrorKind::FailedPrecondition && root.stat(INDEX)?.is_none() {
            return Err(why);
        }
        findings.push(finding(OCI_LAYOUT, &why));
    }
    let index = match root.read(INDEX, limit::DOCUMENT_READ)? {
        Some(data) => Index::parse(&data),
        None => refs::read(&root).and_then(|index| index.ok_or_else(missing)),
    };
    let wrong = index.map_or_else(|why| vec![why], |index| index.wrong());
    findings.extend(wrong.iter().map(|why| finding(INDEX, why)));
    Ok(findings)
}

fn finding(file: &str, why: &Error) -> Finding {
    Finding {
        problem: Problem::StoreDamaged,
        subject: file.to_owned(),
        detail: why.to_string(),
        repaired: false,
    }
}
