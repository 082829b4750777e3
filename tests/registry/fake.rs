//! A registry that answers as a test requires.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// A received request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// The path with its query.
    pub(crate) path: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Returns the first and the last byte of the requested range.
    pub(crate) fn range(&self) -> Option<(usize, usize)> {
        let range = self.header("range")?.strip_prefix("bytes=").unwrap();
        let (start, last) = range.split_once('-').unwrap();
        Some((start.parse().unwrap(), last.parse().unwrap()))
    }

    pub(crate) fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.path.contains(part)
    }
}

/// An answer to a request.
#[derive(Clone)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    length: Option<usize>,
    stalls: bool,
    /// Whether the connection is closed without an answer.
    is_nothing: bool,
    /// Whether the body is sent without a head.
    is_raw: bool,
    /// The bytes of a piece of the body, and the pause after it.
    pieces: Option<(usize, Duration)>,
    /// The pause before the answer.
    pause: Duration,
    is_endless: bool,
}

impl Answer {
    pub(crate) fn new(status: u16) -> Self {
        Answer {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            length: None,
            stalls: false,
            is_nothing: false,
            is_raw: false,
            pieces: None,
            pause: Duration::ZERO,
            is_endless: false,
        }
    }

    /// Closes the connection without an answer.
    pub(crate) fn nothing() -> Self {
        let mut answer = Answer::new(0);
        answer.is_nothing = true;
        answer
    }

    pub(crate) fn error(status: u16, code: &str, message: &str) -> Self {
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#);
        Answer::new(status).body(body.as_bytes())
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self
    }

    pub(crate) fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    /// Changes the body, and announces its new length.
    pub(crate) fn edit(mut self, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        change(&mut self.body);
        self
    }

    /// Sends these bytes in place of an answer.
    pub(crate) fn raw(bytes: &[u8]) -> Self {
        let mut answer = Answer::new(0).body(bytes);
        answer.is_raw = true;
        answer
    }

    /// Announces the length of the whole body, but sends only the first `length` bytes.
    pub(crate) fn cut(mut self, length: usize) -> Self {
        self.length = Some(self.body.len());
        self.body.truncate(length);
        self
    }

    /// Sends the body, or the bytes of [`Answer::raw`], in pieces of `length` bytes, with pauses.
    pub(crate) fn drip(mut self, length: usize, pause: Duration) -> Self {
        self.pieces = Some((length, pause));
        self
    }

    /// Waits before the answer.
    pub(crate) fn late(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Continues after its body with zeros and without an end, and announces no length.
    pub(crate) fn endless(mut self) -> Self {
        self.is_endless = true;
        self.with("X-No-Length", "1")
    }

    /// Keeps the connection open after its body, but sends nothing more.
    pub(crate) fn stall(mut self) -> Self {
        self.stalls = true;
        self
    }
}

/// A server that lives as long as the test binary.
pub(crate) struct Fake {
    /// Host and port.
    pub(crate) host: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Fake {
    pub(crate) fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1", answer)
    }

    /// Starts a server at another address of this machine.
    pub(crate) fn start_at(
        address: &str,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::launch(address, |_| None, answer)
    }

    /// Starts a server that gives the answers of `early` before it reads the body of the request.
    /// It closes these connections at once.
    pub(crate) fn start_early(
        early: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::launch("127.0.0.1", early, answer)
    }

    fn launch(
        address: &str,
        early: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answers, log) = (Arc::new((early, answer)), Arc::clone(&seen));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (answers, log) = (Arc::clone(&answers), Arc::clone(&log));
                thread::spawn(move || serve(client, &answers.0, &answers.1, &log));
            }
        });
        Fake { host, seen }
    }

    /// Returns a reference to an image in this registry.
    pub(crate) fn image(&self) -> String {
        format!("{}/team/app:1", self.host)
    }

    /// Returns the requests so far, except those that find out whether it requires TLS.
    pub(crate) fn seen(&self) -> Vec<Request> {
        let mut seen = self.seen.lock().unwrap().clone();
        seen.retain(|request| request.path != "/v2/team/app/");
        seen
    }

    /// Returns how many requests match.
    pub(crate) fn count(&self, method: &str, part: &str) -> usize {
        let seen = self.seen();
        seen.iter()
            .filter(|request| request.is(method, part))
            .count()
    }
}

/// Time in which a request that should not be made would arrive.
pub(crate) const GRACE: Duration = Duration::from_millis(100);
/// How long a request waits for those that should be made at the same time. Clients wait longer for
/// an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Counts the requests that are being answered.
#[derive(Default)]
pub(crate) struct InFlight {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl InFlight {
    /// Answers a request, after `expected` requests were made at the same time once.
    pub(crate) fn hold(&self, expected: usize, answer: impl FnOnce() -> Answer) -> Answer {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        let begun = Instant::now();
        while self.most() < expected && begun.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(GRACE);
        self.now.fetch_sub(1, Ordering::SeqCst);
        answer()
    }

    /// Returns the largest number of requests that were answered at the same time.
    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

/// Serves one request. A client that disconnects early is ignored.
fn serve(
    mut client: TcpStream,
    early: &impl Fn(&Request) -> Option<Answer>,
    answer: &impl Fn(&Request) -> Answer,
    seen: &Mutex<Vec<Request>>,
) -> Option<()> {
    let stream = client.try_clone().ok()?;
    let mut reader = BufReader::new(stream);
    let mut request = read(&mut reader)?;
    let known = early(&request);
    if known.is_none() {
        read_body(&mut reader, &mut request)?;
    }
    seen.lock().unwrap().push(request.clone());
    let answer = known.unwrap_or_else(|| answer(&request));
    if answer.is_nothing {
        return None;
    }
    if answer.is_raw {
        return send(&mut client, &answer);
    }
    thread::sleep(answer.pause);
    let length = answer.length.unwrap_or(answer.body.len());
    let mut head = format!("HTTP/1.1 {} x\r\nConnection: close\r\n", answer.status);
    let states = |stated: &str| answer.headers.iter().any(|(name, _)| name == stated);
    // `X-No-Length` leaves the length out: the body ends with the connection.
    if !states("Content-Length") && !states("X-No-Length") {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    client.write_all(head.as_bytes()).ok()?;
    if request.method != "HEAD" {
        send(&mut client, &answer)?;
    }
    if answer.is_endless {
        loop {
            client.write_all(&[0; 1 << 16]).ok()?;
        }
    }
    if answer.stalls {
        thread::sleep(Duration::from_secs(30));
    }
    Some(())
}

/// Sends the body of an answer, in its pieces.
fn send(client: &mut TcpStream, answer: &Answer) -> Option<()> {
    let (length, pause) = answer.pieces.unwrap_or((usize::MAX, Duration::ZERO));
    for piece in answer.body.chunks(length) {
        client.write_all(piece).ok()?;
        thread::sleep(pause);
    }
    Some(())
}

/// Reads a request up to its body.
fn read(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    Some(Request {
        method,
        path,
        headers,
        body: Vec::new(),
    })
}

fn read_body(reader: &mut impl Read, request: &mut Request) -> Option<()> {
    let length = request.header("content-length");
    let length = length.map_or(0, |length| length.parse::<usize>().unwrap());
    request.body = vec![0; length];
    reader.read_exact(&mut request.body).ok()
}
