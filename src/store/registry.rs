//! The registered stores, each opened when it is first needed.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use secrecy::ExposeSecret;

use crate::clock::Stopwatch;
use crate::config::{Secret, StoreConfig, System};
use crate::types::Name;

use super::files::{self, Files, InUse};
use super::objects::{self, Credentials, Objects};
use super::sql::Access;
use super::{Store, StoreError, Tables};

/// Which of a store's doors.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Which {
    Reading,
    Acting,
    Replica,
}

/// The stores of a configuration.
#[derive(Debug)]
pub struct Stores {
    configured: BTreeMap<Name, StoreConfig>,
    opened: Mutex<BTreeMap<(Name, Which), Store>>,
    /// When each was last looked at, and seemed to be the one that it was.
    looks: Mutex<BTreeMap<Name, Stopwatch>>,
}

impl Stores {
    /// Takes the stores of a configuration; none is opened yet.
    pub fn new(configured: BTreeMap<Name, StoreConfig>) -> Stores {
        Stores { configured, opened: Mutex::default(), looks: Mutex::default() }
    }

    /// The configuration of a store.
    ///
    /// # Errors
    /// When there is no such store.
    pub fn configuration(&self, name: &Name) -> Result<&StoreConfig, StoreError> {
        self.configured.get(name).ok_or_else(|| StoreError::NoStore { store: name.clone() })
    }

    /// How long ago a store was last looked at, and seemed to be the one that it was.
    pub fn last_look(&self, name: &Name) -> Option<Duration> {
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.get(name).map(|look| look.elapsed())
    }

    /// Notes that a store was looked at just now, and seems to be the one that it was.
    pub fn note_look(&self, name: &Name) {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.insert(name.clone(), Stopwatch::start());
    }

    /// The stores that are to have a marker.
    pub fn with_markers(&self) -> impl Iterator<Item = &Name> {
        let has_marker =
            |store: &&StoreConfig| store.tables().is_some_and(|tables| tables.marker.is_some());
        self.configured.values().filter(has_marker).map(|store| &store.name)
    }

    /// A store for reading or for acting. For reading, a database's read-only URL is used where it has
    /// one, and the session cannot write in any case.
    ///
    /// # Errors
    /// When its secrets cannot be read or its address cannot be used. Nothing is connected to here.
    pub fn get(&self, name: &Name, access: Access) -> Result<Store, StoreError> {
        let which = match access {
            Access::ReadOnly => Which::Reading,
            Access::ReadWrite => Which::Acting,
        };
        self.open(name, which)
    }

    /// The store's replica, for reading, where one is configured.
    ///
    /// # Errors
    /// As for [`Stores::get`].
    pub fn replica(&self, name: &Name) -> Result<Option<Store>, StoreError> {
        let replica =
            self.configuration(name)?.tables().and_then(|tables| tables.replica_url.as_ref());
        if replica.is_none() {
            return Ok(None);
        }
        self.open(name, Which::Replica).map(Some)
    }

    fn open(&self, name: &Name, which: Which) -> Result<Store, StoreError> {
        let key = (name.clone(), which);
        // A panic elsewhere leaves the map as it was: each entry is whole.
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = opened.get(&key) {
            return Ok(store.clone());
        }
        let access = match which {
            Which::Reading | Which::Replica => Access::ReadOnly,
            Which::Acting => Access::ReadWrite,
        };
        let read = |secret: &Secret| {
            secret.read().map_err(|source| StoreError::Secret { store: name.clone(), source })
        };
        let store = match &self.configuration(name)?.system {
            System::Tables(tables) => {
                let url = match which {
                    Which::Acting => &tables.url,
                    Which::Reading => tables.read_only_url.as_ref().unwrap_or(&tables.url),
                    Which::Replica => tables.replica_url.as_ref().unwrap_or(&tables.url),
                };
                let (url, patience) = (read(url)?, tables.connect_timeout);
                let url = url.expose_secret();
                Store::Tables(Tables::open(name.clone(), tables.dialect, url, access, patience)?)
            }
            System::Files(files) => {
                let settings = files::Settings {
                    root: files.root.clone(),
                    cross_mounts: files.cross_mounts,
                    remove_empty_folders: files.remove_empty_folders,
                    in_use: if files.report_open_files { InUse::Count } else { InUse::Ignore },
                };
                Store::Files(Files::open(name.clone(), settings, access)?)
            }
            System::Objects(config) => {
                let id = config.access_key_id.as_ref().map(read).transpose()?;
                let secret = config.secret_access_key.as_ref().map(read).transpose()?;
                let credentials = secret.map(|secret| Credentials {
                    id: id.map(|id| id.expose_secret().to_owned()).unwrap_or_default(),
                    secret,
                });
                let settings = objects::Settings {
                    service: config.service,
                    bucket: config.bucket.clone(),
                    prefix: config.prefix.clone(),
                    endpoint: config.endpoint.clone(),
                    region: config.region.clone(),
                    bucket_in_host: false,
                    credentials,
                    timeout: config.timeout,
                };
                Store::Objects(Objects::open(name.clone(), settings, access)?)
            }
        };
        opened.insert(key, store.clone());
        Ok(store)
    }

    /// Closes all connections.
    pub async fn close(&self) {
        let opened =
            std::mem::take(&mut *self.opened.lock().unwrap_or_else(PoisonError::into_inner));
        for store in opened.into_values() {
            store.close().await;
        }
    }
}
