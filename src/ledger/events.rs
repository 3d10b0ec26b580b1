//! Events that wait for their rules.
//!
//! An event is kept once for each rule that listens, its values sealed, until the rule has worked it off;
//! then nothing of it is kept. Whoever leaves one makes sure, in the same transaction, that a request of
//! its rule is there which nobody has begun. Whoever works that off claims it first and reads the events
//! after, so each event is either read then or has a request of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use sqlx::AssertSqlSafe;
use sqlx::any::AnyRow;

use super::error::Doing;
use super::requests::Request;
use super::row::{Columns, placeholders};
use super::{Ledger, LedgerError, Transaction, commit, to_text};
use crate::audit::entry::Cause;
use crate::clock;
use crate::event::Occurrence;
use crate::fault;
use crate::types::{EventName, Name};

/// Rows that are taken in by one statement.
const ROWS: usize = 64;

/// What became of events that were handed in.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Received {
    /// Those that were new.
    pub new: u64,
    /// Those that were there already.
    pub known: u64,
}

/// An event that waits for its rule.
#[derive(Clone, PartialEq, Eq)]
pub struct Pending {
    /// Its id.
    pub id: String,
    /// What happened.
    pub name: EventName,
    /// When it was received.
    pub received_at: Timestamp,
    /// What it says.
    pub values: BTreeMap<String, String>,
}

/// Shows neither id nor values, which may say who somebody is.
impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending")
            .field("name", &self.name)
            .field("received_at", &self.received_at)
            .finish_non_exhaustive()
    }
}

/// How many events wait for a rule.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Backlog {
    /// Those that wait.
    pub pending: u64,
    /// When the oldest of them was received.
    pub oldest: Option<Timestamp>,
    /// Those that could not be opened, and wait for the key that can.
    pub unreadable: u64,
}

impl Ledger {
    /// Takes events in, each for its rules: all of them, or none. When this returns they are durable.
    ///
    /// # Errors
    /// When the database does not answer; it is then unknown whether they were taken in.
    pub async fn receive(
        &self,
        events: &[(Occurrence, Vec<Name>)],
        now: Timestamp,
    ) -> Result<Received, LedgerError> {
        let is_new = self.receive_each(events, now).await?;
        let new = is_new.iter().filter(|is_new| **is_new).count() as u64;
        Ok(Received { new, known: is_new.len() as u64 - new })
    }

    /// As [`Ledger::receive`]; says of each event whether it was new to any of its rules.
    ///
    /// # Errors
    /// As [`Ledger::receive`].
    pub async fn receive_each(
        &self,
        events: &[(Occurrence, Vec<Name>)],
        now: Timestamp,
    ) -> Result<Vec<bool>, LedgerError> {
        // In one order everywhere: two that wait for each other's rows would wait for ever.
        let mut rows = BTreeMap::new();
        for (position, (event, rules)) in events.iter().enumerate() {
            for rule in rules {
                rows.entry((event.id.as_str(), rule.as_str())).or_insert(position);
            }
        }
        let rows: Vec<_> = rows.into_iter().collect();
        let mut is_new = vec![false; events.len()];
        let mut waking = BTreeSet::new();
        let mut tx = self.begin().await?;
        for some in rows.chunks(ROWS) {
            let mut query = sqlx::query(AssertSqlSafe(insertion(&tx, some.len())));
            for ((id, rule), position) in some {
                let event = &events[*position].0;
                let sealed = self.seal_event(event, rule);
                query = query.bind(*id).bind(*rule).bind(event.name.as_str()).bind(sealed);
                query = query.bind(to_text(now));
            }
            let inserted = query.fetch_all(&mut *tx).await.doing("taking events in")?;
            for row in inserted {
                let (id, rule) = (row.text("id")?, row.name("rule")?);
                let known = some.binary_search_by(|(key, _)| key.cmp(&(&*id, rule.as_str())));
                if let Ok(found) = known {
                    is_new[some[found].1] = true;
                }
                waking.insert(rule);
            }
        }
        for rule in waking {
            leave_request(&mut tx, &rule, now).await?;
        }
        fault::point("events.receiving");
        commit(tx).await?;
        fault::point("events.received");
        Ok(is_new)
    }

