//! Sets of backups in the ledger: which stores each covers, and what its listings have proven.
//!
//! A set whose table is gone from the configuration stays, and what is owed to it, until somebody forgets it: that a
//! configuration names no backups does not mean that there are none.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use sqlx::AssertSqlSafe;
use sqlx::any::AnyRow;

use super::audit::AuditFilter;
use super::error::Doing;
use super::row::Columns;
use super::{Ledger, LedgerError, Transaction, audit, commit, to_text};
use crate::audit::{Entry, Event};
use crate::config::BackupConfig;
use crate::residue::{Change, Listing, Residue, Stalled, Standing, Terms};
use crate::types::Name;

const READING: &str = "reading sets of backups";
const WRITING: &str = "writing a set of backups";
/// Listings of several processes may be written down in another order than they were begun in; what is further apart
/// is a clock that was set back.
const APART: SignedDuration = SignedDuration::from_mins(1);

/// A set of backups, as the ledger knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackupSet {
    /// Its name.
    pub name: Name,
    /// The stores that it covers.
    pub stores: BTreeSet<Name>,
    /// Whether there is no catalogue, but the rotation alone.
    pub is_declared: bool,
    /// Whether the configuration still has it.
    pub is_configured: bool,
    /// When it was first configured, or covered other stores for the last time.
    pub added_at: Timestamp,
    /// When listing it was last begun.
    pub tried_at: Option<Timestamp>,
    /// When it was last listed, and believed.
    pub listed_at: Option<Timestamp>,
    /// What its listings have proven.
    pub standing: Standing,
    /// Why the last listing failed or proves nothing.
    pub doubt: Option<String>,
    /// Since when that is so.
    pub doubted_since: Option<Timestamp>,
    /// Since when a backup has outstayed the rotation.
    pub stalled_since: Option<Timestamp>,
}

impl BackupSet {
    /// What the set still has of what was deleted at a moment. `terms` are its own, where it is configured.
    pub fn residue(&self, terms: Option<&Terms>, deleted_at: Timestamp, now: Timestamp) -> Residue {
        match terms {
            Some(terms) => self.standing.residue(terms, deleted_at, now),
            None if self.standing.clear_before.is_some_and(|before| deleted_at < before) => {
                Residue::Clear { assumed: false }
            }
            None => Residue::Pending {
                until: None,
                awaits: Some(
                    "the set is no longer configured: configure it again, or `expunged backups forget`"
                        .to_owned(),
                ),
                backups: 0,
                assumed: false,
            },
        }
    }

    /// The moment before which deletions are clear of the set; `None` where nothing is known.
    pub fn clear_until(&self, terms: Option<&Terms>, now: Timestamp) -> Option<Timestamp> {
        terms.map_or(self.standing.clear_before, |terms| self.standing.clear_until(terms, now))
    }
}

/// Why a listing failed or proves nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trouble {
    /// In full, for people; quotes no data.
    pub words: String,
    /// In words that name nothing, for the audit log.
    pub in_log_words: &'static str,
}

/// What was deleted on a day.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeletedDay {
    /// The day, in UTC.
    pub day: Date,
    /// How many records.
    pub records: u64,
    /// When the last of them was.
    pub last_at: Timestamp,
}

/// What became of a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Noted {
    /// It was believed, and changed this.
    Changed(Change),
    /// It proves nothing.
    Doubted(Trouble),
    /// Another process has listed the set meanwhile, or somebody has forgotten it.
    Overtaken,
}

