//! The HTTP client of a store in a bucket. It bounds the time of each request and the size of
//! answers that are kept in memory whole.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use cas_core::sync::lock;
use cas_core::{Error, Result, limit};
use futures_util::Stream;
use http::{Request, Response, StatusCode};
use opendal::{Buffer, ErrorKind, HttpBody, HttpTransport, HttpTransporter};
use opendal_http_transport_reqwest::ReqwestTransport;
use reqwest::redirect::Policy;
use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::time::{Instant, Sleep, sleep, timeout};

use crate::prefix::listing::count_page;

/// A part of the query of every request for a page of a list.
const LIST: &str = "list-type=2";

type Body = Box<dyn Stream<Item = opendal::Result<Buffer>> + Send + Sync + Unpin>;

/// How long a client waits for a service. A transfer that makes progress has no overall deadline.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    /// Maximum time to look up a host, connect to it and set up TLS.
    connect: Duration,
    /// Maximum time from a request to the head of its answer, in addition to the time for sending
    /// the body of the request at the speed `sending`.
    answer: Duration,
    /// Minimum speed at which a body is sent, in bytes per second.
    sending: u64,
    /// Maximum time in which fewer than `least` bytes of the body of an answer may arrive.
    idle: Duration,
    least: u64,
    /// A request that fails is not repeated if all requests have failed for this time.
    repeat: Duration,
}

impl Patience {
    /// A part of 8 MiB may take 9 minutes to send. Except for `sending`, the values are those of a
    /// client of a registry.
    pub(crate) const DEFAULT: Patience = Patience {
        connect: Duration::from_secs(20),
        answer: Duration::from_secs(30),
        sending: 16 << 10,
        idle: Duration::from_secs(10),
        least: 10 << 10,
        repeat: Duration::from_secs(60),
    };
}

/// Returns an HTTP client that trusts the certificates that this system trusts, and follows no
/// redirects. Its TLS uses ring.
///
/// # Errors
/// `Unavailable` if TLS cannot be set up.
pub(crate) fn transport(patience: Patience) -> Result<HttpTransporter> {
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(BuilderVerifierExt::with_platform_verifier)
        .map_err(|error| unavailable(&error))?
        .with_no_client_auth();
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(patience.connect)
        // The signature of a request is valid for one host only.
        .redirect(Policy::none())
        .build()
        .map_err(|error| unavailable(&error))?;
    Ok(HttpTransporter::new(Transport {
        inner: ReqwestTransport::new(client),
        patience,
        silence: Silence::default(),
    }))
}

fn unavailable(error: &dyn std::error::Error) -> Error {
    Error::unavailable(format!(
        "cannot set up TLS: {error}; check the CA certificates of this system"
    ))
    .operation("open store")
}

struct Transport {
    inner: ReqwestTransport,
    patience: Patience,
    silence: Silence,
}

impl HttpTransport for Transport {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let query = request.uri().query();
        let is_list = query.is_some_and(|query| query.contains(LIST));
        if is_list {
            count_page()?;
        }
        let began = Instant::now();
        let sending = request.body().len() as u64 / self.patience.sending;
        let allowed = self.patience.answer + Duration::from_secs(sending);
        let failure = match timeout(allowed, self.inner.fetch(request)).await {
            Ok(Ok(response)) => return self.bounded(response, is_list, began),
            Ok(Err(error)) => error,
            Err(_) => temporary(format!(
                "the service did not answer for {} seconds; check the endpoint, or try again later",
                allowed.as_secs_f32()
            )),
        };
        Err(self.silence.failed(began, failure, self.patience.repeat))
    }
}

