//! The HTTP client of a store in a bucket. It bounds the time in which a request makes no progress,
//! and the size of answers.

mod paced;
mod sending;
mod silence;

use std::future::ready;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use cas_core::{Error, Result, limit};
use futures_util::TryStreamExt;
use http::header::RANGE;
use http::{Method, Request, Response, StatusCode};
use opendal::{Buffer, ErrorKind, HttpBody, HttpTransport, HttpTransporter};
use reqwest::redirect::Policy;
use reqwest::{Body, Client};
use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls_platform_verifier::BuilderVerifierExt;

use self::paced::Paced;
use self::sending::Sending;
use self::silence::{Attempt, Silence};
use crate::prefix::listing::count_page;

/// A part of the query of every request for a page of a list.
const LIST: &str = "list-type=2";

/// How long a client waits for a service. A transfer that makes progress has no overall deadline.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    /// Maximum time to look up a host, connect to it and set up TLS.
    connect: Duration,
    /// Maximum time from a request without a body to the head of its answer.
    answer: Duration,
    /// Maximum time in which a service accepts no byte of the body of a request, or does not answer
    /// after the last byte. If the body was accepted slowly, the answer may take longer (see
    /// [`Sending`]). This time is at least `repeat`, so a request that exceeds it is not repeated.
    upload: Duration,
    /// Maximum time in which fewer than `least` bytes of the body of an answer may arrive.
    idle: Duration,
    least: u64,
    /// A request that fails is not repeated if all requests, or all requests for the same URL, have
    /// failed for this time.
    repeat: Duration,
}

impl Patience {
    /// If a service is silent, an upload ends after the time `upload`. If requests have failed in
    /// other ways before, it ends after `repeat` and `upload`, together 2 minutes, and the pauses
    /// between the repetitions. Except for `upload`, the values are those of a client of a
    /// registry.
    pub(crate) const DEFAULT: Patience = Patience {
        connect: Duration::from_secs(20),
        answer: Duration::from_secs(30),
        upload: Duration::from_secs(60),
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
    let client = Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(patience.connect)
        // The signature of a request is valid for one host only.
        .redirect(Policy::none())
        .build()
        .map_err(|error| unavailable(&error))?;
    Ok(HttpTransporter::new(Transport {
        client,
        patience,
        silence: Silence::new(patience.repeat),
    }))
}

fn unavailable(error: &dyn std::error::Error) -> Error {
    Error::unavailable(format!(
        "cannot set up TLS: {error}; check the CA certificates of this system"
    ))
    .operation("open store")
}

struct Transport {
    client: Client,
    patience: Patience,
    silence: Silence,
}

impl HttpTransport for Transport {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        if is_list(&request) {
            count_page()?;
        }
        let most = largest_body(&request);
        let mut attempt = self.silence.begin(request.uri().to_string());
        let sending = Sending::begin(request.body().len() as u64, self.patience);
        let request = sending.wrap(request);
        let answer = sending.watch(self.exchange(request)).await;
        attempt.since = sending.last();
        match answer {
            Ok(answer) => self.bounded(answer, most, attempt),
            Err(error) => Err(attempt.failed(error)),
        }
    }
}

impl Transport {
    /// Sends a request. Returns its answer.
    async fn exchange(&self, request: Request<Body>) -> opendal::Result<reqwest::Response> {
        let failed = |error| {
            let message = "a request to the service failed; check the endpoint and the connection";
            broken(message, error)
        };
        let request = reqwest::Request::try_from(request).map_err(failed)?;
        self.client.execute(request).await.map_err(failed)
    }

    /// Returns the answer with bounds on its body, of which at most `most` bytes are expected if
    /// the request has succeeded. Refuses a redirect.
    fn bounded(
        &self,
        mut answer: reqwest::Response,
        most: u64,
        attempt: Attempt,
    ) -> opendal::Result<Response<HttpBody>> {
        let status = answer.status();
        if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
            return Err(opendal::Error::new(
                ErrorKind::ConfigInvalid,
                "the service redirects to another address; name the endpoint and the region of \
                 the bucket",
            ));
        }
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = mem::take(answer.headers_mut());
        let most = match status.is_success() {
            true => most,
            false => limit::PAGE,
        };
        // OpenDAL takes an empty piece for the end of a body.
        let body = answer
            .bytes_stream()
            .try_filter(|piece| ready(!piece.is_empty()))
            .map_ok(Buffer::from)
            .map_err(|error| {
                let message = "the answer of the service broke off; check the connection";
                broken(message, error)
            });
        let body = Paced::new(body, most, self.patience, attempt);
        Ok(response.map(|()| HttpBody::new(body, None)))
    }
}

