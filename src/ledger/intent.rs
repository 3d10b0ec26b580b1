//! Intents: what a batch is about to take, written down before it is taken.

use jiff::Timestamp;
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{Any, AnyPool};
use uuid::Uuid;

use super::error::Doing;
use super::row::{Columns, to_integer};
use super::runs::Run;
use super::steps::step;
use super::together::Writing;
use super::{Ledger, LedgerError, Transaction, to_text};
use crate::audit::Commitments;
use crate::clock;
use crate::fault;
use crate::keys::Keys;
use crate::notice::{self, Telling};
use crate::plan::DependentRows;
use crate::transition::{MOST_OPEN, State, Step};
use crate::types::{Key, Name};

/// What a batch takes.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Intended {
    /// The keys of its records.
    pub keys: Vec<Key>,
    /// What tells each of them from another of the same key, where its store needs that.
    pub identities: Vec<String>,
    /// What belongs to the records, in other stores, and goes with them.
    pub attached: Vec<Attached>,
    /// Who is told of the records.
    pub tellings: Vec<Telling>,
    /// Of each record, the values that they are told, in the order of [`notice::told`]; nothing where
    /// nobody is told.
    pub told: Vec<Vec<Option<String>>>,
    /// What goes or changes along with the records in other tables of their store.
    pub dependents: Vec<DependentRows>,
    /// Whether events named the records, so that they go whatever their age.
    pub by_event: bool,
    /// The partition that is dropped with them, where they go with all of it.
    pub partition: Option<String>,
}

/// A file or object that belongs to a record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attached {
    /// Its store.
    pub store: Name,
    /// What stands for the table there.
    pub table: String,
    /// Its key.
    pub key: Key,
    /// What tells it from another of the same key; empty where its store does not need that.
    pub identity: String,
}

/// A batch whose outcome is not recorded yet.
#[derive(Debug)]
pub struct OpenBatch {
    /// Its id.
    pub id: Uuid,
    /// The columns whose values its keys are; nothing where that was not written down.
    pub key: Vec<String>,
    /// What it takes.
    pub intended: Intended,
    /// The name of its transaction in the store.
    pub transaction_id: Option<String>,
}

/// Begins an intent that holds more than keys. A key begins with how many values it has, four bytes of
/// which the first is zero.
const MORE: u8 = 1;
/// Begins an intent that holds what recipients are told as well.
const TELLS: u8 = 2;
/// Comes before all else where events named the records.
const BY_EVENT: u8 = 3;
/// Comes before all else where a partition is dropped whole: its name follows.
const PARTITION: u8 = 4;
/// Comes before what follows where rows of other tables go along.
const ALONG: u8 = 5;
/// Comes before all else, with the names of the key's columns.
const KEYED_BY: u8 = 6;
/// Stands for the length of a value that there is not.
const NOTHING: usize = u32::MAX as usize;

impl Intended {
    /// Keys alone.
    pub fn of(keys: Vec<Key>) -> Intended {
        Intended { keys, ..Intended::default() }
    }

    /// Of its records only those of these places.
    #[must_use]
    pub fn only(&self, places: &[usize]) -> Intended {
        Intended {
            keys: places.iter().filter_map(|place| self.keys.get(*place).cloned()).collect(),
            identities: places
                .iter()
                .filter_map(|place| self.identities.get(*place).cloned())
                .collect(),
            attached: self.attached.clone(),
            tellings: self.tellings.clone(),
            told: places.iter().filter_map(|place| self.told.get(*place).cloned()).collect(),
            // Of rows all go, or none.
            dependents: if places.is_empty() { Vec::new() } else { self.dependents.clone() },
            by_event: self.by_event,
            partition: self.partition.clone(),
        }
    }

