//! Serves requests of the kernel.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use cas_core::{Error, ErrorKind, Result};
use rustix::io::Errno;

use super::protocol::{
    self, MAJOR, Operation, REPLY_HEADER, ROOT, Request, attributes, entry, snapshot_of,
};
use super::turns::Turns;
use crate::Files;

/// Default number of requests that are served at the same time. At most half of them may wait for
/// the same registry.
const THREADS: usize = 16;
/// Size in bytes of the buffer for requests. The kernel requires at least 8 KiB.
const BUFFER: usize = 64 << 10;
/// Maximum number of bytes in one reply to a read.
const READ: usize = 1 << 20;
/// Time between two records of what has arrived.
const RECORD_EVERY: Duration = Duration::from_secs(1);

/// A mounted file system of the data files of layers.
pub struct Session {
    device: OwnedFd,
    files: Files,
    threads: usize,
    /// Whether the session still serves new mounts.
    is_valid: Box<dyn Fn() -> bool + Send + Sync>,
}

/// A read that a thread serves, or that waits for its turn.
struct Read {
    /// Identifies the request in its reply.
    unique: u64,
    /// The number of the snapshot.
    id: u64,
    /// The identity of the layer that was opened.
    identity: u64,
    offset: u64,
    size: u32,
}

impl Session {
    /// Returns a session for a descriptor that [`mount`](super::mount) returned, here or in
    /// another process.
    pub fn new(device: OwnedFd, files: Files) -> Self {
        Session {
            device,
            files,
            threads: THREADS,
            is_valid: Box::new(|| true),
        }
    }

    /// Sets a function that returns whether the session still serves new mounts. If it returns
    /// false, a request for the space of the file system (`statfs`) and each look-up of a file
    /// fail. Files that are open are still served. By default, the session always serves new
    /// mounts.
    #[must_use]
    pub fn with_validity(mut self, is_valid: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.is_valid = Box::new(is_valid);
        self
    }

    /// Sets the number of requests that are served at the same time. By default, 16. With 0, one
    /// request is served at a time. Of the requests that need bytes from the same registry, at most
    /// half of the set number, but at least one, are served at the same time.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Makes the kernel resend the requests that an earlier process read but did not answer. If the
    /// session was served before, call this before [`serve`](Self::serve). Needs Linux 6.9 or
    /// later.
    ///
    /// # Errors
    /// `Unsupported` if the kernel cannot resend requests; errors of the system.
    pub fn resume(&self) -> Result<()> {
        match rustix::io::write(&self.device, &protocol::resend()) {
            Ok(_) => Ok(()),
            Err(Errno::INVAL) => Err(Error::unsupported(
                "the kernel cannot resend unanswered requests; processes that were reading a layer \
                 on demand hang until they are killed; use Linux 6.9 or later",
            )),
            Err(errno) => Err(std::io::Error::from(errno).into()),
        }
    }

    /// Serves requests until the file system is unmounted. Meanwhile, fetches the pieces that
    /// containers read when they start, completes layers, and records what has arrived. A request
    /// that cannot be answered fails, so that its reader does not wait. If one thread fails, the
    /// others go on until the file system is unmounted, and this function returns the error then.
    ///
    /// # Errors
    /// Errors of the system; `Internal` if a thread panicked. After an error, this process no
    /// longer serves requests of the session.
    pub fn serve(&self) -> Result<()> {
        let (ended, waiting) = (AtomicBool::new(false), thread::current());
        let turns = Turns::new((self.threads / 2).max(1));
        thread::scope(|scope| {
            let work = || {
                let served = self.serve_one_by_one(&turns);
                match &served {
                    Ok(()) => ended.store(true, Ordering::Release),
                    Err(error) => {
                        let what = "a thread cannot serve readers of layers any more";
                        tracing::error!(%error, "{what}");
                    }
                }
                waiting.unpark();
                served
            };
            let mut workers = Vec::new();
            for _ in 0..self.threads {
                match thread::Builder::new().spawn_scoped(scope, work) {
                    Ok(worker) => workers.push(worker),
                    Err(error) if workers.is_empty() => return Err(error.into()),
                    // The others do its share.
                    Err(_) => {}
                }
            }
            // Without this thread, layers are fetched only as they are read.
            let _ = thread::Builder::new().spawn_scoped(scope, || self.complete_layers(&ended));
            let have_failed = || workers.iter().all(ScopedJoinHandle::is_finished);
            while !ended.load(Ordering::Acquire) && !have_failed() {
                thread::park_timeout(RECORD_EVERY);
                self.files.record();
            }
            ended.store(true, Ordering::Release);
            self.files.end();
            let ends = workers.into_iter().map(|worker| match worker.join() {
                Ok(served) => served,
                Err(_) => Err(Error::internal("a thread panicked; please report it")),
            });
            let ends: Vec<Result<()>> = ends.collect();
            self.files.record();
            ends.into_iter().collect()
        })
    }

    /// Fetches the pieces that containers read when they start, and completes layers while readers
    /// are quiet.
    fn complete_layers(&self, ended: &AtomicBool) {
        while !ended.load(Ordering::Acquire) {
            thread::park_timeout(self.files.advance());
        }
    }

