//! Object stores: S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage.
//!
//! On a bucket with versions each version of an object and each *delete marker* is an entry of its own, due
//! by its own last-modified time. A marker goes after every older version of its key: gone before them, it
//! would bring the object back.
//!
//! What is deleted is looked at once more right before, by listing the keys of each request again, and
//! what a server confirms alone counts as gone. A small window remains: an object that is overwritten
//! between that look and the request is deleted, because S3 cannot in general be told "only if it is still
//! that one". It is as long as one request takes, or two where the server is busy, and on a bucket with versions it does not exist: a
//! version never changes. (GCS and Azure can be told.)
//!
//! ```text
//! error    what can go wrong, without keys
//! pace     how many requests at once, and waiting
//! listing  objects in order, judged; a look at certain keys
//! walk     lists ahead while the caller deletes
//! delete   look again, delete, markers last, what became of each
//! s3       the protocol
//! cloud    GCS and Azure
//! ```

#[cfg(any(feature = "gcs", feature = "azure"))]
mod cloud;
mod delete;
mod error;
mod listing;
mod pace;
#[cfg(feature = "s3")]
mod s3;
mod walk;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;

use crate::clock::Stopwatch;
pub use crate::config::Service;
use crate::path::Template;
use crate::plan::Survey;
use crate::types::Name;

use super::search::{Age, Search, Verdict, count};
use super::sql::Access;
use listing::Reading;

pub use error::ObjectsError;
pub use walk::ObjectWalk;

/// How long what was found out about a bucket's versions is taken for true.
const KNOWN_FOR: Duration = Duration::from_mins(1);

impl Service {
    /// Its name, for people.
    pub fn in_words(self) -> &'static str {
        match self {
            Service::S3 => "S3",
            Service::Gcs => "Google Cloud Storage",
            Service::Azure => "Azure Blob Storage",
        }
    }

    /// The feature that this crate must be built with.
    pub fn feature(self) -> &'static str {
        match self {
            Service::S3 => "s3",
            Service::Gcs => "gcs",
            Service::Azure => "azure",
        }
    }
}

/// Who asks.
#[derive(Clone)]
pub struct Credentials {
    /// S3: the access key's id. Azure: the account's name. GCS: not used.
    pub id: String,
    /// S3: the secret access key. Azure: the account's key. GCS: the key of a service account, in JSON.
    pub secret: SecretString,
}

/// Where a store is.
#[derive(Clone)]
pub struct Settings {
    /// Whose protocol it speaks.
    pub service: Service,
    /// The bucket, or Azure's container.
    pub bucket: String,
    /// The folder within it that is the store's root; nothing outside is ever asked for.
    pub prefix: Option<String>,
    /// The server's URL, where it is not the service's own.
    pub endpoint: Option<String>,
    /// The region; where there is none, the environment's.
    pub region: Option<String>,
    /// Whether a server of one's own wants the bucket's name in front of its host's.
    pub bucket_in_host: bool,
    /// Who asks; where there are none, the environment or the machine has its own.
    pub credentials: Option<Credentials>,
    /// How long one request may take.
    pub timeout: Duration,
}

/// An object store, opened for reading or for acting. Clones share their connections and their pace.
#[derive(Clone)]
pub struct Objects {
    inner: Arc<Inner>,
}

struct Inner {
    store: Name,
    access: Access,
    /// Empty, or with a slash at its end.
    root: String,
    backend: Backend,
    /// Whether there are versions, and when that was found out.
    versioned: Mutex<Option<(bool, Stopwatch)>>,
}

enum Backend {
    #[cfg(feature = "s3")]
    S3(s3::S3),
    #[cfg(any(feature = "gcs", feature = "azure"))]
    Cloud(cloud::Cloud),
}

/// What a listing shows of one object, version or marker.
#[derive(Clone, PartialEq, Eq)]
struct Item {
    /// Its whole key.
    key: String,
    version: Option<String>,
    is_marker: bool,
    modified: Option<Timestamp>,
    /// What changes with its content. GCS and Azure take it for a condition of its deletion.
    tag: Option<String>,
}

