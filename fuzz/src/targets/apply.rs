//! Layers that are applied to a directory.

use std::cell::RefCell;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use cas_core::Result;
use cas_layer::apply::{Applied, DeferredEffects, Tree};
use cas_layer::tar::Reader;
use tempfile::TempDir;

use super::tar::{archives, sealed};
use super::{accepted, scratch};
use crate::Target;

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "apply",
        run: |input| applied(input, |tree| tree),
        seeds: archives,
        longest: 8192,
    },
    Target {
        name: "apply-rootless",
        run: |input| applied(input, Tree::into_rootless),
        seeds: archives,
        longest: 8192,
    },
    Target {
        name: "apply-standalone",
        run: standalone,
        seeds: archives,
        longest: 8192,
    },
    Target {
        name: "effects",
        run: effects,
        seeds: saved_effects,
        longest: 8192,
    },
];

/// What is in the canary.
const CANARY: &str = "untouched";

/// A directory for layers, and a canary beside it. No layer may change the canary.
struct Cage {
    directory: TempDir,
    /// The inode, mode, owner, group, number of links and times of the canary and of its directory.
    /// Of a time, only the nanoseconds.
    before: Vec<[i64; 7]>,
}

impl Cage {
    fn new() -> io::Result<Self> {
        let directory = scratch()?;
        fs::create_dir(directory.path().join("outside"))?;
        fs::write(directory.path().join("outside/canary"), CANARY)?;
        let mut cage = Cage {
            directory,
            before: Vec::new(),
        };
        cage.before = cage.state()?;
        Ok(cage)
    }

    fn state(&self) -> io::Result<Vec<[i64; 7]>> {
        let outside = self.directory.path().join("outside");
        let state = |path: &Path| {
            let found = fs::symlink_metadata(path)?;
            Ok([
                found.ino() as i64,
                i64::from(found.mode()),
                i64::from(found.uid()),
                i64::from(found.gid()),
                found.nlink() as i64,
                found.mtime_nsec(),
                found.ctime_nsec(),
            ])
        };
        [outside.clone(), outside.join("canary")]
            .iter()
            .map(|path| state(path))
            .collect()
    }

    /// Runs `work` in an empty directory, which is then removed. Returns what `work` returns.
    ///
    /// # Panics
    /// Panics if the canary was changed, or if `work` has put something next to its directory.
    fn run<T>(&self, work: impl FnOnce(&Path) -> T) -> io::Result<T> {
        let tree = self.directory.path().join("tree");
        fs::create_dir(&tree)?;
        let result = work(&tree);
        assert_eq!(self.state()?, self.before, "the canary was changed");
        let parent = self.directory.path();
        let names = fs::read_dir(parent)?.count();
        assert_eq!(
            names,
            2,
            "something was made next to the directory of the layer: expected only `outside` and \
             `tree` in {}",
            parent.display()
        );
        cas_host::remove_all(&tree, true)?;
        Ok(result)
    }
}

thread_local! {
    /// The cage of this thread, for all inputs until a panic.
    static CAGE: RefCell<Option<Cage>> = const { RefCell::new(None) };
}

/// Runs `work` in an empty directory of the cage. Returns what `work` returns.
fn caged<T>(work: impl FnOnce(&Path) -> T) -> T {
    CAGE.with_borrow_mut(|cage| {
        let made = match cage.take() {
            Some(made) => Ok(made),
            None => Cage::new(),
        };
        let made =
            made.unwrap_or_else(|error| panic!("cannot make a directory for layers: {error}"));
        let result = made.run(work);
        // After a panic, the next input gets a new cage.
        *cage = Some(made);
        result.unwrap_or_else(|error| panic!("cannot use the directory for layers: {error}"))
    })
}

fn apply(tree: &Tree, archive: &[u8]) -> Result<Applied> {
    tree.apply(&mut Reader::new(archive))
}

/// Applies a layer twice. The second time, its members are applied over those of the first time.
fn applied(input: &[u8], kind: impl FnOnce(Tree) -> Tree) -> bool {
    let archive = sealed(input);
    let outcome = caged(|path| {
        let tree = kind(Tree::open(path)?);
        let first = apply(&tree, &archive)?;
        apply(&tree, &archive)?;
        tree.close_directories()?;
        Ok(first)
    });
    accepted(outcome)
}

/// Applies a layer without the layers below it. If that is possible, resolves its effects onto a
/// tree of lower layers.
fn standalone(input: &[u8]) -> bool {
    let archive = sealed(input);
    let outcome = caged(|path| {
        let [upper, lower] = ["upper", "lower"].map(|name| path.join(name));
        fs::create_dir(&upper)?;
        fs::create_dir_all(lower.join("dir/sub"))?;
        fs::write(lower.join("dir/file"), "old")?;
        std::os::unix::fs::symlink("dir", lower.join("opaque"))?;
        fs::set_permissions(lower.join("dir"), Permissions::from_mode(0o700))?;
        let (upper, lower) = (Tree::open(&upper)?, Tree::open(&lower)?);
        let (applied, effects) = upper.apply_standalone(&mut Reader::new(&archive[..]))?;
        if let Some(effects) = effects {
            let saved = effects.to_bytes();
            assert_eq!(DeferredEffects::from_bytes(&saved)?.to_bytes(), saved);
            upper.resolve_onto(Some(&lower), &effects)?;
        }
        Ok(applied)
    });
    accepted(outcome)
}

/// Reads saved effects, and resolves them for an empty tree without layers below it.
fn effects(input: &[u8]) -> bool {
    let effects = DeferredEffects::from_bytes(input);
    if let Ok(effects) = &effects {
        let again = DeferredEffects::from_bytes(&effects.to_bytes());
        assert!(again.is_ok_and(|again| again.to_bytes() == effects.to_bytes()));
        let outcome = caged(|path| Tree::open(path)?.resolve_onto(None, effects));
        accepted(outcome);
    }
    accepted(effects)
}

/// Returns the saved effects of the seeds that can be applied without the layers below them.
fn saved_effects() -> Vec<Vec<u8>> {
    let effects = |archive: Vec<u8>| {
        caged(|path| {
            let tree = Tree::open(path).ok()?;
            let (_, effects) = tree.apply_standalone(&mut Reader::new(&archive[..])).ok()?;
            Some(effects?.to_bytes())
        })
    };
    archives().into_iter().filter_map(effects).collect()
}
