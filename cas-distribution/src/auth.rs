//! Answers a registry's challenge with a login or a token. Neither is sent before a challenge.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cas_core::{Error, ErrorKind, Result};
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use tokio::sync::{Mutex, OnceCell};

use crate::challenge::{self, Challenge};
use crate::client::Options;
use crate::credentials::Credentials;
use crate::error::{Credit, REGISTRY};
use crate::host::Host;
use crate::http::Http;
use crate::keys::Keys;
use crate::logins::{self, Found};
use crate::{origin, token, trust};

/// The credentials that are sent to one registry.
pub(crate) struct Auth {
    registry: Url,
    /// The registry's host, as references and the configuration name it.
    host: String,
    /// Hosts of token services that the configuration names for the registry.
    token_hosts: Vec<Host>,
    keys: Keys,
    /// The file of logins that the caller names.
    file: Option<PathBuf>,
    /// The login, once a challenge has required it.
    found: OnceCell<Found>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    shown: Shown,
    /// How the token in the header is replaced, if a token service has issued it.
    renewal: Option<Renewal>,
}

/// The `Authorization` header, and whether the registry has accepted it.
#[derive(Clone, Default)]
pub(crate) struct Shown {
    pub(crate) header: Option<HeaderValue>,
    /// The credentials in the header, in words, for messages.
    pub(crate) credit: Credit,
    /// Whether the registry has accepted the header for any request.
    accepted: Arc<AtomicBool>,
    /// How often the header was replaced so far.
    round: u64,
}

impl Shown {
    /// Notes that the registry did not refuse a request with this header.
    pub(crate) fn note_accepted(&self) {
        self.accepted.store(true, Ordering::Relaxed);
    }

    /// Returns whether a refusal of this header may mean that its token has expired: the registry
    /// has accepted the header before, or may just have accepted it for another request that is
    /// under way.
    pub(crate) fn may_have_expired(&self) -> bool {
        // One reference is in the state, and one is in `self`.
        let is_shared = Arc::strong_count(&self.accepted) > 2;
        is_shared || self.accepted.load(Ordering::Relaxed)
    }
}

/// What is sent to a token service for the next token, and when that is due.
struct Renewal {
    realm: Url,
    service: Option<String>,
    scope: String,
    due: Option<Instant>,
}

/// The answer to a challenge.
struct Answer {
    header: String,
    credit: Credit,
    renewal: Option<Renewal>,
}

impl Auth {
    /// Returns the credentials for a repository of the registry at this URL, before any challenge.
    /// `host` is the host of the registry, as references name it. An empty `repository` stands for
    /// the registry as a whole.
    pub(crate) fn new(registry: Url, host: &str, repository: &str, options: &Options) -> Self {
        Auth {
            host: host.to_owned(),
            token_hosts: options.token_hosts.clone(),
            keys: Keys::new(&registry, repository),
            file: options.auth_file.clone(),
            found: OnceCell::new(),
            registry,
            state: Mutex::default(),
        }
    }

    /// Uses this login instead of one that is looked up.
    pub(crate) fn with_login(mut self, login: Credentials) -> Self {
        let login = Some(login);
        self.found = OnceCell::new_with(Some(Found {
            login,
            ..Found::default()
        }));
        self
    }

    /// Returns a warning for each credential helper and each file of logins that was skipped.
    pub(crate) fn warnings(&self) -> &[String] {
        self.found.get().map_or(&[], |found| &found.warnings)
    }

    /// Returns the login for the registry, or `None` if there is none. It is looked up once.
    async fn login(&self) -> Result<Option<Credentials>> {
        let find = || logins::find(&self.keys, self.file.as_deref());
        let found = self.found.get_or_try_init(find).await?;
        Ok(found.login.clone())
    }

    /// Returns the current credentials, even if their token is about to expire.
    pub(crate) async fn current(&self) -> Shown {
        self.state.lock().await.shown.clone()
    }

    /// Returns the credentials to send now. A token that is about to expire is replaced first. If
    /// this fails, the old token is sent.
    pub(crate) async fn ready(&self, http: &Http) -> Shown {
        let mut state = self.state.lock().await;
        let is_due = |renewal: &mut Renewal| renewal.due.is_some_and(|due| due <= Instant::now());
        if let Some(old) = state.renewal.take_if(is_due) {
            let new = self.bearer(http, old.realm, old.service, &old.scope).await;
            if let Ok(answer) = new {
                // If the new token is not valid in a header, the old token is sent. If the registry
                // refuses the old token, the method `answer` reports an error.
                let _ = state.show(answer);
            }
        }
        state.shown.clone()
    }

