//! Fetches again the table of contents of a layer that is read on demand, if the snapshot with the
//! table was lost.

use async_trait::async_trait;
use cas_core::Result;
use cas_distribution::Options;
use cas_layer::unpack::{TableContent, TableSource};

use super::Cas;
use crate::on_demand::lost;

/// Fetches a table from the registry that its description names, with the settings in `cas.toml`.
#[async_trait]
impl TableSource for Cas {
    async fn files(&self, description: &str) -> Result<Vec<(&'static str, TableContent)>> {
        let options = Options {
            timeouts: self.remote_settings().timeouts()?,
            ..Options::default()
        };
        let reference = lost::reference(description)?;
        let client = self.connect(&reference, options, &self.hosts()).await?;
        lost::fetch(&client, description).await
    }
}