    /// The events that wait for a rule, the oldest first, at most so many. One that cannot be opened is
    /// reported and put aside until the next [`Ledger::renew_events`], so that it is in nobody's way.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn pending_events(
        &self,
        rule: &Name,
        limit: u32,
    ) -> Result<Vec<Pending>, LedgerError> {
        loop {
            let mut tx = self.snapshot().await?;
            let rows = sqlx::query(
                "SELECT id, name, sealed, received_at FROM event \
                 WHERE rule = $1 AND unreadable = 0 ORDER BY received_at, id LIMIT $2",
            )
            .bind(rule.as_str())
            .bind(i64::from(limit))
            .fetch_all(&mut *tx)
            .await
            .doing("reading events")?;
            drop(tx);
            let (mut pending, mut unreadable) = (Vec::new(), Vec::new());
            for row in &rows {
                let id = row.text("id")?;
                match self.open_event(row, &id, rule) {
                    Ok(event) => pending.push(event),
                    Err(error @ LedgerError::Damaged { .. }) => {
                        tracing::error!(%rule, %error, "an event cannot be read and is put aside; if `intent.key` was exchanged, put it back and restart the daemon");
                        unreadable.push(id);
                    }
                    Err(error) => return Err(error),
                }
            }
            if unreadable.is_empty() {
                return Ok(pending);
            }
            // Those behind them may be readable.
            self.put_aside(rule, &unreadable).await?;
        }
    }

    /// Removes events that a rule has worked off: nothing of them is kept.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn forget_events(&self, rule: &Name, ids: &[String]) -> Result<(), LedgerError> {
        let mut tx = self.begin().await?;
        forget_in(&mut tx, rule, ids).await?;
        commit(tx).await
    }

    /// How many events wait, for each rule for which any do.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn count_events(&self) -> Result<BTreeMap<Name, Backlog>, LedgerError> {
        let mut tx = self.snapshot().await?;
        let rows = sqlx::query(
            "SELECT rule, unreadable, count(*) AS number, min(received_at) AS oldest FROM event \
             GROUP BY rule, unreadable",
        )
        .fetch_all(&mut *tx)
        .await
        .doing("counting events")?;
        let mut backlogs = BTreeMap::<Name, Backlog>::new();
        for row in &rows {
            let backlog = backlogs.entry(row.name("rule")?).or_default();
            if row.count("unreadable")? == 0 {
                backlog.pending = row.count("number")?;
                backlog.oldest = row.optional_moment("oldest")?;
            } else {
                backlog.unreadable = row.count("number")?;
            }
        }
        Ok(backlogs)
    }

    /// The rules whose events nobody has begun to work off.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn rules_with_events(&self) -> Result<Vec<Name>, LedgerError> {
        let mut tx = self.snapshot().await?;
        let rows = sqlx::query(
            "SELECT rule FROM request WHERE cause = 'event' AND state = 'pending' ORDER BY rule",
        )
        .fetch_all(&mut *tx)
        .await
        .doing("looking for events")?;
        rows.iter().map(|row| row.name("rule")).collect()
    }

    /// Claims the request that a rule's events have left; `None` when there is none, or somebody else
    /// has claimed it. To be done before its events are read: those that come later leave another.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn claim_events(&self, rule: &Name) -> Result<Option<Request>, LedgerError> {
        let mut tx = self.begin().await?;
        let row = sqlx::query(
            "UPDATE request SET state = 'claimed' \
             WHERE rule = $1 AND cause = 'event' AND state = 'pending' RETURNING id",
        )
        .bind(rule.as_str())
        .fetch_optional(&mut *tx)
        .await
        .doing("claiming events")?;
        let Some(row) = row else { return Ok(None) };
        let request =
            Request { id: row.id("id")?, rule: rule.clone(), cause: Cause::Event, planned: false };
        commit(tx).await?;
        Ok(Some(request))
    }

    /// Sees to it that every rule that is configured and has events has a request for them, and that
    /// those which could not be opened are tried once more: at a start or a reload, things may be right
    /// that were wrong before.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn renew_events<'a>(
        &self,
        rules: impl Iterator<Item = &'a Name>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let mut tx = self.begin().await?;
        sqlx::query("UPDATE event SET unreadable = 0 WHERE unreadable = 1")
            .execute(&mut *tx)
            .await
            .doing("renewing events")?;
        let rows = sqlx::query("SELECT DISTINCT rule FROM event ORDER BY rule")
            .fetch_all(&mut *tx)
            .await
            .doing("renewing events")?;
        let waiting: BTreeSet<Name> =
            rows.iter().map(|row| row.name("rule")).collect::<Result<_, _>>()?;
        for rule in rules.filter(|rule| waiting.contains(*rule)) {
            leave_request(&mut tx, rule, now).await?;
        }
        commit(tx).await
    }

    async fn put_aside(&self, rule: &Name, ids: &[String]) -> Result<(), LedgerError> {
        let mut tx = self.begin().await?;
        for id in ids {
            sqlx::query("UPDATE event SET unreadable = 1 WHERE id = $1 AND rule = $2")
                .bind(id)
                .bind(rule.as_str())
                .execute(&mut *tx)
                .await
                .doing("putting an event aside")?;
        }
        commit(tx).await
    }

    fn seal_event(&self, event: &Occurrence, rule: &str) -> Vec<u8> {
        // A map of texts always has a JSON.
        let plain = serde_json::to_vec(&event.values).unwrap_or_default();
        self.keys.seal(&plain, place(&event.id, rule).as_bytes())
    }

    fn open_event(&self, row: &AnyRow, id: &str, rule: &Name) -> Result<Pending, LedgerError> {
        let damaged = |found| LedgerError::Damaged { column: "sealed", found };
        let opened = self.keys.unseal(&row.bytes("sealed")?, place(id, rule.as_str()).as_bytes());
        let plain = opened.map_err(|_| damaged("no values that open"))?;
        Ok(Pending {
            id: id.to_owned(),
            name: row.word("name", |name| name.parse().ok())?,
            received_at: row.moment("received_at")?,
            values: serde_json::from_slice(&plain).map_err(|_| damaged("no values"))?,
        })
    }
}

