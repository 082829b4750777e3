//! What exists: the commands of the tool with their options, the features, tasks and documents.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_metadata::MetadataCommand;

use super::scan::{self, Part};

/// What texts may name.
pub(crate) struct Facts {
    root: PathBuf,
    /// The help of each command, by its words. The key of the tool itself is empty.
    help: BTreeMap<Vec<String>, String>,
    features: BTreeSet<String>,
    tasks: BTreeSet<String>,
}

impl Facts {
    pub(crate) fn collect(root: &Path) -> Self {
        let mut help = BTreeMap::new();
        let mut commands = vec![Vec::new()];
        while let Some(command) = commands.pop() {
            let text = help_of(&command);
            for name in listed(&text) {
                commands.push([&command[..], &[name]].concat());
            }
            help.insert(command, text);
        }
        let xtask = fs::read_to_string(root.join("xtask/src/main.rs")).unwrap();
        let tasks = xtask.split("const HELP").nth(1).unwrap();
        let tasks = tasks.lines().filter_map(|line| line.strip_prefix("  "));
        let tasks = tasks.filter_map(|line| line.split(' ').next());
        Facts {
            root: root.to_owned(),
            help,
            features: features(root, |_| true),
            tasks: tasks.map(str::to_owned).collect(),
        }
    }

    /// Returns a problem for each thing that the text of the file `path` names and that does not
    /// exist.
    pub(crate) fn problems(&self, path: &Path, text: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let parts = scan::parts(text);
        for (at, part) in parts.iter().enumerate() {
            let prose = |at: Option<usize>| match at.and_then(|at| parts.get(at)) {
                Some(Part::Prose(text)) => text.trim(),
                _ => "",
            };
            match part {
                Part::Prose(text) => self.check_documents(path, text, &mut problems),
                Part::Line(line) => self.check_line(path, line, &mut problems),
                Part::Span(span) => {
                    self.check_line(path, span, &mut problems);
                    let before = prose(at.checked_sub(1));
                    let after = prose(Some(at + 1));
                    let named = before.ends_with("feature") || before.ends_with("features");
                    if named || after.split(' ').next() == Some("feature") {
                        self.check_features(span, &mut problems);
                    }
                }
            }
        }
        problems
    }

    fn check_line(&self, path: &Path, line: &str, problems: &mut Vec<String>) {
        for words in scan::calls(line, "cas") {
            self.check_command(&words, problems);
        }
        for words in scan::calls(line, "cargo") {
            let task = words.get(1).filter(|_| words[0] == "xtask");
            if let Some(task) = task.filter(|task| is_name(task) && !self.tasks.contains(**task)) {
                problems.push(format!("`cargo xtask` has no task {task}"));
            }
        }
        let mut words = line
            .split([' ', '='])
            .skip_while(|word| *word != "--features");
        if let Some(features) = words.nth(1) {
            self.check_features(features, problems);
        }
        self.check_documents(path, line, problems);
    }

    /// Checks the words after `cas`: global options, a command with its subcommand, options.
    fn check_command(&self, words: &[&str], problems: &mut Vec<String>) {
        let ours = words.iter().take_while(|word| **word != "--");
        let (mut command, mut expects_value) = (Vec::new(), false);
        for word in ours {
            let help = &self.help[&command];
            if let Some(option) = word.strip_prefix("--") {
                let option = option.split('=').next().unwrap_or_default();
                let line = help.lines().find(|line| has_option(line, option));
                if line.is_none() && is_name(option) {
                    let command = command.join(" ");
                    problems.push(format!("`cas {command}` has no option --{option}"));
                }
                expects_value = line.is_some_and(|line| line.contains('<')) && !word.contains('=');
            } else if expects_value || word.starts_with('-') {
                expects_value = false;
            } else if has_commands(help) {
                let names: Vec<&str> = word.split('|').collect();
                for name in names.iter().filter(|name| is_name(name)) {
                    let named = [&command[..], &[(*name).to_owned()]].concat();
                    if !self.help.contains_key(&named) {
                        problems.push(format!("no command `cas {}`", named.join(" ")));
                    }
                }
                command.push(names[0].to_owned());
                if names.len() > 1 || !self.help.contains_key(&command) {
                    return;
                }
            }
        }
    }

