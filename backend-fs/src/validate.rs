//! Checks an image layout of any program without writing to it.

use std::path::Path;

use cas_core::check::{CheckOptions, Finding, Problem, ReadData, Report, check};
use cas_core::layout::{INDEX, OCI_LAYOUT};
use cas_core::{Error, ErrorKind, Result, limit, pool};
use cas_host::Dir;

use crate::index::Index;
use crate::index_file::missing;
use crate::store::FsStore;
use crate::{file, layout, places, refs};

/// Checks the image layout in the directory `path`. Any program may have made the layout. Reads all
/// blobs, and writes nothing. Returns a report with a finding for each problem. The subject of a
/// finding is a file of the layout, the digest of a blob, the name of an image or, in a store of
/// `cas`, a record or the key of an ingest.
///
/// The report never has the problem [`Problem::RecordMissing`], because a layout of another program
/// has no records. It has the problem [`Problem::ReferrerUnlinked`] only for a store of `cas`.
///
/// An `index.json` that is malformed or not a file, or has more than [`limit::DOCUMENT_READ`]
/// bytes, is a finding. A missing `index.json` is a finding if the layout does not have `refs/`
/// instead. After any of these findings, the blobs are still checked, but the names are not. If
/// `oci-layout` is missing or damaged, or has a version other than 1, neither blobs nor names are
/// checked, and the report has only the findings about `oci-layout` and `index.json`.
///
/// # Errors
/// `FailedPrecondition` if the directory has none of `oci-layout`, `index.json` and `.cas/`, has an
/// `oci-layout` of a version other than 1 but no `index.json`, or has a store of another kind or of
/// a newer format; `Corrupt` if a file in `.cas/` is damaged or the directory `blobs` is missing;
/// errors of the records and of the file system. An error of the file system about `oci-layout` or
/// `index.json` is not a finding.
pub async fn validate(path: impl AsRef<Path>) -> Result<Report> {
    let path = path.as_ref().to_owned();
    let found = pool::run(move || {
        let findings = files(&path)?;
        // A layout with a finding in `oci-layout`, for example another version, is not opened.
        let can_open = findings.iter().all(|found| found.subject != OCI_LAYOUT);
        let opened = can_open.then(|| FsStore::open_read_only(path));
        Ok((findings, opened.transpose()?))
    });
    let (mut findings, opened) = found.await?;
    let Some(store) = opened else {
        return Ok(Report {
            findings,
            ..Report::default()
        });
    };
    let options = CheckOptions {
        read_data: ReadData::All,
        ..CheckOptions::default()
    };
    let mut report = check(&store.store(), &[], &options).await?;
    // A layout of another program has no records, so a missing record is not a fault. The problems
    // of `index.json` are among the findings already.
    let is_fault = |finding: &Finding| match finding.problem {
        Problem::RecordMissing | Problem::StoreDamaged => false,
        Problem::ReferrerUnlinked => store.is_of_cas(),
        _ => true,
    };
    report.findings.retain(is_fault);
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
        findings.push(finding(OCI_LAYOUT, why)?);
    }
    let index = match file::read(&root, INDEX, limit::DOCUMENT_READ) {
        Ok(Some(data)) => Index::parse(&data),
        Ok(None) => refs::read(&root).and_then(|index| index.ok_or_else(missing)),
        Err(error) => Err(error),
    };
    for why in index.map_or_else(|why| vec![why], |index| index.wrong()) {
        findings.push(finding(INDEX, why)?);
    }
    Ok(findings)
}

/// Returns a finding in a file.
///
/// # Errors
/// Returns `why` if it is an error of the system, such as a failed device, which does not show that
/// the file is damaged.
fn finding(file: &str, why: Error) -> Result<Finding> {
    match Error::of_system(&why) {
        Some(_) => Err(why),
        None => Ok(places::finding(file, why.to_string(), false)),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use rustix::io::Errno;

    use super::*;

    #[test]
    fn an_error_of_the_system_is_not_damage() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::IO, Errno::ACCESS] {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            assert!(finding(INDEX, error.into()).is_err(), "{errno}");
        }
        assert!(finding(INDEX, Error::out_of_range("too long")).is_ok());
        assert!(finding(INDEX, Error::corrupt("a directory")).is_ok());
    }
}
