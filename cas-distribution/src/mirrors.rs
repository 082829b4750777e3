//! Reads an image from several endpoints as if they were one repository. Content that one endpoint
//! lacks is read from the next one. Images are pushed to one of the endpoints.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::sync::lock;
use cas_core::transfer::{
    Content, DocumentName, Fetcher, Pieces, Pusher, ReferrerPages, Referrers,
};
use cas_core::{Descriptor, Digest, Error, ErrorKind, Result};
use futures_util::{StreamExt, stream};

use crate::client::{Client, Options};
use crate::hosts::Endpoint;

/// A registry and its mirrors. Cheap to clone.
///
/// A read is sent to the first endpoint whose capabilities allow the read. If this endpoint fails,
/// the next one is asked. But after an error of this machine, such as a file of certificates that
/// does not parse, no other endpoint is asked. An endpoint that was unavailable is asked last from
/// then on. A read that fails in the middle continues at the next endpoint, at the byte where it
/// ended. Content that turns out to be wrong is read again from the other endpoints. Images are
/// pushed to the endpoint of [`Mirrors::registry`].
#[derive(Clone)]
pub struct Mirrors {
    places: Arc<[Place]>,
    /// Whether the referrers of all endpoints are listed.
    lists_all: bool,
}

struct Place {
    endpoint: Endpoint,
    options: Options,
    /// The client. It is made when the endpoint is asked for the first time. For each further
    /// request, it is made again until the endpoint has shown that the scheme is right.
    client: Mutex<Option<Client>>,
    /// The caller that has this lock makes a client.
    making: tokio::sync::Mutex<()>,
    /// Whether the endpoint was unavailable, so that it is asked last.
    is_down: AtomicBool,
    /// Why the endpoint was passed over.
    warning: Mutex<Option<String>>,
    /// Digests of the content that was read from the endpoint.
    sent: Mutex<BTreeSet<Digest>>,
    /// Digests of the content that was wrong, or may have been wrong, when it was read from the
    /// endpoint. The endpoint is not asked for this content again.
    wrong: Mutex<BTreeSet<Digest>>,
}

impl Mirrors {
    /// Returns the endpoints of one image as one repository. Each endpoint comes with the options
    /// for this endpoint. No request is made yet. A request that fails is not repeated at its
    /// endpoint if images may be pulled from a later endpoint in the list: a read is then sent to
    /// the next endpoint instead, and a push fails. At all other endpoints, requests are repeated.
    pub fn new(endpoints: impl IntoIterator<Item = (Endpoint, Options)>) -> Self {
        let mut endpoints: Vec<_> = endpoints.into_iter().collect();
        let last = endpoints
            .iter()
            .rposition(|(endpoint, _)| endpoint.may.pull);
        for (_, options) in endpoints.iter_mut().take(last.unwrap_or_default()) {
            // A read that fails is not repeated here: the next endpoint is asked instead.
            options.timeouts.repeat = Duration::ZERO;
        }
        let places = endpoints.into_iter().map(|(endpoint, options)| Place {
            endpoint,
            options,
            client: Mutex::default(),
            making: tokio::sync::Mutex::default(),
            is_down: AtomicBool::new(false),
            warning: Mutex::default(),
            sent: Mutex::default(),
            wrong: Mutex::default(),
        });
        Mirrors {
            places: places.collect(),
            lists_all: false,
        }
    }

    /// Lists the referrers of all endpoints from which images are pulled. By default, only the
    /// referrers of the first endpoint that has any are listed. The next endpoint is asked when the
    /// caller has read all pages of the previous endpoint. A referrer that several endpoints list
    /// is returned once for each of these endpoints.
    #[must_use]
    pub fn with_all_referrers(mut self) -> Self {
        self.lists_all = true;
        self
    }

    /// Returns the message about a withheld login ([`Client::withheld`]) for the first endpoint
    /// that has such a message. Returns `None` if no endpoint has one.
    pub async fn withheld(&self) -> Option<String> {
        for place in self.places.iter() {
            if let Some(client) = place.client()
                && let Some(withheld) = client.withheld().await
            {
                return Some(withheld);
            }
        }
        None
    }

