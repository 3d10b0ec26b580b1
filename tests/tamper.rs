//! The tamper suite: a log with everything in it, in both ledgers and as an exported folder, changed in
//! every way there is, one at a time. Each change must be found, and how many there were is printed.
//!
//! Bytes are sampled; with `EXPUNGED_LONG=1` every single one is changed.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test that cannot go on is to fail")]
#![allow(clippy::print_stdout, reason = "how many changes were found is to be seen")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use expunged::archive::{self, ArchiveError};
use expunged::audit::entry::{ActionKind, Cause, RunEnd, RunMode};
use expunged::audit::note::Verifier;
use expunged::audit::{Entry, Event, Hash};
use expunged::clock::Stopwatch;
use expunged::keys::{Hand, Keys};
use expunged::ledger::audit::append;
use expunged::ledger::{Ledger, Problem, Verification, commit};
use expunged::types::{Key, KeyValue, Name};
use jiff::{SignedDuration, Timestamp};
use sqlx::{AnyConnection, AssertSqlSafe, Connection, Executor, Row};
use tempfile::TempDir;
use uuid::Uuid;

mod support;

#[path = "tamper/tiles.rs"]
mod tiles;

/// A ledger with a folder of keys.
struct Place {
    url: String,
    temporary: TempDir,
    _database: Option<support::TestDatabase>,
}

impl Place {
    fn sqlite() -> Place {
        let temporary = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/ledger.db", temporary.path().display());
        Place { url, temporary, _database: None }
    }

    async fn postgres() -> Place {
        let database = support::fresh_postgres().await;
        let (url, temporary) = (database.url.clone(), tempfile::tempdir().unwrap());
        Place { url, temporary, _database: Some(database) }
    }

    fn keys(&self) -> PathBuf {
        self.temporary.path().join("keys")
    }

    async fn open(&self) -> Ledger {
        let keys = Keys::open_or_create(&self.keys()).unwrap();
        Ledger::open(&self.url, Arc::new(keys)).await.unwrap()
    }

    /// A connection past the ledger, for those who tamper, without the fence against mistakes.
    async fn tamperer(&self) -> AnyConnection {
        sqlx::any::install_default_drivers();
        let mut connection = AnyConnection::connect(&self.url).await.unwrap();
        let lift = if self.url.starts_with("sqlite") {
            "PRAGMA busy_timeout = 10000; PRAGMA synchronous = OFF; \
             DROP TRIGGER audit_entry_keeps; DROP TRIGGER audit_entry_stays"
        } else {
            "ALTER TABLE audit_entry DISABLE TRIGGER USER"
        };
        connection.execute(lift).await.unwrap();
        connection
    }
}

