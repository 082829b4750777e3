//! Keeps App Container images (ACIs) in the store of a root, with the functions of rkt's image
//! store. To open an [`AciStore`], pass [`Cas::store`](crate::Cas::store) to [`AciStore::open`].

pub use cas_aci::*;
#[cfg(feature = "registry")]
pub use http::HttpFetcher;

#[cfg(feature = "registry")]
mod http {
    use async_trait::async_trait;
    use cas_aci::{AciFetcher, Fetched};
    use cas_core::Result;
    use cas_distribution::{Download, download};

    /// Fetches ACIs over HTTPS or HTTP, without a login. Signatures are not verified.
    #[derive(Clone, Debug, Default)]
    #[non_exhaustive]
    pub struct HttpFetcher {
        /// Whether URLs may begin with `http://`. By default, only URLs of loopback addresses may.
        pub plain_http: bool,
    }

    impl HttpFetcher {
        /// Sets [`plain_http`](Self::plain_http).
        #[must_use]
        pub fn with_plain_http(mut self, plain_http: bool) -> Self {
            self.plain_http = plain_http;
            self
        }
    }

    #[async_trait]
    impl AciFetcher for HttpFetcher {
        async fn fetch(&self, url: &str, etag: Option<&str>) -> Result<Fetched> {
            Ok(match download(url, etag, self.plain_http).await? {
                Download::NotModified { cache_control } => Fetched::NotModified { cache_control },
                Download::File {
                    body,
                    etag,
                    cache_control,
                } => Fetched::Aci {
                    body,
                    etag,
                    cache_control,
                },
            })
        }
    }
}
