//! Which events an observer receives.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cas_core::compose::observe::{Event, Interface, Observer, Operation};
use cas_core::compose::{Counters, observe};
use cas_core::content::Durability;
use cas_core::testing::memory::MemoryStore;
use cas_core::{ContentExt, Descriptor, ErrorKind, Image, MediaType, Store};

/// Keeps every event.
#[derive(Default)]
struct Diary(Mutex<Vec<Event>>);

impl Observer for Diary {
    fn observe(&self, event: &Event) {
        self.0.lock().unwrap().push(*event);
    }
}

fn watched(observer: &Arc<impl Observer>) -> Store {
    let observer: Arc<dyn Observer> = Arc::clone(observer) as _;
    observe(MemoryStore::new().with_images(), observer)
}

/// Stores a blob with its record, names it and reads it.
async fn use_store(store: &Store) -> Descriptor {
    let data = Bytes::from_static(b"0123456789");
    let descriptor = Descriptor::of(MediaType::OCI_LAYER, &data);
    store
        .put(&descriptor, data, Durability::Full)
        .await
        .unwrap();
    let image = Image::new("app:1".parse().unwrap(), descriptor.clone());
    store.images.create(image).await.unwrap();
    store.content.fetch(&descriptor).await.unwrap();
    descriptor
}

#[tokio::test]
async fn every_call_is_reported_in_order() {
    let diary = Arc::new(Diary::default());
    let descriptor = use_store(&watched(&diary)).await;
    let events: Vec<_> = diary.0.lock().unwrap().iter().copied().collect();
    let seen: Vec<_> = events
        .iter()
        .map(|one| (one.operation.name(), one.operation.interface(), one.bytes))
        .collect();
    assert_eq!(
        seen,
        [
            ("content.stat", Interface::Content, 0),
            ("content.begin", Interface::Content, 0),
            ("ingest.append", Interface::Ingest, 10),
            ("records.load", Interface::Records, 0),
            ("ingest.publish", Interface::Ingest, 10),
            ("images.create", Interface::Images, 0),
            ("content.open", Interface::Content, 0),
            ("reader.read_at", Interface::Reader, descriptor.size),
        ]
    );
    assert!(events.iter().all(|one| one.error.is_none()));
}

#[tokio::test]
async fn a_failure_is_reported_with_its_kind_and_passed_on() {
    let diary = Arc::new(Diary::default());
    let store = watched(&diary);
    let name = "absent:1".parse().unwrap();
    let error = store.images.delete(&name, None).await.unwrap_err();
    let event = diary.0.lock().unwrap()[0];
    assert_eq!(event.operation, Operation::Delete);
    assert_eq!(
        (event.error, error.kind()),
        (Some(ErrorKind::NotFound), ErrorKind::NotFound)
    );
}

#[tokio::test]
async fn counters_add_up_and_can_be_serialized() {
    let counters = Arc::new(Counters::new());
    let store = watched(&counters);
    let descriptor = use_store(&store).await;
    store.content.stat(&descriptor.digest).await.unwrap();
    assert!(store.content.begin("").await.is_err());
    let stat = counters.of(Operation::Stat);
    assert_eq!((stat.calls, stat.errors, stat.bytes), (2, 0, 0));
    assert!(stat.total_ns >= stat.longest_ns && stat.longest_ns * 2 >= stat.total_ns);
    let begin = counters.of(Operation::Begin);
    assert_eq!((begin.calls, begin.errors), (2, 1));
    assert_eq!(counters.of(Operation::Append).bytes, 10);
    let json = serde_json::to_value(counters.snapshot()).unwrap();
    assert_eq!(json["ingest.publish"]["bytes"], 10);
    assert_eq!(
        json["records.scan"],
        serde_json::Value::Null,
        "never called"
    );
}

#[test]
fn the_name_of_an_operation_begins_with_its_interface() {
    let names: HashSet<_> = Operation::ALL.iter().map(|one| one.name()).collect();
    assert_eq!(names.len(), Operation::ALL.len());
    for operation in Operation::ALL {
        let interface = format!("{:?}.", operation.interface()).to_lowercase();
        assert!(operation.name().starts_with(&interface), "{operation:?}");
    }
}
