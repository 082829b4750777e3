//! The configuration of podman applies to a name before any registry is asked.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::cas;
use super::fake::{Answer, Fake};
use super::sample::Sample;
use crate::common::{fails, ok, text};

/// Returns a pull with a `registries.conf`.
fn pull(home: &Path, name: &str, conf: &str) -> Command {
    let path = home.join("registries.conf");
    fs::write(&path, conf).unwrap();
    let mut pull = cas(&home.join("root"), home);
    pull.args(["pull", name, "--registries-conf"]).arg(path);
    pull
}

fn registry() -> Fake {
    let sample = Sample::new(&[1000]);
    Fake::start(move |request| sample.answer(request))
}

#[test]
fn a_name_without_a_host_is_looked_for_where_registries_conf_says() {
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    let (empty, full) = (Fake::start(|_| Answer::new(404)), registry());
    let (first, second) = (&empty.host, &full.host);
    let search = format!("unqualified-search-registries = [\"{first}\", \"{second}\"]\n");
    let said = pull(home, "team/app:1", &search).output().unwrap();
    assert!(said.status.success(), "{}", text(&said.stderr));
    assert_eq!(text(&said.stdout).trim(), format!("{second}/team/app:1"));
    assert!(
        text(&said.stderr).contains("trying the next registry"),
        "{}",
        text(&said.stderr)
    );
    let enforcing = format!("short-name-mode = \"enforcing\"\n{search}");
    let said = fails(&mut pull(home, "team/app:1", &enforcing), 1);
    let choice = format!("use one of {first}/team/app:1, {second}/team/app:1");
    assert!(said.contains(&choice), "{said}");
    let alias = format!("[aliases]\n\"short\" = \"{second}/team/app\"\n");
    let said = ok(&mut pull(home, "short:1", &alias));
    assert_eq!(said.trim(), format!("{second}/team/app:1"));
}

#[test]
fn a_policy_rejects_before_anything_is_asked() {
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    let registry = registry();
    let policy = home.join("policy.json");
    let image = registry.image();
    let try_with = |kind: &str| {
        let scopes = format!(r#"{{"docker": {{"{image}": [{{"type": "{kind}"}}]}}}}"#);
        let text = format!(r#"{{"default": [{{"type": "reject"}}], "transports": {scopes}}}"#);
        fs::write(&policy, text).unwrap();
        let mut pull = pull(home, &image, "");
        pull.arg("--policy-file").arg(&policy);
        pull
    };
    let said = fails(&mut try_with("reject"), 1);
    assert!(
        said.contains("rejects the image; change the policy"),
        "{said}"
    );
    let said = fails(&mut try_with("signedBy"), 2);
    assert!(said.contains("requires \"signedBy\""), "{said}");
    assert_eq!(registry.seen().len(), 0);
    ok(&mut try_with("insecureAcceptAnything"));
    // An image that the store has is judged, too.
    for policy in ["missing", "never"] {
        ok(try_with("insecureAcceptAnything").args(["--policy", policy]));
        fails(try_with("reject").args(["--policy", policy]), 1);
    }
}
