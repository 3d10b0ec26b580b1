//! The registered stores, each opened when it is first needed.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use secrecy::ExposeSecret;

use crate::config::{Secret, StoreConfig};
use crate::types::Name;

use super::sql::Access;
use super::{Store, StoreError};

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
}

impl Stores {
    /// Takes the stores of a configuration; none is opened yet.
    pub fn new(configured: BTreeMap<Name, StoreConfig>) -> Stores {
        Stores { configured, opened: Mutex::default() }
    }

    /// The configuration of a store.
    ///
    /// # Errors
    /// When there is no such store.
    pub fn configuration(&self, name: &Name) -> Result<&StoreConfig, StoreError> {
        self.configured.get(name).ok_or_else(|| StoreError::NoStore { store: name.clone() })
    }

    /// A store for reading or for acting. For reading, its read-only URL is used where it has one,
    /// and the session cannot write in any case.
    ///
    /// # Errors
    /// When its URL cannot be read or used. Nothing is connected to here.
    pub fn get(&self, name: &Name, access: Access) -> Result<Store, StoreError> {
        let config = self.configuration(name)?;
        let (which, secret) = match (access, &config.read_only_url) {
            (Access::ReadOnly, Some(url)) => (Which::Reading, url),
            (Access::ReadOnly, None) => (Which::Reading, &config.url),
            (Access::ReadWrite, _) => (Which::Acting, &config.url),
        };
        self.open(name, which, config, secret, access)
    }

    /// The store's replica, for reading, where one is configured.
    ///
    /// # Errors
    /// As for [`Stores::get`].
    pub fn replica(&self, name: &Name) -> Result<Option<Store>, StoreError> {
        let config = self.configuration(name)?;
        let Some(secret) = &config.replica_url else { return Ok(None) };
        self.open(name, Which::Replica, config, secret, Access::ReadOnly).map(Some)
    }

    fn open(
        &self,
        name: &Name,
        which: Which,
        config: &StoreConfig,
        secret: &Secret,
        access: Access,
    ) -> Result<Store, StoreError> {
        let key = (name.clone(), which);
        // A panic elsewhere leaves the map as it was: each entry is whole.
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = opened.get(&key) {
            return Ok(store.clone());
        }
        let url =
            secret.read().map_err(|source| StoreError::Secret { store: name.clone(), source })?;
        let store = Store::open(
            name.clone(),
            config.kind,
            url.expose_secret(),
            access,
            config.connect_timeout,
        )?;
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