/// What a request to delete did.
#[derive(Clone, PartialEq, Eq)]
enum Outcome {
    /// It is gone.
    Gone,
    /// Only a marker was put on top: the bucket has versions by now.
    MarkerMade,
    /// The server said no.
    Refused { code: String, is_denied: bool, speaks_of_lock: bool },
    /// One version of its key was refused, and the answer does not say which.
    Vague,
    /// The answer does not say; another look does.
    Unknown,
}

/// What an object store is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    /// Whether the bucket keeps versions, as far as that can be seen.
    pub versioned: bool,
    /// Whether that can be seen at all. Where not, the service itself may keep what was deleted.
    pub shows_versions: bool,
}

/// One object, version or delete marker that is due.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path below the store's root.
    pub path: Vec<u8>,
    /// Its version, on a bucket that keeps them.
    pub version: Option<String>,
    /// Whether it is a delete marker.
    pub is_marker: bool,
    /// From when its retention counts, where age matters.
    pub start: Option<Timestamp>,
    /// When it was last modified, as far as that is known.
    pub modified: Option<Timestamp>,
    /// What changes with its content, where the store lists that.
    tag: Option<String>,
}

impl Entry {
    /// What tells it from another that has the same key later, as text that lasts; nothing where its version
    /// does, or nothing else is known of it.
    pub fn mark(&self) -> String {
        if is_unique(self.version.as_deref()) {
            return String::new();
        }
        let modified = self.modified.map(|modified| modified.to_string());
        let known: Vec<&str> = modified.iter().chain(&self.tag).map(String::as_str).collect();
        known.join(" ")
    }

    /// Whether it is the one that bears a mark: any of its key, where there is none.
    pub fn bears(&self, mark: &str) -> bool {
        mark.is_empty() || self.mark() == mark
    }
}

/// Whether a version is named by what no other one will ever be named by.
fn is_unique(version: Option<&str>) -> bool {
    version.is_some_and(|version| version != "null")
}

/// Shows no path, which may be personal data.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_marker { "<marker>" } else { "<object>" })
    }
}

/// Earliest starting points.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Starts {
    /// Of all that is meant.
    pub oldest: Option<Timestamp>,
    /// Of what is not due yet.
    pub next: Option<Timestamp>,
}

/// What became of entries that were to go, by their place in the list.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Deleted {
    /// Gone: the server said so, or does not list them any more.
    pub gone: Vec<usize>,
    /// Still there, and why.
    pub kept: Vec<(usize, Left)>,
}

/// Why an entry is still there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Left {
    /// The store itself keeps it: Object Lock, a retention policy, a legal hold of the store's.
    Blocked {
        /// Until when, where that is known and there is an end.
        until: Option<Timestamp>,
    },
    /// The store refused, with this code, or it could not be carried out, in words. Holds no key.
    Refused(String),
    /// It is not what it was, or the search does not mean it any more.
    Changed,
}

/// Shows the store's name only.
impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Objects").field(&self.inner.store).finish()
    }
}

