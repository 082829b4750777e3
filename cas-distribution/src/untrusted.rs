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
             certificate; for the host of the registry, you may instead save the authority's \
             certificate as /etc/containers/certs.d/{host}/ca.crt"
        ),
        // The authority has the right name, but another key.
        CertificateError::BadSignature => {
            "if you use --ca or a ca.crt, replace that file by the current certificate of the \
             authority that issued the server's certificate; otherwise, ask the operator of the \
             host to correct the certificate"
                .into()
        }
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

/// Returns whether a connection failed although the server uses TLS, for example because its
/// certificate is not trusted.
pub(crate) fn uses_tls(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(inner) = cause {
        if let Some(found) = tls_error(inner) {
            // A server without TLS sends a message that is not one of TLS.
            return !matches!(found, rustls::Error::InvalidMessage(_));
        }
        cause = inner.source();
    }
    false
}

/// Returns what is wrong with a certificate, if that is the cause.
fn certificate_error<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a CertificateError> {
    match tls_error(cause)? {
        rustls::Error::InvalidCertificate(error) => Some(error),
        _ => None,
    }
}

/// Returns the error of TLS, if that is the cause.
fn tls_error<'a>(mut cause: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    // `io::Error::source` skips the wrapped error: it returns the source of the wrapped error.
    // `get_ref` returns the wrapped error itself.
    while let Some(of_system) = cause.downcast_ref::<io::Error>() {
        cause = of_system.get_ref()?;
    }
    cause.downcast_ref()
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
            (CertificateError::BadSignature, "the current certificate"),
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

    #[test]
    fn a_host_whose_certificate_is_refused_uses_tls() {
        let refused = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        assert!(uses_tls(&io::Error::other(refused)));
        let no_tls = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        assert!(!uses_tls(&io::Error::other(no_tls)));
        assert!(!uses_tls(&io::Error::from(io::ErrorKind::ConnectionReset)));
    }
}
