//! Runs programs that verify images, in the same way as containerd runs its image verifiers. The
//! programs in a directory are asked about an image in turn. A program accepts the image with the
//! exit status 0.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use cas_core::image::FullName;
use cas_core::{Context, Descriptor, Error, ErrorKind, Result, limit};

use super::Verifier;
use crate::bounded;
use crate::process::{Ended, Group, Output, Program};
use crate::runtime;

/// The media type of the descriptor that a verifier reads from its standard input.
const INPUT: &str = "application/vnd.oci.descriptor.v1+json";

/// A directory of programs that verify images. Each entry of the directory counts as a program.
///
/// Each program is started as `PROGRAM -name NAME -digest DIGEST -stdin-media-type TYPE`, with the
/// descriptor of the image as JSON on its standard input. A program accepts the image with the exit
/// status 0 and rejects it with any other status. It may write the reason to its standard output.
/// The error contains the first [`limit::REASON`] bytes of the reason.
///
/// The verification fails with `FailedPrecondition` if a program cannot be started, is ended by a
/// signal, or exceeds the time of [`VerifierDir::with_time`]. A program that has ended still counts
/// as running while a child of it has the standard output open. The verification fails with
/// `NotFound` if the directory does not exist, and with `OutOfRange` if the directory has more than
/// [`limit::HOSTS_FILES`] entries.
#[derive(Clone, Debug)]
pub struct VerifierDir {
    path: PathBuf,
    max: Option<usize>,
    time: Duration,
}

impl VerifierDir {
    /// Returns the verifiers in the directory `path`. By default, at most ten of them are asked,
    /// and each may take at most ten seconds.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        VerifierDir {
            path: path.into(),
            max: Some(10),
            time: Duration::from_secs(10),
        }
    }

    /// Sets the maximum number of verifiers that are asked, in the order of their names. With
    /// `None`, all are asked.
    #[must_use]
    pub fn with_max(mut self, max: impl Into<Option<usize>>) -> Self {
        self.max = max.into();
        self
    }

    /// Sets the maximum time that each verifier may take.
    #[must_use]
    pub fn with_time(mut self, time: Duration) -> Self {
        self.time = time;
        self
    }

    /// Asks the verifiers. Returns a warning if not all of them were asked, or if there are none.
    async fn judge(self, name: String, target: Descriptor) -> Result<Vec<String>> {
        let path = self.path.clone();
        let programs = runtime::blocking(move || list(&path)).await?;
        let asked = self.max.unwrap_or(usize::MAX).min(programs.len());
        for program in &programs[..asked] {
            self.ask(program, &name, &target).await?;
        }
        let (all, place) = (programs.len(), self.path.display());
        let warning = match (asked, all) {
            (_, 0) => {
                format!("{place} has no verifiers, so the image was not verified; add a verifier")
            }
            (asked, all) if asked < all => format!(
                "only {asked} of the {all} verifiers in {place} checked the image; raise \
                 max-verifiers, or remove verifiers"
            ),
            _ => return Ok(Vec::new()),
        };
        Ok(vec![warning])
    }

    async fn ask(&self, program: &OsString, name: &str, target: &Descriptor) -> Result<()> {
        let path = self.path.join(program);
        let input = serde_json::to_vec(target).map_err(|error| {
            Error::internal("a descriptor could not be serialized; please report it").source(error)
        })?;
        let digest = target.digest.to_string();
        let arguments = [
            "-name",
            name,
            "-digest",
            &digest,
            "-stdin-media-type",
            INPUT,
        ];
        let program = Program {
            path: path.as_os_str(),
            arguments: &arguments,
            input: &input,
            errors: Stdio::null(),
            time: self.time,
            output: Output::Beginning(limit::REASON),
            group: Group::Own,
        };
        let ended = program.run().await;
        let shown = path.display();
        let failed = |why: String| {
            Error::precondition(format!(
                "the verifier {shown} {why}; correct it, or remove it from its directory"
            ))
        };
        let Ended { status, said } = ended.map_err(failed)?;
        match status.code() {
            Some(0) => Ok(()),
            Some(code) => {
                let said = String::from_utf8_lossy(&said);
                let said = said.trim().escape_debug().to_string();
                let reason = if said.is_empty() {
                    "it gave no reason"
                } else {
                    &said
                };
                let message = format!(
                    "the verifier {shown} rejects the image {digest} with exit status {code}: \
                     {reason}; pull another image, or change the verifier"
                );
                Err(Error::new(ErrorKind::Denied, message))
            }
            None => Err(failed(format!("ended with {status}"))),
        }
    }
}