fn is_list(request: &Request<Buffer>) -> bool {
    let query = request.uri().query();
    query.is_some_and(|query| query.contains(LIST))
}

/// Returns the maximum size of the body with which a service answers a request that succeeds, in
/// bytes.
fn largest_body(request: &Request<Buffer>) -> u64 {
    if request.method() != Method::GET || is_list(request) {
        return limit::PAGE;
    }
    match request.headers().get(RANGE) {
        None => limit::PART,
        // OpenDAL writes an empty range as an empty text.
        Some(range) => range.to_str().ok().and_then(range_length).unwrap_or(0),
    }
}

/// Returns the maximum length of a range such as `bytes=0-99` or `bytes=100-`.
fn range_length(range: &str) -> Option<u64> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    if last.is_empty() {
        return Some(limit::PART);
    }
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    last.checked_sub(first)?.checked_add(1)
}

/// Returns the error for a connection that broke or could not be made.
fn broken(message: &str, error: reqwest::Error) -> opendal::Error {
    let is_temporary = error.is_request() || error.is_body() || error.is_decode();
    opendal::Error::new(ErrorKind::Unexpected, message)
        .with_temporary(is_temporary)
        .set_source(error.without_url())
}

fn temporary(message: String) -> opendal::Error {
    opendal::Error::new(ErrorKind::Unexpected, message).set_temporary()
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;
    use std::time::Instant;

    use cas_core::pool::wait;
    use http::header::CONTENT_LENGTH;

    use super::*;
    use crate::runtime;

    const SHORT: Patience = Patience {
        connect: Duration::from_secs(20),
        answer: Duration::from_millis(300),
        upload: Duration::from_secs(1),
        idle: Duration::from_millis(300),
        least: 100,
        repeat: Duration::from_millis(850),
    };

    type Service = fn(TcpStream);

    /// Starts a service that answers each request with `answer`, which gets the connection once the
    /// head of the request has arrived. Returns a URL.
    fn service(answer: Service) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap();
        thread::spawn(move || {
            for mut client in listener.incoming().map_while(std::result::Result::ok) {
                thread::spawn(move || {
                    read_head(&mut client);
                    answer(client);
                });
            }
        });
        format!("http://{host}/")
    }

    fn read_head(client: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        String::from_utf8(head).unwrap()
    }

    /// Sends a request with a body of `length` bytes. Returns the length of the answer.
    fn send(client: &HttpTransporter, url: &str, length: usize) -> opendal::Result<usize> {
        let request = Request::put(url).body(Buffer::from(vec![7; length]));
        ask(client, request.unwrap())
    }

    fn ask(client: &HttpTransporter, request: Request<Buffer>) -> opendal::Result<usize> {
        let client = client.clone();
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

    fn say_nothing(client: TcpStream) {
        thread::sleep(Duration::from_secs(60));
        drop(client);
    }

    fn succeed(mut client: TcpStream) {
        let empty = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        client.write_all(empty.as_bytes()).unwrap();
    }

    /// Reads `count` MiB, one in 100 ms.
    fn read_slowly(client: &mut TcpStream, count: usize) {
        let mut piece = vec![0; 1 << 20];
        for _ in 0..count {
            client.read_exact(&mut piece).unwrap();
            thread::sleep(Duration::from_millis(100));
        }
    }

    #[test]
    fn a_service_that_does_not_answer_is_given_up_after_repetitions() {
        let url = service(say_nothing);
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

    /// Requests for other URLs succeed meanwhile.
    #[test]
    fn an_answer_that_trickles_is_given_up() {
        let (url, other) = (service(|client| trickle(client, 1, 20)), service(succeed));
        let client = transport(SHORT).unwrap();
        for expected in [true, true, false] {
            assert_eq!(send(&client, &other, 0).unwrap(), 0);
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

    /// One service reads the upload and never answers. The other reads nothing.
    #[test]
    fn an_upload_to_a_silent_service_is_given_up() {
        let read: Service = |mut client| {
            let _ = io::copy(&mut client, &mut io::sink());
        };
        let silent: [(Service, usize, &str); 2] = [
            (read, 1 << 20, "after the last byte"),
            (say_nothing, 64 << 20, "stopped accepting"),
        ];
        for (answer, length, observed) in silent {
            let (url, client) = (service(answer), transport(SHORT).unwrap());
            let began = Instant::now();
            let error = send(&client, &url, length).unwrap_err();
            assert!(error.message().contains(observed), "{error}");
            assert!(!error.is_temporary(), "{error}");
            assert!(began.elapsed() < Duration::from_secs(20), "{error}");
        }
    }

    /// The upload takes more than twice as long as the client waits for progress. Buffers hold a
    /// part of the upload, so only its beginning is read slowly.
    #[test]
    fn a_slow_upload_that_makes_progress_is_not_cut() {
        let url = service(|mut client| {
            read_slowly(&mut client, 24);
            client.read_exact(&mut vec![0; 40 << 20]).unwrap();
            succeed(client);
        });
        assert_eq!(send(&transport(SHORT).unwrap(), &url, 64 << 20).unwrap(), 0);
    }

    /// All transfers take longer than failed requests are repeated.
    #[test]
    fn a_transfer_that_breaks_after_progress_is_repeated() {
        let upload = service(|mut client| read_slowly(&mut client, 12));
        let answer = service(|mut client| {
            read_slowly(&mut client, 12);
            client.read_exact(&mut vec![0; 52 << 20]).unwrap();
            let head = "HTTP/1.1 503 Busy\r\nContent-Length: 2000\r\n\r\n";
            client.write_all(head.as_bytes()).unwrap();
        });
        let download = service(|mut client| {
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n";
            client.write_all(head.as_bytes()).unwrap();
            for _ in 0..12 {
                client.write_all(&[b'x'; 100]).unwrap();
                thread::sleep(Duration::from_millis(100));
            }
        });
        for (url, length) in [(upload, 64 << 20), (answer, 64 << 20), (download, 0)] {
            let began = Instant::now();
            let error = send(&transport(SHORT).unwrap(), &url, length).unwrap_err();
            assert!(began.elapsed() > SHORT.repeat, "{error}");
            assert!(error.is_temporary(), "{error}");
        }
    }

    /// S3 refuses an upload that does not state its length, even if it is empty.
    #[test]
    fn an_upload_states_its_length() {
        for length in [0, 5] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}/", listener.local_addr().unwrap());
            let served = thread::spawn(move || {
                let (mut client, _) = listener.accept().unwrap();
                let head = read_head(&mut client);
                client.read_exact(&mut vec![0; length]).unwrap();
                succeed(client);
                head
            });
            let request = Request::put(url).header(CONTENT_LENGTH, length);
            let request = request.body(Buffer::from(vec![7; length])).unwrap();
            assert_eq!(ask(&transport(SHORT).unwrap(), request).unwrap(), 0);
            let head = served.join().unwrap();
            let stated = format!("content-length: {length}\r\n");
            assert_eq!(head.matches(&stated).count(), 1, "{head}");
            assert!(!head.contains("transfer-encoding"), "{head}");
        }
    }

    /// Before it answers, the service takes twice as long as for a request without a body.
    #[test]
    fn a_body_has_more_time() {
        let url = service(|mut client| {
            thread::sleep(2 * SHORT.answer);
            let _ = client.read_exact(&mut [0; 2000]);
            succeed(client);
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
    fn an_endless_answer_is_refused() {
        let url = service(|mut client| {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            client.write_all(head.as_bytes()).unwrap();
            let chunk = format!("10000\r\n{}\r\n", "a".repeat(65_536));
            while client.write_all(chunk.as_bytes()).is_ok() {}
        });
        let client = transport(SHORT).unwrap();
        for (request, most) in [
            (Request::get(format!("{url}?{LIST}")), limit::PAGE),
            (Request::put(&url), limit::PAGE),
            (Request::get(&url).header(RANGE, "bytes=10-109"), 100),
        ] {
            let error = ask(&client, request.body(Buffer::new()).unwrap()).unwrap_err();
            let expected = format!("too large: expected at most {most} bytes");
            assert!(error.message().contains(&expected), "{error}");
            assert!(!error.is_temporary());
        }
    }

    #[test]
    fn the_largest_body_is_the_requested_range() {
        for (range, most) in [
            (None, limit::PART),
            (Some("bytes=7-"), limit::PART),
            (Some("bytes=7-7"), 1),
            (Some("bytes=0-8388607"), 8 << 20),
            (Some("bytes=7-6"), 0),
            (Some("bytes=0-18446744073709551615"), 0),
            (Some(""), 0),
        ] {
            let mut request = Request::get("http://h/b/o");
            if let Some(range) = range {
                request = request.header(RANGE, range);
            }
            let request = request.body(Buffer::new()).unwrap();
            assert_eq!(largest_body(&request), most, "{range:?}");
        }
    }
}