impl Ledger {
    /// Takes note of the sets of a configuration.
    ///
    /// # Errors
    /// When the database does not answer; nothing is noted then.
    pub async fn load_backup_sets(
        &self,
        sets: &BTreeMap<Name, BackupConfig>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let mut tx = self.begin().await?;
        let known: BTreeMap<Name, BackupSet> =
            all(&mut tx).await?.into_iter().map(|set| (set.name.clone(), set)).collect();
        for (name, config) in sets {
            let before = known.get(name);
            let is_same = before.is_some_and(|before| {
                before.is_configured
                    && before.stores == config.stores
                    && before.is_declared == config.terms.is_declared
            });
            if is_same {
                continue;
            }
            insert(&mut tx, config, now).await?;
            let event = Event::BackupSetAdded {
                backup: name.clone(),
                stores: config.stores.iter().cloned().collect(),
                rotation: config.terms.rotation.to_string(),
                assumed: config.terms.is_declared,
            };
            audit::append(&mut tx, &self.keys, &Entry { at: now, event }).await?;
        }
        let gone = known.values().filter(|set| set.is_configured && !sets.contains_key(&set.name));
        for set in gone {
            sqlx::query("UPDATE backup_set SET configured = 0 WHERE backup = $1")
                .bind(set.name.as_str())
                .execute(&mut *tx)
                .await
                .doing(WRITING)?;
        }
        commit(tx).await
    }