    fn check_features(&self, names: &str, problems: &mut Vec<String>) {
        let names = names.split(',').map(|name| name.trim_matches(['\'', '"']));
        for name in names.filter(|name| is_name(name) && !self.features.contains(*name)) {
            problems.push(format!("no feature {name}"));
        }
    }

    /// Checks paths below `docs/`, which start at the root or at the directory of the file. The
    /// number of a decision stands for its page. Pages of containerd are not checked.
    fn check_documents(&self, path: &Path, text: &str, problems: &mut Vec<String>) {
        let directory = path.parent().unwrap_or(path);
        for (at, _) in text.match_indices("docs/") {
            let before = &text[..at];
            let part = |letter: char| letter.is_alphanumeric() || "/.-_".contains(letter);
            if before.ends_with(part) || before.ends_with("containerd ") {
                continue;
            }
            let name = |letter: char| letter.is_ascii_alphanumeric() || "/.-_".contains(letter);
            let end = text[at..].find(|letter| !name(letter));
            let named = &text[at..end.map_or(text.len(), |end| at + end)];
            let named = named.trim_end_matches(['.', '/', '-']);
            let exists = |base: &Path| base.join(named).exists() || is_decision(base, named);
            if !exists(&self.root) && !exists(&self.root.join(directory)) {
                problems.push(format!("no document {named}"));
            }
        }
    }
}

/// Returns whether `named` is `docs/decisions/` with the number of a page there.
fn is_decision(root: &Path, named: &str) -> bool {
    let Some(number) = named.strip_prefix("docs/decisions/") else {
        return false;
    };
    let pages = fs::read_dir(root.join("docs/decisions"))
        .into_iter()
        .flatten();
    let mut names = pages.filter_map(|page| page.ok()?.file_name().into_string().ok());
    number.len() == 4 && names.any(|name| name.starts_with(number))
}

/// Returns whether a word is a name and not a placeholder as in `cas COMMAND` or `cas {name}`.
fn is_name(word: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !word.is_empty() && word.bytes().all(letter)
}

fn has_commands(help: &str) -> bool {
    help.contains("\nCommands:\n")
}

fn has_option(line: &str, option: &str) -> bool {
    let mut words = line.split([' ', ',', '.']);
    line.trim_start().starts_with('-') && words.any(|word| word == format!("--{option}"))
}

fn help_of(command: &[String]) -> String {
    let mut tool = Command::new(env!("CARGO_BIN_EXE_cas"));
    let out = tool.args(command).arg("--help").output().unwrap();
    assert!(out.status.success(), "{command:?}");
    String::from_utf8(out.stdout).unwrap()
}

/// Returns the commands that a help text lists.
fn listed(help: &str) -> Vec<String> {
    let list = help.split("\nCommands:\n").nth(1).unwrap_or_default();
    let lines = list.lines().take_while(|line| line.starts_with("  "));
    let names = lines.filter_map(|line| line.split_whitespace().next());
    let names = names.filter(|name| *name != "help");
    names.map(str::to_owned).collect()
}

/// Returns the features of one package.
pub(crate) fn features_of(root: &Path, package: &str) -> BTreeSet<String> {
    features(root, |name| name == package)
}

fn features(root: &Path, chosen: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let mut metadata = MetadataCommand::new();
    let metadata = metadata.current_dir(root).no_deps().exec().unwrap();
    let packages = metadata.workspace_packages().into_iter();
    let packages = packages.filter(|package| chosen(package.name.as_str()));
    packages
        .flat_map(|package| package.features.keys().cloned())
        .collect()
}
