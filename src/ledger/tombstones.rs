//! Tombstones: the keys of what was taken, sealed, until no backup can bring it back.
//!
//! They are written in the transaction of the batch's outcome, one row for each batch and store, and only of stores
//! that a set of backups covers.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;
use sqlx::AssertSqlSafe;
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::error::Doing;
use super::row::{Columns, to_integer};
use super::{
    Attached, Intended, Ledger, LedgerError, Run, Transaction, audit, commit, front, restores,
    to_text,
};
use crate::audit::entry::ActionKind;
use crate::audit::{Entry, Event};
use crate::keys::Keys;
use crate::notice::Telling;
use crate::types::{Key, Name};

const READING: &str = "reading tombstones";
const DESTROYING: &str = "destroying tombstones";
/// Rows that are destroyed by one call, about.
const AT_ONCE: i64 = 1_000;

/// What a batch took from a store, by its keys.
#[derive(Clone, Debug)]
pub struct Tombstone {
    /// Its place among all.
    pub seq: i64,
    /// The batch.
    pub batch: Uuid,
    /// The run that took it.
    pub run: Uuid,
    /// The rule.
    pub rule: Name,
    /// Which version of the rule.
    pub rule_digest: String,
    /// The store.
    pub store: Name,
    /// The table there.
    pub table: String,
    /// What was done.
    pub action: ActionKind,
    /// Whether it belonged to records of another store.
    pub attached: bool,
    /// Whether events named it, so that it was taken whatever its age.
    pub by_event: bool,
    /// Records whose starting point lay before it were due in that run.
    pub cutoff: Timestamp,
    /// When the batch was settled.
    pub gone_at: Timestamp,
    /// The keys.
    pub keys: Vec<Key>,
    /// What told each of them from another of the same key, where that was needed.
    pub identities: Vec<String>,
    /// Who was told.
    pub tellings: Vec<Telling>,
}

/// How many tombstones a store has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Tombstones {
    /// Batches.
    pub batches: u64,
    /// Records.
    pub records: u64,
    /// When the oldest of them was deleted; `None` where there are none.
    pub oldest: Option<Timestamp>,
}

/// The tombstones of a batch, sealed before the transaction in which others wait.
#[derive(Default)]
pub(super) struct Tombs(Vec<Tomb>);

struct Tomb {
    store: Name,
    table: String,
    attached: bool,
    by_event: bool,
    records: u64,
    sealed: Vec<u8>,
}

impl Tombs {
    /// What a batch took of stores that are covered; nothing where none is.
    pub(super) fn of(keys: &Keys, run: &Run, batch: Uuid, taken: &Intended) -> Tombs {
        let mut tombs = Vec::new();
        if run.covered.is_empty() {
            return Tombs(tombs);
        }
        let mut add = |(store, table): (&Name, &str), attached: bool, what: &What<'_>| {
            let place = place(batch, store, attached);
            tombs.push(Tomb {
                store: store.clone(),
                table: table.to_owned(),
                attached,
                by_event: taken.by_event,
                records: what.keys.len() as u64,
                sealed: keys.seal(&what.encode(), place.as_bytes()),
            });
        };
        let tellings = &taken.tellings;
        if run.covered.contains(&run.store) && !taken.keys.is_empty() {
            let identities = taken.identities.iter().map(String::as_str).collect();
            let what = What { keys: taken.keys.iter().collect(), identities, tellings };
            add((&run.store, &run.table), false, &what);
        }
        let mut others: BTreeMap<(&Name, &str), What<'_>> = BTreeMap::new();
        for Attached { store, table, key, identity } in &taken.attached {
            if run.covered.contains(store) {
                let none = What { keys: Vec::new(), identities: Vec::new(), tellings };
                let what = others.entry((store, table)).or_insert(none);
                what.keys.push(key);
                what.identities.push(identity);
            }
        }
        for (place, what) in &others {
            add(*place, true, what);
        }
        Tombs(tombs)
    }

    /// Writes them, in the transaction of the batch's outcome.
    pub(super) async fn write(
        &self,
        tx: &mut Transaction<'_>,
        run: &Run,
        batch: Uuid,
        gone_at: Timestamp,
    ) -> Result<(), LedgerError> {
        for tomb in &self.0 {
            sqlx::query(
                "INSERT INTO tombstone (batch_id, run_id, rule, store, table_name, attached, by_event, records, \
                                        gone_at, sealed) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            )
            .bind(batch.to_string())
            .bind(run.id.to_string())
            .bind(run.rule.as_str())
            .bind(tomb.store.as_str())
            .bind(&tomb.table)
            .bind(i64::from(tomb.attached))
            .bind(i64::from(tomb.by_event))
            .bind(to_integer(tomb.records))
            .bind(to_text(gone_at))
            .bind(tomb.sealed.as_slice())
            .execute(&mut **tx)
            .await
            .doing("writing tombstones")?;
        }
        Ok(())
    }
}

