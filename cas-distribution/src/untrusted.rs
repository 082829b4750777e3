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
            "use --ca FILE with the certificate of the authority that issued the server's \
             certificate; for the host of the registry, this file may instead be \
             /etc/containers/certs.d/{host}/ca.crt"
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "ask the operator of the host to renew the certificate, and check the clock of this \
             machine"
                .into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "check the clock of this machine".into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "use the host name for which the certificate was issued".into()
        }
        _ => "ask the operator of the host to correct the certificate".into(),
    })
}

/// Returns what is wrong with a certificate, if that is the cause.
fn certificate_error<'a>(mut cause: &'a (dyn Error + 'static)) -> Option<&'a CertificateError> {
    // `io::Error::source` skips the wrapped error: it returns the source of the wrapped error.
    // `get_ref` returns the wrapped error itself.
    while let Some(of_system) = cause.downcast_ref::<io::Error>() {
        cause = of_system.get_ref()?;
    }
    match cause.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(error) => Some(error),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_is_about_what_is_wrong() {
        let url = "https://x.test:5000/v2/".parse().unwrap();
        for (wrong, expected) in [
            (
                CertificateError::UnknownIssuer,
                "certs.d/x.test:5000/ca.crt",
            ),
            (CertificateError::Expired, "to renew the certificate"),
            (CertificateError::NotValidYet, "check the clock"),
            (CertificateError::NotValidForName, "use the host name"),
            (CertificateError::Revoked, "to correct the certificate"),
        ] {
            let error = rustls::Error::InvalidCertificate(wrong);
            let wrapped = io::Error::other(error.clone());
            for advice in [advice(&error, &url), advice(&wrapped, &url)] {
                let advice = advice.unwrap();
                assert!(advice.contains(expected), "{error}: {advice}");
            }
        }
        assert_eq!(advice(&rustls::Error::DecryptError, &url), None);
    }
}