    /// Answers the refusal of a request that sent `before` and needs `scope`. Requests that are
    /// refused at the same time ask for only one token.
    ///
    /// # Errors
    /// `Denied` if the challenge cannot be answered; errors of the credentials and of the token
    /// service.
    pub(crate) async fn answer(
        &self,
        http: &Http,
        before: &Shown,
        refusal: &HeaderMap,
        scope: &str,
    ) -> Result<()> {
        let mut state = self.state.lock().await;
        if state.shown.round != before.round {
            return Ok(());
        }
        let values = refusal.get_all(WWW_AUTHENTICATE).iter();
        let challenges = challenge::parse(values.filter_map(|value| value.to_str().ok()));
        let answer = self.meet(http, challenges, scope).await?;
        state.show(answer)
    }

    async fn meet(&self, http: &Http, challenges: Vec<Challenge>, scope: &str) -> Result<Answer> {
        let bearer = |one: &&Challenge| matches!(one, Challenge::Bearer { .. });
        let chosen = challenges.iter().find(bearer).or(challenges.first());
        match chosen {
            Some(Challenge::Bearer { realm, service }) => {
                let realm: Url = realm.parse().map_err(|_| {
                    let why = "the URL of its token service is invalid; ask the operator of the \
                               registry to correct the URL";
                    denied(why.to_owned())
                })?;
                self.bearer(http, realm, service.clone(), scope).await
            }
            Some(Challenge::Basic) => self.basic().await,
            None => Err(denied(
                "its answer names neither Basic nor Bearer credentials; check that the host is a \
                 registry"
                    .to_owned(),
            )),
        }
    }

    /// Answers a basic challenge with the login for the registry itself. Returns the answer.
    async fn basic(&self) -> Result<Answer> {
        let login = self.login().await?;
        let credit = Credit {
            login: login.as_ref().map(Credentials::in_words),
            ..Credit::default()
        };
        let header = match login {
            Some(Credentials::Password { name, password }) => {
                let pair = BASE64_STANDARD.encode(format!("{name}:{password}"));
                format!("Basic {pair}")
            }
            Some(Credentials::Registry(token)) => {
                trust::check(&self.registry, &self.registry, &[])
                    .map_err(|reason| denied(reason.explain(&self.host, &self.registry)))?;
                format!("Bearer {token}")
            }
            Some(Credentials::Identity(_)) | None => {
                return Err(denied(
                    "the registry requires a name and a password, and none were found; use `cas \
                     login`"
                        .to_owned(),
                ));
            }
        };
        Ok(Answer {
            header,
            credit,
            renewal: None,
        })
    }

    /// Answers a bearer challenge with a token: one from the login itself, or one from the token
    /// service at `realm`, which gets the login only if [`trust`] allows it. Returns the answer.
    async fn bearer(
        &self,
        http: &Http,
        realm: Url,
        service: Option<String>,
        scope: &str,
    ) -> Result<Answer> {
        origin::check(&self.registry, &realm).map_err(|error| error.backend(REGISTRY))?;
        let login = self.login().await?;
        // A registry token goes to the registry itself.
        let to = match &login {
            Some(Credentials::Registry(_)) => &self.registry,
            _ => &realm,
        };
        let reason = trust::check(&self.registry, to, &self.token_hosts).err();
        let reason = login.as_ref().and(reason);
        let withheld = reason.map(|reason| reason.explain(&self.host, to));
        let login = login.filter(|_| withheld.is_none());
        let mut credit = Credit {
            login: login.as_ref().map(Credentials::in_words),
            withheld,
            accepted: false,
        };
        if let Some(Credentials::Registry(token)) = login {
            let header = format!("Bearer {token}");
            return Ok(Answer {
                header,
                credit,
                renewal: None,
            });
        }
        let wanted = token::Wanted {
            realm: realm.clone(),
            service: service.as_deref(),
            scope,
            login: login.as_ref(),
            credit: &credit,
        };
        let fetch = || async { Ok((Instant::now(), token::fetch(http, &wanted).await?)) };
        let (asked, token) = http.patience().repeat(fetch).await?;
        let header = format!("Bearer {}", token.text);
        credit.accepted = true;
        let renewal = Some(Renewal {
            realm,
            service,
            scope: scope.to_owned(),
            due: asked.checked_add(token.renewal),
        });
        Ok(Answer {
            header,
            credit,
            renewal,
        })
    }
}

impl State {
    /// Replaces the credentials to send.
    ///
    /// # Errors
    /// `Denied` if they are not valid in a header.
    fn show(&mut self, answer: Answer) -> Result<()> {
        let mut header = HeaderValue::try_from(answer.header).map_err(|_| {
            denied(
                "the token for the registry is not valid in a header; check the token service of \
                 the registry, or use `cas login` again"
                    .to_owned(),
            )
        })?;
        header.set_sensitive(true);
        self.renewal = answer.renewal;
        self.shown = Shown {
            header: Some(header),
            credit: answer.credit,
            accepted: Arc::default(),
            round: self.shown.round + 1,
        };
        Ok(())
    }
}

fn denied(why: String) -> Error {
    Error::new(
        ErrorKind::Denied,
        format!("the registry refused the request: {why}"),
    )
    .backend(REGISTRY)
}