/// What is kept of records: their keys, what told them from others of the same name, and who was told.
struct What<'a> {
    keys: Vec<&'a Key>,
    identities: Vec<&'a str>,
    tellings: &'a [Telling],
}

impl What<'_> {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        // Names and numbers always have a JSON.
        let tellings = serde_json::to_vec(self.tellings).unwrap_or_default();
        front::put(&mut out, tellings.len());
        out.extend(tellings);
        front::put(&mut out, self.identities.len());
        front::encode(&mut out, &self.identities, |out, text| out.extend(text.as_bytes()));
        front::encode(&mut out, &self.keys, |out, key| key.encode_to(out));
        out
    }
}

fn decode(bytes: &[u8]) -> Option<Intended> {
    let mut rest = bytes;
    let length = front::number(&mut rest)?;
    let (tellings, mut rest) = rest.split_at_checked(length)?;
    let tellings = serde_json::from_slice(tellings).ok()?;
    let identities = front::number(&mut rest)?;
    let identities = front::decode(&mut rest, Some(identities))?.into_iter();
    let identities =
        identities.map(|bytes| String::from_utf8(bytes).ok()).collect::<Option<_>>()?;
    let keys = front::decode(&mut rest, None)?;
    let key = |bytes: &Vec<u8>| {
        let mut rest = bytes.as_slice();
        Key::decode_from(&mut rest).filter(|_| rest.is_empty())
    };
    let keys = keys.iter().map(key).collect::<Option<_>>()?;
    Some(Intended { keys, identities, tellings, ..Intended::default() })
}

/// What binds a tombstone to its place.
fn place(batch: Uuid, store: &Name, attached: bool) -> String {
    format!("tombstone\0{batch}\0{store}\0{attached}")
}

/// The stores that sets of backups cover, configured or not.
pub(super) async fn covered(tx: &mut Transaction<'_>) -> Result<BTreeSet<Name>, LedgerError> {
    let rows = sqlx::query("SELECT stores FROM backup_set");
    let rows = rows.fetch_all(&mut **tx).await.doing("reading which stores backups cover")?;
    let mut covered = BTreeSet::new();
    for row in &rows {
        let stores: Result<Vec<Name>, _> = serde_json::from_str(&row.text("stores")?);
        let damaged = LedgerError::Damaged { column: "stores", found: "no list of names" };
        covered.extend(stores.map_err(|_| damaged)?);
    }
    Ok(covered)
}

