//! Remotes and fetching.

use std::io::Cursor;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use cas_aci::{AciFetcher, Fetched, Remote, WriteOptions};
use cas_core::pool::wait;
use cas_core::sync::lock;
use cas_core::{Error, ErrorKind, Result, limit};

use super::common::*;

const URL: &str = "https://host/a.aci";

#[test]
fn a_remote_is_written_changed_listed_and_not_found_elsewhere() {
    on_every_store(|store| {
        let acis = open(&store);
        let error = wait(acis.get_remote(URL)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let mut remote = Remote::new(URL, "https://host/a.aci.asc");
        remote.etag = "\"123\"".to_owned();
        remote.cache_max_age = Duration::from_secs(10);
        remote.download_time = SystemTime::UNIX_EPOCH + Duration::from_secs(99);
        remote.key = Some(key_of(b"x"));
        wait(acis.write_remote(&remote)).unwrap();
        assert_eq!(wait(acis.get_remote(URL)).unwrap(), remote);
        remote.etag.clear();
        wait(acis.write_remote(&remote)).unwrap();
        let long = Remote::new(format!("https://a/{}", "x".repeat(8000)), "");
        wait(acis.write_remote(&long)).unwrap();
        let all = wait(acis.get_all_remotes()).unwrap();
        assert_eq!(all, [long, remote]);
    });
}

#[test]
fn a_remote_that_exceeds_its_bounds_is_refused() {
    let acis = open(&memory());
    let longest = "x".repeat(limit::URL);
    let with_etag = |etag: String| {
        let mut remote = Remote::new(&longest, &longest);
        remote.etag = etag;
        remote
    };
    let most = with_etag(longest.clone());
    wait(acis.write_remote(&most)).unwrap();
    assert_eq!(wait(acis.get_remote(&longest)).unwrap(), most);
    let longer = format!("{longest}x");
    for bad in [
        Remote::new("", ""),
        Remote::new("a\nb", ""),
        Remote::new(&longer, ""),
        Remote::new(URL, &longer),
        with_etag(longer.clone()),
    ] {
        let error = wait(acis.write_remote(&bad)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().len() < 400, "{error}");
    }
    assert_eq!(wait(acis.get_all_remotes()).unwrap(), [most]);
}

/// A server that has one ACI, and records the requests.
struct Server {
    aci: Vec<u8>,
    etag: &'static str,
    cache_control: &'static str,
    /// The ETag of each request.
    asked: Mutex<Vec<Option<String>>>,
}

impl Server {
    fn new(aci: Vec<u8>, etag: &'static str, cache_control: &'static str) -> Self {
        Server {
            aci,
            etag,
            cache_control,
            asked: Mutex::default(),
        }
    }

    fn asked(&self) -> Vec<Option<String>> {
        std::mem::take(&mut *lock(&self.asked))
    }
}

#[async_trait]
impl AciFetcher for Server {
    async fn fetch(&self, url: &str, etag: Option<&str>) -> Result<Fetched> {
        lock(&self.asked).push(etag.map(str::to_owned));
        if url != URL {
            return Err(Error::not_found("404"));
        }
        let cache_control = self.cache_control.to_owned();
        if etag == Some(self.etag) {
            return Ok(Fetched::NotModified { cache_control });
        }
        Ok(Fetched::Aci {
            body: Box::new(Cursor::new(self.aci.clone())),
            etag: self.etag.to_owned(),
            cache_control,
        })
    }
}

#[test]
fn a_fresh_aci_is_not_asked_for_and_a_304_keeps_it() {
    let acis = open(&memory());
    let archive = aci(&manifest("a", ""));
    let fetch = |server: &Server| wait(acis.fetch(server, URL, "", WriteOptions::default()));
    let server = Server::new(archive.clone(), "one", "max-age=3600");
    let key = fetch(&server).unwrap();
    assert_eq!(key, key_of(&archive));
    assert_eq!(server.asked(), [None]);
    let remote = wait(acis.get_remote(URL)).unwrap();
    assert_eq!((remote.key, &*remote.etag), (Some(key), "one"));
    assert_eq!(remote.cache_max_age, Duration::from_secs(3600));
    assert_eq!(fetch(&server).unwrap(), key);
    assert_eq!(server.asked(), []);
    // An hour later, a fetch sends a request, and the server has nothing new.
    let mut stale = remote;
    stale.download_time -= Duration::from_secs(3600);
    wait(acis.write_remote(&stale)).unwrap();
    let imported = wait(acis.get_aci_info(&key.half())).unwrap().import_time;
    assert_eq!(fetch(&server).unwrap(), key);
    assert_eq!(server.asked(), [Some("one".to_owned())]);
    assert_eq!(
        wait(acis.get_aci_info(&key.half())).unwrap().import_time,
        imported
    );
    assert!(
        wait(acis.get_remote(URL))
            .unwrap()
            .is_fresh(SystemTime::now())
    );
    // The server has a new version, whose answer must be asked for each time.
    wait(acis.write_remote(&stale)).unwrap();
    let other = aci(&manifest("b", ""));
    let server = Server::new(other.clone(), "two", "no-store, max-age=3600");
    for asked in ["one", "two"] {
        assert_eq!(fetch(&server).unwrap(), key_of(&other));
        assert_eq!(server.asked(), [Some(asked.to_owned())]);
    }
}

#[test]
fn an_aci_that_is_not_imported_again_can_still_become_the_latest() {
    let archive = aci(&manifest("a", ""));
    let latest = || WriteOptions::default().with_latest(true);
    for (cache_control, times) in [("max-age=3600", 1), ("", 2)] {
        let acis = open(&memory());
        let server = Server::new(archive.clone(), "one", cache_control);
        let fetch = |options| wait(acis.fetch(&server, URL, "", options)).unwrap();
        let key = fetch(WriteOptions::default()).half();
        let before = wait(acis.get_aci_info(&key)).unwrap();
        assert!(!before.latest);
        fetch(latest());
        assert_eq!(server.asked().len(), times);
        let mut after = wait(acis.get_aci_info(&key)).unwrap();
        assert!(after.latest);
        // Nothing else changes, and a fetch without the option keeps it.
        fetch(WriteOptions::default());
        assert!(wait(acis.get_aci_info(&key)).unwrap().latest);
        after.latest = false;
        assert_eq!(after, before);
    }
}

#[test]
fn an_aci_that_was_removed_is_fetched_again_without_its_etag() {
    let acis = open(&memory());
    let archive = aci(&manifest("a", ""));
    let server = Server::new(archive.clone(), "one", "max-age=3600");
    let fetch = || wait(acis.fetch(&server, URL, "", WriteOptions::default()));
    let key = fetch().unwrap();
    let remote = wait(acis.get_remote(URL)).unwrap();
    wait(acis.remove_aci(&key.half())).unwrap();
    assert!(wait(acis.get_all_remotes()).unwrap().is_empty());
    // A remote whose ACI is not in the catalogue, as if another program had changed the store.
    wait(acis.write_remote(&remote)).unwrap();
    assert_eq!(fetch().unwrap(), key);
    assert_eq!(server.asked(), [None, None]);
}

#[test]
fn a_failed_fetch_leaves_the_remote_as_it_was() {
    let acis = open(&memory());
    let server = Server::new(aci(&manifest("a", "")), "one", "");
    wait(acis.fetch(&server, URL, "", WriteOptions::default())).unwrap();
    let before = wait(acis.get_all_remotes()).unwrap();
    let bad = Server::new(b"no aci".to_vec(), "two", "");
    let error = wait(acis.fetch(&bad, URL, "", WriteOptions::default())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains(URL), "{error}");
    let other = acis.fetch(&server, "https://host/b.aci", "", WriteOptions::default());
    assert_eq!(wait(other).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(wait(acis.get_all_remotes()).unwrap(), before);
    // A server that answers "not modified" although no ETag was sent.
    struct Liar;
    #[async_trait]
    impl AciFetcher for Liar {
        async fn fetch(&self, _: &str, _: Option<&str>) -> Result<Fetched> {
            Ok(Fetched::NotModified {
                cache_control: String::new(),
            })
        }
    }
    let lied = acis.fetch(&Liar, "https://host/c.aci", "", WriteOptions::default());
    assert_eq!(wait(lied).unwrap_err().kind(), ErrorKind::Corrupt);
    // The ACI is known, but its server has sent no ETag.
    let mut known = before[0].clone();
    known.etag = String::new();
    known.cache_max_age = Duration::ZERO;
    wait(acis.write_remote(&known)).unwrap();
    let lied = acis.fetch(&Liar, &known.aci_url, "", WriteOptions::default());
    assert_eq!(wait(lied).unwrap_err().kind(), ErrorKind::Corrupt);
}

/// Returns a server for calls that must not ask it.
pub(crate) fn unused() -> impl AciFetcher {
    Server::new(Vec::new(), "", "")
}
