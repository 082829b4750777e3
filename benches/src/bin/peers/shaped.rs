//! Links that are slower than loopback, such as a link to a distant registry.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Maximum number of bytes that are passed on at once.
const PIECE: usize = 64 << 10;
/// Maximum number of pieces that are on their way on one connection.
const ON_THE_WAY: usize = 64;

/// The limits of a link, for bytes from a server.
#[derive(Clone, Copy)]
pub(super) struct Link {
    /// Maximum speed of all connections together, in bytes a second.
    pub(super) bytes_per_second: u64,
    /// Maximum speed of each connection, in bytes a second.
    pub(super) per_connection: u64,
    /// The delay of each byte.
    pub(super) delay: Duration,
}

/// When the next piece may be sent.
struct Due(Instant);

impl Due {
    /// Returns the time at which a piece of this length will have been sent. A link that was idle
    /// does not send faster afterwards.
    fn send(&mut self, length: usize, bytes_per_second: u64) -> Instant {
        let takes = Duration::from_secs_f64(length as f64 / bytes_per_second as f64);
        self.0 = self.0.max(Instant::now()) + takes;
        self.0
    }
}

/// Passes connections on to a server over a link. Returns the host and port of the link, which
/// exists as long as this process.
pub(super) fn start(server: &str, link: Link) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let host = listener.local_addr()?.to_string();
    let server = server.to_owned();
    let whole = Arc::new(Mutex::new(Due(Instant::now())));
    thread::spawn(move || {
        for client in listener.incoming().map_while(io::Result::ok) {
            let (server, whole) = (server.clone(), Arc::clone(&whole));
            // If a connection breaks, the tool that is measured fails.
            thread::spawn(move || pass_on(client, &server, link, &whole));
        }
    });
    Ok(host)
}

fn pass_on(client: TcpStream, server: &str, link: Link, whole: &Mutex<Due>) -> io::Result<()> {
    let server = TcpStream::connect(server)?;
    let (mut requests, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut requests, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let (send, receive) = sync_channel(ON_THE_WAY);
    let to_client = client.try_clone()?;
    let arrival = thread::spawn(move || arrive(to_client, &receive));
    let sent = depart(server, link, whole, &send);
    drop(send);
    let _ = arrival.join();
    let _ = client.shutdown(Shutdown::Both);
    sent
}

/// Reads what the server sends, at the speed of the link.
fn depart(
    mut from: TcpStream,
    link: Link,
    whole: &Mutex<Due>,
    to: &SyncSender<(Instant, Vec<u8>)>,
) -> io::Result<()> {
    let mut own = Due(Instant::now());
    loop {
        let mut piece = vec![0; PIECE];
        let read = from.read(&mut piece)?;
        piece.truncate(read);
        let of_all = {
            let mut whole = whole.lock().unwrap_or_else(PoisonError::into_inner);
            whole.send(read, link.bytes_per_second)
        };
        let departs = of_all.max(own.send(read, link.per_connection));
        if read == 0 || to.send((departs + link.delay, piece)).is_err() {
            return Ok(());
        }
        thread::sleep(departs.saturating_duration_since(Instant::now()));
    }
}

/// Writes the pieces when they arrive.
fn arrive(mut to: TcpStream, pieces: &Receiver<(Instant, Vec<u8>)>) -> io::Result<()> {
    for (arrives, piece) in pieces {
        thread::sleep(arrives.saturating_duration_since(Instant::now()));
        to.write_all(&piece)?;
    }
    Ok(())
}
