//! Stat of a blob that is there, beside a lookup in the same table of redb.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use cas::content::{Durability, Expected, Writer};
use cas::records::Batch;
use cas::{ContentStore, Digest};
use redb::{Database, ReadableDatabase, TableDefinition};
use tokio::runtime::Runtime;

use super::{open, report, time, turns};

const BLOBS: u32 = 10_000;
const CALLS: usize = 500_000;
const TABLE: TableDefinition<&[u8], (u64, u64)> = TableDefinition::new("content");

pub(super) fn run(runtime: &Runtime) -> Result<()> {
    let memory = Path::new("/dev/shm");
    let scratch = match memory.is_dir() {
        true => tempfile::tempdir_in(memory)?,
        false => tempfile::tempdir()?,
    };
    let store = open(runtime, &scratch.path().join("store"))?;
    let digests = runtime.block_on(fill(&*store.content))?;
    let keys: Vec<Vec<u8>> = digests
        .iter()
        .map(|digest| [&[1], digest.as_bytes()].concat())
        .collect();
    let raw = raw(&scratch.path().join("raw"), &keys)?;
    let tx = raw.begin_read()?;
    let table = tx.open_table(TABLE)?;
    let [ours, kept, fresh]: [Duration; 3] = turns(|contender, _| {
        time(|| match contender {
            0 => runtime.block_on(async {
                for digest in digests.iter().cycle().take(CALLS) {
                    std::hint::black_box(store.content.stat(digest).await?);
                }
                Ok(())
            }),
            1 => keys.iter().cycle().take(CALLS).try_for_each(|key| {
                std::hint::black_box(table.get(&**key)?);
                Ok(())
            }),
            _ => keys.iter().cycle().take(CALLS).try_for_each(|key| {
                let table = raw.begin_read()?.open_table(TABLE)?;
                std::hint::black_box(table.get(&**key)?);
                Ok(())
            }),
        })
    })?;
    let rate = |time: Duration| CALLS as f64 / time.as_secs_f64();
    let (ours, kept, fresh) = (rate(ours), rate(kept), rate(fresh));
    report("stat, beside a table kept open", 0.5, ours, kept, "/s");
    report("stat, beside a transaction a call", 0.5, ours, fresh, "/s");
    Ok(())
}

async fn fill(content: &dyn ContentStore) -> Result<Vec<Digest>> {
    let mut digests = Vec::new();
    for number in 0..BLOBS {
        let mut writer = Writer::begin(content, &number.to_string(), Expected::ANY).await?;
        writer.write(number.to_le_bytes().to_vec().into()).await?;
        let done = writer.commit(&Batch::new(), Durability::Relaxed).await?;
        digests.push(done.digest);
    }
    content.flush().await?;
    Ok(digests)
}

fn raw(path: &Path, keys: &[Vec<u8>]) -> Result<Database> {
    let raw = Database::create(path)?;
    let tx = raw.begin_write()?;
    {
        let mut table = tx.open_table(TABLE)?;
        for (number, key) in (1..).zip(keys) {
            table.insert(&**key, (4, number))?;
        }
    }
    tx.commit()?;
    Ok(raw)
}
