//! The modules of a crate must not import each other in a circle.
//!
//! An import is followed through `pub use` to the file that defines the name. A module may use its
//! own children, because they are parts of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Where a module is: `[lease, guard]` for `lease/guard.rs`, and nothing for `lib.rs`.
type Name = Vec<String>;

/// Crates whose modules are checked.
const CRATES: &[&str] = &[
    "backend-fs",
    "backend-redb",
    "backend-remote",
    "backend-rocksdb",
    "cas-aci",
    "cas-core",
    "cas-host",
    "cas-kv",
    "cas-layer",
    "cas-records-sqlite",
    "conformance",
    "crash",
    "fuzz",
    "snapshot-erofs",
    "snapshot-native",
    "snapshot-overlay",
    "testkit",
    "workload",
];

#[test]
fn no_modules_import_each_other_in_a_circle() {
    for krate in CRATES {
        let sources = sources(
            &Path::new(env!("CARGO_MANIFEST_DIR"))
                .join(krate)
                .join("src"),
        );
        let imports = imports(&sources);
        if let Some(circle) = circle(&imports) {
            let names: Vec<String> = circle.iter().map(|name| name.join("/")).collect();
            panic!("{krate}: a circle of imports: {}", names.join(" -> "));
        }
    }
}

#[test]
fn collection_knows_nothing_of_leases() {
    let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("cas-core/src"));
    for (from, imported) in imports(&sources) {
        let lease = imported
            .iter()
            .find(|to| to.first().is_some_and(|room| room == "lease"));
        let in_gc = from.first().is_some_and(|room| room == "gc");
        assert!(!in_gc || lease.is_none(), "{from:?} imports {lease:?}");
    }
}

#[test]
fn a_circle_is_found_through_exports() {
    let text = |name: &str, text: &str| (name.split('/').map(str::to_owned).collect(), text.into());
    let mut sources = BTreeMap::from([
        (
            Name::new(),
            "mod a;\nmod b;\npub use b::{inner::Thing, Other};\n".to_owned(),
        ),
        text("a", "use crate::Thing;\n"),
        text("b", "mod inner;\nuse self::inner::Thing;\n"),
        text("b/inner", "fn f() -> crate::c::C {}\n"),
        text("c", "use super::b::Other;\n"),
    ]);
    assert_eq!(circle(&imports(&sources)), None);
    sources.extend([text("c", "use std::io;\nuse super::a::{self, A};\n")]);
    let found = circle(&imports(&sources)).unwrap();
    assert_eq!(found.len(), 3, "{found:?}");
}

/// Returns the code of every module, without comments and unit tests.
fn sources(src: &Path) -> BTreeMap<Name, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![(src.to_owned(), Name::new())];
    while let Some((folder, name)) = waiting.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let mut module = name.clone();
            if path.is_dir() {
                module.push(stem);
                waiting.push((path, module));
            } else if path.extension().is_some_and(|end| end == "rs") {
                if stem != "mod" && stem != "lib" {
                    module.push(stem);
                }
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
                let lines = code
                    .lines()
                    .filter(|line| !line.trim_start().starts_with("//"));
                found.insert(module, lines.collect::<Vec<_>>().join("\n"));
            }
        }
    }
    found
}

/// Returns the modules that each module imports, except its own children.
fn imports(sources: &BTreeMap<Name, String>) -> BTreeMap<Name, BTreeSet<Name>> {
    let exports = exports(sources);
    let mut imports = BTreeMap::new();
    for (module, text) in sources {
        let (uses, rest) = statements(text);
        let mut paths: Vec<Name> = inline(&rest);
        for (_, tree) in uses.iter().filter(|(public, _)| !public) {
            expand(tree, &[], &mut paths);
        }
        let absolute = paths
            .iter()
            .filter_map(|path| absolute(module, path, sources));
        let defined = absolute.map(|path| definition(path, sources, &exports));
        let others = defined.filter(|to| !to.is_empty() && !to.starts_with(module));
        imports.insert(module.clone(), others.collect());
    }
    imports
}

/// Returns the paths under which modules export names, each with the path of the definition.
fn exports(sources: &BTreeMap<Name, String>) -> BTreeMap<Name, Name> {
    let mut exports = BTreeMap::new();
    for (module, text) in sources {
        for (_, tree) in statements(text).0.iter().filter(|(public, _)| *public) {
            let mut paths = Vec::new();
            expand(tree, &[], &mut paths);
            for path in paths {
                if let Some(target) = absolute(module, &path, sources) {
                    let mut exported = module.clone();
                    exported.push(target.last().unwrap().clone());
                    exports.insert(exported, target);
                }
            }
        }
    }
    exports
}

