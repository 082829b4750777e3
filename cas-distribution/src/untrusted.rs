//! Advice for users, if the certificate of a server is not trusted.

use std::error::Error;
use std::io;

use reqwest::Url;
use rustls::CertificateError;

use crate::origin::authority;

/// Returns what to do if a connection to `url` failed because the certificate of the server is not
/// trusted, or `None` if it failed for another reason.
pub(crate) fn advice(error: &(dyn Error + 'static), url: &Url) -> Option<String> {
    let mut cause = Some(error);
    let wrong = loop {
        match certificate_error(cause?) {
            Some(found) => break found,
            None => cause = cause?.source(),
        }
    };
    let host = authority(url);
    Some(match wrong {
        CertificateError::UnknownIssuer => format!(
            "with --ca FILE, name a file that has the certificate of the authority; if this is the \
             host of the registry, the file may also be /etc/containers/certs.d/{host}/ca.crt"
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "ask the operator of the host to renew the certificate, and check the clock of this \
             machine"
                .into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "use the host name for which the certificate was issued".into()
        }
        _ => "ask the operator of the host to correct the certificate".into(),
    })
}

/// Returns what is wrong with a certificate, if that is the cause.
fn certificate_error<'a>(mut cause: &'a (dyn Error + 'static)) -> Option<&'a CertificateError> {
    // The source of an error of I/O is not the error that it wraps, but the source of that error.
    while let Some(of_system) = cause.downcast_ref::<io::Error>() {
        cause = of_system.get_ref()?;
    }
    match cause.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(error) => Some(error),
        _ => None,
    }
}
