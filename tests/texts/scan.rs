//! Takes texts apart: the prose of a source file, and the code in prose.

/// Returns the comments and string literals of a Rust file, each followed by an empty line.
/// Consecutive comment lines stay together.
pub(crate) fn prose_of_rust(source: &str) -> String {
    let (mut prose, mut rest) = (String::new(), source);
    while let Some(at) = rest.find(['"', '\'', '/']) {
        let (before, tail) = rest.split_at(at);
        if !before.trim().is_empty() {
            prose.push('\n');
        }
        rest = if tail.starts_with("//") {
            let (line, after) = tail.split_once('\n').unwrap_or((tail, ""));
            let line = line.trim_start_matches(['/', '!']);
            prose.push_str(line.strip_prefix(' ').unwrap_or(line));
            prose.push('\n');
            after
        } else if tail.starts_with('"') {
            let (literal, after) = literal(before, tail);
            prose.push_str(&literal);
            prose.push_str("\n\n");
            after
        } else {
            &tail[character(tail)..]
        };
    }
    prose
}

/// Returns the text of the literal that `tail` begins with, and what follows it.
fn literal<'a>(before: &str, tail: &'a str) -> (String, &'a str) {
    let hashes = before.len() - before.trim_end_matches('#').len();
    if before.trim_end_matches('#').ends_with('r') {
        let end = format!("\"{}", "#".repeat(hashes));
        let (text, after) = tail[1..].split_once(&end).unwrap_or((&tail[1..], ""));
        return (text.to_owned(), after);
    }
    let (mut text, mut letters) = (String::new(), tail[1..].chars());
    while let Some(letter) = letters.next() {
        match letter {
            '"' => break,
            '\\' => match letters.next() {
                Some('n') => text.push('\n'),
                Some('\n') => letters = letters.as_str().trim_start().chars(),
                Some(escaped) => text.push(escaped),
                None => break,
            },
            _ => text.push(letter),
        }
    }
    (text, letters.as_str())
}

/// Returns the length of the character literal that `tail` begins with, or 1 if it is not one.
fn character(tail: &str) -> usize {
    let mut letters = tail.char_indices().skip(1);
    let escaped = matches!(letters.next(), Some((_, '\\')));
    if escaped {
        letters.next();
    }
    let end = letters.find(|(_, letter)| *letter == '\'' || !escaped);
    match end {
        Some((at, '\'')) if tail.starts_with('\'') => at + 1,
        _ => 1,
    }
}

/// A part of a text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Prose, with its lines joined; or a line of code that is not for a shell.
    Prose(String),
    /// Code between backticks in prose.
    Span(String),
    /// A line for a shell: in a block of `sh`, or indented as an example.
    Line(String),
}

/// Splits a text into its parts.
pub(crate) fn parts(text: &str) -> Vec<Part> {
    let (mut parts, mut paragraph, mut block) = (Vec::new(), String::new(), None);
    for line in text.lines().chain([""]) {
        let fence = line.trim_start().strip_prefix("```");
        let example = line.starts_with("  cas ") || line.starts_with("    cas ");
        if fence.is_some() || block.is_some() || example || line.trim().is_empty() {
            push_paragraph(&mut parts, &std::mem::take(&mut paragraph));
        }
        let code = line.trim().to_owned();
        match (fence, block) {
            (Some(language), None) => block = Some(language),
            (Some(_), Some(_)) => block = None,
            (None, Some("sh")) => parts.push(Part::Line(code)),
            (None, Some(_)) => parts.push(Part::Prose(code)),
            (None, None) if example => parts.push(Part::Line(code)),
            (None, None) => {
                paragraph.push_str(line.trim());
                paragraph.push(' ');
            }
        }
    }
    parts
}

fn push_paragraph(parts: &mut Vec<Part>, paragraph: &str) {
    for (number, piece) in paragraph.split('`').enumerate() {
        let piece = piece.to_owned();
        parts.push(if number % 2 == 0 {
            Part::Prose(piece)
        } else {
            Part::Span(piece)
        });
    }
}

/// Returns the calls of `program` in a line of a shell, each as its words after the program.
pub(crate) fn calls<'a>(line: &'a str, program: &str) -> Vec<Vec<&'a str>> {
    let line = line.split(" #").next().unwrap_or_default();
    let commands = line.split("&&").flat_map(|part| part.split(" | "));
    let words = commands.map(|command| command.split_whitespace().collect::<Vec<_>>());
    let ours = words.filter_map(|words| {
        let (first, rest) = words.split_first()?;
        (*first == program).then(|| rest.to_vec())
    });
    ours.collect()
}

#[test]
fn prose_of_rust_is_its_comments_and_literals() {
    let source = "//! One\n//! two.\nfn f<'a>(c: char) {\n    // Three.\n    \
        g(\"a \\\"b\\\" \\\n       c\", '\"', '\\'', r#\"raw \"text\"\"#);\n}\n";
    let prose = prose_of_rust(source);
    let found: Vec<&str> = prose.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(
        found,
        ["One", "two.", "Three.", "a \"b\" c", "raw \"text\""]
    );
    assert!(prose.starts_with("One\ntwo.\n\n"), "{prose:?}");
}

#[test]
fn a_text_has_prose_spans_and_lines() {
    let span = |text: &str| Part::Span(text.to_owned());
    let line = |text: &str| Part::Line(text.to_owned());
    let found = parts("Use `a\nb` here.\n```sh\ncas x\n```\n```text\ncas z\n```\n  cas y\n");
    let found: Vec<Part> = found
        .into_iter()
        .filter(|part| !matches!(part, Part::Prose(_)))
        .collect();
    assert_eq!(found, [span("a b"), line("cas x"), line("cas y")]);
}
