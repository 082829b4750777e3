//! `cas registry`: lists and deletes content of a registry, without a store.

use cas::distribution::{Client, Host, ListOptions, Mirrors, Pages};
use cas::image::FullName;
use cas::transfer::{ArtifactClient, Fetcher};
use cas::{Context as _, Descriptor, Error, Result};
use clap::{Args, Subcommand};
use serde_json::json;

use super::Context;
use super::connection::Connection;
use super::output::{printable, size};

/// List tags, repositories and referrers in a registry, and delete tags, manifests and blobs
#[derive(Subcommand)]
#[command(after_help = "Example:\n  cas registry tags registry.example/team/app")]
pub(crate) enum Registry {
    Tags(Tags),
    Ls(Ls),
    Referrers(Referrers),
    Rm(Rm),
}

/// List the tags of a repository
#[derive(Args)]
#[command(after_help = "Examples:
  cas registry tags registry.example/team/app
  cas registry tags registry.example/team/app --last 1.2 --limit 10")]
pub(crate) struct Tags {
    /// HOST[:PORT]/REPOSITORY; a tag or a digest is ignored
    #[arg(value_name = "REPOSITORY")]
    repository: FullName,
    #[command(flatten)]
    part: Part,
    #[command(flatten)]
    connection: Connection,
}

/// List the repositories of a registry; many registries refuse this
#[derive(Args)]
#[command(after_help = "Example:\n  cas registry ls localhost:5000")]
pub(crate) struct Ls {
    /// HOST[:PORT] of the registry
    #[arg(value_name = "HOST")]
    host: Host,
    #[command(flatten)]
    part: Part,
    #[command(flatten)]
    connection: Connection,
}

/// Which part of a list is printed.
#[derive(Args)]
struct Part {
    /// Begin after this name
    #[arg(long, value_name = "NAME")]
    last: Option<String>,
    /// Print at most N names
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
}

/// List what refers to an image, such as signatures
#[derive(Args)]
#[command(after_help = "Examples:
  cas registry referrers registry.example/team/app:1
  cas registry referrers registry.example/team/app:1 --artifact-type application/spdx+json

To list what refers to one platform of an image, write the digest of that platform's manifest.")]
pub(crate) struct Referrers {
    /// HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]
    #[arg(value_name = "REF")]
    reference: FullName,
    /// List only artifacts of this type
    #[arg(long, value_name = "TYPE")]
    artifact_type: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

/// Delete a tag, a manifest or a blob
#[derive(Args)]
#[command(after_help = "Examples:
  cas registry rm registry.example/team/app:1
  cas registry rm registry.example/team/app@sha256:DIGEST

With a tag, only the tag is deleted, and its manifest stays. With a digest, the manifest or index is
deleted with all of its tags. The registry must allow deletions; many registries free the space
later.")]
pub(crate) struct Rm {
    /// HOST[:PORT]/REPOSITORY:TAG or HOST[:PORT]/REPOSITORY@DIGEST
    #[arg(value_name = "REF")]
    reference: String,
    /// Delete the blob with the digest in REF, not a manifest
    #[arg(long)]
    blob: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Registry {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        match self {
            Registry::Tags(command) => command.run(context).await,
            Registry::Ls(command) => command.run(context).await,
            Registry::Referrers(command) => command.run(context).await,
            Registry::Rm(command) => command.run(context).await,
        }
    }
}

impl Tags {
    async fn run(self, context: &Context) -> Result<()> {
        let mirrors = self.connection.connect(context, &self.repository).await?;
        let client = mirrors.registry().await?;
        let listed = self
            .part
            .print(context, "tag", client.tags(&self.part.options()))
            .await;
        warn(context, &mirrors).await;
        listed.during("list tags", repository(&self.repository))
    }
}

impl Ls {
    async fn run(self, context: &Context) -> Result<()> {
        // A client needs the name of a repository, although the list of repositories does not
        // depend on it.
        let any: FullName = format!("{}/any", self.host).parse()?;
        if any.repository().starts_with(&format!("{}/", self.host)) {
            let why = "expected a host, found a name without a dot or a port, which would be a \
                       repository of Docker Hub; add the domain or the port";
            return Err(Error::invalid(why)
                .operation("list repositories")
                .subject(&self.host));
        }
        let mirrors = self.connection.connect(context, &any).await?;
        let client = mirrors.registry().await?;
        let pages = client.catalogue(&self.part.options());
        let listed = self.part.print(context, "repository", pages).await;
        warn(context, &mirrors).await;
        listed.during("list repositories", &self.host)
    }
}

impl Part {
    fn options(&self) -> ListOptions {
        ListOptions::default()
            .with_page(self.limit)
            .with_after(self.last.clone())
    }

