//! Registries: a real one, and a fake one that misbehaves.

#[cfg(feature = "aci")]
mod aci;
mod addresses;
mod artifacts;
mod certificates;
mod chunks;
#[cfg(feature = "cosign")]
mod cosign;
mod deletion;
mod exchange;
mod failed;
pub(crate) mod fake;
mod fallback;
mod fault_table;
mod faults;
mod heals;
mod helpers;
mod hostile;
mod hub;
mod lies;
mod listings;
mod log_in;
mod login;
mod logins;
mod mirrors;
mod names;
#[cfg(feature = "erofs")]
mod only_tars;
mod parallel;
mod policy;
mod proxy;
mod ranged;
mod ranges;
#[cfg(feature = "erofs")]
mod ready_layers;
pub(crate) mod receiver;
mod referrers;
mod refusals;
mod relay;
mod resume;
pub(crate) mod sample;
mod settings;
mod signals;
mod slow;
mod spec;
#[cfg(feature = "on-demand")]
mod tables;
mod together;
mod tokens;
mod trust;
mod uploads;
mod verified;
mod warnings;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cas::Result;
use cas::distribution::{Client, Options, Timeouts};
use cas::transfer::{PullOptions, pull};
use cas_core::testing::memory::MemoryStore;

use self::fake::Fake;
use self::sample::Sample;

/// Returns a command of the tool on a root. Its only credentials are those in `home`, which is also
/// the directory of docker's configuration. It uses no proxy.
fn cas(root: &Path, home: &Path) -> Command {
    let mut command = crate::common::cas(root);
    command.envs([
        ("HOME", home),
        ("DOCKER_CONFIG", home),
        ("XDG_RUNTIME_DIR", home),
        ("XDG_CONFIG_HOME", home),
    ]);
    command.env_remove("REGISTRY_AUTH_FILE");
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command
}

/// Returns timeouts with short pauses. A correct registry keeps the deadlines even on a busy
/// machine, so a test can count the requests.
fn quick() -> Timeouts {
    Timeouts::default()
        .with_idle(Duration::from_secs(25))
        .with_min_speed(20)
        .with_pause(Duration::from_millis(2))
}

/// Returns timeouts for registries that stall or are slow.
fn impatient() -> Timeouts {
    quick()
        .with_idle(Duration::from_secs(2))
        .with_min_speed(1000)
}

/// Returns a client for the image of a fake registry.
async fn client(registry: &Fake, timeouts: Timeouts) -> Client {
    let options = Options {
        timeouts,
        ..Options::default()
    };
    let reference = registry.image().parse().unwrap();
    Client::connect(&reference, options).await.unwrap()
}

/// Pulls a sample into a new store, and checks that all of it arrives.
async fn pulled(registry: &Fake, sample: &Sample, timeouts: Timeouts) -> Result<()> {
    let store = MemoryStore::new().with_images();
    let client = client(registry, timeouts).await;
    let name = "app:1".parse().unwrap();
    pull(&store, &client, name, &PullOptions::default()).await?;
    for digest in sample.content.keys() {
        let stat = store.content.stat(&digest.parse().unwrap()).await?;
        assert!(stat.is_some(), "{digest} is missing");
    }
    Ok(())
}
