//! Writes logins where docker writes them: into the credential helper that the file of logins names
//! for the registry or for all registries, or else into the file itself.
//!
//! The file of logins is replaced as a whole. If the process is killed during a change, the file
//! has either its old or its new content. A killed process may also leave a temporary file in the
//! same directory. Only the owner can read the temporary file, and the next change removes it. If
//! the disk is full, the file of logins keeps its old content. If the directory cannot be synced,
//! an error is returned although the file of logins has been replaced. Changes by several processes
//! wait for each other, unless the file system has no locks.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cas_core::{Context, Error, Result};
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Map, Value, json};

use crate::bounded::found;
use crate::config::{Config, bytes, unparsed};
use crate::helper::{Failure, Helper};
use crate::keys::Keys;

/// Saves a login. Returns the program of the helper that keeps the login, or `None` if the file
/// keeps it.
///
/// # Errors
/// `FailedPrecondition` if the helper fails, which leaves the file as it was; as [`Config::read`];
/// errors of the file system.
pub(crate) async fn save(
    file: &Path,
    keys: &Keys,
    name: &str,
    password: &str,
) -> Result<Option<String>> {
    let config = Config::read(file, false)?.unwrap_or_default();
    let key = &keys.whole()[0];
    let mut program = None;
    let entry = match config.helpers(keys).first() {
        Some(helper) => {
            let stored = async { Helper::new(helper)?.store(key, name, password).await };
            stored.await.map_err(|why| failed(helper, &why, file))?;
            program = Some(crate::helper::program(helper));
            // As docker writes it: an empty entry stands for a login that the helper has.
            json!({})
        }
        None => json!({"auth": BASE64_STANDARD.encode(format!("{name}:{password}"))}),
    };
    edit(file, |auths| {
        auths.retain(|other, _| !keys.has(other));
        auths.insert(key.clone(), entry);
    })?;
    Ok(program)
}

/// Removes a login. Returns whether there was one.
///
/// # Errors
/// As [`save`].
pub(crate) async fn remove(file: &Path, keys: &Keys) -> Result<bool> {
    let config = Config::read(file, false)?.unwrap_or_default();
    let mut was_there = false;
    for helper in config.helpers(keys) {
        for key in keys.whole() {
            let erased = erase(helper, key).await;
            was_there |= erased.map_err(|why| failed(helper, &why, file))?;
        }
    }
    if found(directory(file)).is_some_and(|found| found.is_dir()) {
        edit(file, |auths| {
            let before = auths.len();
            auths.retain(|key, _| !keys.has(key));
            was_there |= auths.len() < before;
        })?;
    }
    Ok(was_there)
}

/// Removes every login that the file has, and those that its helpers keep under keys in the file.
/// Returns the keys of the logins.
///
/// # Errors
/// As [`save`]. Logins that were removed before the error stay removed.
pub(crate) async fn remove_all(file: &Path) -> Result<Vec<String>> {
    let config = Config::read(file, false)?.unwrap_or_default();
    let mut removed = Vec::new();
    for (key, helper) in config.helped() {
        if erase(helper, key)
            .await
            .map_err(|why| failed(helper, &why, file))?
        {
            removed.push(key.to_owned());
        }
    }
    if found(directory(file)).is_some_and(|found| found.is_dir()) {
        edit(file, |auths| {
            removed.extend(auths.keys().cloned());
            auths.clear();
        })?;
    }
    removed.sort();
    removed.dedup();
    Ok(removed)
}

/// Removes a login from a helper. Returns whether it had one.
async fn erase(helper: &str, key: &str) -> std::result::Result<bool, Failure> {
    let helper = Helper::new(helper)?;
    let has_one = helper.get(key).await?.is_some();
    if has_one {
        helper.erase(key).await?;
    }
    Ok(has_one)
}

fn failed(helper: &str, why: &Failure, file: &Path) -> Error {
    Error::precondition(format!(
        "{why}; correct the helper, or remove it from {}",
        file.display()
    ))
    .operation("use credential helper")
    .subject(crate::helper::program(helper))
}

