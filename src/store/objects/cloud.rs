//! Google Cloud Storage and Azure Blob Storage, through opendal.
//!
//! opendal shows neither older versions nor what these services keep after a deletion, so neither is looked
//! for here. Each object is deleted by a request of its own, on the condition that it is still the one that
//! was seen: what was overwritten since survives. opendal changes some keys before it sends them (`a//b`
//! becomes `a/b`); those are refused.

use opendal::raw::normalize_path;
#[cfg(feature = "azure")]
use opendal::services::Azblob;
#[cfg(feature = "gcs")]
use opendal::services::Gcs;
use opendal::{Error, ErrorKind, Lister, Metadata, Operator};
use secrecy::ExposeSecret;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;

use std::sync::Arc;
use std::time::Duration;

use crate::types::Name;

use super::error::plain_code;
use super::pace::{ATTEMPTS, Pace, back_off};
use super::{Item, ObjectsError, Outcome, Service, Settings};

/// As many as an answer of S3 lists: what is handed on at once.
const MOST: usize = 1_000;

/// A bucket or a container.
#[derive(Clone)]
pub(super) struct Cloud {
    store: Name,
    operator: Operator,
    timeout: Duration,
    pace: Arc<Pace>,
}

/// A listing on its way.
pub(super) struct CloudListing {
    cloud: Cloud,
    prefix: String,
    after: Option<String>,
    lister: Option<Lister>,
}

impl Cloud {
    pub(super) fn open(
        store: &Name,
        service: Service,
        settings: &Settings,
    ) -> Result<Cloud, ObjectsError> {
        // Ours is the one provider of cryptography; that it was installed before is no failure.
        let _ = rustls::crypto::ring::default_provider().install_default();
        opendal::install_default();
        let operator = match service {
            #[cfg(feature = "gcs")]
            Service::Gcs => gcs(settings),
            #[cfg(feature = "azure")]
            Service::Azure => azure(settings),
            _ => return Err(ObjectsError::NotBuilt { store: store.clone(), service }),
        };
        let unusable = |_| ObjectsError::Settings {
            store: store.clone(),
            reason: "its bucket, endpoint or credentials cannot be used".to_owned(),
        };
        let operator = operator.map_err(unusable)?;
        let (store, timeout) = (store.clone(), settings.timeout);
        Ok(Cloud { store, operator, timeout, pace: Arc::default() })
    }

    pub(super) fn list(&self, prefix: &str, after: Option<&str>) -> CloudListing {
        CloudListing {
            cloud: self.clone(),
            prefix: prefix.to_owned(),
            after: after.map(str::to_owned),
            lister: None,
        }
    }

    /// Deletes these one by one, several at a time: what became of each.
    pub(super) async fn delete(&self, items: &[Item]) -> Result<Vec<Outcome>, ObjectsError> {
        let mut outcomes = vec![Outcome::Unknown; items.len()];
        let mut tasks = JoinSet::new();
        for (index, item) in items.iter().enumerate() {
            let (cloud, item) = (self.clone(), item.clone());
            tasks.spawn(async move { (index, cloud.delete_one(&item).await) });
        }
        while let Some(done) = tasks.join_next().await {
            if let Ok((index, outcome)) = done {
                outcomes[index] = outcome;
            }
        }
        Ok(outcomes)
    }

    async fn delete_one(&self, item: &Item) -> Outcome {
        if normalize_path(&item.key) != item.key {
            let code = "KeyThatCannotBeNamed".to_owned();
            return Outcome::Refused { code, is_denied: false, speaks_of_lock: false };
        }
        let place = self.pace.place().await;
        let delete = self.operator.delete_with(&item.key);
        let delete = match (self.operator.info().scheme(), &item.tag) {
            // The generation of the one that was seen.
            ("gcs", Some(generation)) => delete.if_version_match(generation),
            (_, Some(tag)) => delete.if_match(tag),
            (_, None) => {
                let code = "NothingToKnowItBy".to_owned();
                return Outcome::Refused { code, is_denied: false, speaks_of_lock: false };
            }
        };
        match timeout(self.timeout, delete).await {
            Ok(Ok(())) => {
                self.pace.went_well();
                Outcome::Gone
            }
            // Gone meanwhile, or another one: the next look tells.
            Ok(Err(error)) if error.kind() == ErrorKind::ConditionNotMatch => Outcome::Unknown,
            Ok(Err(error)) if error.kind() == ErrorKind::NotFound => Outcome::Gone,
            Ok(Err(error)) if error.is_temporary() => {
                if error.kind() == ErrorKind::RateLimited {
                    self.pace.turned_away(place);
                }
                Outcome::Unknown
            }
            Ok(Err(error)) => refusal(&error),
            Err(_) => Outcome::Unknown,
        }
    }

