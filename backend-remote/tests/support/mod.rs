//! A service of S3 for tests: moto, started once for a test binary, and what it is asked.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere, and not every one needs all"
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

/// Tells a test binary that a law runs again which service its parent uses.
const SERVICE: &str = "CAS_TEST_S3";
/// A signature in form; moto checks no more of it.
const SIGNATURE: &str = "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, \
                         SignedHeaders=host, Signature=0";
/// The bucket of the laws.
pub(crate) const BUCKET: &str = "laws";

/// Host and port of the service; nothing, said aloud, where moto is not installed.
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
    run_while_we_live(program, host.clone());
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
        // SAFETY: all of this process reads the environment through std, which locks it.
        unsafe { env::set_var(name, value) };
    }
    Some(host)
}

/// Whichever package of the workspace this is compiled into.
fn workspace() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut above = own.ancestors();
    let found = above.find(|folder| folder.join("backend-remote").is_dir());
    found.expect("a package is in the workspace")
}

/// The kernel ends it with the thread that started it, so that one never ends before us.
fn run_while_we_live(program: PathBuf, host: String) {
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

/// Makes a bucket; moto checks no signature.
pub(crate) fn make_bucket(host: &str, bucket: &str) {
    assert!(ask(host, "PUT", &format!("/{bucket}")).starts_with("HTTP/1.1 200"));
}

/// Sends a request without a body; the whole answer.
pub(crate) fn ask(host: &str, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(host).expect("the service listens");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {SIGNATURE}\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers");
    String::from_utf8_lossy(&answer).into_owned()
}
