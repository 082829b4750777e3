//! An S3 service for tests: moto, started once for a test binary.

pub mod proxy;

use std::env;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;

/// The environment variable with the address of the service. If a law starts the test binary again,
/// the new process uses the service of its parent process.
const SERVICE: &str = "CAS_TEST_S3";
/// The address of the host that the service listens on.
const HOST: &str = "127.0.0.1";
/// A well-formed signature. Moto checks only the form.
const SIGNATURE: &str = "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, \
                         SignedHeaders=host, Signature=0";
/// A bucket that exists once [`service`] has started the service.
pub const BUCKET: &str = "laws";

/// Maximum number of times that a request is repeated.
const RESETS: usize = 5;

/// Returns the host and port of the service. Unless a parent process has started the service, the
/// first call starts it, makes the bucket [`BUCKET`], and sets the credentials in the environment
/// of this process. If moto is not installed, each call returns `None`, and the first call prints
/// that moto is missing.
///
/// # Panics
/// If the service does not start.
pub fn service() -> Option<&'static str> {
    static HOST: OnceLock<Option<String>> = OnceLock::new();
    HOST.get_or_init(|| env::var(SERVICE).ok().or_else(start))
        .as_deref()
}

fn start() -> Option<String> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/moto/bin/python");
    if !program.exists() {
        eprintln!("SKIPPED: no moto in target/moto; `cargo xtask setup` installs it");
        return None;
    }
    let host = run_service(program);
    make_bucket(&host, BUCKET);
    for (name, value) in [
        ("AWS_ACCESS_KEY_ID", "a"),
        ("AWS_SECRET_ACCESS_KEY", "b"),
        (SERVICE, &host),
    ] {
        // SAFETY: this process reads the environment only through std, which locks it.
        unsafe { env::set_var(name, value) };
    }
    Some(host)
}

/// Runs the service from a thread that waits for it, because the kernel kills the service when the
/// thread that started it ends. Returns the host and port of the service once it listens.
fn run_service(program: PathBuf) -> String {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut server = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/src/s3/service.py"))
            .arg(HOST)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("moto starts");
        let mut printed = server.stdout.take().map(BufReader::new).expect("a pipe");
        let mut port = String::new();
        printed.read_line(&mut port).expect("moto prints its port");
        sender
            .send(port)
            .expect("the caller of `service` waits for the port");
        server.wait()
    });
    let port = receiver.recv().unwrap_or_default();
    assert!(!port.is_empty(), "moto ended before it listened");
    format!("{HOST}:{}", port.trim())
}

/// Creates a bucket.
///
/// # Panics
/// If the service refuses.
pub fn make_bucket(host: &str, bucket: &str) {
    assert!(ask(host, "PUT", &format!("/{bucket}")).starts_with("HTTP/1.1 200"));
}

/// Sends a request without a body. Returns the whole response.
///
/// # Panics
/// If the service does not respond.
pub fn ask(host: &str, method: &str, path: &str) -> String {
    send(host, method, path, "")
}

/// Sends a request. If the connection is reset, as may happen on a busy machine, sends the request
/// again, at most five times. So the request must have the same effect if the service receives it
/// more than once. Returns the whole response.
///
/// # Panics
/// If the service does not respond.
pub fn send(host: &str, method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {SIGNATURE}\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    let mut response = exchange(host, &request);
    for _ in 0..RESETS {
        match &response {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                response = exchange(host, &request);
            }
            _ => break,
        }
    }
    let response = response.expect("the service responds");
    String::from_utf8_lossy(&response).into_owned()
}

/// Sends a request on a connection of its own. Returns the bytes of the response.
fn exchange(host: &str, request: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(host)?;
    stream.write_all(request.as_bytes())?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response)?;
    Ok(response)
}
