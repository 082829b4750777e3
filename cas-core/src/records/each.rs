//! Reading all records of a table, page by page.

use super::{Record, Records, Table};
use crate::error::Result;
use crate::pool::give_way;

/// Maximum number of records in one page.
const PAGE: usize = 256;

/// Calls `visit` for every record of `table` whose key begins with `prefix`, in byte order. Pages
/// are not a consistent snapshot; see [`Records::scan`].
///
/// # Errors
/// The first error of `visit`; errors of the store.
pub(crate) async fn each(
    records: &dyn Records,
    table: Table,
    prefix: &str,
    mut visit: impl FnMut(&Record) -> Result<()> + Send,
) -> Result<()> {
    let mut after: Option<String> = None;
    loop {
        let page = records.scan(table, prefix, after.as_deref(), PAGE).await?;
        for record in &page {
            visit(record)?;
        }
        // Most stores answer without yielding, and other tasks share this thread.
        give_way().await;
        match page.into_iter().nth(PAGE - 1) {
            Some(last) => after = Some(last.key),
            None => return Ok(()),
        }
    }
}