impl Objects {
    /// Prepares a store; nothing is asked yet.
    ///
    /// # Errors
    /// When the settings cannot be used, or this binary was built without the service.
    #[expect(clippy::needless_pass_by_value, reason = "nobody needs the secret afterwards")]
    pub fn open(store: Name, settings: Settings, access: Access) -> Result<Objects, ObjectsError> {
        let invalid = |reason: &str| {
            Err(ObjectsError::Settings { store: store.clone(), reason: reason.to_owned() })
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if settings.bucket.is_empty() || !settings.bucket.chars().all(is_name) {
            return invalid("its bucket is no name: letters, digits, `.`, `-` and `_`");
        }
        let mut root = settings.prefix.clone().unwrap_or_default();
        if root == "."
            || root.split('/').rev().skip(1).any(|name| matches!(name, "" | "." | ".."))
            || root.ends_with("..")
        {
            return invalid("its prefix is no folder of the bucket: write `exports/`");
        }
        if !root.is_empty() && !root.ends_with('/') {
            root.push('/');
        }
        let backend = match settings.service {
            #[cfg(feature = "s3")]
            Service::S3 => Backend::S3(s3::S3::open(&store, &settings)?),
            #[cfg(any(feature = "gcs", feature = "azure"))]
            service => Backend::Cloud(cloud::Cloud::open(&store, service, &settings)?),
            #[cfg(not(any(feature = "gcs", feature = "azure")))]
            service => return Err(ObjectsError::NotBuilt { store, service }),
        };
        let inner = Inner { store, access, root, backend, versioned: Mutex::default() };
        Ok(Objects { inner: Arc::new(inner) })
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &Name {
        &self.inner.store
    }

    /// Looks at what the store is, and whether it can be listed.
    ///
    /// # Errors
    /// When it cannot be reached, or may not be listed.
    pub async fn probe(&self) -> Result<Probe, ObjectsError> {
        *self.inner.versioned.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let versioned = self.is_versioned().await?;
        let mut listing = self.list(&self.inner.root, None, versioned, 1);
        listing.next().await?;
        let shows_versions = match self.inner.backend {
            #[cfg(feature = "s3")]
            Backend::S3(_) => true,
            #[cfg(any(feature = "gcs", feature = "azure"))]
            Backend::Cloud(_) => false,
        };
        Ok(Probe { versioned, shows_versions })
    }

    /// Counts what is due and what stays, and why. Needs no more memory for more objects.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn survey(&self, search: &Arc<Search>) -> Result<Survey, ObjectsError> {
        let mut survey = Survey::default();
        let mut reading = Reading::new(self, search, None).await?;
        while let Some(judged) = reading.next().await? {
            for (_, verdict) in judged {
                count(&mut survey, verdict);
            }
        }
        Ok(survey)
    }

    /// Some that are due, the oldest first.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn sample(
        &self,
        search: &Arc<Search>,
        limit: usize,
    ) -> Result<Vec<Entry>, ObjectsError> {
        // The youngest of those that are kept so far is on top. What has no starting point comes last.
        let mut oldest = BinaryHeap::with_capacity(limit + 1);
        let mut reading = Reading::new(self, search, None).await?;
        while let Some(judged) = reading.next().await? {
            for (item, verdict) in judged {
                let Verdict::Due(start) = verdict else { continue };
                let entry = self.entry(item, start);
                let order = (start.is_none(), start, entry.path.clone(), entry.version.clone());
                oldest.push((order, entry.is_marker, entry.modified, entry.tag));
                if oldest.len() > limit {
                    oldest.pop();
                }
            }
        }
        let entry = |((_, start, path, version), is_marker, modified, tag)| Entry {
            path,
            version,
            is_marker,
            start,
            modified,
            tag,
        };
        Ok(oldest.into_sorted_vec().into_iter().map(entry).collect())
    }