#[async_trait]
impl Verifier for VerifierDir {
    async fn verify(&self, name: &FullName, target: &Descriptor) -> Result<Vec<String>> {
        runtime::run(self.clone().judge(name.to_string(), target.clone())).await
    }
}

/// Returns the names of the entries of a directory, in the order of their bytes.
fn list(path: &Path) -> Result<Vec<OsString>> {
    let names = bounded::names(path, "those that are not verifiers").and_then(|names| {
        names.ok_or_else(|| {
            Error::not_found(
                "expected a directory of verifiers, found no directory; create it, or correct the \
                 path",
            )
        })
    });
    names.during("list", path.display())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    use cas_core::{Digest, MediaType};

    use super::*;
    use crate::process::tests::has_processes;

    #[test]
    fn a_directory_has_as_many_entries_as_are_allowed_and_no_more() {
        let temp = tempfile::tempdir().unwrap();
        for number in 0..limit::HOSTS_FILES {
            fs::write(temp.path().join(number.to_string()), "").unwrap();
        }
        assert_eq!(list(temp.path()).unwrap().len(), limit::HOSTS_FILES);
        fs::write(temp.path().join("one more"), "").unwrap();
        let error = list(temp.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
    }

    /// A directory of verifiers that are shell scripts.
    struct Scripts(tempfile::TempDir);

    impl Scripts {
        fn new(scripts: &[(&str, &str)]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            for (name, lines) in scripts {
                let path = directory.path().join(name);
                fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            }
            Scripts(directory)
        }

        fn verifiers(&self) -> VerifierDir {
            VerifierDir::new(self.0.path())
        }

        /// Returns what a script has written into a file.
        fn read(&self, file: &str) -> String {
            fs::read_to_string(self.0.path().with_extension(file)).unwrap_or_default()
        }
    }

    impl Drop for Scripts {
        fn drop(&mut self) {
            // A file that a script has not written is absent.
            let _ = fs::remove_file(self.0.path().with_extension("out"));
        }
    }

    fn target() -> Descriptor {
        Descriptor::new(MediaType::OCI_INDEX, Digest::sha256(b"x"), 7)
    }

    /// Sets `out` to the path of the script's directory with `.out` appended.
    const OUT: &str = "out=$(dirname \"$0\").out";

    fn ask(verifiers: &VerifierDir) -> Result<Vec<String>> {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        let name = "x.test/team/app:1".parse().unwrap();
        // If another thread starts a process while this thread writes a script, the new process has
        // the script open for writing until it calls `exec`. Before that, the script cannot be
        // started.
        loop {
            let judged = runtime.block_on(verifiers.verify(&name, &target()));
            let is_busy = |error: &Error| error.to_string().contains("os error 26");
            if !judged.as_ref().is_err_and(is_busy) {
                return judged;
            }
        }
    }

    fn refused(verifiers: &VerifierDir, kind: ErrorKind) -> String {
        let error = ask(verifiers).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        error.to_string()
    }

    #[test]
    fn a_verifier_gets_the_arguments_and_the_descriptor_of_containerd() {
        let script = format!("{OUT}\necho \"$@\" > $out\ncat >> $out");
        let scripts = Scripts::new(&[("one", &script)]);
        assert!(ask(&scripts.verifiers()).unwrap().is_empty());
        let written = scripts.read("out");
        let (arguments, input) = written.split_once('\n').unwrap();
        let digest = Digest::sha256(b"x");
        assert_eq!(
            arguments,
            format!("-name x.test/team/app:1 -digest {digest} -stdin-media-type {INPUT}")
        );
        let input: Descriptor = serde_json::from_str(input).unwrap();
        assert_eq!(input, target());
    }

    #[test]
    fn all_must_accept_and_the_one_that_rejects_says_why() {
        let scripts = Scripts::new(&[
            ("1-good", "echo fine"),
            ("2-bad", "printf 'not\\033[31m signed'; exit 3"),
            ("3-never", &format!("{OUT}\ntouch $out")),
        ]);
        let said = refused(&scripts.verifiers(), ErrorKind::Denied);
        assert!(said.contains("2-bad rejects the image sha256:"), "{said}");
        assert!(
            said.contains("exit status 3: not\\u{1b}[31m signed"),
            "{said}"
        );
        assert!(!scripts.0.path().with_extension("out").exists());
        let scripts = Scripts::new(&[("bad", "exit 1")]);
        let said = refused(&scripts.verifiers(), ErrorKind::Denied);
        assert!(said.contains("it gave no reason"), "{said}");
    }

    #[test]
    fn a_verifier_that_fails_is_an_error() {
        let failed = ErrorKind::FailedPrecondition;
        let scripts = Scripts::new(&[("killed", "kill -9 $$")]);
        assert!(refused(&scripts.verifiers(), failed).contains("killed ended with signal: 9"));
        let scripts = Scripts::new(&[("data", "exit 0")]);
        let mode = fs::Permissions::from_mode(0o644);
        fs::set_permissions(scripts.0.path().join("data"), mode).unwrap();
        let said = refused(&scripts.verifiers(), failed);
        assert!(said.contains("data cannot be started"), "{said}");
        let scripts = Scripts::new(&[]);
        fs::create_dir(scripts.0.path().join("directory")).unwrap();
        assert!(refused(&scripts.verifiers(), failed).contains("cannot be started"));
        let absent = VerifierDir::new(scripts.0.path().join("absent"));
        assert!(refused(&absent, ErrorKind::NotFound).contains("found no directory"));
    }

    /// Runs a script that writes its process ID into `out` and then hangs. Returns the process ID.
    fn hang(scripts: &Scripts) -> u32 {
        // On a busy machine, a script may not have begun when its time is over.
        for time in [500, 5_000, 50_000].map(Duration::from_millis) {
            let began = Instant::now();
            let verifiers = scripts.verifiers().with_time(time);
            let said = refused(&verifiers, ErrorKind::FailedPrecondition);
            let late = format!("did not end within {} s", time.as_secs_f32());
            assert!(said.contains(&late), "{said}");
            assert!(began.elapsed() < time + Duration::from_secs(60));
            if let Ok(process) = scripts.read("out").trim().parse() {
                return process;
            }
        }
        unreachable!("the script never began");
    }

    #[test]
    fn a_verifier_that_hangs_is_killed_with_its_children() {
        for lines in [
            "sleep 1000",
            "exec sleep 1000",
            // It ends, but its child keeps the output open.
            "sleep 1000 &",
            "exec >&-; sleep 1000",
        ] {
            let pid = format!("{OUT}\necho $$ > $out\n{lines}");
            let scripts = Scripts::new(&[("hangs", &pid)]);
            let group = hang(&scripts);
            let began = Instant::now();
            // The signal is sent, but the processes need a moment to end.
            while has_processes(group) {
                assert!(began.elapsed() < Duration::from_secs(60), "{lines} goes on");
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn a_verifier_that_shouts_is_read_to_its_end_but_not_kept() {
        let shout = "head -c 10000000 /dev/zero | tr '\\0' x";
        let quiet = "head -c 10000000 /dev/zero >&2";
        let scripts = Scripts::new(&[
            ("1", shout),
            ("2", quiet),
            ("3", &format!("{shout}; exit 1")),
        ]);
        let said = refused(&scripts.verifiers(), ErrorKind::Denied);
        assert!(said.contains("/3 rejects"), "{said}");
        assert!(said.len() < limit::REASON as usize + 500, "{}", said.len());
    }

    #[test]
    fn as_many_are_asked_as_the_caller_allows_and_a_warning_names_the_rest() {
        let scripts = Scripts::new(&[("a", "exit 0"), ("b", "exit 0"), ("c", "exit 1")]);
        let warnings = ask(&scripts.verifiers().with_max(2)).unwrap();
        assert!(
            warnings[0].contains("only 2 of the 3 verifiers"),
            "{warnings:?}"
        );
        assert_eq!(ask(&scripts.verifiers().with_max(0)).unwrap().len(), 1);
        for max in [Some(3), Some(usize::MAX), None] {
            let verifiers = scripts.verifiers().with_max(max);
            refused(&verifiers, ErrorKind::Denied);
        }
        let none = Scripts::new(&[]);
        let warnings = ask(&none.verifiers()).unwrap();
        assert!(warnings[0].contains("has no verifiers"), "{warnings:?}");
    }
}