impl Ledger {
    /// How many tombstones a store has.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tombstones_of(&self, store: &Name) -> Result<Tombstones, LedgerError> {
        let mut tx = self.snapshot().await?;
        let row = sqlx::query(
            "SELECT count(*) AS batches, CAST(coalesce(sum(records), 0) AS BIGINT) AS records, \
                    min(gone_at) AS oldest FROM tombstone WHERE store = $1",
        )
        .bind(store.as_str())
        .fetch_one(&mut *tx)
        .await
        .doing(READING)?;
        Ok(Tombstones {
            batches: row.count("batches")?,
            records: row.count("records")?,
            oldest: row.optional_moment("oldest")?,
        })
    }

    /// Destroys tombstones of a store that are older than a moment, the oldest first, with an audit entry in the same
    /// transaction, and gives how many records they named. One call destroys a bounded number: it is to be called again
    /// until there are none. Those of a frozen store stay.
    ///
    /// # Errors
    /// When the database does not answer; nothing is destroyed then.
    pub async fn destroy_tombstones(
        &self,
        store: &Name,
        before: Timestamp,
        now: Timestamp,
    ) -> Result<u64, LedgerError> {
        if self.tombstones_of(store).await?.oldest.is_none_or(|oldest| oldest >= before) {
            return Ok(0);
        }
        let mut tx = self.begin().await?;
        // What came back with a restore is still to be deleted again, by these keys.
        if restores::frozen_of(&mut tx, &[store]).await?.is_some() {
            return Ok(0);
        }
        // What the entry says has to be true of all that is older: so the bound is a moment, not a number.
        let beyond = sqlx::query(
            "SELECT gone_at FROM tombstone WHERE store = $1 AND gone_at < $2 AND gone_at > \
             (SELECT min(gone_at) FROM tombstone WHERE store = $1) ORDER BY gone_at LIMIT 1 OFFSET $3",
        )
        .bind(store.as_str())
        .bind(to_text(before))
        .bind(AT_ONCE)
        .fetch_optional(&mut *tx)
        .await
        .doing(DESTROYING)?;
        let before = match beyond {
            Some(row) => row.moment("gone_at")?,
            None => before,
        };
        let row = sqlx::query(
            "SELECT CAST(coalesce(sum(records), 0) AS BIGINT) AS records FROM tombstone \
             WHERE store = $1 AND gone_at < $2",
        )
        .bind(store.as_str())
        .bind(to_text(before))
        .fetch_one(&mut *tx)
        .await
        .doing(DESTROYING)?;
        let destroyed = sqlx::query("DELETE FROM tombstone WHERE store = $1 AND gone_at < $2")
            .bind(store.as_str())
            .bind(to_text(before))
            .execute(&mut *tx)
            .await
            .doing(DESTROYING)?;
        let records = row.count("records")?;
        if destroyed.rows_affected() == 0 {
            return Ok(0);
        }
        let event = Event::TombstonesDestroyed { store: store.clone(), before, records };
        audit::append(&mut tx, &self.keys, &Entry { at: now, event }).await?;
        commit(tx).await?;
        Ok(records)
    }

    /// Tombstones of a store after this place, in order, at most so many: of one rule where it is named, and of what was
    /// deleted at or after a moment where one is given.
    ///
    /// # Errors
    /// When the database does not answer, or one cannot be opened with this installation's keys.
    pub async fn tombstones_after(
        &self,
        (store, rule): (&Name, Option<&Name>),
        since: Option<Timestamp>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Tombstone>, LedgerError> {
        let since = since.map_or_else(String::new, to_text);
        let rule = rule.map_or("", Name::as_str);
        self.read_tombstones(
            "tombstone.store = $1 AND gone_at >= $2 AND tombstone.seq > $3 AND ($5 = '' OR tombstone.rule = $5) \
             ORDER BY tombstone.seq LIMIT $4",
            (store, &since, after, limit, rule),
        )
        .await
    }

    /// The newest tombstones of a store, at most so many, of what was deleted at or after a moment where one is given.
    ///
    /// # Errors
    /// As for [`Ledger::tombstones_after`].
    pub async fn newest_tombstones(
        &self,
        store: &Name,
        since: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<Tombstone>, LedgerError> {
        let since = since.map_or_else(String::new, to_text);
        self.read_tombstones(
            "tombstone.store = $1 AND gone_at >= $2 AND tombstone.seq > $3 AND $5 = '' \
             ORDER BY gone_at DESC LIMIT $4",
            (store, &since, -1, limit, ""),
        )
        .await
    }

    /// The first tombstone of a store at or after a moment.
    ///
    /// # Errors
    /// As for [`Ledger::tombstones_after`].
    pub async fn tombstone_at(
        &self,
        store: &Name,
        at: Timestamp,
    ) -> Result<Option<Tombstone>, LedgerError> {
        let since = to_text(at);
        let found = self.read_tombstones(
            "tombstone.store = $1 AND gone_at >= $2 AND tombstone.seq > $3 AND $5 = '' \
             ORDER BY gone_at LIMIT $4",
            (store, &since, -1, 1, ""),
        );
        Ok(found.await?.pop())
    }

    async fn read_tombstones(
        &self,
        which: &'static str,
        (store, since, after, limit, rule): (&Name, &str, i64, u32, &str),
    ) -> Result<Vec<Tombstone>, LedgerError> {
        // Put together from constants.
        let statement = format!(
            "SELECT tombstone.seq AS seq, batch_id, run_id, tombstone.rule AS rule, rule_digest, \
                    tombstone.store AS store, tombstone.table_name AS table_name, action, attached, by_event, cutoff, \
                    gone_at, sealed \
             FROM tombstone JOIN run ON run.id = run_id WHERE {which}"
        );
        let mut tx = self.snapshot().await?;
        let query = sqlx::query(AssertSqlSafe(statement)).bind(store.as_str()).bind(since);
        let query = query.bind(after).bind(i64::from(limit)).bind(rule);
        let rows = query.fetch_all(&mut *tx).await.doing(READING)?;
        rows.iter().map(|row| self.open_tombstone(row)).collect()
    }

    fn open_tombstone(&self, row: &AnyRow) -> Result<Tombstone, LedgerError> {
        let damaged = |found| LedgerError::Damaged { column: "sealed", found };
        let (batch, store) = (row.id("batch_id")?, row.name("store")?);
        let attached = row.count("attached")? == 1;
        let plain =
            self.keys.unseal(&row.bytes("sealed")?, place(batch, &store, attached).as_bytes());
        let plain = plain.map_err(|_| damaged("nothing that opens"))?;
        let what = decode(&plain).ok_or_else(|| damaged("no keys"))?;
        let seq = row.optional_integer("seq")?;
        Ok(Tombstone {
            seq: seq.ok_or(LedgerError::Damaged { column: "seq", found: "nothing" })?,
            batch,
            run: row.id("run_id")?,
            rule: row.name("rule")?,
            rule_digest: row.text("rule_digest")?,
            store,
            table: row.text("table_name")?,
            action: row.word("action", ActionKind::from_word)?,
            attached,
            by_event: row.count("by_event")? == 1,
            cutoff: row.moment("cutoff")?,
            gone_at: row.moment("gone_at")?,
            keys: what.keys,
            identities: what.identities,
            tellings: what.tellings,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::KeyValue;

    proptest! {
        #[test]
        fn tombstones_read_back(
            keys in prop::collection::vec((any::<i64>(), ".{0,9}"), 0..9),
            identities in prop::collection::vec(".{0,9}", 0..9),
        ) {
            let key = |(number, text): &(i64, String)| {
                Key(vec![KeyValue::Int((*number).into()), KeyValue::Text(text.clone())])
            };
            let keys = keys.iter().map(key).collect();
            let what = Intended { keys, identities, ..Intended::default() };
            let identities = what.identities.iter().map(String::as_str).collect();
            let kept = What { keys: what.keys.iter().collect(), identities, tellings: &[] };
            prop_assert_eq!(decode(&kept.encode()), Some(what));
        }

        #[test]
        fn damage_is_no_panic(bytes in any::<Vec<u8>>()) {
            decode(&bytes);
        }
    }
}
