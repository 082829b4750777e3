//! A registry written from the distribution specification: manifests, tags, referrers, listings and
//! deletion. A [`Receiver`] keeps its blobs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use cas::Digest;
use serde_json::{Value, json};

use super::fake::{Answer, Fake, Request};
use super::receiver::Receiver;

pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What the registry can do.
#[derive(Clone, Copy)]
pub(crate) struct Abilities {
    /// It has the API of referrers.
    pub(crate) referrers: bool,
    /// It filters referrers by the types of their artifacts.
    pub(crate) filters: bool,
    /// It honors `If-Match` and `If-None-Match`, and states an `ETag`.
    pub(crate) conditions: bool,
    /// It allows deletions.
    pub(crate) deletes: bool,
    /// The number of entries in a page, unless a request names one.
    pub(crate) page: usize,
}

impl Abilities {
    pub(crate) const ALL: Self = Abilities {
        referrers: true,
        filters: true,
        conditions: true,
        deletes: true,
        page: 2,
    };
    /// Returns the abilities of a registry from before version 1.1 of the specification.
    pub(crate) const OLD: Self = Abilities {
        referrers: false,
        filters: false,
        conditions: false,
        ..Self::ALL
    };
}

/// The manifests of the registry, shared by its handler and the test.
#[derive(Clone)]
pub(crate) struct Spec {
    able: Abilities,
    blobs: Receiver,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Type and bytes, by digest.
    manifests: BTreeMap<String, (String, Vec<u8>)>,
    tags: BTreeMap<String, String>,
}

impl Spec {
    pub(crate) fn new(able: Abilities) -> Self {
        Spec {
            able,
            blobs: Receiver::new(),
            state: Arc::default(),
        }
    }

    pub(crate) fn start(&self) -> Fake {
        self.start_with(|_, _| None)
    }

    /// Starts the registry. `spoil` may answer instead of it.
    pub(crate) fn start_with(
        &self,
        spoil: impl Fn(&Request, &Spec) -> Option<Answer> + Send + Sync + 'static,
    ) -> Fake {
        let own = self.clone();
        Fake::start(move |request| spoil(request, &own).unwrap_or_else(|| own.answer(request)))
    }

    /// Stores a document, under a tag if one is given. Returns its digest.
    pub(crate) fn put(&self, tag: Option<&str>, kind: &str, data: &[u8]) -> String {
        let digest = Digest::sha256(data).to_string();
        let mut state = self.state.lock().unwrap();
        let manifest = (kind.to_owned(), data.to_vec());
        state.manifests.insert(digest.clone(), manifest);
        if let Some(tag) = tag {
            state.tags.insert(tag.to_owned(), digest.clone());
        }
        digest
    }

    /// Returns the document at a tag or a digest.
    pub(crate) fn get(&self, name: &str) -> Option<Value> {
        let (_, data) = self.state.lock().unwrap().find(name)?;
        Some(serde_json::from_slice(&data).unwrap())
    }

    /// Returns the digests in the index at the tag for the referrers of a manifest.
    pub(crate) fn listed_by_tag(&self, subject: &str) -> Vec<String> {
        let index = self.get(&subject.replace(':', "-"));
        let listed = index.map(|mut index| index["manifests"].take());
        let listed = listed.unwrap_or(json!([]));
        let listed = listed.as_array().unwrap().iter();
        listed
            .map(|one| one["digest"].as_str().unwrap().to_owned())
            .collect()
    }