impl Transport {
    /// Returns the answer with bounds on its body. Refuses a redirect.
    fn bounded(
        &self,
        response: Response<HttpBody>,
        is_list: bool,
        began: Instant,
    ) -> opendal::Result<Response<HttpBody>> {
        let status = response.status();
        if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
            return Err(opendal::Error::new(
                ErrorKind::ConfigInvalid,
                "the service redirects to another address; name the endpoint and the region of \
                 the bucket",
            ));
        }
        let most = match status.is_success() && !is_list {
            true => u64::MAX,
            false => limit::PAGE,
        };
        let (patience, silence) = (self.patience, self.silence.clone());
        let bound = |body: Body| -> Body {
            Box::new(Paced {
                body,
                deadline: Box::pin(sleep(patience.idle)),
                arrived: 0,
                left: most,
                patience,
                silence,
                began,
            })
        };
        Ok(response.map(|body| body.map_inner(bound)))
    }
}

/// The body of an answer. It ends with an error if it arrives too slowly or is too large.
struct Paced {
    body: Body,
    /// When [`Patience::least`] bytes must have arrived.
    deadline: Pin<Box<Sleep>>,
    /// Number of bytes that have arrived since the deadline was set.
    arrived: u64,
    /// Number of bytes that may still arrive.
    left: u64,
    patience: Patience,
    silence: Silence,
    /// When the request began.
    began: Instant,
}

impl Stream for Paced {
    type Item = opendal::Result<Buffer>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let Poll::Ready(next) = Pin::new(&mut this.body).poll_next(context) else {
            ready!(this.deadline.as_mut().poll(context));
            let slow = temporary(format!(
                "the answer of the service is too slow: expected at least {} bytes in {} seconds, \
                 received {}; check the connection, or try again later",
                this.patience.least,
                this.patience.idle.as_secs_f32(),
                this.arrived
            ));
            return Poll::Ready(Some(Err(this.fail(slow))));
        };
        let next = match next {
            None => {
                this.silence.end();
                None
            }
            Some(Err(error)) => Some(Err(this.fail(error))),
            Some(Ok(data)) => Some(this.count(data)),
        };
        Poll::Ready(next)
    }
}

impl Paced {
    fn fail(&self, error: opendal::Error) -> opendal::Error {
        self.silence.failed(self.began, error, self.patience.repeat)
    }

    /// Counts bytes that have arrived. Returns them, or an error if they are too many.
    fn count(&mut self, data: Buffer) -> opendal::Result<Buffer> {
        let length = data.len() as u64;
        let Some(left) = self.left.checked_sub(length) else {
            return Err(opendal::Error::new(
                ErrorKind::Unexpected,
                format!(
                    "the answer of the service is too large: expected at most {} bytes; check the \
                     service at the endpoint",
                    limit::PAGE
                ),
            ));
        };
        self.left = left;
        self.arrived += length;
        if self.arrived >= self.patience.least {
            self.arrived = 0;
            let deadline = Instant::now() + self.patience.idle;
            self.deadline.as_mut().reset(deadline);
            self.silence.end();
        }
        Ok(data)
    }
}

/// The time in which all requests have failed: when the first of them began, and when the last of
/// them failed. All requests of a client share it.
#[derive(Clone, Default)]
struct Silence(Arc<Mutex<Option<(Instant, Instant)>>>);

impl Silence {
    fn end(&self) {
        *lock(&self.0) = None;
    }

    /// Notes that a request that began at `began` has failed. Returns its error, which does not
    /// count as temporary if all requests have failed for the time `repeat`. A request that begins
    /// later than this time after the last failure starts a new silence.
    fn failed(&self, began: Instant, error: opendal::Error, repeat: Duration) -> opendal::Error {
        let now = Instant::now();
        let mut silence = lock(&self.0);
        let since = match *silence {
            Some((since, last)) if began < last + repeat => since.min(began),
            _ => began,
        };
        *silence = Some((since, now));
        match now - since < repeat {
            true => error,
            false => error.set_persistent(),
        }
    }
}

