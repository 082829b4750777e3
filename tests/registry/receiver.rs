//! A fake registry that accepts pushes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use cas::Digest;

use super::fake::{Answer, Fake, Request};
use super::sample::Sample;

type Spoil = Box<dyn FnMut(&Request, &mut State) -> Option<Answer> + Send>;

/// What the registry has.
#[derive(Default)]
pub(crate) struct State {
    /// Blobs and documents by digest.
    content: BTreeMap<String, Vec<u8>>,
    /// Uploads by number. One that was forgotten is `None`.
    uploads: Vec<Option<Vec<u8>>>,
    /// The minimum length of a chunk, as the registry states it.
    chunks: Option<String>,
}

/// The registry, shared by its handler and the test.
#[derive(Clone, Default)]
pub(crate) struct Receiver {
    state: Arc<Mutex<State>>,
    spoil: Arc<Mutex<Option<Spoil>>>,
}

impl Receiver {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Sets what may answer a request instead of the correct registry.
    pub(crate) fn spoil(
        &self,
        spoil: impl FnMut(&Request, &mut State) -> Option<Answer> + Send + 'static,
    ) {
        *self.spoil.lock().unwrap() = Some(Box::new(spoil));
    }

    pub(crate) fn states_chunks(&self, length: &str) {
        self.state.lock().unwrap().chunks = Some(length.to_owned());
    }

    pub(crate) fn store(&self, data: &[u8]) {
        self.state.lock().unwrap().store(data);
    }

    pub(crate) fn start(&self) -> Fake {
        let own = self.clone();
        Fake::start(move |request| own.reply(request))
    }

    /// Starts the registry with answers that it gives before it reads the body of a request.
    pub(crate) fn start_early(
        &self,
        early: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static,
    ) -> Fake {
        let own = self.clone();
        Fake::start_early(early, move |request| own.reply(request))
    }

    /// Returns the answer of this registry.
    pub(crate) fn reply(&self, request: &Request) -> Answer {
        let mut state = self.state.lock().unwrap();
        let mut spoil = self.spoil.lock().unwrap();
        let spoiled = spoil.as_mut().and_then(|spoil| spoil(request, &mut state));
        spoiled.unwrap_or_else(|| state.answer(request))
    }

    /// Checks that the registry has all of the sample, with the right bytes.
    pub(crate) fn has_all(&self, sample: &Sample) {
        let state = self.state.lock().unwrap();
        for (digest, data) in &sample.content {
            assert!(state.content.get(digest) == Some(data), "{digest}");
        }
    }
}

impl State {
    pub(crate) fn store(&mut self, data: &[u8]) {
        let digest = Digest::sha256(data).to_string();
        self.content.insert(digest, data.to_vec());
    }

    pub(crate) fn forget(&mut self) {
        self.uploads.iter_mut().for_each(|upload| *upload = None);
    }

    /// Returns the upload that a request is for, and its number.
    fn upload(&mut self, request: &Request) -> Option<(usize, &mut Vec<u8>)> {
        let (_, name) = request.path.split_once("/uploads/")?;
        let number: usize = name.split('?').next()?.parse().ok()?;
        Some((number, self.uploads.get_mut(number)?.as_mut()?))
    }

    fn answer(&mut self, request: &Request) -> Answer {
        let last = request.path.rsplit('/').next().unwrap_or_default();
        let is_upload = request.path.contains("/uploads/");
        match request.method.as_str() {
            "POST" => self.begin(),
            "PATCH" => self.patch(request),
            "PUT" if is_upload => self.put_blob(request),
            "PUT" => {
                self.store(&request.body);
                Answer::new(201)
            }
            _ if is_upload => match self.upload(request) {
                Some((_, upload)) => {
                    let range = format!("0-{}", upload.len().saturating_sub(1));
                    Answer::new(204).with("Range", &range)
                }
                None => Answer::error(404, "BLOB_UPLOAD_UNKNOWN", "forgotten"),
            },
            _ => match self.content.get(last) {
                Some(data) => Answer::new(200).body(data),
                None => Answer::error(404, "BLOB_UNKNOWN", "unknown here"),
            },
        }
    }

    fn begin(&mut self) -> Answer {
        let place = format!("/v2/team/app/blobs/uploads/{}", self.uploads.len());
        self.uploads.push(Some(Vec::new()));
        let answer = Answer::new(202).with("Location", &place);
        match &self.chunks {
            Some(length) => answer.with("OCI-Chunk-Min-Length", length),
            None => answer,
        }
    }

    pub(crate) fn patch(&mut self, request: &Request) -> Answer {
        let Some((number, upload)) = self.upload(request) else {
            return Answer::error(404, "BLOB_UPLOAD_UNKNOWN", "forgotten");
        };
        let range = request.header("content-range").unwrap();
        let (start, last) = range.split_once('-').unwrap();
        let (start, last): (usize, usize) = (start.parse().unwrap(), last.parse().unwrap());
        assert!(request.body.len() <= last + 1 - start);
        if start != upload.len() {
            return Answer::new(416);
        }
        upload.extend_from_slice(&request.body);
        Answer::new(202)
            .with("Location", &format!("/v2/team/app/blobs/uploads/{number}"))
            .with("Range", &format!("0-{}", upload.len().saturating_sub(1)))
    }

    pub(crate) fn put_blob(&mut self, request: &Request) -> Answer {
        let Some((_, upload)) = self.upload(request) else {
            return Answer::error(404, "BLOB_UPLOAD_UNKNOWN", "forgotten");
        };
        upload.extend_from_slice(&request.body);
        let data = std::mem::take(upload);
        let digest = Digest::sha256(&data).to_string();
        let (_, stated) = request.path.split_once("digest=").unwrap();
        if stated.replace("%3A", ":") != digest {
            return Answer::error(400, "DIGEST_INVALID", "other bytes");
        }
        self.content.insert(digest.clone(), data);
        Answer::new(201).with("Docker-Content-Digest", &digest)
    }
}
