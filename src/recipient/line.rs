//! The line to a recipient's server, and what it is shown.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use ::http::header::{AUTHORIZATION, HeaderName};
use ::http::{HeaderMap, HeaderValue, Method};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::Obstacle;
use super::fill::{Filling, encode};
use super::keep::Kept;
use crate::config::{self, Authorization, Secret, Server, Template};
use crate::outbound::{OutboundError, Reach, Reply, Way};

/// A text that may be a secret.
type Private = Zeroizing<String>;

/// A server of a recipient; its connections stay open for the next message.
#[derive(Debug)]
pub(super) struct Line {
    server: Server,
    way: Mutex<Option<Way>>,
}

impl Line {
    pub(super) fn new(server: &Server) -> Line {
        Line { server: server.clone(), way: Mutex::default() }
    }

    pub(super) async fn send(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Option<Vec<u8>>,
    ) -> Result<Reply, OutboundError> {
        self.way()?.send(method, url, headers, body).await
    }

    /// Prepared at first use, and anew as long as that fails: the authority's file may come later.
    fn way(&self) -> Result<Way, OutboundError> {
        let mut way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(way) = &*way {
            return Ok(way.clone());
        }
        let reach = if self.server.internal { Reach::Internal } else { Reach::Public };
        let new = Way::new(reach, self.server.ca.as_deref(), self.server.timeout)?;
        Ok(way.insert(new).clone())
    }
}

/// What a server is shown with each request: who asks, headers, parameters of the query.
#[derive(Debug)]
pub(super) struct Showing {
    authorization: Option<Shown>,
    headers: Vec<(HeaderName, Value)>,
    query: Vec<(String, Value)>,
}

#[derive(Debug)]
enum Shown {
    Bearer(Kept<Private>),
    Basic { user: Kept<Private>, password: Option<Kept<Private>> },
}

#[derive(Debug)]
enum Value {
    Text(Template),
    Secret(Kept<Private>),
}

/// As they are configured.
type Configured = BTreeMap<String, config::HeaderValue>;

impl Showing {
    pub(super) fn new(
        authorization: Option<&Authorization>,
        headers: &Configured,
        query: &Configured,
    ) -> Showing {
        let kept = |secret: &Secret| Kept::new(secret.clone());
        let authorization = authorization.map(|authorization| match authorization {
            Authorization::Bearer(secret) => Shown::Bearer(kept(secret)),
            Authorization::Basic { user, password } => {
                Shown::Basic { user: kept(user), password: password.as_ref().map(kept) }
            }
        });
        let value = |value: &config::HeaderValue| match value {
            config::HeaderValue::Text(template) => Value::Text(template.clone()),
            config::HeaderValue::Secret(secret) => Value::Secret(kept(secret)),
        };
        // The configuration has refused names that are none.
        let headers = headers.iter().filter_map(|(name, of)| Some((name.parse().ok()?, value(of))));
        let headers = headers.collect();
        let query = query.iter().map(|(name, of)| (name.clone(), value(of))).collect();
        Showing { authorization, headers, query }
    }

    /// The headers of a request.
    pub(super) fn headers(
        &self,
        filling: &Filling<'_>,
        now: Timestamp,
    ) -> Result<HeaderMap, Obstacle> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.insert(name, header(name, &value.get(filling, now)?)?);
        }
        let text = match &self.authorization {
            None => return Ok(headers),
            Some(Shown::Bearer(token)) => Private::new(format!("Bearer {}", &**read(token, now)?)),
            Some(Shown::Basic { user, password }) => {
                let user = read(user, now)?;
                let password = password.as_ref().map(|password| read(password, now)).transpose()?;
                let password = password.as_ref().map_or("", |password| password.as_str());
                let pair = Private::new(format!("{}:{password}", &**user));
                Private::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())))
            }
        };
        headers.insert(AUTHORIZATION, header(&AUTHORIZATION, &text)?);
        Ok(headers)
    }

    /// The URL with the parameters of the query.
    pub(super) fn url(
        &self,
        url: &str,
        filling: &Filling<'_>,
        now: Timestamp,
    ) -> Result<Private, Obstacle> {
        let mut url = Private::new(url.to_owned());
        for (name, value) in &self.query {
            let value = value.get(filling, now)?;
            let sign = if url.contains('?') { '&' } else { '?' };
            // Writing into a text cannot fail.
            let _ = write!(url, "{sign}{}={}", encode(name), encode(&value));
        }
        Ok(url)
    }
}

impl Value {
    fn get(&self, filling: &Filling<'_>, now: Timestamp) -> Result<Private, Obstacle> {
        match self {
            Value::Text(template) => filling.text(template).map(Private::new),
            Value::Secret(kept) => Ok((*read(kept, now)?).clone()),
        }
    }
}

fn read(kept: &Kept<Private>, now: Timestamp) -> Result<std::sync::Arc<Private>, Obstacle> {
    kept.get(now, |text| Ok(Private::new(text.expose_secret().to_owned())))
}

/// A value that is shown nowhere else.
fn header(name: &HeaderName, text: &str) -> Result<HeaderValue, Obstacle> {
    let unfit = |_| Obstacle::Key(format!("the value of `{name}` cannot stand in a header"));
    let mut value = HeaderValue::from_str(text).map_err(unfit)?;
    value.set_sensitive(true);
    Ok(value)
}
