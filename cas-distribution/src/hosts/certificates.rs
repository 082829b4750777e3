//! Finds certificates in the directories `certs.d/HOST[:PORT]/` of docker, podman and containerd.
//! The files `*.crt` have the certificates of authorities. `NAME.cert` has a client certificate,
//! which is presented to the registry. `NAME.key` has the key of this certificate. If `NAME.key` is
//! absent, `NAME.cert` also has the key.

use std::path::{Path, PathBuf};

use cas_core::{Error, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::endpoint::Tls;
use super::file;

/// Adds the certificates for a host, from the first of `directories` that has a directory for the
/// host.
///
/// # Errors
/// As [`in_directory`].
pub(super) fn add(directories: &[PathBuf], host: &str, tls: &mut Tls) -> Result<()> {
    let names = names(host);
    for path in directories
        .iter()
        .flat_map(|directory| names.iter().map(|name| directory.join(name)))
    {
        if in_directory(&path, tls)? {
            break;
        }
    }
    Ok(())
}

/// Returns the names that containerd and docker give to the directory of a host, in the order in
/// which containerd looks for them.
pub(super) fn names(host: &str) -> Vec<PathBuf> {
    let is_port = |(_, port): &(&str, &str)| !port.ends_with(']');
    match host.rsplit_once(':').filter(is_port) {
        Some((name, port)) => vec![format!("{name}_{port}_").into(), host.into()],
        None => vec![host.into()],
    }
}

/// Adds the certificates in a directory. Returns whether the directory exists.
///
/// # Errors
/// `InvalidArgument` if a key has no certificate; errors of [`file::list`].
pub(super) fn in_directory(directory: &Path, tls: &mut Tls) -> Result<bool> {
    let Some(files) = file::list(directory, &[".crt", ".cert", ".key"])? else {
        return Ok(false);
    };
    let is = |path: &Path, end: &str| path.extension().is_some_and(|found| found == end);
    for path in &files {
        if is(path, "crt") {
            tls.authorities.push(path.clone());
        } else if is(path, "cert") {
            let key = path.with_extension("key");
            let key = if files.contains(&key) {
                key
            } else {
                path.clone()
            };
            tls.clients.push((path.clone(), key));
        } else if !files.contains(&path.with_extension("cert")) {
            let what = "the key has no certificate next to it; add the certificate under the same \
                        name, with .cert instead of .key";
            return Err(Error::invalid(what)
                .operation("read")
                .subject(path.display()));
        }
    }
    Ok(true)
}

/// Returns the certificates of a PEM file.
///
/// # Errors
/// `InvalidArgument` if it is absent, has no certificate, or has one that cannot be read; errors of
/// [`file::bytes`].
pub(crate) fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let data = present(path)?;
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&data).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| {
        file::mistake(
            path,
            None,
            "expected certificates in PEM form, found none, or one that cannot be read",
        )
    })
}

/// Returns the private key of a PEM file.
///
/// # Errors
/// `InvalidArgument` if it is absent, or does not have a key; errors of [`file::bytes`].
pub(crate) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let key = PrivateKeyDer::from_pem_slice(&present(path)?);
    key.map_err(|_| {
        file::mistake(
            path,
            None,
            "expected a private key in PEM form, found none that can be read",
        )
    })
}

fn present(path: &Path) -> Result<Vec<u8>> {
    let data = file::bytes(path)?;
    data.ok_or_else(|| {
        let what = "expected a file in PEM form, found nothing; make the file, or correct the path";
        Error::invalid(what)
            .operation("read")
            .subject(path.display())
    })
}