/// Changes the logins in a file, and keeps everything else in the file. Creates the file if it is
/// absent and `change` adds a login.
fn edit(file: &Path, change: impl FnOnce(&mut Map<String, Value>)) -> Result<()> {
    replace(file, change).during("write", file.display())
}

fn replace(file: &Path, change: impl FnOnce(&mut Map<String, Value>)) -> Result<()> {
    // The file itself, not a link to it, is replaced.
    let file = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let mut builder = DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(directory(&file))?;
    let directory = File::open(directory(&file))?;
    match directory.lock() {
        // Some file systems have no locks.
        Err(error) if error.kind() == ErrorKind::Unsupported => {}
        locked => locked?,
    }
    let mut temporary = file.clone().into_os_string();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        removed => removed?,
    }
    let before = bytes(&file)?;
    let mut document = match before.as_deref().map(<[u8]>::trim_ascii) {
        None | Some(b"") => Map::new(),
        Some(text) => serde_json::from_slice(text).map_err(|error| unparsed(&error))?,
    };
    let old = document.clone();
    let auths = document.entry("auths").or_insert(Value::Null);
    if auths.is_null() {
        *auths = json!({});
    }
    let Some(auths) = auths.as_object_mut() else {
        return Err(Error::invalid(
            "expected `auths` to be an object, found another value; correct the file",
        ));
    };
    change(auths);
    if document == old || before.is_none() && document["auths"] == json!({}) {
        return Ok(());
    }
    let owner = fs::metadata(&file).ok().map(|old| (old.uid(), old.gid()));
    let written = write(&temporary, &printed(&document)?, owner);
    if let Err(error) = written.and_then(|()| fs::rename(&temporary, &file)) {
        // The first error matters.
        let _ = fs::remove_file(&temporary);
        return Err(error.into());
    }
    Ok(directory.sync_all()?)
}

/// Returns the directory that a file is in.
fn directory(file: &Path) -> &Path {
    let parent = file
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// Returns a document as docker writes it.
fn printed(document: &Map<String, Value>) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let format = PrettyFormatter::with_indent(b"\t");
    let mut serializer = Serializer::with_formatter(&mut text, format);
    let printed = document.serialize(&mut serializer);
    printed.map_err(|error| {
        Error::internal("logins could not be serialized; please report it").source(error)
    })?;
    text.push(b'\n');
    Ok(text)
}

