//! Servers that the peers need: containerd, and a registry.

use std::fs;
use std::net::TcpListener;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use oci_cas_benches::process::{Sample, measure};

/// Maximum time that a server may take to start.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Which fields of `/proc/PID/stat` are processor times. The field after the program's name is
/// field 0.
const TIMES: Range<usize> = 11..15;
/// Number of ticks in a second. The processor times are counted in ticks.
const TICKS: f64 = 100.0;

/// A server that is stopped on drop.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let pid = self.0.id().to_string();
        // `kill` sends SIGTERM. On this signal, containerd removes its mounts.
        let asked = Command::new("kill").arg(pid).status();
        if asked.is_err() {
            let _ = self.0.kill();
        }
        let _ = self.0.wait();
    }
}

impl Server {
    fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let out = fs::File::create(log)?;
        let started = command
            .stdout(out.try_clone()?)
            .stderr(out)
            .stdin(Stdio::null())
            .spawn();
        Ok(Server(
            started.with_context(|| format!("cannot start {command:?}"))?,
        ))
    }

    /// Returns the largest resident set so far, in bytes.
    fn peak(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next());
        Ok(kilobytes
            .context("cannot read the peak memory: the server has probably ended; try again")?
            .parse::<u64>()?
            * 1024)
    }

    /// Returns the seconds of processor time so far, of the server and of the programs that it
    /// started and that have ended.
    fn processor_time(&self) -> Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        // The name of the program, in parentheses, may contain spaces.
        let (_, fields) = text.rsplit_once(')').context("unexpected /proc/PID/stat")?;
        let ticks = fields
            .split_whitespace()
            .skip(TIMES.start)
            .take(TIMES.len());
        let ticks = ticks.map(|ticks| Ok(ticks.parse::<u64>()?));
        let sum = ticks.sum::<Result<u64>>()?;
        Ok(sum as f64 / TICKS)
    }
}

fn wait(what: &str, mut ready: impl FnMut() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !ready() {
        if begun.elapsed() > TIMEOUT {
            bail!("{what} did not start within {TIMEOUT:?}; start it by hand to see its errors");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The directory with the programs of a containerd, or `None` to find them on `PATH`.
pub(super) struct Programs(pub(super) Option<PathBuf>);

impl Programs {
    /// Returns a command that runs `program`.
    pub(super) fn call(&self, program: &str) -> Command {
        match &self.0 {
            Some(directory) => Command::new(directory.join(program)),
            None => Command::new(program),
        }
    }
}

/// A containerd that starts without content.
pub(super) struct Containerd<'a> {
    programs: &'a Programs,
    server: Server,
    socket: PathBuf,
}

impl<'a> Containerd<'a> {
    pub(super) fn start(place: &Path, programs: &'a Programs) -> Result<Self> {
        fs::create_dir_all(place)?;
        let [root, state, socket, config] =
            ["root", "state", "socket", "config.toml"].map(|name| place.join(name));
        let text = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.snapshotter.v1.btrfs\", \
             \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.snapshotter.v1.devmapper\", \
             \"io.containerd.snapshotter.v1.aufs\"]\n\
             [grpc]\naddress = {socket:?}\n"
        );
        fs::write(&config, text)?;
        let mut command = programs.call("containerd");
        command.arg("--config").arg(&config);
        let server = Server::start(&mut command, &place.join("log"))?;
        let containerd = Containerd {
            programs,
            server,
            socket,
        };
        wait("containerd", || {
            let asked = containerd
                .ctr()
                .arg("version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            asked.is_ok_and(|status| status.success())
        })?;
        Ok(containerd)
    }

    /// Returns a command that runs `ctr` against this server.
    pub(super) fn ctr(&self) -> Command {
        let mut command = self.programs.call("ctr");
        command.arg("--address").arg(&self.socket);
        command
    }

    /// Runs a command of a client. Returns its time, the processor time of the client and the
    /// server together, and the peak memory of the client or the server, whichever is larger.
    pub(super) fn measure(&self, client: &Command) -> Result<Sample> {
        let before = self.server.processor_time()?;
        let sample = measure(client)?;
        Ok(Sample {
            processor: sample.processor + self.server.processor_time()? - before,
            peak: sample.peak.max(self.server.peak()?),
            ..sample
        })
    }
}

/// A registry on its own port.
pub(super) struct Registry {
    _server: Server,
    pub(super) host: String,
}

impl Registry {
    pub(super) fn start(place: &Path) -> Result<Self> {
        fs::create_dir_all(place)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let host = format!("127.0.0.1:{port}");
        let config = place.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {:?}}}}}\n\
             http: {{addr: {host:?}}}\n",
            place.join("data")
        );
        fs::write(&config, text)?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config);
        let server = Server::start(&mut command, &place.join("log"))?;
        wait("docker-registry", || {
            std::net::TcpStream::connect(&host).is_ok()
        })?;
        Ok(Registry {
            _server: server,
            host,
        })
    }
}