    fn serve_one_by_one(&self, turns: &Turns<Read>) -> Result<()> {
        let (mut message, mut data) = (vec![0; BUFFER], Vec::new());
        loop {
            let length = match rustix::io::read(&self.device, &mut message) {
                // The other end is closed.
                Ok(0) => return Ok(()),
                Ok(length) => length,
                // The kernel has cancelled the request, or a signal arrived.
                Err(Errno::NOENT | Errno::INTR | Errno::AGAIN) => continue,
                Err(Errno::NODEV) => return Ok(()),
                Err(errno) => return Err(std::io::Error::from(errno).into()),
            };
            let Some(request) = Request::parse(&message[..length]) else {
                continue;
            };
            match request.operation {
                Operation::Forget => {}
                Operation::Read => self.read_in_turn(&request, turns, &mut data),
                _ => match self.answer(&request) {
                    Ok(reply) => self.reply(request.unique, &reply),
                    Err(errno) => self.refuse(request.unique, errno),
                },
            }
        }
    }

    fn answer(&self, request: &Request<'_>) -> std::result::Result<Vec<u8>, Errno> {
        let find = |id: u64| {
            self.files.find(id).map_err(|error| {
                if error.kind() != ErrorKind::NotFound {
                    tracing::warn!(%error, id, "cannot open a layer that is read on demand");
                }
                errno_of(&error)
            })
        };
        match request.operation {
            Operation::Init if request.major() == Some(MAJOR) => {
                Ok(protocol::handshake(request.read_ahead().unwrap_or(0)))
            }
            Operation::Lookup | Operation::StatFs if !(self.is_valid)() => Err(Errno::IO),
            Operation::Lookup if request.node == ROOT => {
                let id = request.number().ok_or(Errno::NOENT)?;
                let (identity, length) = find(id)?;
                Ok(entry(id, identity, length))
            }
            Operation::Attributes => match snapshot_of(request.node) {
                Some(id) => Ok(attributes(request.node, Some(find(id)?.1))),
                None => Ok(attributes(ROOT, None)),
            },
            Operation::Open => {
                let id = snapshot_of(request.node).ok_or(Errno::INVAL)?;
                Ok(protocol::opened(find(id)?.0))
            }
            Operation::OpenDirectory => Ok(protocol::opened(0)),
            // Names are not listed. Only the snapshotter uses this directory, and it opens files by
            // their numbers.
            Operation::ReadDirectory | Operation::Nothing | Operation::Destroy => Ok(Vec::new()),
            Operation::StatFs => Ok(protocol::space()),
            _ => Err(Errno::NOSYS),
        }
    }

    /// Serves a read, unless bytes of it are missing and too many other reads wait for the same
    /// registry. In this case, puts the read in the queue of the registry, for another thread.
    /// After a read with missing bytes, serves the reads in the queue of the same registry. Once
    /// the session has ended, makes them fail instead: if they stayed in the queue, there might not
    /// be a thread left that serves them.
    fn read_in_turn(&self, request: &Request<'_>, turns: &Turns<Read>, data: &mut Vec<u8>) {
        let (unique, id) = (request.unique, snapshot_of(request.node));
        let named = (id, request.identity(), request.extent());
        let (Some(id), Some(identity), Some((offset, size))) = named else {
            return self.refuse(unique, Errno::INVAL);
        };
        let read = Read {
            unique,
            id,
            identity,
            offset,
            size,
        };
        let Some(registry) = self.files.registry_of_missing(id, identity, offset, size) else {
            return self.read(&read, data);
        };
        let mut next = turns.begin(&registry, read);
        while let Some(read) = next {
            match self.files.has_ended() {
                true => self.refuse(read.unique, Errno::IO),
                false => self.read(&read, data),
            }
            next = turns.next(&registry);
        }
    }

    fn read(&self, read: &Read, data: &mut Vec<u8>) {
        let &Read {
            unique,
            id,
            identity,
            offset,
            size,
        } = read;
        data.resize(REPLY_HEADER + READ.min(size as usize), 0);
        let buffer = &mut data[REPLY_HEADER..];
        match self.files.read(id, identity, offset, buffer) {
            Ok(length) => {
                let header = protocol::header(unique, length, 0);
                data[..REPLY_HEADER].copy_from_slice(&header);
                self.send(unique, &data[..REPLY_HEADER + length]);
            }
            Err(error) => {
                tracing::error!(%error, id, offset, size, "cannot read a layer on demand");
                self.refuse(unique, errno_of(&error));
            }
        }
    }

    fn reply(&self, unique: u64, body: &[u8]) {
        let header = protocol::header(unique, body.len(), 0);
        self.send(unique, &[&header, body].concat());
    }

    /// Sends the reply to a request. If the kernel does not take it, the request fails.
    fn send(&self, unique: u64, message: &[u8]) {
        if let Err(errno) = self.try_send(message) {
            let error = std::io::Error::from(errno);
            tracing::error!(%error, "cannot answer a reader of a layer; its request fails");
            self.refuse(unique, Errno::IO);
        }
    }

    /// Makes a request fail. If the kernel does not take this reply either, the reader waits until
    /// it is killed or the file system is unmounted.
    fn refuse(&self, unique: u64, errno: Errno) {
        let header = protocol::header(unique, 0, errno.raw_os_error());
        if let Err(errno) = self.try_send(&header) {
            let error = std::io::Error::from(errno);
            tracing::error!(
                %error,
                "cannot answer a reader of a layer; the reader hangs until it is killed"
            );
        }
    }

    fn try_send(&self, message: &[u8]) -> std::result::Result<(), Errno> {
        match rustix::io::write(&self.device, message) {
            // The reader was killed, or the file system was unmounted.
            Ok(_) | Err(Errno::NOENT | Errno::NODEV) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

fn errno_of(error: &Error) -> Errno {
    match error.kind() {
        ErrorKind::NotFound => Errno::NOENT,
        _ => Errno::IO,
    }
}
