//! The client for one name in one repository, over HTTP.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cas_core::image::FullName;
use cas_core::{Descriptor, Error, Result};
use reqwest::{Method, StatusCode, Url};

use crate::address::Judge;
use crate::auth::Auth;
use crate::hosts::{Access, Endpoint, Scheme};
use crate::http::Http;
use crate::warning::Warnings;
use crate::{Host, Timeouts, origin, runtime, untrusted};

/// Maximum time that a host may take to show whether it requires TLS.
const PROBE: Duration = Duration::from_secs(5);

/// How a client reaches a registry, and where it looks for the login.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Whether to use http for an endpoint whose scheme neither `hosts.toml` nor `registries.conf`
    /// sets. If `false`, https is used, except for a registry on this machine that does not require
    /// TLS.
    pub plain_http: bool,
    /// Hosts of token services that may receive the login for the registry, in addition to the
    /// registry's own host and its subdomains.
    pub token_hosts: Vec<Host>,
    /// The file of logins that is read first. The file must exist, except for
    /// [`log_in`](crate::log_in), which creates it. If this is `None`, the first file is
    /// `$REGISTRY_AUTH_FILE`. If that variable is not set, the first file is podman's:
    /// `$XDG_RUNTIME_DIR/containers/auth.json`, or `/run/containers/UID/auth.json` if
    /// `XDG_RUNTIME_DIR` is not set. A file that is not named by this option may be absent.
    pub auth_file: Option<PathBuf>,
    /// Another repository of the same registry that may have the blobs that are pushed. The
    /// registry is asked to mount them from there.
    pub mount_from: Option<String>,
    /// Whether the registry may refer to addresses on this machine and in private networks, even if
    /// its own address is public. With any value, no connection is made to an address that is
    /// link-local, multicast or reserved, or that belongs to the metadata service of a cloud,
    /// unless it is the address by which the registry is named.
    pub private_addresses: bool,
    /// How long to wait for an answer, and for how long to repeat a request that fails.
    pub timeouts: Timeouts,
}

/// A client for one name in a repository of a registry. Cloning it is cheap. Clones share
/// credentials.
///
/// The client works on any executor, because its I/O runs on a private tokio runtime.
#[derive(Clone)]
pub struct Client(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) http: Http,
    /// The URL of the repository, for example `https://HOST/v2/REPOSITORY/`.
    pub(crate) base: Url,
    pub(crate) reference: FullName,
    /// If the client is for a mirror in `hosts.toml`: the host of the registry that is mirrored.
    /// Requests to the mirror have this host in the query parameter `ns`, as containerd's requests
    /// do. `None` for any other client.
    namespace: Option<String>,
    pub(crate) auth: Auth,
    /// A repository to mount blobs from.
    pub(crate) mount_from: Option<String>,
    /// Whether the registry has shown that the scheme of `base` is right. If it did not answer when
    /// the scheme was chosen, the scheme was guessed, and the first answer shows whether the guess
    /// was right.
    pub(crate) has_shown_scheme: AtomicBool,
    /// Whether a caller should no longer divide content into ranges. This is set if the registry
    /// has answered a request for a range with anything else, such as the whole blob, if requests
    /// for ranges failed too often, or if the bytes of ranges were wrong.
    pub(crate) ignores_ranges: AtomicBool,
    /// Whether the registry has answered a request for a range with that range, since its ranges
    /// were last found to be wrong.
    pub(crate) sent_ranges: AtomicBool,
    /// Whether ranges are not requested any more, because their bytes were wrong.
    pub(crate) distrusts_ranges: AtomicBool,
    /// Whether the registry lacks the API of referrers, so that a tag lists them.
    pub(crate) lacks_referrers: AtomicBool,
    /// The warnings that the registry has sent, and warnings about its answers.
    pub(crate) warnings: Warnings,
}

impl Client {
    /// Returns a client for `reference`. Makes a request only to find out whether a registry on
    /// this machine requires TLS.
    ///
    /// # Errors
    /// `InvalidArgument` if `reference` does not give a valid URL; `Unavailable` if the HTTP client
    /// or the TLS library cannot be set up.
    pub async fn connect(reference: &FullName, options: Options) -> Result<Self> {
        Self::at(Endpoint::of(reference), options).await
    }

