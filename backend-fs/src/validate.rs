//! Checks an image layout of any program without writing to it.

use std::path::Path;

use cas_core::check::{CheckOptions, Finding, Problem, ReadData, Report, check};
use cas_core::layout::{INDEX, OCI_LAYOUT};
use cas_core::{Error, ErrorKind, Result, limit, pool};
use cas_host::Dir;

use crate::index::Index;
use crate::index_file::missing;
use crate::store::FsStore;
use crate::{layout, refs};

/// Checks the image layout in the directory `path`. Any program may have made the layout. Reads all
/// blobs, and writes nothing. Returns a report with a finding for each problem. The subject of a
/// finding is a file of the layout, the digest of a blob, the name of an image or, in a store of
/// `cas`, a record or the key of an ingest. Missing records of blobs are not reported, because
/// layouts of other programs have none.
///
/// An `index.json` that is missing or malformed, or has more than [`limit::DOCUMENT_READ`] bytes,
/// is a finding. The blobs are then checked, but the names are not. If `oci-layout` is missing or
/// damaged, or has another version, the report has only the findings in `oci-layout` and
/// `index.json`.
///
/// # Errors
/// `FailedPrecondition` if the directory is not an image layout, or has a store of another kind or
/// of a newer format; `Corrupt` if a file in `.cas/` is damaged; errors of the records and of the
/// file system. If `oci-layout` or `index.json` has a finding and the store cannot be opened, that
/// error is not returned, and no blob is checked.
pub async fn validate(path: impl AsRef<Path>) -> Result<Report> {
    let path = path.as_ref().to_owned();
    let found = pool::run(move || {
        let findings = files(&path)?;
        match FsStore::open_read_only(path) {
            Err(error) if findings.is_empty() => Err(error),
            opened => Ok((findings, opened.ok())),
        }
    });
    let (mut findings, opened) = found.await?;
    // If the layout cannot be opened, for example because of its version, the blobs are not
    // checked.
    let Some(store) = opened.map(|store| store.store()) else {
        return Ok(Report {
            findings,
            ..Report::default()
        });
    };
    let options = CheckOptions {
        read_data: ReadData::All,
        ..CheckOptions::default()
    };
    let mut report = check(&store, &[], &options).await?;
    // A layout of another program has no records, so a missing record is not a fault. The problems
    // of `index.json` are among the findings already.
    let is_known = |finding: &Finding| {
        finding.problem == Problem::RecordMissing || finding.problem == Problem::StoreDamaged
    };
    report.findings.retain(|finding| !is_known(finding));
    findings.append(&mut report.findings);
    Ok(Report { findings, ..report })
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
    let index = match root.read(INDEX, limit::DOCUMENT_READ).map_err(Error::from) {
        Err(error) if error.kind() != ErrorKind::OutOfRange => return Err(error),
        Err(error) => Err(error),
        Ok(Some(data)) => Index::parse(&data),
        Ok(None) => refs::read(&root).and_then(|index| index.ok_or_else(missing)),
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
