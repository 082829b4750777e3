//! A registry for tests: Debian's `docker-registry`, which listens on a free port.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

/// The name of the program.
pub const PROGRAM: &str = "docker-registry";
/// The user of a registry that requires a login.
pub const USER: &str = "me";
/// The password of [`USER`].
pub const PASSWORD: &str = "pass:word";
/// Options of `openssl req` for the certificate of a server, not of an authority.
const LEAF: &[&str] = &["-addext", "basicConstraints=critical,CA:FALSE"];

/// Runs a program that must succeed. Returns what it printed.
fn ok(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A registry that stops when this value is dropped. Each function that starts a registry takes a
/// directory `place`, below which the registry stores its files.
pub struct Registry {
    process: Child,
    /// Host and port.
    pub host: String,
    storage: PathBuf,
}

impl Registry {
    /// Starts a registry without TLS and without authentication.
    pub fn open(place: &Path) -> Self {
        Self::start(place, "", "")
    }

    /// Starts a registry with TLS. Its certificate, `certificate.pem` below `place`, is for the
    /// address 127.0.0.1.
    pub fn encrypted(place: &Path) -> Self {
        Self::start(place, &tls(place, "IP:127.0.0.1", LEAF), "")
    }

    /// Starts a registry with TLS. Its certificate, `certificate.pem` below `place`, is for `host`,
    /// such as `DNS:registry.test`. `options` are further options for the `openssl req` that
    /// creates the certificate.
    pub fn certified(place: &Path, host: &str, options: &[&str]) -> Self {
        Self::start(place, &tls(place, host, options), "")
    }

    /// Starts a registry with TLS. Its certificate, `certificate.pem` below `place`, has expired.
    pub fn expired(place: &Path) -> Self {
        let tls = tls(place, "IP:127.0.0.1", LEAF);
        expire(place);
        Self::start(place, &tls, "")
    }

    /// Starts a registry with TLS that requires client certificates. The registry and its clients
    /// use the same certificate, `certificate.pem` below `place`, and its key, `key.pem`.
    pub fn mutual(place: &Path) -> Self {
        let tls = tls(place, "IP:127.0.0.1", LEAF);
        let certificate = place.join("certificate.pem");
        let clients = format!(", clientcas: [{}]}}", certificate.display());
        Self::start(place, &tls.replace('}', &clients), "")
    }

    /// Starts a registry with TLS that requires [`USER`] and [`PASSWORD`]. Its certificate,
    /// `certificate.pem` below `place`, is for `registry-1.docker.io`, the host of Docker Hub.
    pub fn hub(place: &Path) -> Self {
        Self::start(
            place,
            &tls(place, "DNS:registry-1.docker.io", LEAF),
            &login(place),
        )
    }

    /// Starts a registry without TLS that requires [`USER`] and [`PASSWORD`].
    pub fn closed(place: &Path) -> Self {
        Self::start(place, "", &login(place))
    }

    fn start(place: &Path, tls: &str, auth: &str) -> Self {
        let storage = place.join("registry");
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:0'{tls}}}\n{auth}\
             log: {{level: info, accesslog: {{disabled: true}}}}\n",
            storage.display()
        );
        let file = place.join("registry.yml");
        fs::write(&file, config).unwrap();
        let mut process = Command::new(PROGRAM)
            .arg("serve")
            .arg(file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let host = listens_on(&mut log);
        // The registry would wait if its log were not read.
        thread::spawn(move || io::copy(&mut log, &mut io::sink()));
        Registry {
            process,
            host,
            storage,
        }
    }

    /// Returns a reference to `name` in this registry.
    pub fn at(&self, name: &str) -> String {
        format!("{}/{name}", self.host)
    }

    /// Returns the file of a blob in the registry's storage.
    pub fn blob(&self, digest: &str) -> PathBuf {
        let (algorithm, hex) = digest.split_once(':').unwrap();
        let blobs = self.storage.join("docker/registry/v2/blobs");
        blobs.join(algorithm).join(&hex[..2]).join(hex).join("data")
    }
}

/// Reads the log of a registry until the registry listens. Returns its host and port.
fn listens_on(log: &mut impl BufRead) -> String {
    let mut said = String::new();
    while log.read_line(&mut said).unwrap() > 0 {
        // Such as `msg="listening on 127.0.0.1:40429, tls"`.
        if let Some((_, rest)) = said.split_once("listening on ") {
            return rest.split([',', '"']).next().unwrap().to_owned();
        }
    }
    unreachable!("{PROGRAM} ended before it listened: {said}");
}

/// Creates a certificate for `host` below `place`, with options of `openssl req`. Returns the part
/// of the registry's configuration that names the certificate.
fn tls(place: &Path, host: &str, options: &[&str]) -> String {
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| place.join(name));
    let mut openssl = Command::new("openssl");
    openssl.args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes".split(' '));
    openssl.args(["-subj", "/CN=test", "-addext"]);
    openssl.arg(format!("subjectAltName={host}"));
    openssl.args(options).arg("-keyout");
    ok(openssl.arg(&key).arg("-out").arg(&certificate));
    let (certificate, key) = (certificate.display(), key.display());
    format!(", tls: {{certificate: {certificate}, key: {key}}}")
}

/// Replaces the certificate below `place`. The new certificate is for the same key, and was valid
/// only on one day in the past.
fn expire(place: &Path) {
    let config = "[ca]\ndefault_ca = own\n[own]\ndatabase = index\nnew_certs_dir = .\n\
                  serial = serial\ndefault_md = sha256\npolicy = names\nx509_extensions = host\n\
                  [names]\ncommonName = supplied\n[host]\nsubjectAltName = IP:127.0.0.1\n";
    for (name, text) in [("ca.cnf", config), ("serial", "01"), ("index", "")] {
        fs::write(place.join(name), text).unwrap();
    }
    for arguments in [
        "x509 -x509toreq -in certificate.pem -signkey key.pem -out request.pem",
        "ca -batch -notext -selfsign -config ca.cnf -keyfile key.pem -in request.pem \
         -startdate 20200101000000Z -enddate 20200102000000Z -out certificate.pem",
    ] {
        let mut openssl = Command::new("openssl");
        ok(openssl.args(arguments.split(' ')).current_dir(place));
    }
}

/// Creates a file below `place` with [`USER`] and a hash of [`PASSWORD`]. Returns the part of the
/// registry's configuration that names this file.
fn login(place: &Path) -> String {
    let line = ok(Command::new("htpasswd").args(["-nbB", USER, PASSWORD]));
    let path = place.join("htpasswd");
    fs::write(&path, line).unwrap();
    format!(
        "auth: {{htpasswd: {{realm: x, path: {}}}}}\n",
        path.display()
    )
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}
