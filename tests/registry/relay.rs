//! An HTTP proxy that leads hosts to servers on this machine.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What the proxy was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// `HOST:PORT`.
    pub(crate) host: String,
    /// The header `Proxy-Authorization`.
    pub(crate) login: Option<String>,
}

/// A proxy that lives as long as the test binary.
pub(crate) struct Relay {
    /// Host and port of the proxy itself.
    pub(crate) host: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Relay {
    /// Starts a proxy that leads each of these hosts, `HOST:PORT`, to an address of this machine,
    /// and refuses the others. If there is a `login`, it must be shown, as `Basic …`.
    pub(crate) fn start(routes: &[(&str, &str)], login: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let own = |text: &str| text.to_owned();
        let routes: Vec<_> = routes
            .iter()
            .map(|(host, to)| (own(host), own(to)))
            .collect();
        let (log, login) = (Arc::clone(&asked), login.map(own));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (log, routes, login) = (Arc::clone(&log), routes.clone(), login.clone());
                thread::spawn(move || lead(client, &routes, login.as_deref(), &log));
            }
        });
        Relay { host, asked }
    }

    /// Returns what it was asked for so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// Leads a client to the host that it asks for: by a tunnel, or with a request for a whole URL.
fn lead(
    mut client: TcpStream,
    routes: &[(String, String)],
    login: Option<&str>,
    asked: &Mutex<Vec<Asked>>,
) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let (first, headers) = head.split_once("\r\n").unwrap_or_default();
    let words: Vec<&str> = first.split(' ').collect();
    let (method, target) = (words[0], words[1]);
    let rest = target.strip_prefix("http://").unwrap_or(target);
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let port = if host.contains(':') { "" } else { ":80" };
    let host = format!("{host}{port}");
    let is_login = |line: &&str| {
        line.to_ascii_lowercase()
            .starts_with("proxy-authorization: ")
    };
    let shown = headers.lines().find(is_login);
    let shown = shown
        .and_then(|line| line.split_once(": "))
        .map(|(_, value)| value.to_owned());
    let is_let_in = login.is_none() || shown.as_deref() == login;
    asked.lock().unwrap().push(Asked {
        host: host.clone(),
        login: shown,
    });
    let Some((_, to)) = routes.iter().find(|(name, _)| *name == host && is_let_in) else {
        let status = if is_let_in { 502 } else { 407 };
        let answer =
            format!("HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        return client.write_all(answer.as_bytes());
    };
    let mut server = TcpStream::connect(to)?;
    if method == "CONNECT" {
        client.write_all(b"HTTP/1.1 200 x\r\n\r\n")?;
    } else {
        let kept = headers.lines().filter(|line| !is_login(line));
        let kept: String = kept.map(|line| format!("{line}\r\n")).collect();
        server.write_all(format!("{method} {path} HTTP/1.1\r\n{kept}").as_bytes())?;
    }
    let (mut from_server, mut to_client) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        let copied = io::copy(&mut from_server, &mut to_client);
        // The client waits for the end of an answer without a length.
        to_client.shutdown(Shutdown::Write).and(copied)
    });
    io::copy(&mut client, &mut server)?;
    server.shutdown(Shutdown::Write)
}