/// Which bytes are changed: all of them, or one in so many. PostgreSQL takes longer over each, and what
/// looks at the bytes is the same.
fn stride(sampled: usize) -> usize {
    if std::env::var_os("EXPUNGED_LONG").is_some() { 1 } else { sampled }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn at(second: i64) -> Timestamp {
    "2026-11-21T12:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(second)
}

/// One run after the other, each with a batch whose commitments the ledger keeps; in the middle the
/// signing key changes.
async fn fill(place: &Place, runs: u32) -> Ledger {
    let mut ledger = place.open().await;
    let mut second = 0;
    for run in 0..runs {
        if run == runs / 2 {
            second += 1;
            Keys::prepare_rotation(&place.keys()).unwrap();
            place.open().await.rotate_key(at(second)).await.unwrap();
            Keys::finish_rotation(&place.keys()).unwrap();
            ledger = place.open().await;
        }
        let batch = Uuid::from_u128(u128::from(run) + 1_000);
        let records: Vec<_> = (0..5).map(|n| Key(vec![KeyValue::Int(n)])).collect();
        let commitments = ledger.keys().commitments(&name("app"), "users", &records);
        keep(&ledger, run, batch, &commitments.clone().into_bytes()).await;
        let mut transaction = ledger.begin().await.unwrap();
        for event in events(run, batch, commitments.root()) {
            second += 1;
            let entry = Entry { at: at(second), event };
            append(&mut transaction, ledger.keys(), &entry).await.unwrap();
        }
        commit(transaction).await.unwrap();
    }
    ledger
}

async fn keep(ledger: &Ledger, run: u32, batch: Uuid, commitments: &[u8]) {
    let mut tx = ledger.begin().await.unwrap();
    let id = Uuid::from_u128(u128::from(run) + 1);
    for sql in [
        "INSERT INTO request (id, rule, cause, state, created_at) VALUES ($1, 'r', 'slot', 'done', 't')",
        "INSERT INTO run (id, request_id, rule, rule_digest, store, table_name, action, mode, cutoff, \
         state, started_at) VALUES ($1, $1, 'r', 'd', 'app', 'users', 'delete', 'enforce', 'c', 'done', 's')",
    ] {
        sqlx::query(sql).bind(id.to_string()).execute(&mut *tx).await.unwrap();
    }
    let sql = "INSERT INTO batch (id, run_id, seq, state, records, commitments, intended_at, settled_at) \
               VALUES ($1, $2, 0, 'done', 5, $3, 't', 't')";
    let insert = sqlx::query(sql).bind(batch.to_string()).bind(id.to_string());
    insert.bind(commitments).execute(&mut *tx).await.unwrap();
    commit(tx).await.unwrap();
}

fn events(run: u32, batch: Uuid, commitments: Hash) -> Vec<Event> {
    let (id, rule, store) = (Uuid::from_u128(u128::from(run) + 1), name("inactive"), name("app"));
    vec![
        Event::DaemonStarted { version: "0.1.0".into() },
        Event::RunStarted {
            run: id,
            rule: rule.clone(),
            rule_digest: "ab".repeat(32),
            store: store.clone(),
            table: "users".into(),
            action: ActionKind::Delete,
            cutoff: at(-100),
            cause: Cause::Slot,
            mode: RunMode::Enforce,
            plan: None,
        },
        Event::BatchDone {
            run: id,
            batch,
            rule: rule.clone(),
            store: store.clone(),
            table: "users".into(),
            action: ActionKind::Delete,
            records: 5,
            attachments: 0,
            dependents: Vec::new(),
            commitments,
            pseudonymized: vec![],
            notices: BTreeMap::new(),
            partition: None,
        },
        Event::RunFinished {
            run: id,
            rule,
            store,
            state: RunEnd::Done,
            records: 5,
            remaining: Some(0),
            batches: 1,
            reason: None,
        },
        Event::DaemonStopped { reason: "asked to stop".into() },
    ]
}

async fn verify(ledger: &Ledger) -> Verification {
    ledger.verify_audit().await.unwrap()
}

/// Somebody who changes a ledger, and how often they were found.
struct Tamperer {
    ledger: Ledger,
    connection: AnyConnection,
    changes: u64,
}

const TABLES: [&str; 4] = ["audit_entry", "audit_head", "audit_checkpoint", "batch"];

impl Tamperer {
    async fn new(place: &Place, ledger: Ledger) -> Tamperer {
        let mut tamperer = Tamperer { ledger, connection: place.tamperer().await, changes: 0 };
        tamperer.save("saved").await;
        tamperer
    }

    async fn save(&mut self, into: &str) {
        for table in TABLES {
            let sql = format!("CREATE TABLE {into}_{table} AS SELECT * FROM {table}");
            self.connection.execute(AssertSqlSafe(sql)).await.unwrap();
        }
    }

    async fn put_back(&mut self, from: &str, tables: impl Fn(&str) -> bool) {
        for table in TABLES.into_iter().filter(|table| tables(table)) {
            let sql =
                format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM {from}_{table}");
            self.connection.execute(AssertSqlSafe(sql)).await.unwrap();
        }
    }

    async fn assert_found(&mut self, what: &str) {
        self.changes += 1;
        assert!(!verify(&self.ledger).await.is_valid(), "{what} was not found");
    }

    /// Carries out statements that must be found, and undoes them.
    async fn tamper(&mut self, statements: &str) {
        self.connection.execute(AssertSqlSafe(statements.to_owned())).await.unwrap();
        self.assert_found(statements).await;
        self.put_back("saved", |table| statements.contains(table)).await;
    }

    /// Changes single bytes of a value in each row of a table, one at a time.
    async fn flip(&mut self, table: &str, id: &str, column: &str, is_text: bool, sampled: usize) {
        let select =
            format!("SELECT CAST({id} AS TEXT) AS id, {column} AS value FROM {table} ORDER BY 1");
        let rows = self.connection.fetch_all(AssertSqlSafe(select)).await.unwrap();
        let update = format!("UPDATE {table} SET {column} = $1 WHERE CAST({id} AS TEXT) = $2");
        let mut byte = 0;
        for row in rows {
            let id: String = row.get("id");
            let value: Vec<u8> =
                if is_text { row.get::<String, _>("value").into_bytes() } else { row.get("value") };
            // On from where the value before left off, so that all columns of bytes are met.
            while byte < value.len() {
                let mut changed = value.clone();
                changed[byte] ^= 1;
                self.set(&update, &id, changed, is_text).await;
                self.assert_found(&format!("byte {byte} of {column} of {id}")).await;
                byte += stride(sampled);
            }
            byte -= value.len();
            self.set(&update, &id, value, is_text).await;
        }
    }

    async fn set(&mut self, update: &str, id: &str, value: Vec<u8>, is_text: bool) {
        let query = sqlx::query(AssertSqlSafe(update.to_owned()));
        let query = if is_text {
            // Where one byte of a character was changed, there is none any more: another then.
            query.bind(String::from_utf8(value).unwrap_or_else(|_| "?".to_owned()))
        } else {
            query.bind(value)
        };
        query.bind(id).execute(&mut self.connection).await.unwrap();
    }

    /// Somebody who knows the formats makes the stored hash fit as well.
    async fn flip_with_hash(&mut self, sampled: usize) {
        let select = "SELECT position, entry, leaf_hash FROM audit_entry ORDER BY position";
        let update = "UPDATE audit_entry SET entry = $1, leaf_hash = $2 WHERE position = $3";
        for row in self.connection.fetch_all(select).await.unwrap() {
            let (position, entry): (i64, String) = (row.get("position"), row.get("entry"));
            for byte in
                (usize::try_from(position).unwrap() % 7..entry.len()).step_by(stride(sampled))
            {
                let mut changed = entry.clone().into_bytes();
                changed[byte] ^= 1;
                let hash = Hash::leaf(&changed).0;
                let changed = String::from_utf8(changed).unwrap();
                let query = sqlx::query(update).bind(changed).bind(hash.as_slice()).bind(position);
                query.execute(&mut self.connection).await.unwrap();
                self.assert_found(&format!("byte {byte} of {position}, with its hash")).await;
            }
            let hash: Vec<u8> = row.get("leaf_hash");
            let query = sqlx::query(update).bind(entry).bind(hash).bind(position);
            query.execute(&mut self.connection).await.unwrap();
        }
    }

    /// Entries that are removed, exchanged, repeated or cut off.
    async fn rearrange(&mut self, entries: u64, sampled: usize) {
        let all = "position, at, kind, rule, store, run_id, entry, leaf_hash";
        let rest = all.strip_prefix("position").unwrap();
        for one in 0..entries {
            self.tamper(&format!("DELETE FROM audit_entry WHERE position = {one}")).await;
            self.tamper(&format!("DELETE FROM audit_entry WHERE position >= {one}")).await;
            self.tamper(&format!(
                "DELETE FROM audit_entry WHERE position >= {one}; UPDATE audit_head SET size = {one}"
            ))
            .await;
            self.tamper(&format!(
                "UPDATE audit_entry SET position = -position - 1 WHERE position > {one}; \
                 UPDATE audit_entry SET position = -position WHERE position < 0; \
                 INSERT INTO audit_entry SELECT {one} + 1{rest} FROM audit_entry WHERE position = {one}"
            ))
            .await;
            for other in one + 1..entries {
                // Sampled: neighbours, and some that lie apart.
                if (other - one) % stride(sampled) as u64 != 1 % stride(sampled) as u64 {
                    continue;
                }
                self.tamper(&format!(
                    "UPDATE audit_entry SET position = 9999 WHERE position = {one}; \
                     UPDATE audit_entry SET position = {one} WHERE position = {other}; \
                     UPDATE audit_entry SET position = {other} WHERE position = 9999"
                ))
                .await;
            }
        }
    }
}

async fn every_change_of_a_ledger_is_found(place: Place, what: &str, coarse: usize) {
    let watch = Stopwatch::start();
    let ledger = fill(&place, 4).await;
    let untouched = verify(&ledger).await;
    assert_eq!((untouched.problems.as_slice(), untouched.entries), (&[][..], 21));
    assert_eq!(untouched.keys.len(), 2);
    let mut tamperer = loosened(&place, ledger).await;

    tamperer.flip("audit_entry", "position", "entry", true, 23 * coarse).await;
    tamperer.flip("audit_entry", "position", "leaf_hash", false, 7 * coarse).await;
    tamperer.flip("audit_entry", "position", "at", true, 5 * coarse).await;
    tamperer.flip("audit_entry", "position", "kind", true, 3 * coarse).await;
    tamperer.flip("audit_head", "id", "checkpoint", true, 3 * coarse).await;
    tamperer.flip("audit_head", "id", "frontier", false, 3 * coarse).await;
    tamperer.flip("audit_checkpoint", "size", "checkpoint", true, 3 * coarse).await;
    tamperer.flip("batch", "id", "commitments", false, 11 * coarse).await;
    tamperer.flip_with_hash(31 * coarse).await;
    tamperer.rearrange(21, 6 * coarse).await;
    for statement in [
        "DELETE FROM audit_head",
        "DELETE FROM audit_checkpoint",
        "UPDATE audit_checkpoint SET size = size + 1",
        "INSERT INTO audit_checkpoint SELECT size + 1, checkpoint FROM audit_checkpoint",
        "UPDATE audit_head SET size = size - 1",
        "UPDATE audit_head SET checkpoint = (SELECT checkpoint FROM audit_checkpoint)",
    ] {
        tamperer.tamper(statement).await;
    }
    assert!(verify(&tamperer.ledger).await.is_valid(), "all was put back");
    let changes = tamperer.changes;
    support::tell(&format!(
        "tamper suite, {what}: {changes} changes, all found, in {:?}",
        watch.elapsed()
    ));
}

/// Nothing that a database checks by itself is to be in the way of those who tamper.
async fn loosened(place: &Place, ledger: Ledger) -> Tamperer {
    let mut tamperer = Tamperer::new(place, ledger).await;
    for table in ["audit_entry", "audit_checkpoint", "audit_head"] {
        let sql = format!(
            "CREATE TABLE loose AS SELECT * FROM {table}; DROP TABLE {table}; \
             ALTER TABLE loose RENAME TO {table}"
        );
        tamperer.connection.execute(AssertSqlSafe(sql)).await.unwrap();
    }
    tamperer
}

#[tokio::test]
async fn every_change_of_a_sqlite_ledger_is_found() {
    every_change_of_a_ledger_is_found(Place::sqlite(), "SQLite", 1).await;
}

#[tokio::test]
async fn every_change_of_a_postgres_ledger_is_found() {
    every_change_of_a_ledger_is_found(Place::postgres().await, "PostgreSQL", 3).await;
}

/// A whole ledger that is put back to an earlier state is good in itself. A checkpoint that was kept
/// elsewhere shows it; and also when the log went on differently from there, past that checkpoint.
async fn a_rollback_is_found_with_a_checkpoint_from_elsewhere(place: Place) {
    let ledger = fill(&place, 2).await;
    let mut tamperer = Tamperer::new(&place, ledger.clone()).await;
    let early = ledger.checkpoint().await.unwrap();
    tamperer.save("old").await;
    let more = |second| Entry { at: at(second), event: Event::ClockJumped { seconds: second } };
    for second in 100..105 {
        let mut tx = ledger.begin().await.unwrap();
        append(&mut tx, ledger.keys(), &more(second)).await.unwrap();
        commit(tx).await.unwrap();
    }
    let newer = ledger.checkpoint().await.unwrap();
    let since = |note: &str| ledger.verify_audit_since(vec![note.to_owned()]);
    for note in [&early, &newer] {
        let found = since(note).await.unwrap();
        assert_eq!((found.problems.as_slice(), found.held_against), (&[][..], 1));
    }
    tamperer.put_back("old", |_| true).await;
    assert!(verify(&ledger).await.is_valid(), "in itself it is good");
    assert!(since(&early).await.unwrap().is_valid());
    let found = since(&newer).await.unwrap().problems;
    assert_eq!(found, [Problem::RolledBack { kept: 16, found: 11 }]);

    for second in 200..210 {
        let mut tx = ledger.begin().await.unwrap();
        append(&mut tx, ledger.keys(), &more(second)).await.unwrap();
        commit(tx).await.unwrap();
    }
    assert!(verify(&ledger).await.is_valid(), "in itself it is good");
    let found = since(&newer).await.unwrap().problems;
    assert_eq!(found, [Problem::Forked { size: 16 }]);

    let folder = place.temporary.path().join("exported");
    archive::export(&ledger, &folder, |_, _| ()).await.unwrap();
    let keys = ledger.keys().verifiers(Hand::Present);
    assert!(archive::verify(&folder, keys.clone(), vec![early]).unwrap().is_valid());
    let found = archive::verify(&folder, keys, vec![newer]).unwrap();
    assert_eq!(found.problems, [Problem::Forked { size: 16 }]);
}

#[tokio::test]
async fn a_rollback_of_a_sqlite_ledger_is_found() {
    a_rollback_is_found_with_a_checkpoint_from_elsewhere(Place::sqlite()).await;
}

#[tokio::test]
async fn a_rollback_of_a_postgres_ledger_is_found() {
    a_rollback_is_found_with_a_checkpoint_from_elsewhere(Place::postgres().await).await;
}

/// Every file below a folder, by its path in it.
fn files(dir: &Path) -> BTreeSet<String> {
    let mut waiting = vec![dir.to_owned()];
    let mut found = BTreeSet::new();
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                found.insert(path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

/// Whether a change of the folder is noticed: as one, or as something that cannot be checked.
fn is_noticed(dir: &Path, keys: &[Verifier]) -> bool {
    match archive::verify(dir, keys.to_vec(), Vec::new()) {
        Ok(found) => !found.is_valid(),
        Err(ArchiveError::Key { .. }) => true,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn every_change_of_an_exported_folder_is_found() {
    let watch = Stopwatch::start();
    let place = Place::sqlite();
    let ledger = fill(&place, 52).await;
    let dir = place.temporary.path().join("exported");
    let exported = archive::export(&ledger, &dir, |_, _| ()).await.unwrap();
    assert_eq!((exported.entries, exported.batches), (261, 52));
    let keys = ledger.keys().verifiers(Hand::Present);
    // The first key is enough: the log itself leads to the second.
    for keys in [&keys[..1], &keys[1..], &keys[..]] {
        let found = archive::verify(&dir, keys.to_vec(), Vec::new()).unwrap();
        assert_eq!((found.problems.as_slice(), found.entries), (&[][..], 261));
    }
    let keys = &keys[..1];
    let mut changes = 0;
    for (offset, path) in files(&dir).into_iter().enumerate() {
        let file = dir.join(&path);
        let bytes = fs::read(&file).unwrap();
        let sampled = if bytes.len() > 4_000 { 331 } else { 41 };
        for byte in
            (offset % stride(sampled).min(bytes.len())..bytes.len()).step_by(stride(sampled))
        {
            let mut changed = bytes.clone();
            changed[byte] ^= 1;
            fs::write(&file, &changed).unwrap();
            assert!(is_noticed(&dir, keys), "byte {byte} of {path}");
            changes += 1;
        }
        let cuts = [&bytes[1..], &bytes[..bytes.len() - 1], &[][..]];
        let longer = [bytes.as_slice(), b"\0"].concat();
        for changed in cuts.into_iter().chain([longer.as_slice()]) {
            fs::write(&file, changed).unwrap();
            // The line break at the end of the keys is only there for those who read them.
            let is_same = path == "key" && changed == &bytes[..bytes.len() - 1];
            assert!(is_same || is_noticed(&dir, keys), "{} bytes of {path}", changed.len());
            changes += 1;
        }
        fs::remove_file(&file).unwrap();
        // Without its commitments a batch is still in the log, only none of its records can be shown.
        assert!(path.starts_with("commitments/") || is_noticed(&dir, keys), "{path} removed");
        changes += 1;
        fs::write(&file, &bytes).unwrap();
    }
    let strangers = [Uuid::from_u128(1).to_string(), Uuid::from_u128(2).to_string()];
    for stranger in strangers {
        let file = dir.join("commitments").join(stranger);
        fs::write(&file, [7; 32]).unwrap();
        assert!(is_noticed(&dir, keys), "commitments of a batch that never was");
        fs::remove_file(&file).unwrap();
        changes += 1;
    }
    assert!(!is_noticed(&dir, keys), "all was put back");
    support::tell(&format!(
        "tamper suite, exported folder: {changes} changes, all found, in {:?}",
        watch.elapsed()
    ));
}

#[tokio::test]
async fn an_export_goes_on_where_it_was_and_refuses_what_does_not_fit() {
    let place = Place::sqlite();
    let ledger = fill(&place, 52).await;
    let dir = place.temporary.path().join("exported");
    archive::export(&ledger, &dir, |_, _| ()).await.unwrap();
    let first = files(&dir);
    assert!(first.contains("tile/0/001.p/5") && first.contains("tile/entries/001.p/5"));
    let again = archive::export(&ledger, &dir, |_, _| ()).await.unwrap();
    assert_eq!(again.written, 0, "nothing is new");

    let mut tx = ledger.begin().await.unwrap();
    for second in 0..300 {
        let entry = Entry { at: at(900 + second), event: Event::ClockJumped { seconds: second } };
        append(&mut tx, ledger.keys(), &entry).await.unwrap();
    }
    commit(tx).await.unwrap();
    let more = archive::export(&ledger, &dir, |_, _| ()).await.unwrap();
    assert_eq!(more.entries, 561);
    let tiles: Vec<_> = files(&dir).into_iter().filter(|path| path.starts_with("tile/")).collect();
    let expected = ["tile/0/000", "tile/0/001", "tile/0/002.p/49", "tile/1/000.p/2"];
    let bundles = ["tile/entries/000", "tile/entries/001", "tile/entries/002.p/49"];
    assert_eq!(
        tiles,
        [&expected[..], &bundles[..]].concat(),
        "nothing is left of the partial ones"
    );
    assert!(!is_noticed(&dir, &ledger.keys().verifiers(Hand::Present)));

    // Somebody changed what was exported: it is neither overwritten nor built on.
    let tile = dir.join("tile/0/000");
    let bytes = fs::read(&tile).unwrap();
    fs::write(&tile, &bytes[1..]).unwrap();
    let refused = archive::export(&ledger, &dir, |_, _| ()).await;
    assert!(matches!(refused, Err(ArchiveError::Differs { .. })), "{refused:?}");
    fs::write(&tile, &bytes).unwrap();

    let other = Place::sqlite();
    let stranger = fill(&other, 1).await;
    let refused = archive::export(&stranger, &dir, |_, _| ()).await;
    assert!(matches!(refused, Err(ArchiveError::Foreign { .. })), "{refused:?}");
    let letters = place.temporary.path().join("letters");
    fs::create_dir(&letters).unwrap();
    fs::write(letters.join("one"), "dear").unwrap();
    let refused = archive::export(&ledger, &letters, |_, _| ()).await;
    assert!(matches!(refused, Err(ArchiveError::Foreign { .. })), "{refused:?}");
    assert_eq!(files(&letters).len(), 1);
}
