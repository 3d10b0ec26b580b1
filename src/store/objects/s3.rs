//! S3, and whatever speaks its protocol: four kinds of requests, signed and sent, each answer read whole.
//!
//! opendal, through which the other services go, is not used here. It changes keys before it sends them
//! (`a//b` becomes `a/b`, and ` a` becomes `a`), so that a deletion could take another object than the one
//! that was judged; it takes silence about a key for its deletion; and it does not tell which of a
//! thousand keys was refused. Only the signature, and where credentials come from, is reqsign's.

mod sign;
mod xml;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderMap, Method, StatusCode};
use jiff::Timestamp;
use md5::{Digest, Md5};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Client;
use sha2::Sha256;

use crate::types::Name;

use super::error::plain_code;
use super::pace::{ATTEMPTS, Pace, back_off};
use super::{Item, ObjectsError, Outcome, Settings};
use sign::Signed;
use xml::Element;

/// As many keys as one request may name, and one answer may list.
pub(super) const MOST: usize = 1_000;
/// No answer is longer: a thousand keys of a kilobyte each, with all that stands around them.
const LONGEST_ANSWER: usize = 16 << 20;
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const PATH: &AsciiSet = &VALUE.remove(b'/');

/// A bucket.
pub(super) struct S3 {
    store: Name,
    client: Client,
    /// Its URL, without a slash at the end.
    base: String,
    signed: Signed,
    pace: Pace,
}

/// What is listed.
#[derive(Clone, Debug)]
pub(super) struct Range {
    /// What its keys begin with.
    pub(super) prefix: String,
    /// Versions and delete markers, or what is there now.
    pub(super) versions: bool,
    /// How many at once.
    pub(super) most: usize,
}

/// Where a listing goes on.
#[derive(Clone, Debug)]
pub(super) enum Cursor {
    /// After this key.
    After(Option<String>),
    /// Where the server says.
    Token(String),
    /// After this version of a key.
    Version(String, String),
}

/// Object Lock, as it stands on one version.
pub(super) struct Lock {
    /// Until when it lasts; none where a legal hold of the store's own has no end.
    pub(super) until: Option<Timestamp>,
}

/// One answer's worth of a listing.
pub(super) struct Page {
    pub(super) items: Vec<Item>,
    /// Where it goes on.
    pub(super) next: Option<Cursor>,
    /// Whether the server failed at it before.
    pub(super) had_failed: bool,
}

struct Answer {
    headers: HeaderMap,
    body: Vec<u8>,
    /// Whether the server failed at the same request before.
    had_failed: bool,
}

