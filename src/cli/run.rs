//! `cas run`: a bundle on a snapshot, and a runtime that starts it.

pub(super) mod chroot;
pub(super) mod place;
mod runtime;

use std::io::IsTerminal;
use std::process::ExitCode;

use cas::bundle::{self, Program, Rootfs};
use cas::{Error, ErrorKind, Result};
use clap::Args;

use self::place::Place;
use self::runtime::{Runtime, Signals};
use super::Session;
use super::bundle::Process;

/// Run a program of an image; the exit code is the program's
#[derive(Args)]
#[command(after_help = "Example:
  cas run app:1
  cas run app:1 -- sh -c 'echo hello; exit 7'

What follows -- replaces the image's command and comes after its entrypoint, as with docker;
where the image says nothing either, it is sh. runc or crun is used, the first that can start it;
where there is neither, a chroot, which isolates nothing. The network is a loopback alone. What
the program writes is gone when it ends.

Exit codes: the program's; 128 and the signal that ended it; 126 when it cannot be executed, 127
when it is not there; else those of cas.")]
pub(crate) struct Run {
    /// Name of the image
    image: String,
    #[command(flatten)]
    process: Process,
    /// The runtime: a path, or `chroot` [default: runc or crun, else chroot]
    #[arg(long, value_name = "PATH")]
    runtime: Option<String>,
}

impl Run {
    pub(crate) async fn run(self, session: &mut Session) -> Result<ExitCode> {
        let runtimes = Runtime::choose(self.runtime.as_deref());
        if self.runtime.is_none() && runtimes == [Runtime::Chroot] {
            let why = "neither runc nor crun is here: what runs in a chroot is not isolated";
            session.progress.warn(why);
        }
        let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        let options = self.process.options(terminal, true);
        let cas = session.cas().await?;
        place::sweep(&cas, &session.root, &*session.progress).await?;
        // This may take long, and signals still end it as they end every command.
        let platform = options.platform.as_ref();
        cas.snapshot(&self.image, platform, &session.progress)
            .await?;
        let mut signals = Signals::watch()?;
        let place = Place::make(&cas, &session.root)?;
        let made = cas
            .bundle(&self.image, place.bundle(), &options, &session.progress)
            .await;
        // A store with one owner is free for others while the program runs.
        drop(cas);
        let outcome = match made {
            Ok(()) => start(&place, &runtimes, &mut signals).await,
            Err(error) => Err(error),
        };
        let cleared = match session.cas().await {
            Ok(cas) => place.clear(&cas).await,
            Err(error) => Err(error),
        };
        if let Err(error) = cleared {
            let why = format!("what is left of the run is taken by the next `cas gc`: {error}");
            session.progress.warn(&why);
        }
        outcome
    }
}

/// Starts the bundle by the first runtime that can.
async fn start(place: &Place, runtimes: &[Runtime], signals: &mut Signals) -> Result<ExitCode> {
    let process = bundle::process(place.bundle())?;
    let name = process.args.first().map_or("", String::as_str);
    match Rootfs::open(&place.rootfs())?.program(&process)? {
        Program::Found => {}
        Program::Absent => {
            eprintln!("cas: run {name:?}: the image has no such program");
            return Ok(ExitCode::from(127));
        }
        Program::NotExecutable => {
            eprintln!("cas: run {name:?}: is no file that may be executed");
            return Ok(ExitCode::from(126));
        }
    }
    for runtime in runtimes {
        if let Some(code) = runtime.run(place, signals).await? {
            return Ok(code);
        }
        eprintln!("cas: {runtime} could not start it");
    }
    let why = "no runtime could start it, and what they said stands above; `--runtime chroot` \
               starts it without isolation";
    Err(Error::new(ErrorKind::FailedPrecondition, why).operation("run"))
}