    /// Returns a client for an endpoint. Makes a request only to find out whether the endpoint
    /// requires TLS. This is necessary if the endpoint is on this machine and nothing sets its
    /// scheme, or if the files of [`Hosts`](crate::Hosts) allow both https and http for the
    /// endpoint.
    ///
    /// # Errors
    /// As [`Client::connect`]. If the files allow both schemes, also `Denied` for an address that
    /// must not be connected to, `InvalidArgument` if the environment names a proxy that cannot be
    /// used, `Unavailable` if the root certificates of this system cannot be read, and errors of
    /// the files with the certificates for the endpoint.
    pub async fn at(endpoint: Endpoint, options: Options) -> Result<Self> {
        runtime::run(async move {
            let base = |scheme: &str| endpoint.base(scheme);
            let (scheme, access) = (endpoint.scheme, endpoint.access.clone());
            let reached = reach(base, scheme, access, &options).await;
            let Reached {
                http,
                base,
                is_sure,
            } = reached.map_err(|error| error.subject(&endpoint.reference))?;
            let repository = endpoint.reference.repository();
            Ok(Client(Arc::new(Inner {
                http,
                auth: Auth::new(base.clone(), &endpoint.host(), repository, &options),
                base,
                reference: endpoint.reference,
                namespace: endpoint.namespace,
                mount_from: options.mount_from,
                has_shown_scheme: AtomicBool::new(is_sure),
                ignores_ranges: AtomicBool::new(false),
                sent_ranges: AtomicBool::new(false),
                distrusts_ranges: AtomicBool::new(false),
                lacks_referrers: AtomicBool::new(false),
                warnings: Warnings::default(),
            })))
        })
        .await
    }

    /// Returns whether the scheme, https or http, is not only a guess. Otherwise, a later client for
    /// the same endpoint may choose the other scheme.
    pub(crate) fn has_shown_scheme(&self) -> bool {
        self.0.has_shown_scheme.load(Ordering::Relaxed)
    }

    /// Returns a message that explains which login was withheld from which host, or `None` if no
    /// login was withheld. If a login was withheld, the requests were made without a login.
    pub async fn withheld(&self) -> Option<String> {
        self.0.auth.current().await.credit.withheld
    }

    /// Returns the warnings so far, each once. The first warnings are about credential helpers and
    /// files of logins that were skipped. The other warnings were sent by the registry, or by the
    /// mirror that this client reads, or are about their answers: at most
    /// [`limit::WARNINGS`](cas_core::limit::WARNINGS). Each of these begins with the host in the
    /// name of the image, or with the host of the mirror, and its text is escaped.
    pub fn warnings(&self) -> Vec<String> {
        let host = match &self.0.namespace {
            Some(_) => origin::authority(&self.0.base),
            None => self.0.reference.host().to_owned(),
        };
        let own = self.0.auth.warnings().iter().cloned();
        let others = self.0.warnings.all().into_iter();
        own.chain(others.map(|text| format!("{host} {text}")))
            .collect()
    }