impl S3 {
    pub(super) fn open(store: &Name, settings: &Settings) -> Result<S3, ObjectsError> {
        let invalid = |reason: &str| ObjectsError::Settings {
            store: store.clone(),
            reason: reason.to_owned(),
        };
        let region = settings.region.clone().or_else(sign::region_of_environment);
        let bucket = &settings.bucket;
        let base = match (&settings.endpoint, &region) {
            (Some(endpoint), _) => {
                let endpoint = endpoint.trim_end_matches('/');
                match endpoint.split_once("://") {
                    Some((scheme @ ("http" | "https"), host)) if !host.is_empty() => {
                        if settings.bucket_in_host {
                            format!("{scheme}://{bucket}.{host}")
                        } else {
                            format!("{endpoint}/{bucket}")
                        }
                    }
                    _ => {
                        return Err(invalid(
                            "its endpoint is no URL: write `https://s3.example.org`",
                        ));
                    }
                }
            }
            (None, None) => {
                return Err(invalid("name its region, such as `region = \"eu-central-1\"`"));
            }
            // A certificate of AWS is good for one name below it.
            (None, Some(region)) if bucket.contains('.') => {
                format!("https://s3.{region}.amazonaws.com/{bucket}")
            }
            (None, Some(region)) => format!("https://{bucket}.s3.{region}.amazonaws.com"),
        };
        // Ours is the one provider of cryptography; that it was installed before is no failure.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(settings.timeout.min(CONNECT_WITHIN))
            .timeout(settings.timeout)
            .user_agent(concat!("expunged/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|_| invalid("the HTTP client cannot be set up"))?;
        let region = region.as_deref().unwrap_or("us-east-1");
        let signed = Signed::new(client.clone(), settings.credentials.as_ref(), region);
        Ok(S3 { store: store.clone(), client, base, signed, pace: Pace::default() })
    }

    /// Whether the bucket keeps versions, or has kept them before.
    pub(super) async fn is_versioned(&self) -> Result<bool, ObjectsError> {
        const DOING: &str = "asking for versions";
        match self.reading(DOING, Method::GET, None, &[("versioning", "")]).await {
            Ok(answer) => {
                if let Some(answer) = xml::parse(&answer.body)
                    && answer.name.contains("Versioning")
                {
                    // Of a bucket that never kept any, it says nothing, or some other word.
                    return Ok(matches!(answer.get("Status"), Some("Enabled" | "Suspended")));
                }
            }
            Err(ObjectsError::Refused { status: 403 | 405 | 501 | 400, code, .. })
                if code != "InvalidAccessKeyId" && code != "SignatureDoesNotMatch" => {}
            Err(error) => return Err(error),
        }
        // Whoever may not ask that, or whom nobody taught to answer, may still list them.
        let query = [("versions", ""), ("max-keys", "1")];
        match self.reading(DOING, Method::GET, None, &query).await {
            Ok(answer) => {
                Ok(xml::parse(&answer.body)
                    .is_some_and(|answer| answer.name == "ListVersionsResult"))
            }
            Err(ObjectsError::Refused { status: 400 | 405 | 501, code, .. })
                if code != "InvalidAccessKeyId" =>
            {
                Ok(false)
            }
            Err(ObjectsError::Refused { code, .. }) if code == "AccessDenied" => {
                Err(ObjectsError::VersionsHidden { store: self.store.clone() })
            }
            Err(error) => Err(error),
        }
    }

    /// One answer's worth of a listing.
    pub(super) async fn page(&self, range: &Range, cursor: &Cursor) -> Result<Page, ObjectsError> {
        const DOING: &str = "listing objects";
        let most = range.most.clamp(1, MOST).to_string();
        let mut query: Vec<(&str, &str)> = vec![("max-keys", &most), ("prefix", &range.prefix)];
        let (start, root) = if range.versions {
            query.push(("versions", ""));
            ("key-marker", "ListVersionsResult")
        } else {
            query.push(("list-type", "2"));
            ("start-after", "ListBucketResult")
        };
        match cursor {
            Cursor::After(None) => {}
            Cursor::After(Some(key)) => query.push((start, key)),
            Cursor::Token(token) => query.push(("continuation-token", token)),
            Cursor::Version(key, version) => {
                query.push(("key-marker", key));
                query.push(("version-id-marker", version));
            }
        }
        let answer = self.reading(DOING, Method::GET, None, &query).await?;
        let list = xml::parse(&answer.body).filter(|list| list.name == root);
        let (items, next) = list
            .and_then(|list| read_page(&list))
            .ok_or_else(|| ObjectsError::Answer { store: self.store.clone(), doing: DOING })?;
        Ok(Page { items, next, had_failed: answer.had_failed })
    }

    /// Deletes these, at most [`MOST`], by one request: what became of each. It is not tried again here,
    /// because by then an object may be another one.
    ///
    /// # Errors
    /// When nothing is known of any of them.
    pub(super) async fn delete(&self, items: &[Item]) -> Result<Vec<Outcome>, ObjectsError> {
        let mut outcomes = vec![Outcome::Unknown; items.len()];
        let (together, alone): (Vec<usize>, Vec<usize>) =
            (0..items.len()).partition(|index| xml::can_hold(&items[*index].key));
        if !together.is_empty() {
            self.delete_together(items, &together, &mut outcomes).await?;
        }
        // What the answer left open, too: by name it has no choice but to say.
        let vague = |index: &usize| outcomes[*index] == Outcome::Vague;
        let alone: Vec<usize> =
            alone.into_iter().chain(together.into_iter().filter(vague)).collect();
        for index in alone {
            outcomes[index] = self.delete_alone(&items[index]).await?;
        }
        Ok(outcomes)
    }

    async fn delete_together(
        &self,
        items: &[Item],
        which: &[usize],
        outcomes: &mut [Outcome],
    ) -> Result<(), ObjectsError> {
        const DOING: &str = "deleting objects";
        let named = |index: &usize| (items[*index].key.as_str(), items[*index].version.as_deref());
        let body = xml::delete_request(which.iter().map(named));
        let answer = self.once(DOING, Method::POST, None, &[("delete", "")], Some(body)).await?;
        let result = xml::parse(&answer.body).filter(|answer| answer.name == "DeleteResult");
        let result = result
            .ok_or_else(|| ObjectsError::Answer { store: self.store.clone(), doing: DOING })?;
        let mut places = std::collections::HashMap::with_capacity(which.len());
        for index in which {
            places.insert(named(index), *index);
        }
        for told in &result.inner {
            let Some(key) = told.get("Key") else { continue };
            let version = told.get("VersionId").filter(|version| !version.is_empty());
            let Some(index) = places.get(&(key, version)) else {
                // It refuses one version of the key, or more, and does not say which.
                let of_key = which.iter().filter(|index| items[**index].key == key);
                for index in of_key.filter(|_| told.name == "Error") {
                    outcomes[*index] = Outcome::Vague;
                }
                continue;
            };
            outcomes[*index] = match told.name.as_str() {
                "Deleted" if told.get("DeleteMarker") == Some("true") && version.is_none() => {
                    Outcome::MarkerMade
                }
                "Deleted" => Outcome::Gone,
                "Error" => refusal(
                    told.get("Code").unwrap_or_default(),
                    told.get("Message").unwrap_or_default(),
                    None,
                ),
                _ => continue,
            };
        }
        Ok(())
    }

    /// For a key that no XML can hold.
    async fn delete_alone(&self, item: &Item) -> Result<Outcome, ObjectsError> {
        const DOING: &str = "deleting an object";
        let query: Vec<(&str, &str)> =
            item.version.iter().map(|version| ("versionId", version.as_str())).collect();
        match self.once(DOING, Method::DELETE, Some(&item.key), &query, None).await {
            Ok(answer) => {
                let makes_marker = answer.headers.get("x-amz-delete-marker");
                let is_made = makes_marker.is_some_and(|value| value.as_bytes() == b"true");
                let made = is_made && item.version.is_none();
                Ok(if made { Outcome::MarkerMade } else { Outcome::Gone })
            }
            Err(ObjectsError::Refused { status: 404, code, .. })
                if ["NoSuchKey", "NoSuchVersion"].contains(&code.as_str()) =>
            {
                Ok(Outcome::Gone)
            }
            Err(error) if error.is_transient() => Ok(Outcome::Unknown),
            Err(ObjectsError::Refused { status, code, .. }) => Ok(refusal(&code, "", Some(status))),
            Err(error) => Err(error),
        }
    }

    /// What locks a version; none where nothing does, or where that may not be asked.
    pub(super) async fn lock(&self, item: &Item, now: Timestamp) -> Option<Lock> {
        let version = item.version.as_deref()?;
        let query = [("versionId", version)];
        let answer =
            self.reading("asking for a lock", Method::HEAD, Some(&item.key), &query).await.ok()?;
        let header = |name: &str| answer.headers.get(name)?.to_str().ok();
        if header("x-amz-object-lock-legal-hold").is_some_and(|is| is.eq_ignore_ascii_case("ON")) {
            return Some(Lock { until: None });
        }
        let until: Timestamp = header("x-amz-object-lock-retain-until-date")?.parse().ok()?;
        (until > now).then_some(Lock { until: Some(until) })
    }

    /// A request that changes nothing, tried again where that may help.
    async fn reading(
        &self,
        doing: &'static str,
        method: Method,
        key: Option<&str>,
        query: &[(&str, &str)],
    ) -> Result<Answer, ObjectsError> {
        let (mut attempt, mut had_failed) = (0, false);
        loop {
            let answer = self.once(doing, method.clone(), key, query, None).await;
            attempt += 1;
            match answer {
                Err(error) if error.is_transient() && attempt < ATTEMPTS => {
                    had_failed |= matches!(error, ObjectsError::Refused { .. });
                    back_off(attempt).await;
                }
                answer => return answer.map(|answer| Answer { had_failed, ..answer }),
            }
        }
    }

    async fn once(
        &self,
        doing: &'static str,
        method: Method,
        key: Option<&str>,
        query: &[(&str, &str)],
        body: Option<String>,
    ) -> Result<Answer, ObjectsError> {
        let unreachable = |how| ObjectsError::Unreachable { store: self.store.clone(), doing, how };
        let place = self.pace.place().await;
        let request = self.request(doing, method, key, query, body).await?;
        let answer = self.client.execute(request).await;
        let mut answer = answer.map_err(|error| unreachable(describe(&error)))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut body = Vec::new();
        while let Some(part) =
            answer.chunk().await.map_err(|error| unreachable(describe(&error)))?
        {
            if body.len() + part.len() > LONGEST_ANSWER {
                return Err(ObjectsError::Answer { store: self.store.clone(), doing });
            }
            body.extend_from_slice(&part);
        }
        if status.is_success() {
            self.pace.went_well();
            return Ok(Answer { headers, body, had_failed: false });
        }
        let told = xml::parse(&body);
        let code = told.as_ref().and_then(|told| told.get("Code")).unwrap_or_default();
        if is_throttling(status, code) {
            self.pace.turned_away(place);
            return Err(ObjectsError::Busy { store: self.store.clone(), doing });
        }
        let (store, status, code) = (self.store.clone(), status.as_u16(), plain_code(code));
        Err(ObjectsError::Refused { store, doing, status, code })
    }

    async fn request(
        &self,
        doing: &'static str,
        method: Method,
        key: Option<&str>,
        query: &[(&str, &str)],
        body: Option<String>,
    ) -> Result<reqwest::Request, ObjectsError> {
        let unnamed = || ObjectsError::Refused {
            store: self.store.clone(),
            doing,
            status: 400,
            code: "KeyThatNoUrlCanName".to_owned(),
        };
        let mut url = format!("{}/", self.base);
        url.extend(key.iter().flat_map(|key| utf8_percent_encode(key, PATH)));
        for (index, (name, value)) in query.iter().enumerate() {
            url.push(if index == 0 { '?' } else { '&' });
            url.push_str(name);
            url.push('=');
            url.extend(utf8_percent_encode(value, VALUE));
        }
        let body = body.unwrap_or_default();
        let mut request = http::Request::builder()
            .method(method)
            .uri(&url)
            .header("x-amz-content-sha256", hex::encode(Sha256::digest(body.as_bytes())));
        if !body.is_empty() {
            let sum = BASE64.encode(Md5::digest(body.as_bytes()));
            request = request.header("content-type", "application/xml").header("content-md5", sum);
        }
        let (mut head, ()) = request.body(()).map_err(|_| unnamed())?.into_parts();
        if !self.signed.sign(&mut head).await {
            return Err(ObjectsError::Credentials { store: self.store.clone() });
        }
        let signed = http::Request::from_parts(head, body);
        let path = signed.uri().path().to_owned();
        let request = reqwest::Request::try_from(signed).map_err(|_| unnamed())?;
        // What the URL would mean must be what was signed: `a/../b` is a key, and would be read as a way.
        if request.url().path() == path { Ok(request) } else { Err(unnamed()) }
    }
}

fn read_page(list: &Element) -> Option<(Vec<Item>, Option<Cursor>)> {
    let mut items = Vec::with_capacity(list.inner.len());
    for told in &list.inner {
        let (is_marker, has_version) = match told.name.as_str() {
            "Contents" => (false, false),
            "Version" => (false, true),
            "DeleteMarker" => (true, true),
            _ => continue,
        };
        let version = told.get("VersionId").filter(|version| !version.is_empty());
        items.push(Item {
            key: told.get("Key")?.to_owned(),
            version: if has_version { Some(version?.to_owned()) } else { None },
            is_marker,
            modified: told.get("LastModified").and_then(|moment| moment.parse().ok()),
            tag: told.get("ETag").map(str::to_owned),
        });
    }
    // Some list the versions of an answer first and then its markers.
    items.sort_by(|a, b| a.key.cmp(&b.key));
    if list.get("IsTruncated") != Some("true") {
        return Some((items, None));
    }
    let next = match list.get("NextContinuationToken") {
        Some(token) => Cursor::Token(token.to_owned()),
        None => match (list.get("NextKeyMarker")?, list.get("NextVersionIdMarker")) {
            (key, Some(version)) if !version.is_empty() => {
                Cursor::Version(key.to_owned(), version.to_owned())
            }
            (key, _) => Cursor::After(Some(key.to_owned())),
        },
    };
    Some((items, Some(next)))
}

fn refusal(code: &str, message: &str, status: Option<u16>) -> Outcome {
    match code {
        "NoSuchKey" | "NoSuchVersion" => Outcome::Gone,
        "SlowDown" | "ServiceUnavailable" | "InternalError" | "RequestTimeout" | "Throttling"
        | "OperationAborted" => Outcome::Unknown,
        _ => {
            let message = message.to_ascii_lowercase();
            let speaks_of_lock =
                ["lock", "worm", "retention", "hold"].iter().any(|word| message.contains(word));
            let is_denied = code == "AccessDenied" || status == Some(403) || speaks_of_lock;
            Outcome::Refused { code: plain_code(code), is_denied, speaks_of_lock }
        }
    }
}

fn is_throttling(status: StatusCode, code: &str) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::SERVICE_UNAVAILABLE
        || ["SlowDown", "Throttling", "RequestLimitExceeded"].contains(&code)
}

/// A failure in words; the error's own text would show the URL, and with it the key.
fn describe(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        "did not answer in time"
    } else if error.is_connect() {
        "cannot be connected to"
    } else {
        "broke the connection off"
    }
}
