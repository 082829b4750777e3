//! Runs all targets, or those that the command line names, under libFuzzer. Each target gets the
//! same number of CPU minutes.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use cas_fuzz::planted::PLANTED;
use cas_fuzz::{TARGET, Target};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::AllArgs;

/// A file system in memory, for the temporary files of targets, if the machine has it.
const MEMORY: &str = "/dev/shm";
/// Number of targets that run at the same time.
const SIDE_BY_SIDE: usize = 2;
/// The most memory that a target may use, in MiB.
const MEBIBYTES: usize = 1024;
/// The longest time that a target may take for one input, in seconds. Other programs run beside
/// the campaign, so this is far more than an input needs.
const SECONDS: usize = 10;
/// CPU minutes within which a planted fault must be found.
const PLANTED_MINUTES: f64 = 0.5;
/// How often the CPU time of a target is read.
const PAUSE: Duration = Duration::from_millis(100);

/// What one or more runs of a target did.
#[derive(Clone, Copy, Default)]
struct Done {
    seconds: f64,
    executions: u64,
    findings: u64,
}

impl Done {
    fn add(&mut self, other: Done) {
        self.seconds += other.seconds;
        self.executions += other.executions;
        self.findings += other.findings;
    }
}

/// Checks that libFuzzer finds the planted faults, and then runs the chosen targets. A target runs
/// until its runs together, including those in the log, have used the CPU minutes of `arguments`,
/// or until there is a finding. Prints a table of the chosen targets. Returns true if their runs,
/// including those in the log, have no findings.
///
/// # Errors
/// An error for an unknown target, if a planted fault is not found, or if the log has an unknown
/// line; errors of starting the program and of the file system.
pub(crate) fn run(arguments: &AllArgs) -> Result<bool> {
    let targets = match arguments.targets.is_empty() {
        true => cas_fuzz::targets(),
        false => arguments
            .targets
            .iter()
            .map(|name| crate::named(name))
            .collect::<Result<_>>()?,
    };
    convict(arguments)?;
    let done = Mutex::new(read(&arguments.log)?);
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .open(&arguments.log)
        .with_context(|| format!("cannot open the log {}", arguments.log.display()))?;
    let waiting = Mutex::new(targets.iter());
    let work = || -> Result<()> {
        while let Some(target) = lock(&waiting)?.next() {
            let before = lock(&done)?.get(target.name).copied().unwrap_or_default();
            let seconds = arguments.minutes * 60.0 - before.seconds;
            if seconds < 1.0 {
                continue;
            }
            let (now, status) = fuzz(arguments, target, seconds)?;
            if !status.success() {
                report(target, &output(arguments, target))?;
            }
            let line = line(target.name, now);
            println!("{line}");
            lock(&done)?
                .entry(target.name.to_owned())
                .or_default()
                .add(now);
            // One write, so that a kill leaves no part of a line.
            (&log).write_all(format!("{line}\n").as_bytes())?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..SIDE_BY_SIDE).map(|_| scope.spawn(work)).collect();
        let ended = workers.into_iter().map(|worker| match worker.join() {
            Ok(result) => result,
            Err(_) => Err(anyhow!("a thread of the campaign panicked")),
        });
        ended.collect::<Result<Vec<()>>>()
    })?;
    let done = lock(&done)?;
    println!("\n| target | CPU minutes | executions | findings |\n|---|---|---|---|");
    let mut sum = Done::default();
    for target in &targets {
        let one = done.get(target.name).copied().unwrap_or_default();
        sum.add(one);
        row(target.name, one);
    }
    row("in all", sum);
    if sum.findings > 0 {
        println!(
            "the log {} counts findings, so every run of these targets fails; correct the faults, \
             and then remove the log",
            arguments.log.display()
        );
    }
    Ok(sum.findings == 0)
}

fn row(name: &str, done: Done) {
    let minutes = done.seconds / 60.0;
    println!(
        "| {name} | {minutes:.1} | {} | {} |",
        done.executions, done.findings
    );
}

fn lock<T>(mutex: &Mutex<T>) -> Result<std::sync::MutexGuard<'_, T>> {
    mutex
        .lock()
        .map_err(|_| anyhow!("a thread of the campaign panicked"))
}

/// Checks that libFuzzer finds each planted fault. Removes the inputs that it found.
fn convict(arguments: &AllArgs) -> Result<()> {
    for planted in PLANTED {
        let name = planted.target.name;
        let (_, status) = fuzz(arguments, &planted.target, PLANTED_MINUTES * 60.0)?;
        if status.code() != Some(planted.code) {
            bail!(
                "the fault {name} was not found: expected the exit code {}, found {status}; see {}",
                planted.code,
                output(arguments, &planted.target).display()
            );
        }
        println!("{name} is found");
        fs::remove_dir_all(arguments.work.join("corpus").join(name))?;
        for (finding, _) in cas_fuzz::replay::inputs(&findings(arguments))? {
            if finding.starts_with(name) {
                fs::remove_file(findings(arguments).join(finding))?;
            }
        }
    }
    Ok(())
}

