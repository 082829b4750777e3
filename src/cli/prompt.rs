//! Questions to the person at the terminal.

use std::io::{self, BufRead};
use std::thread;

use cas::{Error, Result, limit};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::oneshot;

use super::message::print;

/// Asks for a line. Returns the line without its line break.
///
/// # Errors
/// `InvalidArgument` if standard input ends before the line begins; `OutOfRange` if the line, with
/// its line break, has more than [`limit::SECRET`] bytes; errors of reading.
pub(crate) async fn ask(question: &str) -> Result<String> {
    print(question);
    off_this_thread(|| read_line(io::stdin().lock())).await
}

/// Asks for a line, and does not show what is typed. Returns the line without its line break.
/// Afterwards, or if the future is dropped, the terminal shows typed text again.
///
/// # Errors
/// As [`ask`]; errors of the terminal.
pub(crate) async fn ask_secret(question: &str) -> Result<String> {
    let _hidden = Hidden::begin()?;
    ask(question).await
}

/// Does `work`, which waits for input, on another thread, so that a signal can end the command
/// meanwhile. Returns the result of the work.
pub(crate) async fn off_this_thread(
    work: impl FnOnce() -> Result<String> + Send + 'static,
) -> Result<String> {
    let (sender, receiver) = oneshot::channel();
    thread::Builder::new().spawn(move || {
        // The receiver is gone if a signal has ended the command.
        let _ = sender.send(work());
    })?;
    let gone = |_| Error::internal("reading from standard input panicked; please report it");
    receiver.await.map_err(gone)?
}

fn read_line(input: impl BufRead) -> Result<String> {
    let mut text = String::new();
    input.take(limit::SECRET + 1).read_line(&mut text)?;
    if text.len() as u64 > limit::SECRET {
        let allowed = limit::SECRET;
        return Err(Error::out_of_range(format!(
            "the line has more than {allowed} bytes; type a shorter one"
        )));
    }
    if text.is_empty() {
        return Err(Error::invalid(
            "standard input ended before an answer; try again",
        ));
    }
    Ok(line(&text).to_owned())
}

/// Returns a text without the line break at its end.
pub(crate) fn line(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

/// A terminal that does not show what is typed, until this value is dropped.
struct Hidden {
    before: Termios,
}

impl Hidden {
    fn begin() -> Result<Self> {
        let before = tcgetattr(io::stdin()).map_err(io::Error::from)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        hidden.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(io::stdin(), OptionalActions::Flush, &hidden).map_err(io::Error::from)?;
        Ok(Hidden { before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // The terminal may be gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use cas::ErrorKind;

    use super::*;

    #[test]
    fn a_line_has_a_largest_length() {
        let most = usize::try_from(limit::SECRET).unwrap();
        let typed = format!("{}\nanother line", "x".repeat(most - 1));
        assert_eq!(read_line(typed.as_bytes()).unwrap().len(), most - 1);
        let error = read_line(format!("x{typed}").as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
        assert!(error.to_string().contains(&most.to_string()), "{error}");
    }
}
