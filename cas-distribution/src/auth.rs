//! Who asks: nothing is shown until a registry wants to see it, and then only to that.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cas_core::{Error, ErrorKind, Result};
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use tokio::sync::Mutex;

use crate::challenge::{self, Challenge};
use crate::credentials::{self, Credentials};
use crate::error::REGISTRY;
use crate::http::Http;
use crate::{origin, token};

/// What is shown to one registry.
pub(crate) struct Auth {
    registry: Url,
    shown: Mutex<Shown>,
}

/// The header, and how often it was made anew.
#[derive(Clone, Default)]
pub(crate) struct Shown {
    pub(crate) header: Option<HeaderValue>,
    round: u64,
}

impl Auth {
    /// For the registry at this address; at first nothing.
    pub(crate) fn new(registry: Url) -> Self {
        Auth {
            registry,
            shown: Mutex::default(),
        }
    }

    /// What is shown now.
    pub(crate) async fn current(&self) -> Shown {
        self.shown.lock().await.clone()
    }

    /// Answers the refusal of a request that showed `before`; requests that are refused together
    /// ask for one token.
    ///
    /// # Errors
    /// `Denied` when there is no answer; those of the token service.
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
        let header = self.header(http, challenges, scope).await?;
        let mut header = HeaderValue::try_from(header)
            .map_err(|_| denied("the credentials for it are no text".to_owned()))?;
        header.set_sensitive(true);
        *shown = Shown {
            header: Some(header),
            round: shown.round + 1,
        };
        Ok(())
    }

    async fn header(&self, http: &Http, challenges: Vec<Challenge>, scope: &str) -> Result<String> {
        let bearer = |one: &&Challenge| matches!(one, Challenge::Bearer { .. });
        let chosen = challenges.iter().find(bearer).or(challenges.first());
        match chosen {
            Some(Challenge::Bearer {
                realm,
                service,
                scope: asked,
            }) => {
                let realm: Url = realm
                    .parse()
                    .map_err(|_| denied("it names no address of a token service".to_owned()))?;
                let (service, asked) = (service.as_deref(), asked.as_deref());
                self.bearer(http, realm, service, scope, asked).await
            }
            Some(Challenge::Basic) => match find(&self.registry).await? {
                Some(Credentials::Password { name, password }) => {
                    let pair = BASE64_STANDARD.encode(format!("{name}:{password}"));
                    Ok(format!("Basic {pair}"))
                }
                Some(Credentials::Registry(token)) => Ok(format!("Bearer {token}")),
                Some(Credentials::Identity(_)) | None => Err(denied(
                    "it wants name and password, and docker's config.json has none for it; \
                     `docker login` writes them"
                        .to_owned(),
                )),
            },
            None => Err(denied(
                "it refuses without saying what it wants to see".to_owned(),
            )),
        }
    }

    async fn bearer(
        &self,
        http: &Http,
        realm: Url,
        service: Option<&str>,
        scope: &str,
        asked: Option<&str>,
    ) -> Result<String> {
        origin::check(&self.registry, &realm).map_err(|error| error.backend(REGISTRY))?;
        let trusted = origin::same_site(&self.registry, &realm);
        let owner = if trusted { &self.registry } else { &realm };
        let credentials = find(owner).await?;
        if let (true, Some(Credentials::Registry(token))) = (trusted, &credentials) {
            return Ok(format!("Bearer {token}"));
        }
        let mut scopes = vec![scope];
        scopes.extend(asked.filter(|asked| !asked.is_empty() && *asked != scope));
        let wanted = token::Wanted {
            realm,
            service,
            scopes,
        };
        let token = token::fetch(http, wanted, credentials.as_ref()).await?;
        Ok(format!("Bearer {token}"))
    }
}

/// Looks credentials up, which may read files and start programs.
async fn find(url: &Url) -> Result<Option<Credentials>> {
    let host = url.host_str().unwrap_or_default();
    let host = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    let found = tokio::task::spawn_blocking(move || credentials::find(&host)).await;
    found.map_err(|_| Error::internal("looking credentials up panicked; please report it"))?
}

fn denied(why: String) -> Error {
    Error::new(ErrorKind::Denied, format!("the registry refused: {why}")).backend(REGISTRY)
}
