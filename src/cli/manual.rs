//! `cas completions` and `cas man`: make a completion script and man pages from the definitions of
//! the commands.

use std::fs;
use std::path::{Path, PathBuf};

use cas::{Context as _, Result};
use cas_host::no_directory;
use clap::{Args, CommandFactory};
use serde_json::json;

use super::output::count;
use super::{Arguments, Context};

/// Print a completion script for a shell
#[derive(Args)]
#[command(after_help = "Example:\n  cas completions bash > /etc/bash_completion.d/cas")]
pub(crate) struct Completions {
    /// Shell to print the script for
    shell: clap_complete::Shell,
}

/// Write man pages, one for each command
#[derive(Args)]
#[command(after_help = "Example:\n  cas man /usr/local/share/man/man1 && man cas-copy")]
pub(crate) struct Man {
    /// Directory to write the pages into; it is created if it is absent, and old pages are replaced
    directory: PathBuf,
}

impl Completions {
    pub(crate) fn run(self, context: &Context) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "cas", &mut script);
        context.out.bytes(&script)
    }
}

impl Man {
    pub(crate) fn run(self, context: &Context) -> Result<()> {
        let directory = self.directory.display().to_string();
        let outside = context.check_output(&self.directory);
        let pages = outside.and_then(|()| write(&self.directory));
        let pages = pages.during("write man pages into", &directory)?;
        let made = json!({"directory": directory, "pages": pages});
        context
            .out
            .item(&made, || format!("{} -> {directory}", count(pages, "page")))
    }
}

/// Writes the pages. Returns their number.
fn write(directory: &Path) -> Result<u64> {
    fs::create_dir_all(directory).map_err(|error| no_directory(error, directory))?;
    let mut tool = Arguments::command();
    // Names every command in full, as in `cas-blob-rm`.
    tool.build();
    let mut pages = 0;
    let mut commands = vec![tool];
    while let Some(command) = commands.pop() {
        commands.extend(command.get_subcommands().filter(is_shown).cloned());
        let page = clap_mangen::Man::new(command);
        let mut text = Vec::new();
        page.render(&mut text)?;
        fs::write(directory.join(page.get_filename()), text)?;
        pages += 1;
    }
    Ok(pages)
}

fn is_shown(command: &&clap::Command) -> bool {
    !command.is_hide_set() && command.get_name() != "help"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the full name and the help of every command that is shown.
    fn commands() -> Vec<(String, String)> {
        let mut tool = Arguments::command();
        tool.build();
        let mut found = Vec::new();
        let mut waiting = vec![(String::from("cas"), tool)];
        while let Some((words, mut command)) = waiting.pop() {
            for inner in command.get_subcommands().filter(is_shown) {
                waiting.push((format!("{words} {}", inner.get_name()), inner.clone()));
            }
            found.push((words, command.render_long_help().to_string()));
        }
        found
    }

    #[test]
    fn every_command_and_every_group_has_an_example_of_itself() {
        let commands = commands();
        assert!(commands.len() > 45, "{}", commands.len());
        for (words, help) in commands {
            let example = help.split("\nExample").nth(1).unwrap_or_default();
            let last = words.rsplit(' ').next().unwrap_or_default();
            let is_named = example.contains("cas") && example.contains(last);
            assert!(is_named, "{words}: {help}");
        }
    }

    #[test]
    fn global_options_stand_apart() {
        for (words, help) in commands() {
            let (own, global) = help.split_once("Global options:").unwrap_or_default();
            for option in [
                "--root",
                "--snapshotter",
                "--json",
                "--quiet",
                "--no-progress",
            ] {
                let has = |text: &str| {
                    let mut lines = text.lines().map(|line| line.trim_start());
                    lines.any(|line| {
                        let line = line.trim_start_matches("-q, ");
                        line.split(' ').next() == Some(option)
                    })
                };
                assert!(!has(own) && has(global), "{words} {option}: {help}");
            }
        }
    }
}
