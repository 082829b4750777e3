//! Which images a pull accepts: lists, programs, and verifiers of callers.

use std::fs;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use cas::distribution::Verifier;
use cas::image::FullName;
use cas::{Cas, Descriptor, Error, ErrorKind, Policy, PullOptions, Result};

use super::fake::Fake;
use super::helpers::script;
use super::sample::Sample;
use super::settings::configure;
use crate::common::shop::names;
use crate::common::{fails, ok, text};

fn registry() -> (Sample, Fake) {
    let sample = Sample::new(&[1000]);
    let good = sample.clone();
    (sample, Fake::start(move |request| good.answer(request)))
}

#[test]
fn lists_judge_by_registry_name_and_digest_before_content_is_fetched() {
    let (sample, registry) = registry();
    let (host, digest) = (&registry.host, sample.root.digest);
    let scratch = tempfile::tempdir().unwrap();
    let (home, root) = (scratch.path(), scratch.path().join("root"));
    for (policy, rule) in [
        (
            format!("deny = [\"{host}\"]"),
            format!("{host:?} of `deny`"),
        ),
        (
            format!("deny = [\"{host}/team/*\"]"),
            format!("\"{host}/team/*\" of `deny`"),
        ),
        (
            format!("deny = [\"{digest}\"]"),
            format!("\"{digest}\" of `deny`"),
        ),
        (
            format!("allow = [\"{host}\"]\ndeny = [\"*/**:1\"]"),
            "\"*/**:1\" of `deny`".to_owned(),
        ),
        (
            "allow = [\"x.test\"]".to_owned(),
            "no rule of `allow`".to_owned(),
        ),
    ] {
        configure(&root, &format!("[policy]\n{policy}\n"));
        let mut pull = super::cas(&root, home);
        let said = fails(pull.args(["pull", &registry.image()]), 1);
        assert!(
            said.contains(&rule) && said.contains("root/cas.toml"),
            "{said}"
        );
        assert!(said.contains(&registry.image()), "{said}");
    }
    assert!(names(&root).is_empty());
    assert_eq!(registry.count("GET", "/v2/"), 0);
    let allow = format!("[policy]\nallow = [\"{host}/team/app:*\", \"{digest}\"]\n");
    configure(&root, &allow);
    ok(super::cas(&root, home).args(["pull", &registry.image()]));
    configure(&root, "[policy]\nallow = [\"library/app\"]\n");
    let mut pull = super::cas(&root, home);
    let said = fails(pull.args(["pull", &registry.image()]), 2);
    assert!(said.contains("allow in [policy] of"), "{said}");
}

/// An image that is in the store is judged, too, if a pull uses it.
#[test]
fn an_image_that_was_pulled_before_is_judged_again() {
    let (_, registry) = registry();
    let scratch = tempfile::tempdir().unwrap();
    let (home, root) = (scratch.path(), scratch.path().join("root"));
    ok(super::cas(&root, home).args(["pull", &registry.image()]));
    let asked = registry.seen().len();
    for policy in ["missing", "never"] {
        let pull = ["pull", &registry.image(), "--policy", policy];
        configure(&root, "[policy]\ndeny = [\"*\"]\n");
        let said = fails(super::cas(&root, home).args(pull), 1);
        assert!(said.contains("the rule \"*\" of `deny`"), "{said}");
        configure(&root, "");
        ok(super::cas(&root, home).args(pull));
    }
    assert_eq!(registry.seen().len(), asked);
}

#[test]
fn programs_judge_with_the_contract_of_containerd() {
    let (sample, registry) = registry();
    let scratch = tempfile::tempdir().unwrap();
    let (home, root) = (scratch.path(), scratch.path().join("root"));
    let directory = root.join("../verifiers");
    let allow = |seconds: u64| {
        let keys = format!("verifier-timeout = {seconds}\nmax-verifiers = 2\n");
        configure(
            &root,
            &format!("[policy]\nverifiers = \"../verifiers\"\n{keys}"),
        );
    };
    allow(60);
    let pull = || {
        let mut pull = super::cas(&root, home);
        pull.args(["pull", &registry.image()]);
        pull
    };
    let said = fails(&mut pull(), 3);
    assert!(said.contains("expected a directory of verifiers"), "{said}");
    fs::create_dir(&directory).unwrap();
    let out = home.join("out");
    let program = |name: &str, lines: &str| script(&directory.join(name), lines);
    program("a", &format!("echo $2 $4 > {}", out.display()));
    program("b", "echo unsigned; exit 1");
    program("c", "sleep 1000");
    let said = fails(&mut pull(), 1);
    assert!(
        said.contains("b rejects the image") && said.contains("unsigned"),
        "{said}"
    );
    let asked = fs::read_to_string(&out).unwrap();
    assert_eq!(
        asked.trim(),
        format!("{} {}", registry.image(), sample.root.digest)
    );
    for name in ["a", "b"] {
        fs::remove_file(directory.join(name)).unwrap();
    }
    allow(1);
    let said = fails(&mut pull(), 1);
    assert!(said.contains("c did not end within 1 s"), "{said}");
    assert_eq!(registry.count("GET", "/v2/"), 0);
    assert!(names(&root).is_empty());
    allow(60);
    program("a", "exit 0");
    program("b", "exit 0");
    let done = pull().output().unwrap();
    assert!(done.status.success(), "{}", text(&done.stderr));
    let said = text(&done.stderr);
    assert!(said.contains("only 2 of the 3 verifiers"), "{said}");
}

/// A verifier that records the images it is asked about, and rejects all or none.
struct Noting {
    asked: Mutex<Vec<(String, Descriptor)>>,
    rejects: bool,
}

#[async_trait]
impl Verifier for Noting {
    async fn verify(&self, name: &FullName, target: &Descriptor) -> Result<Vec<String>> {
        let asked = (name.to_string(), target.clone());
        self.asked.lock().unwrap().push(asked);
        match self.rejects {
            true => Err(Error::new(ErrorKind::Denied, "not this one")),
            false => Ok(Vec::new()),
        }
    }
}

#[tokio::test]
async fn a_verifier_of_the_caller_is_asked_once_and_decides() {
    let (sample, registry) = registry();
    let scratch = tempfile::tempdir().unwrap();
    let cas = Cas::open(scratch.path().join("root")).await.unwrap();
    for rejects in [true, false] {
        let asked = Mutex::default();
        let verifier = Arc::new(Noting { asked, rejects });
        let options = PullOptions::default()
            .with_policy(Policy::Always)
            .with_verifier(verifier.clone());
        let pulled = cas.pull_with(registry.image().as_str(), options).await;
        match rejects {
            true => {
                let error = pulled.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Denied);
                assert!(error.to_string().contains("not this one"), "{error}");
                assert_eq!(registry.count("GET", "/v2/"), 0);
            }
            false => assert_eq!(pulled.unwrap().image.target, sample.root),
        }
        let asked = verifier.asked.lock().unwrap();
        assert_eq!(*asked, [(registry.image(), sample.root.clone())]);
    }
}
