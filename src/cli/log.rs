//! Prints on standard error the warnings and errors that libraries log, in the same form as the
//! warnings of `cas` itself. Drops events of lower levels.

use std::fmt::{Debug, Write as _};
use std::sync::Arc;

use cas::progress::Progress;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Sends each event to `progress` as a warning.
struct Log {
    progress: Arc<dyn Progress>,
}

/// Sends the warnings and errors that are logged in this process to `progress`, until the process
/// ends.
pub(crate) fn show(progress: Arc<dyn Progress>) {
    // The call fails only if this function was called before.
    let _ = tracing::subscriber::set_global_default(Log { progress });
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::WARN
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::WARN)
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        self.progress.warn(&line.text());
    }

    // Spans are not enabled, so these methods are not called.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Collects the message and the fields of an event.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Line {
    /// Returns the line, as in `cannot read a layer (id: 5, offset: 0)`.
    fn text(self) -> String {
        match self.fields.is_empty() {
            true => self.message,
            false => format!("{} ({})", self.message, self.fields),
        }
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string does not fail.
        let _ = match (field.name(), self.fields.is_empty()) {
            ("message", _) => write!(self.message, "{value:?}"),
            (name, true) => write!(self.fields, "{name}: {value:?}"),
            (name, false) => write!(self.fields, ", {name}: {value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use cas::progress::Event;

    use super::*;

    #[test]
    fn warnings_and_errors_are_shown_with_their_fields() {
        let shown = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&shown);
        let progress = Arc::new(move |event: Event<'_>| {
            sink.lock().unwrap().push(event.item.to_owned());
        });
        tracing::subscriber::with_default(Log { progress }, || {
            let error = std::io::Error::other("no answer");
            tracing::warn!(%error, id = 5, name = "a", "cannot read {}", "layer");
            tracing::error!("cannot write");
            tracing::info!("not shown");
            tracing::info_span!("not shown either").in_scope(|| tracing::debug!("nor this"));
        });
        assert_eq!(
            *shown.lock().unwrap(),
            [
                "cannot read layer (error: no answer, id: 5, name: a)",
                "cannot write"
            ]
        );
    }
}