    fn explain(&self, doing: &'static str, error: &Error) -> ObjectsError {
        let store = self.store.clone();
        match error.kind() {
            ErrorKind::RateLimited => ObjectsError::Busy { store, doing },
            _ if error.is_temporary() => {
                ObjectsError::Unreachable { store, doing, how: "did not answer as it should" }
            }
            kind => {
                let status = match kind {
                    ErrorKind::PermissionDenied => 403,
                    ErrorKind::NotFound | ErrorKind::ConfigInvalid => 404,
                    _ => 400,
                };
                ObjectsError::Refused { store, doing, status, code: plain_code(kind.into_static()) }
            }
        }
    }
}

impl CloudListing {
    /// The next objects; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Item>>, ObjectsError> {
        const DOING: &str = "listing objects";
        let mut attempt = 0;
        loop {
            attempt += 1;
            let places = self.cloud.pace.clone();
            let place = places.place().await;
            let error = match timeout(self.cloud.timeout, self.some()).await {
                Ok(Ok(items)) => return Ok(Some(items).filter(|items| !items.is_empty())),
                Ok(Err(error)) => self.cloud.explain(DOING, &error),
                Err(_) => ObjectsError::Unreachable {
                    store: self.cloud.store.clone(),
                    doing: DOING,
                    how: "did not answer in time",
                },
            };
            if matches!(error, ObjectsError::Busy { .. }) {
                places.turned_away(place);
            }
            if !error.is_transient() || attempt >= ATTEMPTS {
                return Err(error);
            }
            // A listing that broke begins again behind what it has given out.
            self.lister = None;
            back_off(attempt).await;
        }
    }

    async fn some(&mut self) -> Result<Vec<Item>, Error> {
        if self.lister.is_none() {
            let operator = &self.cloud.operator;
            // opendal would list below another prefix if it found this one untidy.
            let mut prefix = self.prefix.as_str();
            while !prefix.is_empty() && normalize_path(prefix) != prefix {
                let mut shorter = prefix.chars();
                shorter.next_back();
                prefix = shorter.as_str();
            }
            let mut list = operator.lister_with(prefix).recursive(true);
            if let Some(after) = self.after.as_deref().filter(|after| {
                operator.info().capability().list_with_start_after
                    && normalize_path(after) == **after
            }) {
                list = list.start_after(after);
            }
            self.lister = Some(list.await?);
        }
        let mut items = Vec::new();
        while let Some(lister) = &mut self.lister
            && let Some(entry) = lister.next().await
        {
            let (key, metadata) = entry?.into_parts();
            let is_before = self.after.as_ref().is_some_and(|after| key <= *after);
            if key.starts_with(&self.prefix) && !is_before {
                items.push(self.item(key, &metadata));
            }
            if items.len() == MOST {
                break;
            }
        }
        if let Some(last) = items.last() {
            self.after = Some(last.key.clone());
        }
        Ok(items)
    }

    fn item(&self, key: String, metadata: &Metadata) -> Item {
        let is_gcs = self.cloud.operator.info().scheme() == "gcs";
        let tag = if is_gcs { metadata.version() } else { metadata.etag() };
        Item {
            key,
            version: None,
            is_marker: false,
            modified: metadata.last_modified().map(opendal::raw::Timestamp::into_inner),
            tag: tag.map(str::to_owned),
        }
    }
}

#[cfg(feature = "gcs")]
fn gcs(settings: &Settings) -> Result<Operator, Error> {
    use base64::Engine as _;
    let mut service = Gcs::default().bucket(&settings.bucket);
    if let Some(endpoint) = &settings.endpoint {
        service = service.endpoint(endpoint);
    }
    if let Some(credentials) = &settings.credentials {
        // The key of a service account, a JSON text.
        let key = credentials.secret.expose_secret();
        service =
            service.credential(&base64::engine::general_purpose::STANDARD.encode(key.as_bytes()));
    }
    Operator::new(service)
}

#[cfg(feature = "azure")]
fn azure(settings: &Settings) -> Result<Operator, Error> {
    let mut service = Azblob::default().container(&settings.bucket);
    let account = settings.credentials.as_ref().map(|credentials| credentials.id.as_str());
    if let Some(endpoint) = &settings.endpoint {
        service = service.endpoint(endpoint);
    } else if let Some(account) = account {
        service = service.endpoint(&format!("https://{account}.blob.core.windows.net"));
    }
    if let Some(credentials) = &settings.credentials {
        let key = credentials.secret.expose_secret();
        service = service.account_name(&credentials.id).account_key(key);
    }
    Operator::new(service)
}

fn refusal(error: &Error) -> Outcome {
    // The service's own code is in the text, which is not shown.
    let text = error.to_string().to_ascii_lowercase();
    let speaks_of_lock =
        ["retentionpolicynotmet", "retention", "immutable", "legal hold", "objectunderactivehold"]
            .iter()
            .any(|word| text.contains(word));
    let is_denied = speaks_of_lock || error.kind() == ErrorKind::PermissionDenied;
    Outcome::Refused { code: plain_code(error.kind().into_static()), is_denied, speaks_of_lock }
}
