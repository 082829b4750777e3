//! Signatures of cosign, which a pull may require.

use std::path::Path;
use std::sync::Arc;

use cas_core::Result;
use cas_distribution::{Hosts, Options, Verifier};

use crate::root::RemoteSettings;

/// Returns a verifier that accepts an image only if the public key in the file `key` verifies one
/// of the signatures of the image. The verifier fetches signatures with the same settings, options
/// and hosts as the image.
///
/// # Errors
/// As [`CosignKey::read`](cas_distribution::CosignKey::read); `Unsupported` without the Cargo
/// feature `cosign`.
#[cfg(feature = "cosign")]
pub(super) async fn verifier(
    key: &Path,
    settings: RemoteSettings,
    options: &Options,
    hosts: &Hosts,
) -> Result<Arc<dyn Verifier>> {
    use cas_core::image::FullName;
    use cas_distribution::{Connect, Cosign, CosignKey, Repository};

    struct Registries(RemoteSettings, Options, Hosts);

    #[async_trait::async_trait]
    impl Connect for Registries {
        async fn connect(&self, name: &FullName) -> Result<Arc<dyn Repository>> {
            let Registries(settings, options, hosts) = self;
            let client = settings.connect(name, options.clone(), hosts).await?;
            // A mirror may list other referrers of the image, but not the signature. So the
            // referrers of all endpoints are listed, not only those of the first.
            Ok(Arc::new(client.with_all_referrers()))
        }
    }

    let key = CosignKey::read(key).await?;
    let registries = Registries(settings, options.clone(), hosts.clone());
    Ok(Arc::new(Cosign::new(key, Arc::new(registries))))
}

#[cfg(not(feature = "cosign"))]
pub(super) async fn verifier(
    key: &Path,
    _: RemoteSettings,
    _: &Options,
    _: &Hosts,
) -> Result<Arc<dyn Verifier>> {
    let why = "this build does not verify signatures of cosign; build with the Cargo feature \
               `cosign`";
    let error = cas_core::Error::unsupported(why);
    Err(error.operation("read").subject(key.display()))
}