    /// All sets that nobody has forgotten, by name.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn backup_sets(&self) -> Result<Vec<BackupSet>, LedgerError> {
        let mut tx = self.snapshot().await?;
        all(&mut tx).await
    }

    /// The stores of which keys of deleted records are kept.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tombstoned_stores(&self) -> Result<BTreeSet<Name>, LedgerError> {
        let mut tx = self.snapshot().await?;
        let rows = sqlx::query("SELECT DISTINCT store FROM tombstone").fetch_all(&mut *tx).await;
        rows.doing("reading whose keys are kept")?.iter().map(|row| row.name("store")).collect()
    }

    /// What was deleted from these stores from a moment on, day by day, what belonged to records of other stores included.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn deleted_days(
        &self,
        stores: &BTreeSet<Name>,
        since: Option<Timestamp>,
    ) -> Result<Vec<DeletedDay>, LedgerError> {
        const DOING: &str = "reading what was deleted";
        if stores.is_empty() {
            return Ok(Vec::new());
        }
        let since = since.unwrap_or(Timestamp::UNIX_EPOCH);
        let statement = AssertSqlSafe(deleted_from(stores.len()));
        let mut query = sqlx::query(statement).bind(to_text(since));
        for store in stores {
            query = query.bind(store.as_str());
        }
        let mut tx = self.snapshot().await?;
        let rows = query.fetch_all(&mut *tx).await.doing(DOING)?;
        let read = |row: &AnyRow| {
            let damaged = |_| LedgerError::Damaged { column: "day", found: "no day" };
            Ok(DeletedDay {
                day: row.text("day")?.parse().map_err(damaged)?,
                records: row.count("records")?,
                last_at: row.moment("last_at")?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// The position of the audit entry by which a set is free of what was deleted at a moment, where one says so and
    /// none after it takes that back.
    ///
    /// # Errors
    /// When the database does not answer, or an entry cannot be read.
    pub async fn cleared_by(
        &self,
        set: &Name,
        deleted_at: Timestamp,
    ) -> Result<Option<u64>, LedgerError> {
        let since = Some(deleted_at);
        let of_kind = |kind: &str| AuditFilter {
            kind: Some(kind.to_owned()),
            since,
            ..AuditFilter::default()
        };
        let mut entries = self.audit_log(&of_kind("backups_cleared")).await?;
        entries.extend(self.audit_log(&of_kind("backups_reopened")).await?);
        entries.sort_by_key(|(position, _)| *position);
        let mut cleared = None;
        for (position, entry) in entries {
            match entry.event {
                Event::BackupsCleared { backup, before }
                    if backup == *set && before > deleted_at && cleared.is_none() =>
                {
                    cleared = Some(position);
                }
                Event::BackupsReopened { backup, before }
                    if backup == *set && before <= deleted_at =>
                {
                    cleared = None;
                }
                _ => {}
            }
        }
        Ok(cleared)
    }

    /// Takes it on to list a set, if that is due and nobody else has begun.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn claim_listing(
        &self,
        set: &Name,
        every: Duration,
        now: Timestamp,
    ) -> Result<bool, LedgerError> {
        let due = now.checked_sub(every).unwrap_or(Timestamp::MIN);
        // A moment to come was written by a clock that was wrong, or is wrong now: listing it finds out.
        let future = now.checked_add(APART).unwrap_or(Timestamp::MAX);
        let mut tx = self.begin().await?;
        let claimed = sqlx::query(
            "UPDATE backup_set SET tried_at = $1 WHERE backup = $2 AND forgotten_at IS NULL \
             AND (tried_at IS NULL OR tried_at <= $3 OR tried_at > $4)",
        )
        .bind(to_text(now))
        .bind(set.as_str())
        .bind(to_text(due))
        .bind(to_text(future))
        .execute(&mut *tx)
        .await
        .doing(WRITING)?;
        commit(tx).await?;
        Ok(claimed.rows_affected() > 0)
    }

    /// Writes down what a listing shows, with the audit entries of what it changes.
    ///
    /// # Errors
    /// When the database does not answer: the listing is lost then, and the next one starts from what was known.
    pub async fn note_listing(
        &self,
        config: &BackupConfig,
        listing: Listing,
        now: Timestamp,
    ) -> Result<Noted, LedgerError> {
        let mut tx = self.begin().await?;
        let Some(mut set) = locked(&mut tx, &config.name).await? else {
            return Ok(Noted::Overtaken);
        };
        let last = set.standing.listing.as_ref().map(|last| last.at);
        if last.is_some_and(|last| listing.at <= last && listing.at + APART > last) {
            return Ok(Noted::Overtaken);
        }
        let (backups, was_known) = (listing.backups.len() as u64, last.is_some());
        let noted = set.standing.note(listing, config.terms.skew);
        let change = match noted {
            Ok(change) => change,
            Err(doubt) => {
                let words = doubt.to_string();
                let trouble = Trouble { words, in_log_words: doubt.in_log_words() };
                self.doubt_in(&mut tx, &set, &trouble, now).await?;
                commit(tx).await?;
                return Ok(Noted::Doubted(trouble));
            }
        };
        let backup = set.name.clone();
        let mut events = Vec::new();
        if set.doubt.is_some() || !was_known {
            events.push(Event::BackupsListed { backup: backup.clone(), backups });
        }
        match change {
            Change::Nothing => {}
            Change::Cleared(before) => {
                events.push(Event::BackupsCleared { backup: backup.clone(), before });
            }
            Change::Reopened(before) => {
                events.push(Event::BackupsReopened { backup: backup.clone(), before });
            }
        }
        let stalled = set.standing.stalled(&config.terms, now);
        if let (Some(Stalled { since, .. }), None) = (&stalled, set.stalled_since) {
            events.push(Event::RotationStalled { backup, since: *since });
        }
        sqlx::query(
            "UPDATE backup_set SET standing = $1, clear_before = $2, listed_at = $3, doubt = NULL, \
             doubt_kind = NULL, doubted_since = NULL, stalled_since = $4 WHERE backup = $5",
        )
        .bind(to_json(&set.standing))
        .bind(set.standing.clear_before.map(to_text))
        .bind(to_text(now))
        .bind(stalled.map(|stalled| to_text(stalled.since)))
        .bind(set.name.as_str())
        .execute(&mut *tx)
        .await
        .doing(WRITING)?;
        let entries: Vec<Entry> =
            events.into_iter().map(|event| Entry { at: now, event }).collect();
        audit::append_all(&mut tx, &self.keys, &entries).await?;
        commit(tx).await?;
        Ok(Noted::Changed(change))
    }

    /// Writes down that a set could not be listed.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn note_trouble(
        &self,
        set: &Name,
        trouble: &Trouble,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let mut tx = self.begin().await?;
        let Some(mut set) = locked(&mut tx, set).await? else { return Ok(()) };
        set.standing.interrupt();
        self.doubt_in(&mut tx, &set, trouble, now).await?;
        commit(tx).await
    }

    /// The audit log is told when the trouble is another than before.
    async fn doubt_in(
        &self,
        tx: &mut Transaction<'_>,
        set: &BackupSet,
        trouble: &Trouble,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let kind = sqlx::query("SELECT doubt_kind FROM backup_set WHERE backup = $1")
            .bind(set.name.as_str())
            .fetch_one(&mut **tx)
            .await
            .doing(READING)?
            .optional_text("doubt_kind")?;
        sqlx::query(
            "UPDATE backup_set SET standing = $1, doubt = $2, doubt_kind = $3, \
             doubted_since = coalesce(doubted_since, $4) WHERE backup = $5",
        )
        .bind(to_json(&set.standing))
        .bind(&trouble.words)
        .bind(trouble.in_log_words)
        .bind(to_text(now))
        .bind(set.name.as_str())
        .execute(&mut **tx)
        .await
        .doing(WRITING)?;
        if kind.as_deref() != Some(trouble.in_log_words) {
            let reason = trouble.in_log_words.into();
            let event = Event::BackupsDoubted { backup: set.name.clone(), reason };
            audit::append(tx, &self.keys, &Entry { at: now, event }).await?;
        }
        Ok(())
    }

    /// Somebody says that the next listing of a set is right, however much shorter it is or whatever the clock showed
    /// before. Gives whether there is such a set.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn confirm_backups(
        &self,
        set: &Name,
        by: &str,
        now: Timestamp,
    ) -> Result<bool, LedgerError> {
        let mut tx = self.begin().await?;
        let Some(mut set) = locked(&mut tx, set).await? else { return Ok(false) };
        set.standing.confirmed = true;
        sqlx::query("UPDATE backup_set SET standing = $1 WHERE backup = $2")
            .bind(to_json(&set.standing))
            .bind(set.name.as_str())
            .execute(&mut *tx)
            .await
            .doing(WRITING)?;
        let event = Event::BackupsConfirmed { backup: set.name, by: by.to_owned() };
        audit::append(&mut tx, &self.keys, &Entry { at: now, event }).await?;
        commit(tx).await?;
        Ok(true)
    }

    /// Somebody says that a set which is no longer configured is no more, with all of its backups: nothing is owed to it
    /// from now on. Gives whether there is such a set.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn forget_backups(
        &self,
        set: &Name,
        by: &str,
        why: &str,
        now: Timestamp,
    ) -> Result<bool, LedgerError> {
        let mut tx = self.begin().await?;
        let forgotten = sqlx::query(
            "UPDATE backup_set SET stores = '[]', forgotten_at = $1, forgotten_by = $2, forgotten_why = $3 \
             WHERE backup = $4 AND configured = 0 AND forgotten_at IS NULL",
        )
        .bind(to_text(now))
        .bind(by)
        .bind(why)
        .bind(set.as_str())
        .execute(&mut *tx)
        .await
        .doing(WRITING)?;
        if forgotten.rows_affected() == 0 {
            return Ok(false);
        }
        let event = Event::BackupSetForgotten { backup: set.clone(), by: by.to_owned() };
        audit::append(&mut tx, &self.keys, &Entry { at: now, event }).await?;
        commit(tx).await?;
        Ok(true)
    }
}

