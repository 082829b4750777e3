//! Shows progress on standard error. On a terminal that can show bars, each item has a bar.
//! Elsewhere, a line is printed for each item that took at least a second. With `--quiet`,
//! `--no-progress` or `--json`, no progress is shown.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use cas::backend::sync::lock;
use cas::progress::{Event, Phase, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::message::tell;
use super::output::printable;

/// Without bars, only items that took at least this long get a line.
const WORTH_A_LINE: Duration = Duration::from_secs(1);

/// Shows the progress and the warnings of a long operation.
pub(crate) struct Bars {
    mode: Mode,
    warnings: bool,
}

enum Mode {
    Off,
    Lines(Mutex<HashMap<String, (Instant, u64)>>),
    Bars(MultiProgress, Mutex<HashMap<String, ProgressBar>>),
}

impl Bars {
    pub(crate) fn new(quiet: bool, off: bool) -> Self {
        let screen = MultiProgress::new();
        let mode = if quiet || off {
            Mode::Off
        } else if screen.is_hidden() {
            // A hidden screen shows neither bars nor warnings. It is hidden if standard error is
            // not a terminal, or if `TERM` is `dumb` or unset: the cursor cannot be moved then.
            Mode::Lines(Mutex::default())
        } else {
            Mode::Bars(screen, Mutex::default())
        };
        Bars {
            mode,
            warnings: !quiet,
        }
    }
}

impl Progress for Bars {
    fn report(&self, event: Event<'_>) {
        let item = &*printable(event.item);
        match event.phase {
            Phase::Started => self.begin(item, event.total),
            Phase::Advanced => self.advance(item, event.bytes),
            Phase::Finished => self.end(item),
            Phase::Warning => self.warn(item),
            _ => {}
        }
    }
}

impl Bars {
    fn begin(&self, item: &str, total: Option<u64>) {
        match &self.mode {
            Mode::Off => {}
            Mode::Lines(items) => {
                lock(items).insert(item.to_owned(), (Instant::now(), 0));
            }
            Mode::Bars(screen, items) => {
                let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
                let bar = screen.add(bar.with_style(style(total.is_some())));
                bar.set_message(item.to_owned());
                lock(items).insert(item.to_owned(), bar);
            }
        }
    }

    fn advance(&self, item: &str, bytes: u64) {
        match &self.mode {
            Mode::Off => {}
            Mode::Lines(items) => {
                if let Some((_, done)) = lock(items).get_mut(item) {
                    *done += bytes;
                }
            }
            Mode::Bars(_, items) => {
                if let Some(bar) = lock(items).get(item) {
                    bar.inc(bytes);
                }
            }
        }
    }

    fn end(&self, item: &str) {
        match &self.mode {
            Mode::Off => {}
            Mode::Lines(items) => {
                let ended = lock(items).remove(item);
                if let Some((begun, done)) = ended
                    && begun.elapsed() >= WORTH_A_LINE
                {
                    let (bytes, seconds) = (super::output::size(done), begun.elapsed());
                    tell(format_args!(
                        "{item}: {bytes} in {:.1} s",
                        seconds.as_secs_f64()
                    ));
                }
            }
            Mode::Bars(screen, items) => {
                if let Some(bar) = lock(items).remove(item) {
                    bar.finish_and_clear();
                    screen.remove(&bar);
                }
            }
        }
    }

    fn warn(&self, message: &str) {
        if !self.warnings {
            return;
        }
        match &self.mode {
            // The job continues if a warning cannot be printed.
            Mode::Bars(screen, _) => drop(screen.println(format!("cas: warning: {message}"))),
            _ => tell(format_args!("cas: warning: {message}")),
        }
    }
}

fn style(has_total: bool) -> ProgressStyle {
    let template = if has_total {
        "{msg:32!} {wide_bar} {bytes:>10} of {total_bytes:<10} {bytes_per_sec:>12}"
    } else {
        "{msg:32!} {spinner} {bytes:>10} {bytes_per_sec:>12}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