    /// The commitments to all that it takes.
    pub(super) fn commitments(&self, keys: &Keys, run: &Run) -> Commitments {
        if self.attached.is_empty() {
            return keys.commitments(&run.store, &run.table, &self.keys);
        }
        let records = self.keys.iter().map(|key| keys.commitment(&run.store, &run.table, key));
        let attached = self.attached.iter();
        let attached =
            attached.map(|other| keys.commitment(&other.store, &other.table, &other.key));
        Commitments::new(records.chain(attached).collect())
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(partition) = &self.partition {
            out.push(PARTITION);
            put_text(&mut out, partition);
        }
        if self.by_event {
            out.push(BY_EVENT);
        }
        if !self.dependents.is_empty() {
            out.push(ALONG);
            put(&mut out, self.dependents.len());
            for DependentRows { table, records, changed } in &self.dependents {
                put_text(&mut out, table);
                out.extend(records.to_be_bytes());
                out.extend(changed.to_be_bytes());
            }
        }
        let tells = !self.tellings.is_empty();
        if tells || !self.identities.is_empty() || !self.attached.is_empty() {
            out.push(if tells { TELLS } else { MORE });
            put(&mut out, self.identities.len());
            for identity in &self.identities {
                put_text(&mut out, identity);
            }
            put(&mut out, self.attached.len());
            for Attached { store, table, key, identity } in &self.attached {
                put_text(&mut out, store.as_str());
                put_text(&mut out, table);
                put_text(&mut out, identity);
                key.encode_to(&mut out);
            }
        }
        if tells {
            // Names and numbers always have a JSON.
            put_text(&mut out, &serde_json::to_string(&self.tellings).unwrap_or_default());
            put(&mut out, self.told.len());
            for value in self.told.iter().flatten() {
                match value {
                    Some(text) => put_text(&mut out, text),
                    None => put(&mut out, NOTHING),
                }
            }
        }
        for key in &self.keys {
            key.encode_to(&mut out);
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Intended> {
        let mut intended = Intended::default();
        let bytes = match bytes.split_first() {
            Some((&PARTITION, mut rest)) => {
                intended.partition = Some(text(&mut rest)?);
                rest
            }
            _ => bytes,
        };
        let bytes = match bytes.split_first() {
            Some((&BY_EVENT, rest)) => {
                intended.by_event = true;
                rest
            }
            _ => bytes,
        };
        let mut rest = bytes;
        if let Some((&ALONG, more)) = bytes.split_first() {
            rest = more;
            for _ in 0..number(&mut rest)? {
                let table = text(&mut rest)?;
                let (records, changed) = (long(&mut rest)?, long(&mut rest)?);
                intended.dependents.push(DependentRows { table, records, changed });
            }
        }
        let bytes = rest;
        if let Some((&kind @ (MORE | TELLS), more)) = bytes.split_first() {
            rest = more;
            for _ in 0..number(&mut rest)? {
                intended.identities.push(text(&mut rest)?);
            }
            for _ in 0..number(&mut rest)? {
                let (store, table) = (text(&mut rest)?.parse().ok()?, text(&mut rest)?);
                let identity = text(&mut rest)?;
                let key = Key::decode_from(&mut rest)?;
                intended.attached.push(Attached { store, table, key, identity });
            }
            if kind == TELLS {
                intended.tellings = serde_json::from_str(&text(&mut rest)?).ok()?;
                intended.told = told(&mut rest, notice::told(&intended.tellings).len())?;
            }
        }
        while !rest.is_empty() {
            intended.keys.push(Key::decode_from(&mut rest)?);
        }
        Some(intended)
    }
}

fn put(out: &mut Vec<u8>, count: usize) {
    out.extend(u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len());
    out.extend(text.as_bytes());
}

fn number(rest: &mut &[u8]) -> Option<usize> {
    let (head, tail) = rest.split_at_checked(4)?;
    *rest = tail;
    Some(u32::from_be_bytes(head.try_into().ok()?) as usize)
}

fn long(rest: &mut &[u8]) -> Option<u64> {
    let (head, tail) = rest.split_at_checked(8)?;
    *rest = tail;
    Some(u64::from_be_bytes(head.try_into().ok()?))
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let length = number(rest)?;
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    String::from_utf8(head.to_vec()).ok()
}

/// What is told of each record: so many values.
fn told(rest: &mut &[u8], columns: usize) -> Option<Vec<Vec<Option<String>>>> {
    let records = number(rest)?;
    // Each value has four bytes at least; without one there is nothing to tell of.
    if records.checked_mul(columns.checked_mul(4)?)? > rest.len() || records > 0 && columns == 0 {
        return None;
    }
    let value = |rest: &mut &[u8]| {
        let mut ahead = *rest;
        if number(&mut ahead)? == NOTHING {
            *rest = ahead;
            return Some(None);
        }
        text(rest).map(Some)
    };
    (0..records).map(|_| (0..columns).map(|_| value(rest)).collect()).collect()
}

impl Ledger {
    /// Writes down, durably, which records a batch takes, before it is committed in the store.
    ///
    /// The keys are sealed. `epoch` is the one at which the legal holds were read that the batch
    /// excludes. The intent is refused when more is held by now, and when the run is not running any
    /// more: somebody resolved it because they took this process for dead.
    ///
    /// # Errors
    /// When it could not be written; the batch must be rolled back then.
    pub async fn intend(
        &self,
        run: &Run,
        sequence: u64,
        intended: &Intended,
        transaction_id: Option<&str>,
        epoch: u64,
        now: Timestamp,
    ) -> Result<Uuid, LedgerError> {
        // Sealed before the transaction, in which others wait.
        let (batch, sealed) = seal(&self.keys, run, intended);
        let records = intended.keys.len() as u64;
        let transaction_id = transaction_id.map(str::to_owned);
        let intent = Intent { batch, sequence, records, sealed, transaction_id, epoch, now };
        let writing = Writing { run: run.clone(), settled: Vec::new(), intent: Some(intent) };
        self.write(writing).await?;
        Ok(batch)
    }

    /// The batches of a run whose outcome is not recorded, in order. What they take is read of one at a time: it may be
    /// millions of keys.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn open_batches(&self, run: &Run) -> Result<Vec<Uuid>, LedgerError> {
        let mut tx = self.snapshot().await?;
        let rows = sqlx::query(
            "SELECT id FROM batch WHERE run_id = $1 AND state = 'intended' ORDER BY seq",
        )
        .bind(run.id.to_string())
        .fetch_all(&mut *tx)
        .await
        .doing("reading open batches")?;
        rows.iter().map(|row| row.id("id")).collect()
    }

    /// One batch of a run, if its outcome is not recorded.
    ///
    /// # Errors
    /// When the database does not answer, or the intent cannot be opened with this installation's keys.
    pub async fn open_batch(&self, run: &Run, id: Uuid) -> Result<Option<OpenBatch>, LedgerError> {
        let row = sqlx::query(
            "SELECT id, transaction_id, intent FROM batch \
             WHERE run_id = $1 AND id = $2 AND state = 'intended'",
        )
        .bind(run.id.to_string())
        .bind(id.to_string())
        .fetch_optional(&self.pool)
        .await
        .doing("reading an open batch")?;
        row.map(|row| self.open_intent(&row)).transpose()
    }

    fn open_intent(&self, row: &AnyRow) -> Result<OpenBatch, LedgerError> {
        let id = row.id("id")?;
        let damaged = LedgerError::Damaged { column: "intent", found: "no keys that open" };
        let opened = self.keys.unseal(&row.bytes("intent")?, id.as_bytes());
        let Ok(plain) = opened else { return Err(damaged) };
        let keyed = keyed_by(&plain);
        let Some((key, intended)) =
            keyed.and_then(|(key, rest)| Some((key, Intended::decode(rest)?)))
        else {
            return Err(damaged);
        };
        Ok(OpenBatch { id, key, intended, transaction_id: row.optional_text("transaction_id")? })
    }
}

/// A batch that is about to be committed in the store.
pub(super) struct Intent {
    pub(super) batch: Uuid,
    pub(super) sequence: u64,
    pub(super) records: u64,
    pub(super) sealed: Vec<u8>,
    pub(super) transaction_id: Option<String>,
    pub(super) epoch: u64,
    pub(super) now: Timestamp,
}

/// The id of a new batch, and what it takes sealed for it.
pub(super) fn seal(keys: &Keys, run: &Run, intended: &Intended) -> (Uuid, Vec<u8>) {
    let batch = clock::new_id();
    (batch, keys.seal(&keyed(&run.key, intended), batch.as_bytes()))
}

/// What a batch takes, after the names of the key's columns where they are known.
fn keyed(key: &[String], intended: &Intended) -> Vec<u8> {
    let mut plain = Vec::new();
    if !key.is_empty() {
        plain.push(KEYED_BY);
        put(&mut plain, key.len());
        for column in key {
            put_text(&mut plain, column);
        }
    }
    plain.extend(intended.encode());
    plain
}

/// The names of the key's columns, where they stand before what a batch takes, and the rest.
fn keyed_by(plain: &[u8]) -> Option<(Vec<String>, &[u8])> {
    let Some((&KEYED_BY, mut rest)) = plain.split_first() else {
        return Some((Vec::new(), plain));
    };
    let columns = (0..number(&mut rest)?).map(|_| text(&mut rest)).collect::<Option<_>>()?;
    Some((columns, rest))
}

/// Binds the eight values of an intent's row.
fn bind<'q>(
    insert: Query<'q, Any, AnyArguments>,
    run: &Run,
    intent: &'q Intent,
) -> Query<'q, Any, AnyArguments> {
    insert
        .bind(intent.batch.to_string())
        .bind(run.id.to_string())
        .bind(to_integer(intent.sequence))
        .bind(to_integer(intent.records))
        .bind(intent.transaction_id.as_deref())
        .bind(intent.sealed.as_slice())
        .bind(to_text(intent.now))
        .bind(to_integer(intent.epoch))
}