/// Reads what was deleted from so many stores, day by day. Put together from constants.
fn deleted_from(stores: usize) -> String {
    let places: Vec<_> = (0..stores).map(|place| format!("${}", place + 2)).collect();
    let places = places.join(", ");
    format!(
        "SELECT day, CAST(sum(records) AS BIGINT) AS records, max(at) AS last_at FROM (\
         SELECT substr(settled_at, 1, 10) AS day, batch.records AS records, settled_at AS at \
         FROM batch JOIN run ON run.id = batch.run_id \
         WHERE batch.state = 'done' AND settled_at >= $1 AND run.store IN ({places}) UNION ALL \
         SELECT substr(gone_at, 1, 10) AS day, records, gone_at AS at FROM tombstone \
         WHERE attached = 1 AND gone_at >= $1 AND store IN ({places})) AS deleted \
         GROUP BY day ORDER BY day"
    )
}

async fn all(tx: &mut Transaction<'_>) -> Result<Vec<BackupSet>, LedgerError> {
    let rows = sqlx::query("SELECT * FROM backup_set WHERE forgotten_at IS NULL ORDER BY backup")
        .fetch_all(&mut **tx)
        .await
        .doing(READING)?;
    rows.iter().map(read).collect()
}

/// A set, which nobody else changes meanwhile; `None` where there is none, or it is forgotten.
async fn locked(tx: &mut Transaction<'_>, name: &Name) -> Result<Option<BackupSet>, LedgerError> {
    // Both databases let one transaction at a time write to a row.
    let row = sqlx::query(
        "UPDATE backup_set SET backup = backup WHERE backup = $1 AND forgotten_at IS NULL RETURNING *",
    )
    .bind(name.as_str())
    .fetch_optional(&mut **tx)
    .await
    .doing(READING)?;
    row.as_ref().map(read).transpose()
}

