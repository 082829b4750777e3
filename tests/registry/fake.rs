//! A registry that answers as a test requires.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

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
}

impl Answer {
    pub(crate) fn new(status: u16) -> Self {
        Answer {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            length: None,
            stalls: false,
        }
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

    /// Ends after `length` bytes of its body, whatever length it has announced.
    pub(crate) fn cut(mut self, length: usize) -> Self {
        self.length = Some(self.body.len());
        self.body.truncate(length);
        self
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
        let listener = TcpListener::bind((address, 0)).unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), Arc::clone(&seen));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                thread::spawn(move || serve(client, &*answer, &log));
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

/// Serves one request. A client that disconnects early is ignored.
fn serve(
    mut client: TcpStream,
    answer: &(impl Fn(&Request) -> Answer + ?Sized),
    seen: &Mutex<Vec<Request>>,
) -> Option<()> {
    let request = read(&client)?;
    seen.lock().unwrap().push(request.clone());
    let answer = answer(&request);
    let length = answer.length.unwrap_or(answer.body.len());
    let mut head = format!("HTTP/1.1 {} x\r\nConnection: close\r\n", answer.status);
    if !answer
        .headers
        .iter()
        .any(|(name, _)| name == "Content-Length")
    {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    client.write_all(head.as_bytes()).ok()?;
    if request.method != "HEAD" {
        client.write_all(&answer.body).ok()?;
    }
    if answer.stalls {
        thread::sleep(Duration::from_secs(30));
    }
    Some(())
}

fn read(client: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(client);
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
    let mut request = Request {
        method,
        path,
        headers,
        body: Vec::new(),
    };
    let length = request.header("content-length");
    let length = length.map_or(0, |length| length.parse::<usize>().unwrap());
    request.body = vec![0; length];
    reader.read_exact(&mut request.body).ok()?;
    Some(request)
}