/// Returns the `use` statements of code, each with whether it is public, and the rest of the code.
fn statements(text: &str) -> (Vec<(bool, String)>, String) {
    let (mut uses, mut rest, mut lines) = (Vec::new(), String::new(), text.lines());
    while let Some(line) = lines.next() {
        let start = line.trim_start();
        let after_pub = start
            .split_once("use ")
            .filter(|(before, _)| before.starts_with("pub"));
        let tree = start
            .strip_prefix("use ")
            .or(after_pub.map(|(_, tree)| tree));
        let Some(tree) = tree else {
            rest.push_str(line);
            rest.push('\n');
            continue;
        };
        let mut tree = tree.to_owned();
        while !tree.contains(';') {
            tree.push_str(lines.next().unwrap());
        }
        let tree = tree.split(';').next().unwrap().replace(' ', "");
        uses.push((after_pub.is_some(), tree));
    }
    (uses, rest)
}

/// Adds every path of a use tree without blanks, such as `a::{b,c::{self,d}}`, to `paths`.
fn expand(tree: &str, before: &[String], paths: &mut Vec<Name>) {
    let Some((start, group)) = tree.split_once('{') else {
        // A renamed name has lost the blanks around its `as`. Only the path before it counts.
        let mut path = before.to_vec();
        path.extend(
            tree.split("::")
                .filter(|part| *part != "self" || before.is_empty())
                .map(str::to_owned),
        );
        paths.extend(Some(path).filter(|path| path.last().is_some_and(|last| !last.is_empty())));
        return;
    };
    let mut before = before.to_vec();
    before.extend(
        start
            .split("::")
            .filter(|part| !part.is_empty())
            .map(str::to_owned),
    );
    let (mut depth, mut from) = (0, 0);
    let group = group.strip_suffix('}').unwrap_or(group);
    for (at, letter) in group.char_indices().chain([(group.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&group[from..at], &before, paths);
                from = at + 1;
            }
            _ => {}
        }
    }
}

/// Returns the paths in code that begin with `crate::` or `super::`.
fn inline(code: &str) -> Vec<Name> {
    let word = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
    let words = code.split(|letter| !word(letter));
    let ours = words.filter(|text| text.starts_with("crate::") || text.starts_with("super::"));
    ours.map(|path| path.split("::").map(str::to_owned).collect())
        .collect()
}

/// Returns a path with `crate`, `self`, `super` and the names of children resolved. Returns `None`
/// for a path into another crate, and for the root of this one.
fn absolute(module: &Name, path: &Name, sources: &BTreeMap<Name, String>) -> Option<Name> {
    let (first, rest) = path.split_first()?;
    let mut found = module.clone();
    match first.as_str() {
        "crate" => found.clear(),
        "self" => {}
        "super" => {
            found.pop();
            for _ in rest.iter().take_while(|part| *part == "super") {
                found.pop();
            }
        }
        child => {
            found.push(child.to_owned());
            if !sources.contains_key(&found) {
                return None;
            }
        }
    }
    found.extend(
        rest.iter()
            .filter(|part| *part != "super" && *part != "*")
            .cloned(),
    );
    (!found.is_empty()).then_some(found)
}

/// Returns the module that defines a path, through exports.
fn definition(
    path: Name,
    sources: &BTreeMap<Name, String>,
    exports: &BTreeMap<Name, Name>,
) -> Name {
    let mut path = path;
    for _ in 0..8 {
        let exported = (1..=path.len()).find_map(|length| {
            let target = exports.get(&path[..length])?;
            (target[..] != path[..length]).then(|| [&target[..], &path[length..]].concat())
        });
        match exported {
            Some(target) => path = target,
            None => break,
        }
    }
    while !sources.contains_key(&path) {
        path.pop();
    }
    path
}

/// Returns a circle of imports, if there is one.
fn circle(imports: &BTreeMap<Name, BTreeSet<Name>>) -> Option<Vec<Name>> {
    let mut done = BTreeSet::new();
    imports
        .keys()
        .find_map(|start| visit(start, imports, &mut Vec::new(), &mut done))
}

fn visit(
    at: &Name,
    imports: &BTreeMap<Name, BTreeSet<Name>>,
    way: &mut Vec<Name>,
    done: &mut BTreeSet<Name>,
) -> Option<Vec<Name>> {
    if let Some(start) = way.iter().position(|name| name == at) {
        return Some(way[start..].to_vec());
    }
    if done.contains(at) {
        return None;
    }
    way.push(at.clone());
    let found = imports
        .get(at)
        .into_iter()
        .flatten()
        .find_map(|to| visit(to, imports, way, done));
    way.pop();
    done.insert(at.clone());
    found
}