    /// Returns the warnings so far, endpoint by endpoint. If an endpoint was passed over because it
    /// failed or sent wrong bytes, the first warning about this endpoint states the first failure.
    /// The warnings of [`Client::warnings`] follow. An endpoint that only lacks content causes no
    /// warning.
    pub fn warnings(&self) -> Vec<String> {
        let of_place = |place: &Place| {
            let own = place.client().as_ref().map(Client::warnings);
            let passed_over = lock(&place.warning).clone();
            let own = own.unwrap_or_default();
            passed_over.into_iter().chain(own).collect::<Vec<_>>()
        };
        self.places.iter().flat_map(of_place).collect()
    }

    /// Returns the number of blobs and documents that the caller reported as wrong with
    /// [`Fetcher::distrust`]. If several endpoints sent wrong bytes of a blob, the blob counts once
    /// for each of them. Wrong bytes do not count if no other endpoint was left to read from.
    pub fn distrusted(&self) -> usize {
        self.places
            .iter()
            .map(|place| lock(&place.wrong).len())
            .sum()
    }

    /// Returns the numbers of the places whose endpoints `may` accepts. Places that were
    /// unavailable come at the end.
    fn order(&self, may: impl Fn(&Endpoint) -> bool) -> VecDeque<usize> {
        let able = |number: &usize| may(&self.places[*number].endpoint);
        let is_down = |number: &usize| self.places[*number].is_down.load(Ordering::Relaxed);
        let able: Vec<usize> = (0..self.places.len()).filter(able).collect();
        let (down, up): (Vec<_>, Vec<_>) = able.into_iter().partition(is_down);
        up.into_iter().chain(down).collect()
    }

    /// Returns the numbers of the places that may have some content, without those that have sent
    /// wrong bytes of it.
    fn order_for(&self, descriptor: &Descriptor) -> VecDeque<usize> {
        let mut order = self.order(|endpoint| endpoint.may.pull);
        order.retain(|number| !self.places[*number].was_wrong(&descriptor.digest));
        order
    }

    /// Returns the client of a place. Makes a new one if there is none, or if the scheme of the
    /// existing one was only guessed: the endpoint may have failed when the scheme was chosen.
    async fn client(&self, number: usize) -> Result<Client> {
        let place = &self.places[number];
        let known = || place.client().filter(Client::has_shown_scheme);
        if let Some(client) = known() {
            return Ok(client);
        }
        let _making = place.making.lock().await;
        if let Some(client) = known() {
            return Ok(client);
        }
        let client = Client::at(place.endpoint.clone(), place.options.clone()).await?;
        *lock(&place.client) = Some(client.clone());
        Ok(client)
    }

    /// Notes that a place failed, and that the next one is asked. Returns the error if no other
    /// place can help.
    fn pass_over(&self, number: usize, error: Error, is_last: bool) -> Result<()> {
        let place = &self.places[number];
        if error.kind() == ErrorKind::Unavailable {
            place.is_down.store(true, Ordering::Relaxed);
        }
        let is_theirs = matches!(
            error.kind(),
            ErrorKind::NotFound
                | ErrorKind::Unavailable
                | ErrorKind::Denied
                | ErrorKind::Corrupt
                | ErrorKind::Unsupported
                | ErrorKind::OutOfRange
        );
        if is_last || !is_theirs {
            return Err(error);
        }
        // A mirror need not have everything.
        if error.kind() != ErrorKind::NotFound {
            let warning = format!("{} was passed over: {error}", place.endpoint);
            lock(&place.warning).get_or_insert(warning);
        }
        Ok(())
    }

    /// Returns the client of the first endpoint to which images may be pushed, usually the registry
    /// itself. If a read found an endpoint unavailable, this endpoint comes after the other
    /// endpoints. Images are pushed and deleted with the returned client.
    ///
    /// # Errors
    /// `FailedPrecondition` if no endpoint may be pushed to; errors of [`Client::at`].
    pub async fn registry(&self) -> Result<Client> {
        match self.order(|endpoint| endpoint.may.push).front() {
            Some(number) => self.client(*number).await,
            None => Err(unable("push")),
        }
    }
}

