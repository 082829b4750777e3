//! Public keys for signatures of cosign.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cas_core::{Context, Error, Result, limit};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

use crate::{bounded, runtime};

/// The beginning and the end of the PEM form of a public key.
const PEM: [&str; 2] = ["-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----"];
/// The beginning of the DER form of every key of the curve P-256. The point follows it.
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Length in bytes of an uncompressed point.
const POINT: usize = 65;

/// A public key that verifies signatures of cosign: ECDSA on the curve P-256, with SHA-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CosignKey(Vec<u8>);

impl CosignKey {
    /// Reads a key from a file in PEM form, such as `cosign.pub`.
    ///
    /// # Errors
    /// `NotFound` if the file is absent; `OutOfRange` if the file has more than
    /// [`limit::HOSTS_FILE`] bytes; errors of [`CosignKey::parse`]; errors of the file system.
    pub async fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        runtime::blocking(move || {
            let read = || {
                let data = bounded::read(&path, "the key file", limit::HOSTS_FILE)?;
                let absent = || Error::not_found("the key file is absent; check the path");
                Self::parse(&String::from_utf8_lossy(&data.ok_or_else(absent)?))
            };
            read().during("read", path.display())
        })
        .await
    }

    /// Parses a key in PEM form.
    ///
    /// # Errors
    /// `InvalidArgument` if the text is not a public key in PEM form; `Unsupported` if the key is
    /// not an ECDSA key of the curve P-256.
    pub fn parse(pem: &str) -> Result<Self> {
        let inner = pem.trim().strip_prefix(PEM[0]);
        let inner = inner.and_then(|rest| rest.strip_suffix(PEM[1]));
        let inner: Option<String> = inner.map(|text| text.split_whitespace().collect());
        let der = inner.and_then(|text| STANDARD.decode(text).ok());
        let der = der.ok_or_else(|| {
            Error::invalid(
                "expected one public key in PEM form, as in cosign.pub; write it with `cosign \
                 public-key`",
            )
        })?;
        match der.strip_prefix(&P256[..]) {
            Some(point) if point.len() == POINT && point[0] == 4 => Ok(CosignKey(point.to_vec())),
            _ => Err(Error::unsupported(
                "expected a key of the curve P-256, found a key of another kind; make a new key \
                 with `cosign generate-key-pair`",
            )),
        }
    }

    /// Returns whether `signature` is this key's signature of `payload`.
    pub(super) fn has_signed(&self, payload: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.0);
        key.verify(payload, signature).is_ok()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use cas_core::ErrorKind;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

    use super::*;

    /// A new private key.
    pub(in super::super) struct Signer {
        pair: EcdsaKeyPair,
        random: SystemRandom,
    }

    impl Signer {
        pub(in super::super) fn new() -> Self {
            let (kind, random) = (&ECDSA_P256_SHA256_ASN1_SIGNING, SystemRandom::new());
            let pair = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
            let pair = EcdsaKeyPair::from_pkcs8(kind, pair.as_ref(), &random).unwrap();
            Signer { pair, random }
        }

        pub(in super::super) fn public(&self) -> CosignKey {
            CosignKey(self.pair.public_key().as_ref().to_vec())
        }

        pub(in super::super) fn sign(&self, data: &[u8]) -> Vec<u8> {
            self.pair
                .sign(&self.random, data)
                .unwrap()
                .as_ref()
                .to_vec()
        }
    }

    pub(in super::super) const KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
        MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAELiDTdJrMq300ht7tId/bDJgMBoiH\n\
        kuKHcc6HQW44w9B9rRiTp8mAXiu8ZIcpIVwrMuyewKSe9GT+v7xWk6h4Rg==\n\
        -----END PUBLIC KEY-----\n";
    /// A key of the curve P-384.
    const LARGER: &str = "-----BEGIN PUBLIC KEY-----\n\
        MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAE3g92WS9CD8hRBMHGY1XtibkWRC9IP+xu\n\
        ZZ/KyzYxoYZS85GXLCXfHymvp6Heq2PKHJCBUhx3vZfGhqYYbp1I7vjBjoTPclDK\n\
        kQtOj8OlXI5rGx0oYxlWmpN8UpZoRvw2\n-----END PUBLIC KEY-----\n";

    #[test]
    fn only_a_key_of_the_right_kind_is_read() {
        let trimmed = CosignKey::parse(KEY.trim()).unwrap();
        assert_eq!(CosignKey::parse(KEY).unwrap(), trimmed);
        for (text, kind) in [
            ("", ErrorKind::InvalidArgument),
            ("secret", ErrorKind::InvalidArgument),
            (PEM[0], ErrorKind::InvalidArgument),
            (
                &KEY.replace("PUBLIC", "PRIVATE"),
                ErrorKind::InvalidArgument,
            ),
            (&KEY.replace("MFkw", "M!kw"), ErrorKind::InvalidArgument),
            (&format!("{KEY}{KEY}"), ErrorKind::InvalidArgument),
            (LARGER, ErrorKind::Unsupported),
        ] {
            let error = CosignKey::parse(text).unwrap_err();
            assert_eq!(error.kind(), kind, "{text}");
            assert!(!error.to_string().contains("secret"));
        }
    }
}