async fn insert(
    tx: &mut Transaction<'_>,
    config: &BackupConfig,
    now: Timestamp,
) -> Result<(), LedgerError> {
    // What is proven stays: it is about the set, whatever it covers.
    sqlx::query(
        "INSERT INTO backup_set (backup, stores, declared, configured, added_at, standing) \
         VALUES ($1, $2, $3, 1, $4, $5) \
         ON CONFLICT (backup) DO UPDATE SET stores = excluded.stores, declared = excluded.declared, \
         configured = 1, added_at = excluded.added_at, forgotten_at = NULL, forgotten_by = NULL, \
         forgotten_why = NULL",
    )
    .bind(config.name.as_str())
    // Names always have a JSON.
    .bind(serde_json::to_string(&config.stores).unwrap_or_default())
    .bind(i64::from(config.terms.is_declared))
    .bind(to_text(now))
    .bind(to_json(&Standing::default()))
    .execute(&mut **tx)
    .await
    .doing(WRITING)?;
    Ok(())
}

fn to_json(standing: &Standing) -> String {
    // Plain data with string keys: serializing it cannot fail.
    serde_json::to_string(standing).unwrap_or_default()
}

fn read(row: &AnyRow) -> Result<BackupSet, LedgerError> {
    let damaged = |column| move |_| LedgerError::Damaged { column, found: "something else" };
    Ok(BackupSet {
        name: row.name("backup")?,
        stores: serde_json::from_str(&row.text("stores")?).map_err(damaged("stores"))?,
        is_declared: row.count("declared")? == 1,
        is_configured: row.count("configured")? == 1,
        added_at: row.moment("added_at")?,
        tried_at: row.optional_moment("tried_at")?,
        listed_at: row.optional_moment("listed_at")?,
        standing: serde_json::from_str(&row.text("standing")?).map_err(damaged("standing"))?,
        doubt: row.optional_text("doubt")?,
        doubted_since: row.optional_moment("doubted_since")?,
        stalled_since: row.optional_moment("stalled_since")?,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::keys::Keys;

    #[tokio::test]
    async fn of_the_batches_those_alone_are_looked_at_that_are_not_clear() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("ledger.db").display());
        let ledger = Ledger::open(&url, Arc::new(Keys::generate())).await.unwrap();
        let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {}", deleted_from(2)));
        let query = sqlx::query(explain).bind("2026-01-01").bind("app").bind("shop");
        let steps = query.fetch_all(&ledger.pool).await.unwrap();
        let steps: Vec<_> = steps.iter().map(|step| step.text("detail").unwrap()).collect();
        let wanted = "SEARCH batch USING INDEX batch_done (settled_at>?)";
        assert!(steps.iter().any(|step| step == wanted), "{steps:#?}");
        ledger.close().await;
    }
}