fn temporary(message: String) -> opendal::Error {
    opendal::Error::new(ErrorKind::Unexpected, message).set_temporary()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use cas_core::pool::wait;

    use super::*;
    use crate::runtime;

    const SHORT: Patience = Patience {
        connect: Duration::from_secs(20),
        answer: Duration::from_millis(300),
        sending: 1000,
        idle: Duration::from_millis(300),
        least: 100,
        repeat: Duration::from_millis(850),
    };

    /// Starts a service that answers each request with `answer`, which gets the connection once the
    /// head of the request has arrived. Returns a URL.
    fn service(answer: fn(TcpStream)) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap();
        thread::spawn(move || {
            for mut client in listener.incoming().map_while(std::result::Result::ok) {
                thread::spawn(move || {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let mut byte = [0];
                        client.read_exact(&mut byte).unwrap();
                        head.extend(byte);
                    }
                    answer(client);
                });
            }
        });
        format!("http://{host}/")
    }

    /// Sends a request with a body of `length` bytes. Returns the length of the answer.
    fn send(client: &HttpTransporter, url: &str, length: usize) -> opendal::Result<usize> {
        let request = Request::put(url).body(Buffer::from(vec![7; length]));
        let (client, request) = (client.clone(), request.unwrap());
        let sent = runtime::run(async move { Ok(client.send(request).await) });
        wait(sent).unwrap().map(|answer| answer.body().len())
    }

    fn trickle(mut client: TcpStream, length: usize, pause: u64) {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
        client.write_all(head.as_bytes()).unwrap();
        for _ in 0..1000 / length {
            if client.write_all(&vec![b'x'; length]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(pause));
        }
    }

    #[test]
    fn a_service_that_does_not_answer_is_given_up_after_repetitions() {
        let url = service(|client| {
            thread::sleep(Duration::from_secs(60));
            drop(client);
        });
        let client = transport(SHORT).unwrap();
        let began = Instant::now();
        for expected in [true, true, false, false] {
            let error = send(&client, &url, 0).unwrap_err();
            assert!(error.message().contains("did not answer"), "{error}");
            assert_eq!(error.is_temporary(), expected, "{error}");
        }
        assert!(began.elapsed() < Duration::from_secs(30));
        // After a pause, requests are repeated again.
        thread::sleep(SHORT.repeat + Duration::from_millis(100));
        assert!(send(&client, &url, 0).unwrap_err().is_temporary());
    }

    #[test]
    fn an_answer_that_trickles_is_given_up() {
        let url = service(|client| trickle(client, 1, 20));
        let client = transport(SHORT).unwrap();
        for expected in [true, true, false] {
            let error = send(&client, &url, 0).unwrap_err();
            assert!(error.message().contains("too slow"), "{error}");
            assert_eq!(error.is_temporary(), expected, "{error}");
        }
    }

    /// The answer takes twice as long as the client waits for progress.
    #[test]
    fn a_slow_answer_that_makes_progress_arrives() {
        let url = service(|client| trickle(client, 100, 60));
        assert_eq!(send(&transport(SHORT).unwrap(), &url, 0).unwrap(), 1000);
    }

    /// Before it answers, the service takes twice as long as for a request without a body.
    #[test]
    fn a_large_body_has_more_time() {
        let url = service(|mut client| {
            thread::sleep(2 * SHORT.answer);
            let _ = client.read_exact(&mut [0; 2000]);
            let empty = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            client.write_all(empty.as_bytes()).unwrap();
        });
        assert_eq!(send(&transport(SHORT).unwrap(), &url, 2000).unwrap(), 0);
    }

    #[test]
    fn a_redirect_is_not_followed() {
        let url = service(|mut client| {
            let answer = "HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:1/\r\n\
                          Content-Length: 0\r\n\r\n";
            client.write_all(answer.as_bytes()).unwrap();
        });
        let error = send(&transport(SHORT).unwrap(), &url, 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{error}");
        assert!(error.message().contains("redirects"), "{error}");
    }

    #[test]
    fn an_endless_page_of_a_list_is_refused() {
        let url = service(|mut client| {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            client.write_all(head.as_bytes()).unwrap();
            let chunk = format!("10000\r\n{}\r\n", "a".repeat(65_536));
            while client.write_all(chunk.as_bytes()).is_ok() {}
        });
        let url = format!("{url}?{LIST}");
        let error = send(&transport(SHORT).unwrap(), &url, 0).unwrap_err();
        assert!(error.message().contains("too large"), "{error}");
        assert!(!error.is_temporary());
    }
}
