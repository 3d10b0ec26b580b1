//! A table of a registered store: the rows of those who are told of are removed.

use std::sync::Arc;

use tokio::time::timeout;

use super::Ailment;
use crate::config::SqlRecipient;
use crate::hold::Holds;
use crate::notice::{Answer, Message};
use crate::store::sql::Access;
use crate::store::{Removed, Store, StoreError, Stores};

/// A recipient's table.
#[derive(Debug)]
pub(super) struct Sql {
    config: SqlRecipient,
    stores: Arc<Stores>,
}

impl Sql {
    pub(super) fn new(config: &SqlRecipient, stores: &Arc<Stores>) -> Sql {
        Sql { config: config.clone(), stores: stores.clone() }
    }

    pub(super) async fn tell(&self, message: &Message, holds: Option<&Holds>) -> Answer {
        let Some(holds) = holds else {
            // In doubt a row is held.
            return Answer::Later {
                after: None,
                why: "it is not known which rows legal holds keep".to_owned(),
                is_down: false,
            };
        };
        let has_all = |about: &crate::notice::Identities| {
            let value = |name| about.0.get(name).is_some_and(|value| !value.trim().is_empty());
            self.config.columns.keys().all(value)
        };
        if !message.about.iter().all(has_all) {
            let names: Vec<&str> = self.config.columns.keys().map(String::as_str).collect();
            return Answer::Failed(format!(
                "a subject has not all of {}, so which rows are theirs is not known",
                names.join(", ")
            ));
        }
        match timeout(self.config.timeout, self.remove(message, holds)).await {
            Ok(Ok(removed)) => judge(&self.config, removed),
            Ok(Err(error)) => {
                let is_down = !error.is_transient();
                Answer::Later { after: None, why: error.to_string(), is_down }
            }
            // What was removed so far stays so, and it goes on from there.
            Err(_) => Answer::Later {
                after: None,
                why: format!(
                    "store `{}`: removing rows takes longer than {} s",
                    self.config.store,
                    self.config.timeout.as_secs_f64()
                ),
                is_down: true,
            },
        }
    }

    async fn remove(&self, message: &Message, holds: &Holds) -> Result<Removed, StoreError> {
        let store = self.store(Access::ReadWrite)?;
        store.tables()?.remove_subjects(&self.config, &message.about, holds).await
    }

    fn store(&self, access: Access) -> Result<Store, StoreError> {
        self.stores.get(&self.config.store, access)
    }

    pub(super) async fn test(&self) -> Result<String, Ailment> {
        // As who removes: the right to read alone would say nothing.
        let store = self.store(Access::ReadWrite)?;
        store.tables()?.try_removal(&self.config).await?;
        let (table, store) = (&self.config.table, &self.config.store);
        Ok(format!("the table {table} of store `{store}` is there, with its columns"))
    }
}

fn judge(config: &SqlRecipient, removed: Removed) -> Answer {
    match removed.held {
        0 => Answer::Completed,
        held => Answer::Later {
            after: None,
            why: format!(
                "{held} rows of {} in store `{}` are still there: legal holds cover them, or they have come since",
                config.table, config.store
            ),
            is_down: false,
        },
    }
}
