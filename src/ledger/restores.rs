//! Restored stores in the ledger: by what each is known, and which are frozen.
//!
//! A store is frozen in one transaction with its audit entry, and the hold epoch is raised with it: a batch that was taken
//! before is refused at its intent, and whoever takes it again asks first whether its store is frozen.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;
use sqlx::any::AnyRow;

use super::error::Doing;
use super::holds;
use super::row::Columns;
use super::tombstones::covered;
use super::{Ledger, LedgerError, Transaction, audit, commit, to_text};
use crate::audit::entry::Reason;
use crate::audit::{Entry, Event};
use crate::restore::{Evidence, Known, Sight};
use crate::types::Name;

const READING: &str = "reading what a store is known by";
const NOTING: &str = "noting what a store is known by";
const FREEZING: &str = "freezing a store";

/// A store that seems to have been restored.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Frozen {
    /// The store.
    pub store: Name,
    /// When that was noticed.
    pub noticed_at: Timestamp,
    /// What speaks for it.
    pub evidence: String,
    /// The moment that it was restored to, or an earlier one; `None` where it is not known.
    pub restored_to: Option<Timestamp>,
}

/// What there is to hold a look at a store against.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Watch {
    /// Whether the store is frozen already.
    pub frozen: Option<Frozen>,
    /// By what it is known, where it was seen before.
    pub known: Option<Known>,
    /// Whether there are tombstones of it.
    pub has_tombstones: bool,
    /// Whether a set of backups covers it.
    pub is_covered: bool,
}

impl Ledger {
    /// What there is to hold a look at a store against.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn watch(&self, store: &Name) -> Result<Watch, LedgerError> {
        let mut tx = self.snapshot().await?;
        let row = sqlx::query(
            "SELECT CAST((SELECT count(*) FROM frozen_store WHERE store = $1) AS BIGINT) AS frozen, \
                    CAST((SELECT count(*) FROM store_identity WHERE store = $1) AS BIGINT) AS known, \
                    CAST((SELECT count(*) FROM (SELECT 1 FROM tombstone WHERE store = $1 LIMIT 1) AS one) AS BIGINT) \
                      AS tombstones, \
                    CAST((SELECT count(*) FROM backup_set) AS BIGINT) AS sets",
        )
        .bind(store.as_str())
        .fetch_one(&mut *tx)
        .await
        .doing(READING)?;
        // Where there is nothing of the kind, this is all that it costs.
        let mut watch = Watch { has_tombstones: row.count("tombstones")? > 0, ..Watch::default() };
        if row.count("sets")? > 0 {
            watch.is_covered = covered(&mut tx).await?.contains(store);
        }
        if row.count("frozen")? > 0 {
            watch.frozen = frozen(&mut tx, Some(store)).await?.pop();
        }
        if row.count("known")? > 0 {
            let row = sqlx::query(
                "SELECT server, timeline, marker, pending, released_at FROM store_identity WHERE store = $1",
            )
            .bind(store.as_str())
            .fetch_one(&mut *tx)
            .await
            .doing(READING)?;
            watch.known = Some(Known {
                server: row.optional_text("server")?,
                timeline: row.optional_integer("timeline")?,
                marker: row.optional_integer("marker")?,
                pending: row.optional_integer("pending")?,
                released_at: row.optional_moment("released_at")?,
            });
        }
        Ok(watch)
    }

    /// The stores that were seen before, have tombstones, or are covered by a set of backups.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn watched_stores(&self) -> Result<BTreeSet<Name>, LedgerError> {
        let mut tx = self.snapshot().await?;
        let rows = sqlx::query(
            "SELECT store FROM store_identity UNION SELECT store FROM tombstone \
             UNION SELECT store FROM frozen_store",
        );
        let rows = rows.fetch_all(&mut *tx).await.doing(READING)?;
        let mut stores = covered(&mut tx).await?;
        for row in &rows {
            stores.insert(row.name("store")?);
        }
        Ok(stores)
    }

    /// The stores that are frozen.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn frozen_stores(&self) -> Result<Vec<Frozen>, LedgerError> {
        let mut tx = self.snapshot().await?;
        frozen(&mut tx, None).await
    }

    /// Notes on which server a store is; what is not told stays as it is known.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn note_server(
        &self,
        store: &Name,
        seen: &Sight,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO store_identity (store, server, timeline, seen_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (store) DO UPDATE SET seen_at = excluded.seen_at, \
             server = coalesce(excluded.server, store_identity.server), \
             timeline = coalesce(excluded.timeline, store_identity.timeline)",
        )
        .bind(store.as_str())
        .bind(seen.server.as_deref())
        .bind(seen.timeline)
        .bind(to_text(now))
        .execute(&mut *tx)
        .await
        .doing(NOTING)?;
        commit(tx).await
    }

    /// Says, durably, that a marker is about to be written into a store.
    ///
    /// # Errors
    /// When the database does not answer; it must not be written then.
    pub async fn intend_marker(
        &self,
        store: &Name,
        number: i64,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO store_identity (store, pending, seen_at) VALUES ($1, $2, $3) \
             ON CONFLICT (store) DO UPDATE SET pending = excluded.pending \
             WHERE store_identity.marker IS NULL OR store_identity.marker < excluded.pending",
        )
        .bind(store.as_str())
        .bind(number)
        .bind(to_text(now))
        .execute(&mut *tx)
        .await
        .doing(NOTING)?;
        commit(tx).await
    }

    /// Says that a marker was written into a store. One that is older than what is known changes nothing: another process
    /// was quicker.
    ///
    /// # Errors
    /// When the database does not answer; the marker is still pending then.
    pub async fn commit_marker(
        &self,
        store: &Name,
        number: i64,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO store_identity (store, marker, marked_at, seen_at) VALUES ($1, $2, $3, $3) \
             ON CONFLICT (store) DO UPDATE SET marker = excluded.marker, marked_at = excluded.marked_at, \
             pending = CASE WHEN store_identity.pending > excluded.marker THEN store_identity.pending END \
             WHERE store_identity.marker IS NULL OR store_identity.marker < excluded.marker",
        )
        .bind(store.as_str())
        .bind(number)
        .bind(to_text(now))
        .execute(&mut *tx)
        .await
        .doing(NOTING)?;
        commit(tx).await
    }

    /// Freezes a store, and says whether this call was the one that did. Once it has returned, no batch that was taken
    /// before is intended any more.
    ///
    /// # Errors
    /// When the database does not answer; it is not frozen then.
    pub async fn freeze(
        &self,
        store: &Name,
        evidence: &Evidence,
        now: Timestamp,
    ) -> Result<bool, LedgerError> {
        let mut tx = self.begin().await?;
        let inserted = sqlx::query(
            "INSERT INTO frozen_store (store, noticed_at, evidence, restored_to) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (store) DO NOTHING",
        )
        .bind(store.as_str())
        .bind(to_text(now))
        .bind(evidence.words)
        .bind(evidence.restored_to.map(to_text))
        .execute(&mut *tx)
        .await
        .doing(FREEZING)?;
        if inserted.rows_affected() == 0 {
            return Ok(false);
        }
        holds::raise(&mut tx).await?;
        let event = Event::RestoreNoticed {
            store: store.clone(),
            evidence: evidence.words.into(),
            restored_to: evidence.restored_to,
        };
        audit::append(&mut tx, &self.keys, &Entry { at: now, event }).await?;
        commit(tx).await?;
        Ok(true)
    }

    /// Has the rules of a store run again; from now on it is known by this. `by` is who said so, and why. Says whether it
    /// was frozen.
    ///
    /// # Errors
    /// When the database does not answer; it is still frozen then.
    pub async fn release_store(
        &self,
        store: &Name,
        known: &Known,
        (reason, by): (&'static str, Option<(&str, &str)>),
        now: Timestamp,
    ) -> Result<bool, LedgerError> {
        let mut tx = self.begin().await?;
        put_identity(&mut tx, store, known, now).await?;
        if let Some((_, why)) = by {
            sqlx::query("UPDATE store_identity SET release = $1 WHERE store = $2")
                .bind(self.keys.seal(why.as_bytes(), format!("release\0{store}").as_bytes()))
                .bind(store.as_str())
                .execute(&mut *tx)
                .await
                .doing("releasing a store")?;
        }
        let deleted = sqlx::query("DELETE FROM frozen_store WHERE store = $1");
        let deleted = deleted.bind(store.as_str()).execute(&mut *tx).await;
        let deleted = deleted.doing("releasing a store")?;
        if deleted.rows_affected() > 0 {
            let by = by.map(|(by, _)| by.to_owned());
            let event =
                Event::StoreReleased { store: store.clone(), reason: Reason::from(reason), by };
            audit::append(&mut tx, &self.keys, &Entry { at: now, event }).await?;
        }
        commit(tx).await?;
        Ok(deleted.rows_affected() > 0)
    }
}

