//! Decides which servers are trusted, and which certificates are shown to them.

use std::sync::Arc;

use cas_core::{Error, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{self, CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore,
    SignatureScheme, WantsVerifier,
};
use rustls_platform_verifier::Verifier;

use crate::error;
use crate::hosts::{Tls, read_certificates, read_key};

/// Returns the configuration of a client for plain http, which needs no root certificates.
///
/// # Errors
/// `Unavailable` if the TLS library fails.
pub(crate) fn unused() -> Result<ClientConfig> {
    let roots = begin()?.with_root_certificates(RootCertStore::empty());
    Ok(roots.with_no_client_auth())
}

/// Returns the configuration for https. It trusts servers whose certificates come from an authority
/// of the system or of `tls`. A file of authorities may also have the certificate of the server
/// itself. `own` states whether the server is the registry's own host. Only this host may be
/// trusted without verification, and only this host gets a client certificate: the first one of
/// `tls`.
///
/// # Errors
/// `Unavailable` if the root certificates of this system cannot be read, or the TLS library fails;
/// `InvalidArgument` if the client certificate does not match its key; errors of the files that
/// `tls` names.
pub(crate) fn config(tls: &Tls, own: bool) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = if own && tls.skip_verify {
        Arc::new(Unverified(provider))
    } else {
        let mut authorities = Vec::new();
        for path in &tls.authorities {
            authorities.extend(read_certificates(path)?);
        }
        let verifier = Verifier::new_with_extra_roots(authorities.clone(), provider);
        Arc::new(OrTrusted {
            verifier: verifier.map_err(|error| error::tls(&error))?,
            trusted: authorities,
        })
    };
    let trusting = begin()?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let Some((certificate, key)) = tls.clients.first().filter(|_| own) else {
        return Ok(trusting.with_no_client_auth());
    };
    let (chain, secret) = (read_certificates(certificate)?, read_key(key)?);
    trusting
        .with_client_auth_cert(chain, secret)
        .map_err(|error| {
            let why = format!(
                "the certificate does not match the key {}: {error}",
                key.display()
            );
            Error::invalid(format!("{why}; replace one of them"))
                .operation("read")
                .subject(certificate.display())
        })
}

/// Returns the beginning of a configuration that uses ring.
fn begin() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error::tls(&error))
}

/// Also trusts a server whose own certificate is among `trusted`, if it is valid now and for the
/// name of the server. `openssl req -x509` marks such a certificate as the certificate of an
/// authority, and the verifier refuses a server whose own certificate is marked in this way.
#[derive(Debug)]
struct OrTrusted {
    verifier: Verifier,
    trusted: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for OrTrusted {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self
            .verifier
            .verify_server_cert(end_entity, intermediates, name, ocsp, now);
        match verified {
            Err(rustls::Error::InvalidCertificate(problem))
                if is_of_issuer(&problem) && self.trusted.contains(end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// Returns whether a certificate was refused because of its issuer, or because it is the
/// certificate of an authority. In both cases, the verifier has already checked its dates.
fn is_of_issuer(problem: &CertificateError) -> bool {
    match problem {
        CertificateError::UnknownIssuer => true,
        // The library has no variant for this error, so its text is compared.
        CertificateError::Other(other) => other.to_string() == "CaUsedAsEndEntity",
        _ => false,
    }
}

/// Trusts every certificate, if the server has the private key of the certificate.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