    /// Runs `work` on the private runtime. Returns its result.
    pub(crate) async fn run<T, F>(&self, work: impl FnOnce(Arc<Inner>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        runtime::run(work(Arc::clone(&self.0))).await
    }
}

/// How a registry is reached.
pub(crate) struct Reached {
    pub(crate) http: Http,
    /// The URL with the scheme that was chosen.
    pub(crate) base: Url,
    /// Whether the scheme is set, or the registry has shown that it is right. Otherwise, it is a
    /// guess.
    is_sure: bool,
}

/// A choice between https and http.
struct Choice {
    uses_tls: bool,
    /// As in [`Reached`].
    is_sure: bool,
}

/// Returns connections to a registry, and the URL that `base` gives for the scheme by which the
/// registry is reached.
pub(crate) async fn reach(
    base: impl Fn(&str) -> Result<Url>,
    scheme: Scheme,
    access: Access,
    options: &Options,
) -> Result<Reached> {
    let (plain, encrypted) = (base("http")?, base("https")?);
    let judge = Judge::new(&plain, options.private_addresses)
        .with_advice("; if you trust the registry, allow them (--private-addresses)");
    let http = Http::reaching(&plain, judge, options.timeouts.clone(), access)?;
    let set = |uses_tls| Choice {
        uses_tls,
        is_sure: true,
    };
    let choice = match scheme {
        Scheme::Http => set(false),
        Scheme::Https => set(true),
        Scheme::Usual if options.plain_http => set(false),
        Scheme::Usual if !origin::is_loopback(&plain) => set(true),
        Scheme::Usual => wants_tls(&http, &plain).await,
        Scheme::Either => may_use_tls(&http, &encrypted).await?,
    };
    Ok(Reached {
        http,
        base: if choice.uses_tls { encrypted } else { plain },
        is_sure: choice.is_sure,
    })
}

/// Chooses https if a host answers to https, or at least does not show within [`PROBE`] that it
/// does not use TLS. A host whose certificate is refused uses TLS. No credentials are sent.
async fn may_use_tls(http: &Http, base: &Url) -> Result<Choice> {
    let request = http.request(Method::HEAD, base)?;
    let answer = tokio::time::timeout(PROBE, request.send()).await;
    let uses_tls = match &answer {
        Ok(Err(error)) => untrusted::uses_tls(error),
        _ => true,
    };
    Ok(Choice {
        uses_tls,
        is_sure: uses_tls && answer.is_ok(),
    })
}

/// Chooses https if a registry on this machine refuses plain http. No credentials are sent.
async fn wants_tls(http: &Http, base: &Url) -> Choice {
    let guess = |uses_tls| Choice {
        uses_tls,
        is_sure: false,
    };
    // A registry with TLS answers 400, or breaks the connection. But any connection may break once,
    // and a registry without TLS may not support HEAD. A registry that has just been started, or
    // that fails, may do anything.
    for method in [Method::HEAD, Method::GET] {
        let Ok(request) = http.request(method, base) else {
            return guess(true);
        };
        match tokio::time::timeout(PROBE, request.send()).await {
            Ok(Ok(response)) if response.status() == StatusCode::BAD_REQUEST => {}
            Ok(Err(error)) if !error.is_connect() => {}
            answer => {
                return Choice {
                    uses_tls: false,
                    is_sure: matches!(answer, Ok(Ok(_))),
                };
            }
        }
    }
    guess(true)
}

impl Inner {
    /// Notes that the registry has answered a request with this status. This shows that the scheme
    /// is right, unless a host with TLS refuses plain http with the status 400.
    pub(crate) fn note_answer(&self, status: StatusCode) {
        if self.base.scheme() == "https" || status != StatusCode::BAD_REQUEST {
            self.has_shown_scheme.store(true, Ordering::Relaxed);
        }
    }

    /// Returns the URL `KIND/NAME` in the repository, for example of a document or a blob.
    pub(crate) fn url(&self, kind: &str, name: &str) -> Result<Url> {
        let url = self.base.join(&format!("{kind}/{name}"));
        let mut url = url.map_err(|error| {
            Error::invalid(format!("invalid URL: {error}; correct the reference")).subject(name)
        })?;
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }

    /// Returns the URL of the content of a descriptor.
    pub(crate) fn content(&self, descriptor: &Descriptor) -> Result<Url> {
        let kind = if descriptor.media_type.is_document() {
            "manifests"
        } else {
            "blobs"
        };
        self.url(kind, &descriptor.digest.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_never_chosen_for_another_machine() {
        for host in [
            "169.254.7.7:5000",
            "0.0.0.0:5000",
            "10.0.0.1:5000",
            "[2001:db8::1]:5000",
            "[fe80::1]",
            "r.test",
            "R.test",
        ] {
            let reference: FullName = format!("{host}/app:1").parse().unwrap();
            let client = cas_core::pool::wait(Client::connect(&reference, Options::default()));
            assert_eq!(client.unwrap().0.base.scheme(), "https", "{host}");
        }
    }

    /// Returns the scheme by which a host is reached that may use both, if it answers `sent` to the
    /// first bytes of each connection.
    fn chosen(sent: &'static [u8]) -> String {
        use std::io::{Read, Write};

        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let serving = std::thread::spawn(move || {
            let (mut client, _) = server.accept().unwrap();
            let _ = client.read(&mut [0; 4096]);
            let _ = client.write_all(sent);
        });
        let reference: FullName = format!("{address}/app:1").parse().unwrap();
        let endpoint = Endpoint {
            scheme: Scheme::Either,
            ..Endpoint::of(&reference)
        };
        let client = cas_core::pool::wait(Client::at(endpoint, Options::default()));
        serving.join().unwrap();
        client.unwrap().0.base.scheme().to_owned()
    }

    /// Credentials must not be sent without encryption because a handshake failed.
    #[test]
    fn only_a_host_without_tls_is_reached_by_http() {
        assert_eq!(chosen(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "http");
        assert_eq!(chosen(b""), "http");
        // The alert of TLS that the handshake failed.
        assert_eq!(chosen(&[21, 3, 3, 0, 2, 2, 40]), "https");
    }

    /// A registry may be down when its scheme is chosen. The client must not keep this choice.
    #[test]
    fn a_scheme_that_was_guessed_is_chosen_again_until_the_registry_answers() {
        use std::io::{Read, Write};
        use std::sync::atomic::AtomicUsize;

        use cas_core::ErrorKind;
        use cas_core::transfer::Fetcher;

        use crate::Mirrors;

        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let (answers, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                loop {
                    let (mut client, _) = server.accept().unwrap();
                    let mut request = [0; 4096];
                    let length = client.read(&mut request).unwrap_or(0);
                    if request.starts_with(b"END") {
                        return;
                    }
                    if answers.load(Ordering::Relaxed) && length > 0 {
                        asked.fetch_add(1, Ordering::Relaxed);
                        let answer = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\
                                      Connection: close\r\n\r\n";
                        let _ = client.write_all(answer.as_bytes());
                    }
                }
            });
            let reference: FullName = format!("{address}/app:1").parse().unwrap();
            let options = Options {
                timeouts: Timeouts::default().with_repeat(Duration::ZERO),
                ..Options::default()
            };
            let mirrors = Mirrors::new([(Endpoint::of(&reference), options)]);
            let resolve = || cas_core::pool::wait(mirrors.resolve()).unwrap_err();
            let failed = [resolve(), resolve()].map(|error| error.kind());
            answers.store(true, Ordering::Relaxed);
            let healed = resolve().kind();
            let probed = asked.load(Ordering::Relaxed);
            resolve();
            let kept = asked.load(Ordering::Relaxed) - probed;
            let mut end = std::net::TcpStream::connect(address).unwrap();
            end.write_all(b"END").unwrap();
            assert_eq!(failed, [ErrorKind::Unavailable; 2]);
            assert_eq!(healed, ErrorKind::NotFound);
            // The scheme is known now, so the request that chooses it is not made again.
            assert_eq!(kept, probed - 1);
        });
    }

    #[test]
    fn addresses_keep_their_brackets_and_hosts_their_meaning() {
        for (name, expected) in [
            ("[::1]:5000/a__b:1", "https://[::1]:5000/v2/a__b/"),
            ("[2001:DB8::1]/a", "https://[2001:db8::1]/v2/a/"),
            ("R.Test:443/a---b/c", "https://r.test/v2/a---b/c/"),
            ("127.0.0.1:5000/a.b", "https://127.0.0.1:5000/v2/a.b/"),
            ("localhost/a", "https://localhost/v2/a/"),
            ("a", "https://registry-1.docker.io/v2/library/a/"),
            ("me/a", "https://registry-1.docker.io/v2/me/a/"),
            (
                "docker.io/a:1",
                "https://registry-1.docker.io/v2/library/a/",
            ),
            ("Docker.io/b/a", "https://registry-1.docker.io/v2/b/a/"),
            ("docker.io:443/b/a", "https://registry-1.docker.io/v2/b/a/"),
            (
                "index.docker.io/a",
                "https://registry-1.docker.io/v2/library/a/",
            ),
            (
                "registry-1.docker.io/b/a",
                "https://registry-1.docker.io/v2/b/a/",
            ),
            ("docker.io.x.test/a", "https://docker.io.x.test/v2/a/"),
            ("hub.docker.com/a", "https://hub.docker.com/v2/a/"),
        ] {
            let name: FullName = name.parse().unwrap();
            let found = crate::hosts::url(name.host(), name.repository(), "https").unwrap();
            assert_eq!(found.as_str(), expected);
        }
    }
}