    pub(crate) fn answer(&self, request: &Request) -> Answer {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let query: BTreeMap<String, String> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| {
                (
                    key.to_owned(),
                    value.replace("%2F", "/").replace("%2B", "+"),
                )
            })
            .collect();
        let mut state = self.state.lock().unwrap();
        if let Some((_, name)) = path.split_once("/manifests/") {
            return self.manifest(&mut state, request, name);
        }
        if path.ends_with("/tags/list") {
            let tags: Vec<Value> = state.tags.keys().map(|tag| json!(tag)).collect();
            let (tags, answer) = self.page(path, &query, tags);
            return answer.body(
                json!({"name": "team/app", "tags": tags})
                    .to_string()
                    .as_bytes(),
            );
        }
        if path == "/v2/_catalog" {
            let all = ["a", "b", "team/app"].map(|name| json!(name)).to_vec();
            let (names, answer) = self.page(path, &query, all);
            return answer.body(json!({"repositories": names}).to_string().as_bytes());
        }
        match path.split_once("/referrers/") {
            Some((_, subject)) if self.able.referrers => {
                self.referrers(&state, path, subject, &query)
            }
            Some(_) => Answer::new(404).body(b"404 page not found\n"),
            None => {
                drop(state);
                match request.method.as_str() {
                    "DELETE" if self.able.deletes => Answer::new(202),
                    "DELETE" => Answer::error(405, "UNSUPPORTED", "no"),
                    _ => self.blobs.reply(request),
                }
            }
        }
    }

    fn manifest(&self, state: &mut State, request: &Request, name: &str) -> Answer {
        let unknown = || Answer::error(404, "MANIFEST_UNKNOWN", "unknown here");
        match request.method.as_str() {
            "PUT" => self.put_manifest(state, request, name),
            "DELETE" if !self.able.deletes => Answer::error(405, "UNSUPPORTED", "no"),
            "DELETE" => {
                let tag = state.tags.remove(name).is_some();
                let manifest = state.manifests.remove(name).is_some();
                match tag || manifest {
                    true => Answer::new(202),
                    false => unknown(),
                }
            }
            _ => match state.find(name) {
                None => unknown(),
                Some((kind, data)) => {
                    let digest = Digest::sha256(&data).to_string();
                    let answer = Answer::new(200)
                        .with("Content-Type", &kind)
                        .with("Docker-Content-Digest", &digest)
                        .body(&data);
                    match self.able.conditions {
                        true => answer.with("ETag", &format!("\"{digest}\"")),
                        false => answer,
                    }
                }
            },
        }
    }

    fn put_manifest(&self, state: &mut State, request: &Request, name: &str) -> Answer {
        let kind = request.header("content-type").unwrap();
        let document: Value = serde_json::from_slice(&request.body).unwrap();
        let digest = Digest::sha256(&request.body).to_string();
        let found = state.find(name).map(|(_, data)| Digest::sha256(&data));
        let expected = request.header("if-match");
        let is_expected = match (expected, request.header("if-none-match"), found) {
            (Some(expected), _, Some(found)) => expected == format!("\"{found}\""),
            (Some(_), _, None) | (None, Some("*"), Some(_)) => false,
            _ => true,
        };
        if self.able.conditions && !is_expected {
            return Answer::new(412);
        }
        let manifest = (kind.to_owned(), request.body.clone());
        state.manifests.insert(digest.clone(), manifest);
        if name != digest {
            state.tags.insert(name.to_owned(), digest.clone());
        }
        let answer = Answer::new(201).with("Docker-Content-Digest", &digest);
        match document["subject"]["digest"].as_str() {
            Some(subject) if self.able.referrers => answer.with("OCI-Subject", subject),
            _ => answer,
        }
    }

    fn referrers(
        &self,
        state: &State,
        path: &str,
        subject: &str,
        query: &BTreeMap<String, String>,
    ) -> Answer {
        let mut found = Vec::new();
        for (digest, (kind, data)) in &state.manifests {
            let document: Value = serde_json::from_slice(data).unwrap();
            if document["subject"]["digest"] != subject {
                continue;
            }
            let config = &document["config"]["mediaType"];
            let stated = &document["artifactType"];
            let artifact_type = if stated.is_string() { stated } else { config };
            found.push(json!({
                "mediaType": kind, "digest": digest, "size": data.len(),
                "artifactType": artifact_type, "annotations": document["annotations"],
            }));
        }
        let wanted = query.get("artifactType").filter(|_| self.able.filters);
        if let Some(wanted) = wanted {
            found.retain(|one| one["artifactType"] == **wanted);
        }
        let (found, answer) = self.page(path, query, found);
        let answer = match wanted {
            Some(_) => answer.with("OCI-Filters-Applied", "artifactType"),
            None => answer,
        };
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": found});
        answer
            .with("Content-Type", INDEX)
            .body(index.to_string().as_bytes())
    }

    /// Returns the entries of a page, and the answer with the link to the next one.
    fn page(
        &self,
        path: &str,
        query: &BTreeMap<String, String>,
        all: Vec<Value>,
    ) -> (Vec<Value>, Answer) {
        let name = |one: &Value| one.as_str().or(one["digest"].as_str()).unwrap().to_owned();
        let size = query
            .get("n")
            .map_or(self.able.page, |n| n.parse().unwrap());
        let rest = all.into_iter();
        let rest: Vec<Value> = rest
            .filter(|one| query.get("last").is_none_or(|last| name(one) > *last))
            .collect();
        let page = rest[..size.min(rest.len())].to_vec();
        let answer = Answer::new(200);
        if rest.len() <= page.len() {
            return (page, answer);
        }
        let mut next = query.clone();
        next.insert("last".into(), name(page.last().unwrap()));
        let next: Vec<String> = next
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let link = format!("<{path}?{}>; rel=\"next\"", next.join("&"));
        (page, answer.with("Link", &link))
    }
}

impl State {
    fn find(&self, name: &str) -> Option<(String, Vec<u8>)> {
        let digest = self.tags.get(name).map_or(name, String::as_str);
        self.manifests.get(digest).cloned()
    }
}