    /// Prints names as they arrive.
    async fn print(
        &self,
        context: &Context,
        key: &str,
        pages: Result<Pages<String>>,
    ) -> Result<()> {
        let (mut pages, mut left) = (pages?, self.limit.unwrap_or(u32::MAX));
        while left > 0
            && let Some(page) = pages.next().await?
        {
            for name in page.into_iter().take(left as usize) {
                left -= 1;
                let item = json!({ key: &name });
                context.out.item(&item, || printable(&name).into_owned())?;
            }
        }
        Ok(())
    }
}

impl Referrers {
    async fn run(self, context: &Context) -> Result<()> {
        let mirrors = self.connection.connect(context, &self.reference).await?;
        let found = self.find(&mirrors).await;
        warn(context, &mirrors).await;
        let columns = ["DIGEST", "TYPE", "SIZE"];
        context.out.list(&columns, &found?, |one| {
            let artifact_type = one.artifact_type.as_deref();
            let artifact_type = artifact_type.unwrap_or(one.media_type.as_str());
            vec![one.digest.short(), artifact_type.to_owned(), size(one.size)]
        })
    }

    async fn find(&self, mirrors: &Mirrors) -> Result<Vec<Descriptor>> {
        let subject = mirrors.resolve().await?;
        let client = ArtifactClient::new(mirrors).with_artifact_type(self.artifact_type.clone());
        client.all_referrers(&subject).await
    }
}

impl Rm {
    async fn run(self, context: &Context) -> Result<()> {
        let reference: FullName = self.reference.parse()?;
        let mirrors = self.connection.connect(context, &reference).await?;
        let deleted = match mirrors.registry().await {
            Ok(client) => self.delete(&client, &reference).await,
            Err(error) => Err(error),
        };
        warn(context, &mirrors).await;
        deleted?;
        let made = json!({"deleted": reference.name()});
        context
            .out
            .item(&made, || format!("deleted {}", self.reference))
    }

    async fn delete(&self, client: &Client, reference: &FullName) -> Result<()> {
        let refused = |why: &'static str| {
            Err(Error::invalid(why)
                .operation("delete")
                .subject(&self.reference))
        };
        match (reference.digest(), self.blob) {
            (Some(digest), true) => client.delete_blob(digest).await,
            (None, true) => refused("the digest of the blob is missing; write REPOSITORY@DIGEST"),
            (None, false) if !names_tag(&self.reference) => {
                refused("expected a tag or a digest; write REPOSITORY:TAG or REPOSITORY@DIGEST")
            }
            _ => client.delete().await,
        }
    }
}

/// Returns whether `typed`, a name without a digest, has a tag. A [`FullName`] that was typed
/// without a tag has the default tag, which must not be deleted by accident.
fn names_tag(typed: &str) -> bool {
    typed
        .rsplit('/')
        .next()
        .is_some_and(|last| last.contains(':'))
}

/// Returns the host and the repository of a name, as in `HOST/REPOSITORY`.
fn repository(name: &FullName) -> String {
    format!("{}/{}", name.host(), name.repository())
}

/// Prints the warnings about mirrors and logins, and the warnings that mirrors and the registry
/// have sent.
async fn warn(context: &Context, mirrors: &Mirrors) {
    let withheld = mirrors.withheld().await;
    for message in mirrors.warnings().into_iter().chain(withheld) {
        context.progress.warn(&message);
    }
}