/// Writes an intent of a run that stands so. The caller has made sure, and keeps sure, that its epoch is
/// the current one.
pub(super) async fn insert_intent(
    tx: &mut Transaction<'_>,
    run: &Run,
    state: State,
    intent: &Intent,
) -> Result<(), LedgerError> {
    if !matches!(state, State::Running { .. }) {
        return Err(LedgerError::RunTakenOver);
    }
    step(run.id, state, Step::Intend { sequence: intent.sequence })?;
    let insert = sqlx::query(
        "INSERT INTO batch (id, run_id, seq, state, records, transaction_id, intent, intended_at, hold_epoch) \
         VALUES ($1, $2, $3, 'intended', $4, $5, $6, $7, $8)",
    );
    let insert = bind(insert, run, intent);
    insert.execute(&mut **tx).await.doing("writing an intent")?;
    fault::point("batch.intending");
    Ok(())
}

/// Writes an intent by a statement of its own where the run may take that step, and says whether it did: on SQLite,
/// where one statement sees and changes everything at one moment. What it asks is what [`transition::next`] asks of
/// [`Step::Intend`], and the epoch; which of it is not so, only [`insert_intent`] says.
///
/// [`transition::next`]: crate::transition::next
pub(super) async fn insert_alone(
    pool: &AnyPool,
    run: &Run,
    intent: &Intent,
) -> Result<bool, LedgerError> {
    fault::point("batch.intending");
    let insert = sqlx::query(
        "INSERT INTO batch (id, run_id, seq, state, records, transaction_id, intent, intended_at, hold_epoch) \
         SELECT $1, id, $3, 'intended', $4, $5, $6, $7, $8 FROM run \
         WHERE id = $2 AND state = 'running' AND (SELECT epoch FROM hold_epoch WHERE id = 1) = $8 \
           AND (SELECT coalesce(max(seq) + 1, 0) FROM batch WHERE run_id = $2) = $3 \
           AND (SELECT count(*) FROM batch WHERE run_id || '' = $2 AND state = 'intended') < $9",
    );
    let insert = bind(insert, run, intent).bind(to_integer(MOST_OPEN as u64));
    let inserted = insert.execute(pool).await.doing("writing an intent")?;
    Ok(inserted.rows_affected() == 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::notice::Per;
    use crate::types::KeyValue;

    fn key(text: &str) -> Key {
        Key(vec![KeyValue::Text(text.to_owned())])
    }

    prop_compose! {
        fn telling()(
            recipient in "[a-z]{1,9}",
            identify in prop::collection::btree_map("[a-z]{1,3}", ".{1,3}", 1..4),
            is_each in any::<bool>(),
            at_once in 1..1_000_usize,
            due_seconds in any::<u64>(),
        ) -> Telling {
            let per = if is_each { Per::Record } else { Per::Subject };
            let recipient = recipient.parse().unwrap();
            Telling { recipient, identify, per, at_once, due_seconds }
        }
    }

    fn tells(columns: &[(&str, &str)]) -> Telling {
        let owned = |(name, column): &(&str, &str)| ((*name).to_owned(), (*column).to_owned());
        Telling {
            recipient: "ads".parse().unwrap(),
            identify: columns.iter().map(owned).collect(),
            per: Per::Subject,
            at_once: 1,
            due_seconds: 60,
        }
    }

    proptest! {
        #[test]
        fn an_intent_reads_back(
            keys in prop::collection::vec(".{0,9}", 0..4),
            identities in prop::collection::vec(".{0,9}", 0..4),
            attached in prop::collection::vec(("[a-z]{1,9}", ".{0,9}", ".{0,9}", ".{0,9}"), 0..4),
            tellings in prop::collection::vec(telling(), 0..3),
            values in prop::collection::vec(prop::option::of(".{0,9}"), 0..24),
            dependents in prop::collection::vec((".{0,9}", any::<u64>(), any::<u64>()), 0..3),
            by_event in any::<bool>(),
            partition in prop::option::of(".{0,9}"),
        ) {
            let columns = notice::told(&tellings).len();
            let told = values.chunks_exact(columns.max(1)).map(<[_]>::to_vec);
            let told = if columns == 0 { Vec::new() } else { told.collect() };
            let attached = attached.iter().map(|(store, table, path, identity)| Attached {
                store: store.parse().unwrap(),
                table: table.clone(),
                key: key(path),
                identity: identity.clone(),
            });
            let intended = Intended {
                keys: keys.iter().map(|text| key(text)).collect(),
                identities,
                attached: attached.collect(),
                tellings,
                told,
                dependents: dependents
                    .into_iter()
                    .map(|(table, records, changed)| DependentRows { table, records, changed })
                    .collect(),
                by_event,
                partition,
            };
            prop_assert_eq!(Intended::decode(&intended.encode()), Some(intended));
        }

        #[test]
        fn damage_is_no_intent_of_another_kind(bytes in any::<Vec<u8>>()) {
            if let Some(intended) = Intended::decode(&bytes) {
                prop_assert!(intended.encode().len() <= bytes.len());
            }
        }

        #[test]
        fn a_cut_intent_tells_nothing_else(
            telling in telling(),
            values in prop::collection::vec(prop::option::of(".{0,9}"), 1..24),
            cut in any::<prop::sample::Index>(),
        ) {
            let told: Vec<_> = values.chunks_exact(telling.identify.len()).collect();
            let intended = Intended {
                keys: vec![key("a")],
                told: told.iter().map(|values| values.to_vec()).collect(),
                tellings: vec![telling],
                ..Intended::default()
            };
            prop_assume!(notice::told(&intended.tellings).len() == intended.tellings[0].identify.len());
            let bytes = intended.encode();
            let read = Intended::decode(&bytes[..cut.index(bytes.len())]);
            prop_assert!(read.is_none_or(|read| read.told == intended.told || read.tellings.is_empty()));
        }
    }

    #[test]
    fn keys_alone_are_written_as_they_always_were() {
        let intended = Intended::of(vec![key("a"), key("b")]);
        let mut plain = Vec::new();
        intended.keys.iter().for_each(|key| key.encode_to(&mut plain));
        assert_eq!(intended.encode(), plain);
    }

    #[test]
    fn the_columns_of_the_key_are_kept_and_older_intents_read_without() {
        let intended = Intended { by_event: true, ..Intended::of(vec![key("a"), key("b")]) };
        for columns in [vec![], vec!["tenant".to_owned(), "id".to_owned()]] {
            let plain = keyed(&columns, &intended);
            let (read, rest) = keyed_by(&plain).unwrap();
            assert_eq!((read, Intended::decode(rest)), (columns, Some(intended.clone())));
        }
        assert_eq!(keyed(&[], &intended), intended.encode());
    }

    #[test]
    fn intents_of_before_anybody_was_told_still_read() {
        let mut bytes = vec![MORE];
        put(&mut bytes, 1);
        put_text(&mut bytes, "inode 7");
        put(&mut bytes, 1);
        for text in ["uploads", "files", "inode 8"] {
            put_text(&mut bytes, text);
        }
        key("faces/k1").encode_to(&mut bytes);
        key("logs/1").encode_to(&mut bytes);
        let read = Intended::decode(&bytes).unwrap();
        assert_eq!((read.keys.clone(), read.attached.len()), (vec![key("logs/1")], 1));
        assert!(read.tellings.is_empty() && read.told.is_empty());
        assert_eq!(read.encode(), bytes, "and are written as before");
    }

    #[test]
    fn of_what_is_gone_alone_is_told_by_the_names_of_the_recipient() {
        let value = |text: &str| Some(text.to_owned());
        let intended = Intended {
            keys: vec![key("a"), key("b"), key("c")],
            tellings: vec![tells(&[("user", "id"), ("mail", "email")]), tells(&[("id", "id")])],
            told: vec![
                vec![value("a@x"), value("1")],
                vec![value("b@x"), value("2")],
                vec![None, value("3")],
            ],
            ..Intended::default()
        };
        assert_eq!(notice::told(&intended.tellings), ["email", "id"]);
        let gone = intended.only(&[0, 2]);
        let told = |of: &Intended, telling: usize| {
            let columns = notice::told(&of.tellings);
            let values = of.tellings[telling].values(&columns, &of.told);
            values.into_iter().map(|value| value.map(str::to_owned)).collect::<Vec<_>>()
        };
        assert_eq!(told(&gone, 0), [value("a@x"), value("1"), None, value("3")]);
        assert_eq!(told(&gone, 1), [value("1"), value("3")]);
        assert!(told(&intended.only(&[]), 0).is_empty() && told(&intended.only(&[]), 1).is_empty());
    }
}