/// Writes a new file that only its owner can read.
fn write(file: &Path, text: &[u8], owner: Option<(u32, u32)>) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut new = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?;
    let own = new.metadata()?;
    // The superuser may change the file of another user, who must be able to read it.
    if let Some((user, group)) = owner.filter(|owner| *owner != (own.uid(), own.gid())) {
        fchown(&new, Some(user), Some(group))?;
    }
    new.write_all(text)?;
    new.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("cas-save-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Scratch(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("config.json")
        }

        fn read(&self) -> Value {
            serde_json::from_slice(&fs::read(self.file()).unwrap()).unwrap()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn keys(host: &str) -> Keys {
        Keys::new(&format!("https://{host}/").parse().unwrap(), "")
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread();
        { runtime }.enable_all().build().unwrap().block_on(work)
    }

    #[test]
    fn every_other_key_of_the_file_is_kept_and_only_its_owner_can_read_it() {
        let scratch = Scratch::new("keep");
        let file = scratch.file();
        let before = r#"{"auths": {"y.test": {"auth": "YTpi", "email": "e"}, "http://x.test/v1/": {},
            "x.test/team": {"auth": "YTpi"}}, "HttpHeaders": {"A": "b"}, "n": [1, 2.5, null]}"#;
        fs::write(&file, before).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        // The temporary file that a kill has left.
        fs::write(scratch.0.join("config.json.new"), "old").unwrap();
        let kept = run(save(&file, &keys("x.test"), "me", "pass:word")).unwrap();
        assert!(kept.is_none());
        let expected = json!({
            "auths": {
                "x.test": {"auth": "bWU6cGFzczp3b3Jk"},
                "y.test": {"auth": "YTpi", "email": "e"},
                "x.test/team": {"auth": "YTpi"},
            },
            "HttpHeaders": {"A": "b"},
            "n": [1, 2.5, null],
        });
        assert_eq!(scratch.read(), expected);
        assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1);
        assert!(run(remove(&file, &keys("x.test"))).unwrap());
        assert!(!run(remove(&file, &keys("x.test"))).unwrap());
        let auths = &scratch.read()["auths"];
        assert!(auths.get("x.test").is_none() && auths.get("x.test/team").is_some());
        assert_eq!(run(remove_all(&file)).unwrap(), ["x.test/team", "y.test"]);
        assert_eq!(scratch.read()["auths"], json!({}));
        assert_eq!(scratch.read()["n"], expected["n"]);
    }

    #[test]
    fn a_link_stays_a_link_and_directories_are_made() {
        let scratch = Scratch::new("link");
        let real = scratch.0.join("real/deep/config.json");
        run(save(&real, &keys("x.test"), "a", "b")).unwrap();
        assert_eq!(
            real.parent().unwrap().metadata().unwrap().mode() & 0o777,
            0o700
        );
        std::os::unix::fs::symlink(&real, scratch.file()).unwrap();
        run(save(&scratch.file(), &keys("y.test"), "a", "b")).unwrap();
        assert!(scratch.file().is_symlink());
        assert_eq!(scratch.read()["auths"].as_object().unwrap().len(), 2);
    }

    #[test]
    fn a_file_that_does_not_parse_is_not_touched() {
        let scratch = Scratch::new("damaged");
        for text in ["{\"auths\": [", "[]", "{\"auths\": []}", "\"secret\""] {
            fs::write(scratch.file(), text).unwrap();
            let error = run(save(&scratch.file(), &keys("x.test"), "a", "b")).unwrap_err();
            assert_eq!(error.kind(), cas_core::ErrorKind::InvalidArgument, "{text}");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
            assert_eq!(fs::read_to_string(scratch.file()).unwrap(), text);
        }
    }

    #[test]
    fn nothing_is_written_if_there_is_nothing_to_remove() {
        let scratch = Scratch::new("absent");
        assert!(!run(remove(&scratch.file(), &keys("x.test"))).unwrap());
        assert!(run(remove_all(&scratch.file())).unwrap().is_empty());
        assert!(!scratch.file().exists());
        let deeper = scratch.0.join("deeper/config.json");
        assert!(!run(remove(&deeper, &keys("x.test"))).unwrap());
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0);
    }

    #[test]
    fn a_logout_removes_what_a_killed_login_has_left() {
        let scratch = Scratch::new("killed");
        for all in [false, true] {
            fs::write(scratch.0.join("config.json.new"), "secret").unwrap();
            if all {
                run(remove_all(&scratch.file())).unwrap();
            } else {
                run(remove(&scratch.file(), &keys("x.test"))).unwrap();
            }
            assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0);
        }
    }

    #[test]
    fn the_file_of_another_user_stays_theirs() {
        let scratch = Scratch::new("owner");
        fs::write(scratch.file(), "{}").unwrap();
        if std::os::unix::fs::chown(scratch.file(), Some(1234), Some(1234)).is_err() {
            eprintln!("SKIPPED: not the superuser");
            return;
        }
        run(save(&scratch.file(), &keys("x.test"), "a", "b")).unwrap();
        let found = scratch.file().metadata().unwrap();
        assert_eq!(
            (found.uid(), found.gid(), found.mode() & 0o777),
            (1234, 1234, 0o600)
        );
    }

    #[test]
    fn logins_at_the_same_time_are_all_kept() {
        let scratch = Scratch::new("many");
        let file = &scratch.file();
        std::thread::scope(|scope| {
            for number in 0..12 {
                let host = format!("x{number}.test");
                scope.spawn(move || run(save(file, &keys(&host), "a", "b")).unwrap());
            }
        });
        assert_eq!(scratch.read()["auths"].as_object().unwrap().len(), 12);
    }
}