async fn put_identity(
    tx: &mut Transaction<'_>,
    store: &Name,
    known: &Known,
    now: Timestamp,
) -> Result<(), LedgerError> {
    sqlx::query(
        "INSERT INTO store_identity (store, server, timeline, marker, pending, released_at, seen_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) \
         ON CONFLICT (store) DO UPDATE SET server = excluded.server, timeline = excluded.timeline, \
         marker = excluded.marker, pending = excluded.pending, released_at = excluded.released_at, \
         seen_at = excluded.seen_at",
    )
    .bind(store.as_str())
    .bind(known.server.as_deref())
    .bind(known.timeline)
    .bind(known.marker)
    .bind(known.pending)
    .bind(known.released_at.map(to_text))
    .bind(to_text(now))
    .execute(&mut **tx)
    .await
    .doing(NOTING)?;
    Ok(())
}

async fn frozen(
    tx: &mut Transaction<'_>,
    store: Option<&Name>,
) -> Result<Vec<Frozen>, LedgerError> {
    let rows = sqlx::query(
        "SELECT store, noticed_at, evidence, restored_to FROM frozen_store \
         WHERE CAST($1 AS TEXT) IS NULL OR store = $1 ORDER BY store",
    );
    let rows = rows.bind(store.map(Name::as_str)).fetch_all(&mut **tx).await;
    let read = |row: &AnyRow| {
        Ok(Frozen {
            store: row.name("store")?,
            noticed_at: row.moment("noticed_at")?,
            evidence: row.text("evidence")?,
            restored_to: row.optional_moment("restored_to")?,
        })
    };
    rows.doing("reading which stores are frozen")?.iter().map(read).collect()
}

/// Of some stores one that is frozen, where one is.
pub(super) async fn frozen_of(
    tx: &mut Transaction<'_>,
    stores: &[&Name],
) -> Result<Option<Name>, LedgerError> {
    let frozen = frozen(tx, None).await?;
    let found = frozen.into_iter().find(|frozen| stores.contains(&&frozen.store));
    Ok(found.map(|frozen| frozen.store))
}