    /// The earliest starting points: of all that is meant, legal holds or not, and of what is not due.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn starts(&self, search: &Arc<Search>) -> Result<Starts, ObjectsError> {
        let mut free = Search::clone(search);
        free.kept = Vec::new();
        let mut starts = Starts::default();
        let earlier =
            |known: Option<Timestamp>, start| Some(known.map_or(start, |known| known.min(start)));
        let mut reading = Reading::new(self, &Arc::new(free), None).await?;
        while let Some(judged) = reading.next().await? {
            for (_, verdict) in judged {
                match verdict {
                    Verdict::Due(Some(start)) => starts.oldest = earlier(starts.oldest, start),
                    Verdict::Young(start) => {
                        starts.oldest = earlier(starts.oldest, start);
                        starts.next = earlier(starts.next, start);
                    }
                    Verdict::Due(None) | Verdict::Other | Verdict::Kept(_) => {}
                }
            }
        }
        Ok(starts)
    }

    /// Hands over what is due, in the order of the bytes of its path: behind `after`, up to and with
    /// `upto`. The versions of a path come before its markers.
    ///
    /// # Errors
    /// When the store cannot be listed, or does not list in order.
    pub async fn in_order(
        &self,
        search: &Arc<Search>,
        after: Option<&[u8]>,
        upto: Option<&[u8]>,
        each: &mut (dyn FnMut(Entry) + Send),
    ) -> Result<(), ObjectsError> {
        let mut reading = Reading::new(self, search, after).await?;
        while let Some(judged) = reading.next().await? {
            for (item, verdict) in judged {
                if upto.is_some_and(|upto| self.path(&item) > upto) {
                    return Ok(());
                }
                if let Verdict::Due(start) = verdict {
                    each(self.entry(item, start));
                }
            }
        }
        Ok(())
    }

    /// Walks through what is due, in order; the next objects are listed while the caller deletes.
    pub fn walk(&self, search: Arc<Search>) -> ObjectWalk {
        ObjectWalk::new(self.clone(), search)
    }

    /// Finds what filled-in templates name, whatever its age: on a bucket with versions all of them, and
    /// the markers last. A template that is one key costs no listing of the bucket.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn find(&self, search: &Arc<Search>) -> Result<Vec<Entry>, ObjectsError> {
        let (single, wide): (Vec<&Template>, Vec<&Template>) =
            search.templates.iter().partition(|template| template.one_path().is_some());
        let mut any = Search::clone(search);
        (any.age, any.kept) = (Age::Any, Vec::new());
        let mut found = Vec::new();
        let versions = self.is_versioned().await?;
        let keys = single.iter().filter_map(|template| self.key(template.one_path()?)).collect();
        for mut items in self.look_at(keys, versions).await?.into_values() {
            // Markers after what they hide.
            items.sort_by_key(|item| item.is_marker);
            found.extend(items.into_iter().map(|item| self.found(item, search)));
        }
        if !wide.is_empty() {
            any.templates = wide.into_iter().cloned().collect();
            let mut reading = Reading::new(self, &Arc::new(any), None).await?;
            while let Some(judged) = reading.next().await? {
                let meant = judged.into_iter().filter(|(_, verdict)| *verdict != Verdict::Other);
                found.extend(meant.map(|(item, _)| self.found(item, search)));
            }
            // The same path may be named twice.
            found.sort_by(|a: &Entry, b| order(a).cmp(&order(b)));
            found.dedup();
        }
        Ok(found)
    }

    /// What is there now of each of these: a version or marker by its name, and where none is named, all
    /// that has the path.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn look(
        &self,
        which: &[(Vec<u8>, Option<String>)],
    ) -> Result<Vec<Vec<Entry>>, ObjectsError> {
        let versions =
            self.is_versioned().await? || which.iter().any(|(_, version)| version.is_some());
        let keys = which.iter().filter_map(|(path, _)| self.key(path)).collect();
        let seen = self.look_at(keys, versions).await?;
        let there = |(path, version): &(Vec<u8>, Option<String>)| {
            let items = self.key(path).and_then(|key| seen.get(&key)).into_iter().flatten();
            let meant = items.filter(|item| version.is_none() || item.version == *version);
            meant.map(|item| self.entry(item.clone(), None)).collect()
        };
        Ok(which.iter().map(there).collect())
    }

    /// Whether the bucket has versions: asked for, and remembered for a minute.
    async fn is_versioned(&self) -> Result<bool, ObjectsError> {
        let known = *self.inner.versioned.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((versioned, _)) = known.filter(|(_, since)| since.elapsed() < KNOWN_FOR) {
            return Ok(versioned);
        }
        let since = Stopwatch::start();
        let versioned = match self.inner.backend {
            #[cfg(feature = "s3")]
            Backend::S3(ref s3) => s3.is_versioned().await?,
            #[cfg(any(feature = "gcs", feature = "azure"))]
            Backend::Cloud(_) => false,
        };
        *self.inner.versioned.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((versioned, since));
        Ok(versioned)
    }

    /// The key of a path; none where it could be no key.
    fn key(&self, path: &[u8]) -> Option<String> {
        let path = std::str::from_utf8(path).ok().filter(|path| !path.is_empty())?;
        Some(format!("{}{path}", self.inner.root))
    }

    fn path<'a>(&self, item: &'a Item) -> &'a [u8] {
        // What is listed begins with the root.
        item.key.as_bytes().get(self.inner.root.len()..).unwrap_or_default()
    }

    fn entry(&self, item: Item, start: Option<Timestamp>) -> Entry {
        let path = self.path(&item).to_vec();
        let Item { version, is_marker, modified, tag, .. } = item;
        Entry { path, version, is_marker, start, modified, tag }
    }

    fn found(&self, item: Item, search: &Search) -> Entry {
        let start = match search.judge(self.path(&item), item.modified) {
            Verdict::Due(start) => start,
            Verdict::Young(start) => Some(start),
            Verdict::Other | Verdict::Kept(_) => None,
        };
        self.entry(item, start)
    }
}

fn order(entry: &Entry) -> (&[u8], bool, Reverse<&Option<String>>) {
    (&entry.path, entry.is_marker, Reverse(&entry.version))
}
