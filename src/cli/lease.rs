//! `cas lease`: leases, which protect resources from garbage collection.

use std::time::{Duration, SystemTime};

use cas::backend::unique;
use cas::records::Lease;
use cas::{Error, Result, labels};
use clap::Subcommand;
use serde_json::{Value, json};

use super::gc::when;
use super::{Context, exit, resource};

/// Owner of the leases that this command makes. The leases of jobs have other owners.
const OWNER: &str = "the tool";

/// Manage leases, which protect blobs and snapshots from gc
#[derive(Subcommand)]
#[command(after_help = "Example:\n  cas lease ls")]
pub(crate) enum Leases {
    /// List leases and what they keep
    #[command(after_help = "Example:\n  cas lease ls --json")]
    Ls,
    /// Create a lease and print its id
    #[command(after_help = "Example:\n  cas lease create --id audit --expire 2h")]
    Create {
        /// Id of the lease [default: a new, unique one]
        #[arg(long)]
        id: Option<String>,
        /// End the lease after this time, as in 90s or 2h [default: never]
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        expire: Option<Duration>,
        /// Keep only the resources of the lease, the targets of its images and the parents of its
        /// snapshots; without this option, also keep everything that its resources refer to
        #[arg(long)]
        flat: bool,
        /// Label of the lease; may be repeated
        #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
        label: Vec<(String, String)>,
    },
    /// Add resources to a lease
    #[command(after_help = "Example:\n  cas lease add audit images/app:1 content/2c26b46b68ff")]
    Add {
        /// Id of the lease
        id: String,
        /// DIGEST of a blob, content/DIGEST, images/NAME, ingests/KEY or snapshots/SNAPSHOTTER/KEY;
        /// the first digits of a digest are enough, except in the key of an ingest
        #[arg(required = true)]
        resources: Vec<String>,
    },
    /// End leases; a lease that `cas lease create` did not make needs --force until it expires
    #[command(after_help = "Example:\n  cas lease rm audit")]
    Rm {
        /// Ids of leases
        #[arg(required = true)]
        ids: Vec<String>,
        /// Also end leases that `cas lease create` did not make, such as those of pulls and of
        /// `cas fsck`; a pull or another job that still runs may then fail, but images that it has
        /// already named stay
        #[arg(long)]
        force: bool,
    },
}

impl Leases {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let cas = match &self {
            Leases::Ls => context.cas().await?,
            _ => context.writable_cas().await?,
        };
        let leases = cas.store().leases();
        match self {
            Leases::Ls => {
                let found = leases.list_sound().await?;
                list(context, &found.leases)?;
                exit::damaged(found.problems)
            }
            Leases::Create {
                id,
                expire,
                flat,
                label,
            } => {
                let id = id.unwrap_or_else(|| unique::key("lease"));
                let mut lease = Lease::new(OWNER, expire.map(end_of).transpose()?);
                lease.labels.extend(label);
                if flat {
                    lease
                        .labels
                        .insert(labels::GC_FLAT.to_owned(), String::new());
                }
                leases.create(&id, &lease).await?;
                context.out.item(&shown(&id, &lease), || id.clone())
            }
            Leases::Add { id, resources } => {
                for text in resources {
                    let resource = resource::find(&cas, &text).await?;
                    let lease = cas.add_to_lease(&id, resource.clone()).await?;
                    context
                        .out
                        .item(&shown(&id, &lease), || format!("{id} keeps {resource}"))?;
                }
                Ok(())
            }
            Leases::Rm { ids, force } => {
                for id in ids {
                    let other = if force { leases.load(&id).await? } else { None };
                    let owner = other.map_or_else(|| OWNER.to_owned(), |(lease, _)| lease.owner);
                    if !leases.delete(&id, &owner, SystemTime::now()).await? {
                        let why = "no such lease; `cas lease ls` lists all leases";
                        return Err(Error::not_found(why).operation("end lease").subject(id));
                    }
                    context
                        .out
                        .item(&json!({"ended": id}), || format!("ended {id}"))?;
                }
                Ok(())
            }
        }
    }
}

/// Returns the time that is `length` from now.
fn end_of(length: Duration) -> Result<SystemTime> {
    SystemTime::now().checked_add(length).ok_or_else(|| {
        let found = humantime::format_duration(length);
        Error::invalid(format!(
            "a lease cannot last for {found}; give a shorter --expire, or none"
        ))
        .operation("create lease")
    })
}

fn list<R>(context: &Context, leases: &[(String, Lease, R)]) -> Result<()> {
    let rows: Vec<Value> = leases
        .iter()
        .map(|(id, lease, _)| shown(id, lease))
        .collect();
    let columns = ["ID", "OWNER", "EXPIRES", "RESOURCES"];
    context.out.list(&columns, &rows, |row| {
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let resources = row["resources"]
            .as_array()
            .map(Vec::len)
            .unwrap_or_default();
        let expires = match &row["expiresAt"] {
            Value::Null => "never".to_owned(),
            _ => text("expiresAt"),
        };
        vec![text("id"), text("owner"), expires, resources.to_string()]
    })
}

fn shown(id: &str, lease: &Lease) -> Value {
    json!({
        "id": id,
        "owner": lease.owner,
        "labels": lease.labels,
        "resources": lease.resources,
        "createdAt": when(lease.created_at),
        "expiresAt": lease.expiry().map(when),
    })
}

fn label(text: &str) -> std::result::Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
