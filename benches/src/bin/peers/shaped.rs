//! A link that limits the speed of each connection, as the link to a registry far away does.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Maximum number of bytes that are passed on at once.
const PIECE: usize = 64 << 10;

/// Passes connections on to a server. The server sends at most `bytes_per_second` on each. Returns
/// the host and port of the link, which exists as long as this process.
pub(super) fn link(server: &str, bytes_per_second: u64) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let host = listener.local_addr()?.to_string();
    let server = server.to_owned();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = server.clone();
            // A connection that breaks is an error of the tool that is measured.
            thread::spawn(move || pass_on(client, &server, bytes_per_second));
        }
    });
    Ok(host)
}

fn pass_on(client: TcpStream, server: &str, bytes_per_second: u64) -> io::Result<()> {
    let server = TcpStream::connect(server)?;
    let (mut requests, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut requests, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let copied = copy(server, &client, bytes_per_second);
    let _ = client.shutdown(Shutdown::Both);
    copied
}

fn copy(mut from: TcpStream, mut to: &TcpStream, bytes_per_second: u64) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    // A connection that was idle does not send faster afterwards.
    let mut due = Instant::now();
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..read])?;
        let takes = Duration::from_secs_f64(read as f64 / bytes_per_second as f64);
        due = due.max(Instant::now()) + takes;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}
