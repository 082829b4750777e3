//! `cas lease`: what is kept without a name.

use std::time::{Duration, SystemTime};

use cas::records::{Lease, Resource};
use cas::{Error, Result, labels, unique};
use clap::Subcommand;
use serde_json::{Value, json};

use super::Session;
use super::gc::when;

/// Who makes leases here; those of jobs belong to the jobs.
const OWNER: &str = "the tool";

/// Keep things without a name
#[derive(Subcommand)]
pub(crate) enum Leases {
    /// List leases and what they keep
    #[command(after_help = "Example:\n  cas lease ls --json")]
    Ls,
    /// Make a lease; prints its id
    #[command(after_help = "Example:\n  cas lease create --id audit --expire 2h")]
    Create {
        /// Its id [default: one that nobody has]
        #[arg(long)]
        id: Option<String>,
        /// When it ends by itself, from now, as in 90s or 2h [default: never]
        #[arg(long, value_parser = humantime::parse_duration)]
        expire: Option<Duration>,
        /// Keep the things alone, not what they refer to
        #[arg(long)]
        flat: bool,
        /// A label, KEY=VALUE
        #[arg(long, value_parser = label)]
        label: Vec<(String, String)>,
    },
    /// Add things to a lease
    #[command(after_help = "Example:\n  cas lease add audit images/app:1")]
    Add {
        /// Id of the lease
        id: String,
        /// content/DIGEST, images/NAME, ingests/KEY or snapshots/SNAPSHOTTER/KEY
        #[arg(required = true)]
        resources: Vec<Resource>,
    },
    /// End leases; one of a job that may still run is refused
    #[command(after_help = "Example:\n  cas lease rm audit")]
    Rm {
        /// Ids of leases
        #[arg(required = true)]
        ids: Vec<String>,
        /// End it whoever owns it: a job that still runs may fail, and loses nothing it has named
        #[arg(long)]
        force: bool,
    },
}

impl Leases {
    pub(crate) async fn run(self, session: &mut Session) -> Result<()> {
        let cas = session.cas().await?;
        let leases = cas.store().leases();
        match self {
            Leases::Ls => list(session, leases.list().await?),
            Leases::Create {
                id,
                expire,
                flat,
                label,
            } => {
                let id = id.unwrap_or_else(|| unique::key("lease"));
                let mut lease = Lease::new(OWNER, expire.map(|expire| SystemTime::now() + expire));
                lease.labels.extend(label);
                if flat {
                    lease
                        .labels
                        .insert(labels::GC_FLAT.to_owned(), String::new());
                }
                leases.create(&id, &lease).await?;
                session.out.item(&shown(&id, &lease), || id.clone())
            }
            Leases::Add { id, resources } => {
                for resource in resources {
                    let lease = cas.keep(&id, resource.clone()).await?;
                    session
                        .out
                        .item(&shown(&id, &lease), || format!("{id} keeps {resource}"))?;
                }
                Ok(())
            }
            Leases::Rm { ids, force } => {
                for id in ids {
                    let owner = match force.then_some(leases.load(&id).await?).flatten() {
                        Some((lease, _)) => lease.owner,
                        None => OWNER.to_owned(),
                    };
                    if !leases.delete(&id, &owner, SystemTime::now()).await? {
                        return Err(Error::not_found("no such lease; `cas lease ls` lists them")
                            .operation("end lease")
                            .subject(id));
                    }
                    session
                        .out
                        .item(&json!({"ended": id}), || format!("ended {id}"))?;
                }
                Ok(())
            }
        }
    }
}

fn list<R>(session: &Session, leases: Vec<(String, Lease, R)>) -> Result<()> {
    let rows: Vec<Value> = leases
        .iter()
        .map(|(id, lease, _)| shown(id, lease))
        .collect();
    let columns = ["ID", "OWNER", "EXPIRES", "KEEPS"];
    session.out.list(&columns, &rows, |row| {
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
        "expiresAt": lease.expires_at.map(when),
    })
}

fn label(text: &str) -> std::result::Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
