//! A faulty S3 service for tests. A proxy in front of a correct service breaks conditional
//! requests, loses replies, changes lists or refuses requests.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How the service misbehaves.
#[derive(Clone, Copy)]
pub enum Fault {
    /// The service ignores all conditions.
    IgnoresConditions,
    /// The service ignores the conditions of deletes.
    IgnoresDeleteConditions,
    /// The service checks a condition and writes a moment later. Other writes can happen in
    /// between.
    ChecksThenWrites,
    /// The service writes all records, but its reply to the first write of each record is lost.
    LosesFirstReply,
    /// The service writes the objects that publish blobs, but all replies to these writes are lost.
    NeverRepliesToPublish,
    /// Each page of a list has at most two objects.
    ListsSmallPages,
    /// Each page of a list has the same object, and is followed by another page.
    ListsForever,
    /// A list has an object that does not begin with the requested prefix.
    ListsElsewhere,
    /// Each page of a list is empty, and is followed by another page.
    ListsEmptyPages,
    /// The service answers each request with this status, and with 50,000 characters of text.
    Refuses(u16),
}

/// A part of the query of each request for a page of a list.
const LIST: &str = "list-type=2";

struct Request {
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// Starts the proxy. Returns its host and port.
///
/// # Panics
/// If no port is free.
pub fn start(fault: Fault, service: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let host = listener.local_addr().expect("a port").to_string();
    let seen = Arc::new(Mutex::new(HashSet::new()));
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let seen = Arc::clone(&seen);
            thread::spawn(move || serve(client, fault, service, &seen));
        }
    });
    host
}

/// Serves one request. Returns `None` if a connection breaks, or if the reply must be lost.
fn serve(
    mut client: TcpStream,
    fault: Fault,
    service: &str,
    seen: &Mutex<HashSet<String>>,
) -> Option<()> {
    let mut request = read(&client)?;
    let response = match fault {
        Fault::IgnoresConditions => {
            remove_conditions(&mut request);
            send(service, &request)?
        }
        Fault::IgnoresDeleteConditions => {
            if request.line.starts_with("DELETE") {
                remove_conditions(&mut request);
            }
            send(service, &request)?
        }
        Fault::ChecksThenWrites => check_then_write(service, &mut request)?,
        Fault::LosesFirstReply => {
            let response = send(service, &request)?;
            let first = seen.lock().ok()?.insert(request.line.clone());
            Some(response).filter(|_| !(first && writes(&request, "/records/")))?
        }
        Fault::NeverRepliesToPublish => {
            send(service, &request).filter(|_| !writes(&request, "/blobs/"))?
        }
        Fault::ListsSmallPages => {
            request.line = request.line.replace(LIST, &format!("{LIST}&max-keys=2"));
            send(service, &request)?
        }
        Fault::ListsForever if request.line.contains(LIST) => {
            page(&object(&format!("{}0", prefix(&request.line))))
        }
        Fault::ListsElsewhere if request.line.contains(LIST) => page(&object("x")),
        Fault::ListsEmptyPages if request.line.contains(LIST) => page(""),
        Fault::ListsForever | Fault::ListsElsewhere | Fault::ListsEmptyPages => {
            send(service, &request)?
        }
        Fault::Refuses(status) => {
            let text = "m".repeat(50_000);
            let body = format!("<Error><Code>Refused</Code><Message>{text}</Message></Error>");
            answer(status, &body)
        }
    };
    client.write_all(&response).ok()
}

/// Returns the prefix that a request for a list names.
fn prefix(line: &str) -> String {
    let named = line.split(['?', '&', ' ']);
    let mut named = named.filter_map(|pair| pair.strip_prefix("prefix="));
    named.next().unwrap_or_default().replace("%2F", "/")
}

/// Returns an object as a page of a list contains it.
fn object(key: &str) -> String {
    format!(
        "<Contents><Key>{key}</Key><Size>1</Size><ETag>\"x\"</ETag>\
         <LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
    )
}

/// Returns a page of a list that is followed by another page.
fn page(objects: &str) -> Vec<u8> {
    let body = format!(
        "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>true</IsTruncated>\
         <NextContinuationToken>t</NextContinuationToken>{objects}</ListBucketResult>"
    );
    answer(200, &body)
}

fn answer(status: u16, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

fn writes(request: &Request, below: &str) -> bool {
    request.line.starts_with("PUT") && request.line.contains(below)
}

fn check_then_write(service: &str, request: &mut Request) -> Option<Vec<u8>> {
    let conditions = remove_conditions(request);
    let path = request.line.split(' ').nth(1)?;
    let signed = |(name, _): &&(String, String)| matches!(&**name, "host" | "authorization");
    let head = Request {
        line: format!("HEAD {path} HTTP/1.1"),
        headers: request.headers.iter().filter(signed).cloned().collect(),
        body: Vec::new(),
    };
    let found = String::from_utf8_lossy(&send(service, &head)?).into_owned();
    let holds = conditions.iter().all(|(name, value)| match &**name {
        "if-match" => found.contains(value.as_str()),
        _ => found.starts_with("HTTP/1.1 404"),
    });
    if !holds {
        return Some(b"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n\r\n".to_vec());
    }
    if !conditions.is_empty() {
        thread::sleep(Duration::from_millis(300));
    }
    send(service, request)
}

fn remove_conditions(request: &mut Request) -> Vec<(String, String)> {
    let is_condition = |name: &str| matches!(name, "if-match" | "if-none-match");
    let headers = std::mem::take(&mut request.headers);
    let (conditions, others) = headers
        .into_iter()
        .partition(|(name, _)| is_condition(name));
    request.headers = others;
    conditions
}

fn read(client: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(client);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        Some(line.trim_end().to_owned())
    };
    let first = line().filter(|line| !line.is_empty())?;
    let mut headers = Vec::new();
    while let Some((name, value)) = line()?.split_once(": ") {
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let mut body = vec![0; length.map_or(0, |(_, value)| value.parse().unwrap_or(0))];
    reader.read_exact(&mut body).ok()?;
    Some(Request {
        line: first,
        headers,
        body,
    })
}

/// Forwards a request on a new connection. Returns the whole response.
fn send(service: &str, request: &Request) -> Option<Vec<u8>> {
    let mut upstream = TcpStream::connect(service).ok()?;
    let mut head = format!("{}\r\nConnection: close\r\n", request.line);
    for (name, value) in request
        .headers
        .iter()
        .filter(|(name, _)| name != "connection")
    {
        head += &format!("{name}: {value}\r\n");
    }
    upstream.write_all((head + "\r\n").as_bytes()).ok()?;
    upstream.write_all(&request.body).ok()?;
    let mut response = Vec::new();
    upstream.read_to_end(&mut response).ok()?;
    Some(response)
}
