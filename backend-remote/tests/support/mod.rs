//! An S3 service for tests: moto, started once per test binary.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic fails the test, and each test binary uses only a part"
)]

pub(crate) mod proxy;

use std::env;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// Tells a test binary started by a law which service its parent uses.
const SERVICE: &str = "CAS_TEST_S3";
/// Has the form of a signature. Moto checks nothing else.
const SIGNATURE: &str = "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, \
                         SignedHeaders=host, Signature=0";
/// The bucket of the laws.
pub(crate) const BUCKET: &str = "laws";

/// Returns host and port of the service, or `None` with a notice if moto is not installed.
pub(crate) fn service() -> Option<&'static str> {
    static HOST: OnceLock<Option<String>> = OnceLock::new();
    HOST.get_or_init(|| env::var(SERVICE).ok().or_else(start))
        .as_deref()
}

fn start() -> Option<String> {
    let program = workspace().join("target/moto/bin/python");
    if !program.exists() {
        eprintln!("SKIPPED: no moto in target/moto; `cargo xtask setup` installs it");
        return None;
    }
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let host = free.local_addr().expect("a port").to_string();
    drop(free);
    run_until_we_exit(program, host.clone());
    let deadline = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(&host).is_err() {
        assert!(Instant::now() < deadline, "moto does not start");
        thread::sleep(Duration::from_millis(50));
    }
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

/// Returns the root of the workspace, whichever package this file is compiled into.
fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut above = package.ancestors();
    let found = above.find(|folder| folder.join("backend-remote").is_dir());
    found.expect("a package is in the workspace")
}

/// The kernel kills the service when its parent thread ends, so this thread waits for it.
fn run_until_we_exit(program: PathBuf, host: String) {
    thread::spawn(move || {
        let (ip, port) = host.split_once(':').expect("a port");
        let mut server = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .arg(workspace().join("backend-remote/tests/support/service.py"))
            .args([ip, port])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("moto starts");
        server.wait()
    });
}

/// Creates a bucket.
pub(crate) fn make_bucket(host: &str, bucket: &str) {
    assert!(ask(host, "PUT", &format!("/{bucket}")).starts_with("HTTP/1.1 200"));
}

/// Sends a request without a body. Returns the whole response.
pub(crate) fn ask(host: &str, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(host).expect("the service listens");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {SIGNATURE}\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream
        .write_all(request.as_bytes())
        .expect("the service reads");
    let mut response = Vec::new();
    stream
        .read_to_end(&mut response)
        .expect("the service responds");
    String::from_utf8_lossy(&response).into_owned()
}