#[async_trait]
impl Fetcher for Mirrors {
    async fn resolve(&self) -> Result<Descriptor> {
        // A name with a digest needs no capability to resolve tags.
        let may = |endpoint: &Endpoint| match endpoint.reference.digest() {
            Some(_) => endpoint.may.pull,
            None => endpoint.may.resolve,
        };
        let mut left = self.order(may);
        while let Some(number) = left.pop_front() {
            let resolved = match self.client(number).await {
                Ok(client) => client.resolve().await,
                Err(error) => Err(error),
            };
            match resolved {
                Ok(descriptor) => return Ok(descriptor),
                Err(error) => self.pass_over(number, error, left.is_empty())?,
            }
        }
        let mut places = self.places.iter();
        let has_digest = places.any(|place| place.endpoint.reference.digest().is_some());
        Err(unable(if has_digest { "pull" } else { "resolve" }))
    }

    async fn fetch(&self, descriptor: &Descriptor, range: Range<u64>) -> Result<Pieces> {
        let mut reading = Reading {
            mirrors: self.clone(),
            descriptor: descriptor.clone(),
            rest: range,
            left: self.order_for(descriptor),
            from: 0,
        };
        let pieces = reading.open().await?;
        let pieces = stream::unfold(Some((reading, pieces)), |state| async move {
            let (mut reading, mut pieces) = state?;
            let piece = reading.next(&mut pieces).await?;
            let state = piece.is_ok().then_some((reading, pieces));
            Some((piece, state))
        });
        Ok(pieces.boxed())
    }

    fn serves_ranges(&self) -> bool {
        let order = self.order(|endpoint| endpoint.may.pull);
        let client = order
            .front()
            .and_then(|number| self.places[*number].client());
        client.is_none_or(|client| client.serves_ranges())
    }

    fn distrust(&self, descriptor: &Descriptor) -> bool {
        let digest = descriptor.digest;
        let sent = |place: &&Place| lock(&place.sent).remove(&digest);
        let senders: Vec<&Place> = self.places.iter().filter(sent).collect();
        // If several endpoints have sent parts of the content, only the first counts as wrong, and
        // the others are asked for the whole.
        let Some(first) = senders.first() else {
            return false;
        };
        let is_other = |place: &Place| !std::ptr::eq(place, *first) && !place.was_wrong(&digest);
        if !self
            .places
            .iter()
            .any(|place| place.endpoint.may.pull && is_other(place))
        {
            let client = first.client();
            return client.is_some_and(|client| client.distrust(descriptor));
        }
        lock(&first.wrong).insert(digest);
        let warning = format!(
            "{} was passed over: it sent bytes that do not match {digest}",
            first.endpoint
        );
        lock(&first.warning).get_or_insert(warning);
        true
    }
}

impl Place {
    fn client(&self) -> Option<Client> {
        lock(&self.client).clone()
    }

    fn was_wrong(&self, digest: &Digest) -> bool {
        lock(&self.wrong).contains(digest)
    }
}

/// A range of some content that is being read.
struct Reading {
    mirrors: Mirrors,
    descriptor: Descriptor,
    /// What was not read yet.
    rest: Range<u64>,
    /// The places that were not asked yet.
    left: VecDeque<usize>,
    /// The place that is read from.
    from: usize,
}

impl Reading {
    /// Requests the rest from the next place that has it.
    async fn open(&mut self) -> Result<Pieces> {
        while let Some(number) = self.left.pop_front() {
            let opened = match self.mirrors.client(number).await {
                Ok(client) => client.fetch(&self.descriptor, self.rest.clone()).await,
                Err(error) => Err(error),
            };
            match opened {
                Ok(pieces) => {
                    self.from = number;
                    return Ok(pieces);
                }
                Err(error) => self
                    .mirrors
                    .pass_over(number, error, self.left.is_empty())?,
            }
        }
        Err(unable("pull"))
    }

