//! The registered stores, each opened when it is first needed.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use secrecy::ExposeSecret;

use crate::config::{Secret, StoreConfig};
use crate::types::Name;

use super::sql::Access;
use super::{Store, StoreError};

/// The stores of a configuration.
#[derive(Debug)]
pub struct Stores {
    configured: BTreeMap<Name, StoreConfig>,
    opened: Mutex<BTreeMap<(Name, bool), Store>>,
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
        let key = (name.clone(), access == Access::ReadWrite);
        // A panic elsewhere leaves the map as it was: each entry is whole.
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = opened.get(&key) {
            return Ok(store.clone());
        }
        let secret: &Secret = match (access, &config.read_only_url) {
            (Access::ReadOnly, Some(url)) => url,
            _ => &config.url,
        };
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