/// Removes events that a rule has worked off.
pub(super) async fn forget_in(
    tx: &mut Transaction<'_>,
    rule: &Name,
    ids: &[String],
) -> Result<(), LedgerError> {
    for id in ids {
        sqlx::query("DELETE FROM event WHERE id = $1 AND rule = $2")
            .bind(id)
            .bind(rule.as_str())
            .execute(&mut **tx)
            .await
            .doing("forgetting an event")?;
    }
    Ok(())
}

/// The statement that takes in so many rows, and gives those that were new.
fn insertion(tx: &Transaction<'_>, rows: usize) -> String {
    let values = placeholders(tx, rows, 5);
    format!(
        "INSERT INTO event (id, rule, name, sealed, received_at) VALUES {values} \
         ON CONFLICT (id, rule) DO NOTHING RETURNING id, rule"
    )
}

/// What binds sealed values to their row.
fn place(id: &str, rule: &str) -> String {
    format!("event\0{rule}\0{id}")
}

/// Sees to it that a rule has a request for its events that nobody has begun.
async fn leave_request(
    tx: &mut Transaction<'_>,
    rule: &Name,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let doing = "leaving a request for events";
    loop {
        // Changes nothing, but whoever would claim it has to wait until this transaction has ended, and
        // then sees the events that it brings.
        let there = sqlx::query(
            "UPDATE request SET state = 'pending' \
             WHERE rule = $1 AND cause = 'event' AND state = 'pending'",
        )
        .bind(rule.as_str())
        .execute(&mut **tx)
        .await
        .doing(doing)?;
        if there.rows_affected() > 0 {
            return Ok(());
        }
        let left = sqlx::query(
            "INSERT INTO request (id, rule, cause, state, created_at) \
             VALUES ($1, $2, 'event', 'pending', $3) ON CONFLICT DO NOTHING",
        )
        .bind(clock::new_id().to_string())
        .bind(rule.as_str())
        .bind(to_text(now))
        .execute(&mut **tx)
        .await
        .doing(doing)?;
        if left.rows_affected() > 0 {
            return Ok(());
        }
        // Somebody else has left one in between: once more, to hold that.
    }
}