    /// Returns the next piece, or `None` at the end. If the place fails, the piece comes from
    /// another place.
    async fn next(&mut self, pieces: &mut Pieces) -> Option<Result<Bytes>> {
        loop {
            let piece = pieces.next().await;
            if !matches!(piece, Some(Err(_))) {
                let sent = &self.mirrors.places[self.from].sent;
                lock(sent).insert(self.descriptor.digest);
            }
            match piece? {
                Ok(piece) => {
                    self.rest.start += piece.len() as u64;
                    return Some(Ok(piece));
                }
                Err(error) => {
                    let is_last = self.left.is_empty() || self.rest.is_empty();
                    if let Err(error) = self.mirrors.pass_over(self.from, error, is_last) {
                        return Some(Err(error));
                    }
                }
            }
            match self.open().await {
                Ok(opened) => *pieces = opened,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// A mirror may have an image without its referrers. So the referrers are those of the first
/// endpoint that lists any, or, with [`Mirrors::with_all_referrers`], those of all endpoints.
#[async_trait]
impl Referrers for Mirrors {
    async fn referrers(
        &self,
        subject: &Descriptor,
        artifact_type: Option<&str>,
    ) -> Result<ReferrerPages> {
        let mut listing = Listing {
            mirrors: self.clone(),
            subject: subject.clone(),
            wanted: artifact_type.map(str::to_owned),
            left: self.order(|endpoint| endpoint.may.pull),
            from: 0,
        };
        let Some(pages) = listing.open().await? else {
            return Ok(stream::empty().boxed());
        };
        if !self.lists_all {
            return Ok(pages);
        }
        let pages = stream::unfold(Some((listing, pages)), |state| async move {
            let (mut listing, mut pages) = state?;
            let page = listing.next(&mut pages).await.transpose()?;
            let state = page.is_ok().then_some((listing, pages));
            Some((page, state))
        });
        Ok(pages.boxed())
    }
}

/// Lists of referrers that are being read.
struct Listing {
    mirrors: Mirrors,
    subject: Descriptor,
    wanted: Option<String>,
    /// The places that were not asked yet.
    left: VecDeque<usize>,
    /// The place that is read from.
    from: usize,
}

impl Listing {
    /// Returns the pages of the next place that lists any referrer, or `None` if no place does.
    async fn open(&mut self) -> Result<Option<ReferrerPages>> {
        while let Some(number) = self.left.pop_front() {
            let wanted = self.wanted.as_deref();
            let listed = match self.mirrors.client(number).await {
                Ok(client) => begun(client.referrers(&self.subject, wanted).await).await,
                Err(error) => Err(error),
            };
            match listed {
                Ok(Some(pages)) => {
                    self.from = number;
                    return Ok(Some(pages));
                }
                Ok(None) => {}
                Err(error) => self
                    .mirrors
                    .pass_over(number, error, self.left.is_empty())?,
            }
        }
        Ok(None)
    }

    /// Returns the next page, which may come from the next place, or `None` if there is none.
    async fn next(&mut self, pages: &mut ReferrerPages) -> Result<Option<Vec<Descriptor>>> {
        loop {
            match pages.next().await {
                Some(Ok(page)) => return Ok(Some(page)),
                Some(Err(error)) => {
                    let is_last = self.left.is_empty();
                    self.mirrors.pass_over(self.from, error, is_last)?;
                }
                None => {}
            }
            match self.open().await? {
                Some(opened) => *pages = opened,
                None => return Ok(None),
            }
        }
    }
}

/// Leaves out the empty pages at the beginning. Returns the other pages, or `None` if all pages are
/// empty.
async fn begun(pages: Result<ReferrerPages>) -> Result<Option<ReferrerPages>> {
    let mut pages = pages?;
    while let Some(page) = pages.next().await.transpose()? {
        if !page.is_empty() {
            return Ok(Some(stream::once(async { Ok(page) }).chain(pages).boxed()));
        }
    }
    Ok(None)
}

#[async_trait]
impl Pusher for Mirrors {
    async fn exists(&self, descriptor: &Descriptor) -> Result<bool> {
        self.registry().await?.exists(descriptor).await
    }

    async fn push(&self, descriptor: &Descriptor, content: Content) -> Result<()> {
        self.registry().await?.push(descriptor, content).await
    }

    async fn push_document(
        &self,
        descriptor: &Descriptor,
        data: Bytes,
        name: DocumentName,
    ) -> Result<()> {
        let client = self.registry().await?;
        client.push_document(descriptor, data, name).await
    }
}

/// Returns the error for an operation that no endpoint may do.
fn unable(what: &str) -> Error {
    Error::precondition(format!(
        "no host in hosts.toml has the capability {what:?}; add the capability to a host"
    ))
}