/// Runs a target until it has used `seconds` of CPU time, or until an input breaks a promise, takes
/// too long or needs too much memory. Returns what the target did and how it ended. Inputs that
/// reach something new stay in the directory `corpus`, and the input that ended the run stays in
/// `findings`.
fn fuzz(arguments: &AllArgs, target: &Target, seconds: f64) -> Result<(Done, ExitStatus)> {
    let corpus = arguments.work.join("corpus").join(target.name);
    let seeds = arguments.work.join("seeds").join(target.name);
    for directory in [&corpus, &seeds, &findings(arguments)] {
        fs::create_dir_all(directory)?;
    }
    for (number, seed) in (target.seeds)().into_iter().enumerate() {
        fs::write(seeds.join(number.to_string()), seed)?;
    }
    let kept = cas_fuzz::corpus(target.name);
    let output = output(arguments, target);
    let prefix = findings(arguments).join(target.name);
    // libFuzzer ends without removing what the target has made.
    let scratch = match Path::new(MEMORY).is_dir() {
        true => TempDir::with_prefix_in("fuzz-", MEMORY)?,
        false => TempDir::with_prefix("fuzz-")?,
    };
    let mut command = Command::new(&arguments.program);
    command
        .env(TARGET, target.name)
        .env("TMPDIR", scratch.path())
        .arg(&corpus)
        .arg(&seeds)
        .args(kept.exists().then_some(&kept))
        .arg(format!("-artifact_prefix={}-", prefix.display()))
        .arg(format!("-max_len={}", target.longest))
        .arg(format!("-rss_limit_mb={MEBIBYTES}"))
        .arg(format!("-timeout={SECONDS}"))
        .args(["-print_final_stats=1", "-use_value_profile=1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&output)?);
    let program = arguments.program.display();
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let (status, used) = wait(&mut child, seconds)?;
    let said = String::from_utf8_lossy(&fs::read(&output)?).into_owned();
    let executions = said
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))
        .and_then(|number| number.trim().parse().ok());
    let done = Done {
        seconds: used,
        executions: executions.unwrap_or_default(),
        findings: u64::from(!status.success()),
    };
    Ok((done, status))
}

/// Returns the path of the file with the output of libFuzzer for a target.
fn output(arguments: &AllArgs, target: &Target) -> PathBuf {
    arguments.work.join(target.name).with_extension("log")
}

fn findings(arguments: &AllArgs) -> PathBuf {
    arguments.work.join("findings")
}

/// Waits for the end of a target, and asks it to end once it has used `seconds` of CPU time.
/// Returns how it ended, and the CPU time that it used, in seconds.
fn wait(child: &mut Child, seconds: f64) -> Result<(ExitStatus, f64)> {
    let pid = Pid::from_child(child);
    let stat = format!("/proc/{}/stat", child.id());
    let mut used = 0.0;
    let mut asked = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, used));
        }
        used = cpu_seconds(&fs::read_to_string(&stat)?).unwrap_or(used);
        if used >= seconds && !asked {
            // After the current input, libFuzzer prints its counts and ends.
            kill_process(pid, Signal::USR1)?;
            asked = true;
        }
        thread::sleep(PAUSE);
    }
}

/// Returns the CPU time in a line of `/proc/PID/stat`, in seconds.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Prints how the finding in the output of a target can be repeated. If the output does not name an
/// input, prints the path of the output.
fn report(target: &Target, output: &Path) -> Result<()> {
    let name = target.name;
    let said = String::from_utf8_lossy(&fs::read(output)?).into_owned();
    let written = |line| str::split_once(line, "Test unit written to ");
    match said.lines().find_map(written) {
        Some((_, input)) => println!(
            "{name}: a finding; repeat it: cargo run -p oci-cas-fuzz --bin fuzz -- replay \
             {name} {input}"
        ),
        None => println!(
            "{name}: failed, and libFuzzer wrote no input; see {}",
            output.display()
        ),
    }
    Ok(())
}

/// Returns the line of the log for a run.
fn line(name: &str, done: Done) -> String {
    let Done {
        seconds,
        executions,
        findings,
    } = done;
    format!("{name}: {seconds:.1} CPU seconds, {executions} executions, {findings} findings")
}

/// Returns the sum of the runs in the log for each target. If the log does not exist, the map is
/// empty.
fn read(log: &Path) -> Result<BTreeMap<String, Done>> {
    let text = match log.exists() {
        true => fs::read_to_string(log)
            .with_context(|| format!("cannot read the log {}", log.display()))?,
        false => String::new(),
    };
    let mut all: BTreeMap<String, Done> = BTreeMap::new();
    for line in text.lines() {
        let one = parse(line).with_context(|| {
            format!(
                "the log {} has the unknown line {line:?}; remove the line",
                log.display()
            )
        })?;
        all.entry(one.0.to_owned()).or_default().add(one.1);
    }
    Ok(all)
}

/// Returns the target and the numbers of a line of the log, or `None` if the line is malformed.
fn parse(line: &str) -> Option<(&str, Done)> {
    let (name, rest) = line.split_once(": ")?;
    let words: Vec<&str> = rest.split(' ').collect();
    let [
        seconds,
        "CPU",
        "seconds,",
        executions,
        "executions,",
        findings,
        "findings",
    ] = words[..]
    else {
        return None;
    };
    let done = Done {
        seconds: seconds.parse().ok()?,
        executions: executions.parse().ok()?,
        findings: findings.parse().ok()?,
    };
    Some((name, done))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_log_names_the_log() {
        let log = tempfile::tempdir().unwrap();
        let said = read(log.path()).err().unwrap().to_string();
        assert!(said.contains(log.path().to_str().unwrap()), "{said}");
    }
}
