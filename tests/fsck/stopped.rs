//! A check that cannot go on.

use std::sync::Arc;

use async_trait::async_trait;
use cas::backend::{Capabilities, Opener, Records};
use cas::blocking::Cas;
use cas::check::{Finding, Problem};
use cas::records::{Batch, Record, Table};
use cas::{Engines, Error, FsckOptions, Location, OpenOptions, Registry, Result, Store};
use cas_core::testing::memory::MemoryStore;

const SCHEME: &str = "listless";

/// Opens stores whose files were always just repaired, and whose blobs cannot be listed.
struct Listless;

#[async_trait]
impl Opener for Listless {
    fn scheme(&self) -> &'static str {
        SCHEME
    }

    fn capabilities(&self) -> Capabilities {
        MemoryStore::CAPABILITIES
    }

    fn gaps(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    async fn open(&self, _: &Location) -> Result<Store> {
        let store = MemoryStore::new().with_images();
        Ok(Store {
            records: Arc::new(Unlisted(store.records)),
            ..store
        })
    }

    async fn examine(&self, _: &Location, _: bool) -> Result<Vec<Finding>> {
        Ok(vec![Finding {
            problem: Problem::StoreDamaged,
            subject: "index".to_owned(),
            detail: "was made again".to_owned(),
            repaired: true,
        }])
    }
}

/// Records, of which those of blobs cannot be listed.
struct Unlisted(Arc<dyn Records>);

#[async_trait]
impl Records for Unlisted {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn load(&self, table: Table, key: &str) -> Result<Option<Record>> {
        self.0.load(table, key).await
    }

    async fn commit(&self, batch: &Batch) -> Result<()> {
        self.0.commit(batch).await
    }

    async fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>> {
        match table {
            Table::Blobs => Err(Error::corrupt("the list of blobs is damaged")),
            _ => self.0.scan(table, prefix, after, limit).await,
        }
    }
}

#[test]
fn damage_that_stops_a_check_is_reported_although_all_earlier_damage_was_repaired() {
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let registry = || Registry::new().with(Listless);
    let mut engines = Engines::default();
    SCHEME.clone_into(&mut engines.store);
    Cas::init_with(scratch.path(), engines, &registry()).unwrap();
    let mut options = FsckOptions::default();
    options.open = OpenOptions::default().with_registry(registry());
    options.repair = true;
    let report = Cas::fsck(scratch.path(), options).unwrap();
    assert!(!report.is_sound(), "{:#?}", report.findings);
    assert_eq!(report.findings.len(), 2, "{:#?}", report.findings);
    let (repaired, left) = (&report.findings[0], &report.findings[1]);
    assert!(repaired.repaired && repaired.subject == "index");
    assert_eq!(left.subject, scratch.path().display().to_string());
    assert!(left.detail.contains("the list of blobs is damaged"));
}
