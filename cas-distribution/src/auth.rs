//! Answers a registry's challenge with a login or a token. Neither is sent before a challenge.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cas_core::image::FullName;
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
    /// The login, once a challenge has asked for it.
    found: OnceCell<Found>,
    shown: Mutex<Shown>,
}

/// The `Authorization` header, and how it came about.
#[derive(Clone, Default)]
pub(crate) struct Shown {
    pub(crate) header: Option<HeaderValue>,
    /// What was shown, in words, for messages.
    pub(crate) credit: Credit,
    /// Number of challenges that were answered so far.
    round: u64,
}

/// The answer to a challenge.
struct Answer {
    header: String,
    credit: Credit,
}

impl Auth {
    /// Returns the state for the registry at this URL, before any challenge. `name` is in one of its
    /// repositories.
    pub(crate) fn new(registry: Url, name: &FullName, options: Options) -> Self {
        Auth {
            host: name.host().to_owned(),
            token_hosts: options.token_hosts,
            keys: Keys::new(&registry, name.repository()),
            found: OnceCell::new(),
            registry,
            shown: Mutex::default(),
        }
    }

    /// Returns a warning for each credential helper that was skipped.
    pub(crate) fn warnings(&self) -> &[String] {
        self.found.get().map_or(&[], |found| &found.warnings)
    }

    /// Returns the login for the registry, or `None` if there is none. It is looked up once.
    async fn login(&self) -> Result<Option<Credentials>> {
        let find = || logins::find(&self.keys, None);
        let found = self.found.get_or_try_init(find).await?;
        Ok(found.login.clone())
    }

    /// Returns the credentials to send now.
    pub(crate) async fn current(&self) -> Shown {
        self.shown.lock().await.clone()
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
        let mut shown = self.shown.lock().await;
        if shown.round != before.round {
            return Ok(());
        }
        let values = refusal.get_all(WWW_AUTHENTICATE).iter();
        let challenges = challenge::parse(values.filter_map(|value| value.to_str().ok()));
        let answer = self.meet(http, challenges, scope).await?;
        let mut header = HeaderValue::try_from(answer.header).map_err(|_| {
            denied(
                "the token for it is not valid in a header; check its token service, or use \
                 `docker login` again"
                    .to_owned(),
            )
        })?;
        header.set_sensitive(true);
        *shown = Shown {
            header: Some(header),
            credit: answer.credit,
            round: shown.round + 1,
        };
        Ok(())
    }

    async fn meet(&self, http: &Http, challenges: Vec<Challenge>, scope: &str) -> Result<Answer> {
        let bearer = |one: &&Challenge| matches!(one, Challenge::Bearer { .. });
        let chosen = challenges.iter().find(bearer).or(challenges.first());
        match chosen {
            Some(Challenge::Bearer { realm, service }) => {
                let realm: Url = realm.parse().map_err(|_| {
                    let why =
                        "the URL of its token service is invalid; its operator must change this";
                    denied(why.to_owned())
                })?;
                self.bearer(http, realm, service.as_deref(), scope).await
            }
            Some(Challenge::Basic) => self.basic().await,
            None => Err(denied(
                "its answer does not name a known way to authenticate; check that it is a registry"
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
                    "it requires a name and a password, and Docker's config.json has none for it; \
                     use `docker login`"
                        .to_owned(),
                ));
            }
        };
        Ok(Answer { header, credit })
    }

    /// Answers a bearer challenge with a token: one from the login itself, or one from the token
    /// service at `realm`, which gets the login only if [`trust`] allows it. Returns the answer.
    async fn bearer(
        &self,
        http: &Http,
        realm: Url,
        service: Option<&str>,
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
            return Ok(Answer { header, credit });
        }
        let wanted = token::Wanted {
            realm,
            service,
            scope,
            login: login.as_ref(),
            credit: &credit,
        };
        let token = token::fetch(http, wanted).await?;
        let header = format!("Bearer {token}");
        credit.accepted = true;
        Ok(Answer { header, credit })
    }
}

fn denied(why: String) -> Error {
    Error::new(ErrorKind::Denied, format!("the registry refused: {why}")).backend(REGISTRY)
}
