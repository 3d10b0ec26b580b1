//! The ledger, each test on SQLite and on PostgreSQL: opening and refusing, the audit log and every
//! way to tamper with it, locks that vanish with their holder.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use expunged::audit::entry::{ActionKind, Cause, RunEnd, RunMode};
use expunged::audit::{Checkpoint, Entry, Event, Hash};
use expunged::clock::{Stopwatch, new_id};
use expunged::keys::Keys;
use expunged::ledger::audit::{AuditFilter, append};
use expunged::ledger::{Ledger, LedgerError, Problem, Verification, commit};
use expunged::types::Name;
use jiff::{SignedDuration, Timestamp};
use sqlx::{AnyConnection, AssertSqlSafe, Connection, Executor, Row};
use tempfile::TempDir;
use uuid::Uuid;

#[path = "ledger/tamper.rs"]
mod tamper;

use tamper::every_tampering_is_found;

/// A place for a ledger, with the keys that go with it.
struct Place {
    url: String,
    keys: Arc<Keys>,
    temporary: TempDir,
}

impl Place {
    fn new(url: impl FnOnce(&Path) -> String) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let url = url(temporary.path());
        Place { url, keys: Arc::new(Keys::generate()), temporary }
    }

    async fn sqlite() -> Self {
        Place::new(|folder| format!("sqlite://{}/state/ledger.db", folder.display()))
    }

    /// A fresh database on the server for tests.
    async fn postgres() -> Self {
        let admin = std::env::var("EXPUNGED_TEST_POSTGRES_URL")
            .expect("EXPUNGED_TEST_POSTGRES_URL is not set: run tests/run");
        sqlx::any::install_default_drivers();
        let name = format!("ledger_{}", new_id().simple());
        let mut connection = AnyConnection::connect(&admin).await.unwrap();
        let create = AssertSqlSafe(format!("CREATE DATABASE {name}"));
        connection.execute(create).await.unwrap();
        connection.close().await.unwrap();
        let (base, query) =
            admin.split_once('?').map_or((&*admin, ""), |(base, query)| (base, query));
        let server = base.rfind('/').map_or(base, |slash| &base[..slash]);
        let separator = if query.is_empty() { "" } else { "?" };
        Place::new(|_| format!("{server}/{name}{separator}{query}"))
    }

    fn is_sqlite(&self) -> bool {
        self.url.starts_with("sqlite")
    }

    fn file(&self) -> PathBuf {
        self.temporary.path().join("state/ledger.db")
    }

    async fn open(&self) -> Ledger {
        Ledger::open(&self.url, self.keys.clone()).await.unwrap()
    }

    /// A connection past the ledger, for those who tamper.
    async fn connect(&self) -> AnyConnection {
        sqlx::any::install_default_drivers();
        AnyConnection::connect(&self.url).await.unwrap()
    }
}

/// Runs a test on both databases.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Place::sqlite().await).await; })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Place::postgres().await).await; })+
        }
    };
}

on_both!(
    a_new_log_is_empty_signed_and_valid,
    entries_come_back_as_they_were_written,
    the_filter_lets_through_what_it_names,
    a_ledger_is_opened_again_and_goes_on,
    all_who_open_a_new_ledger_at_once_get_the_same,
    nulls_and_bytes_survive,
    states_that_do_not_exist_are_refused,
    a_newer_ledger_is_refused,
    an_older_ledger_is_not_read,
    another_database_is_refused_untouched,
    nothing_is_made_for_a_reader,
    a_reader_cannot_write,
    what_is_rolled_back_leaves_no_trace,
    entries_cannot_be_changed_or_removed_by_mistake,
    many_append_at_once,
    every_tampering_is_found,
    a_log_of_many_pages_is_verified,
    nothing_is_built_on_a_head_that_was_tampered_with,
    a_removed_head_is_not_made_again,
    other_keys_neither_append_nor_verify,
    a_rule_is_locked_by_one_at_a_time,
    a_lock_vanishes_with_a_killed_process,
);

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn at(second: i64) -> Timestamp {
    let start: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
    start + SignedDuration::from_secs(second)
}

fn refused(second: i64) -> Entry {
    let event = Event::RunRefused { rule: name("old"), reason: "too many records are due".into() };
    Entry { at: at(second), event }
}

/// The entries of a small history, one second after the other.
fn history() -> Vec<Entry> {
    let (run, rule, store) = (Uuid::from_u128(7), name("inactive"), name("app"));
    let events = vec![
        Event::DaemonStarted { version: "0.1.0".into() },
        Event::RuleArmed { rule: rule.clone(), digest: "ab".repeat(32), by: Some("uid 0".into()) },
        Event::RunStarted {
            run,
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
            run,
            batch: Uuid::from_u128(8),
            rule: rule.clone(),
            store: store.clone(),
            table: "users".into(),
            action: ActionKind::Delete,
            records: 3,
            attachments: 0,
            dependents: Vec::new(),
            commitments: Hash([5; 32]),
            pseudonymized: vec![],
            notices: BTreeMap::new(),
            partition: None,
        },
        Event::RunFinished {
            run,
            rule,
            store,
            state: RunEnd::Done,
            records: 3,
            remaining: Some(0),
            batches: 1,
            reason: None,
        },
        Event::DaemonStopped { reason: "asked to stop".into() },
    ];
    (0..).zip(events).map(|(second, event)| Entry { at: at(second), event }).collect()
}

async fn write(ledger: &Ledger, entries: &[Entry]) {
    let mut transaction = ledger.begin().await.unwrap();
    for entry in entries {
        append(&mut transaction, ledger.keys(), entry).await.unwrap();
    }
    commit(transaction).await.unwrap();
}

async fn verify(ledger: &Ledger) -> Verification {
    ledger.verify_audit().await.unwrap()
}

async fn assert_valid(ledger: &Ledger, entries: u64) {
    let found = verify(ledger).await;
    assert_eq!(found.problems, []);
    assert!(found.is_valid());
    assert_eq!(found.entries, entries);
    let note = ledger.checkpoint().await.unwrap();
    let checkpoint = Checkpoint::open(&note, ledger.keys().verifier()).unwrap();
    assert_eq!((checkpoint.size, checkpoint.root), (entries, found.root));
}

/// Lifts the fence that keeps entries from being changed by mistake.
async fn lift_fence(place: &Place, connection: &mut AnyConnection) {
    let lift = if place.is_sqlite() {
        "DROP TRIGGER audit_entry_keeps; DROP TRIGGER audit_entry_stays"
    } else {
        "ALTER TABLE audit_entry DISABLE TRIGGER USER"
    };
    connection.execute(lift).await.unwrap();
}

async fn a_new_log_is_empty_signed_and_valid(place: Place) {
    let ledger = place.open().await;
    assert_valid(&ledger, 0).await;
    assert_eq!(verify(&ledger).await.root, Hash::empty_root());
    if place.is_sqlite() {
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        let file = place.file();
        assert_eq!(mode(&file), 0o600);
        assert_eq!(mode(&file.with_extension("db-wal")), 0o600);
        assert_eq!(mode(&file.with_extension("db.locks")), 0o700);
        assert_eq!(mode(file.parent().unwrap()), 0o700);
    }
}

async fn entries_come_back_as_they_were_written(place: Place) {
    let ledger = place.open().await;
    write(&ledger, &history()).await;
    let read = ledger.audit_log(&AuditFilter::default()).await.unwrap();
    assert_eq!(read, (0..).zip(history()).collect::<Vec<_>>());
    assert_valid(&ledger, 6).await;
}

async fn the_filter_lets_through_what_it_names(place: Place) {
    let ledger = place.open().await;
    write(&ledger, &history()).await;
    write(&ledger, &[refused(10)]).await;
    let positions = async |filter: AuditFilter| -> Vec<u64> {
        let read = ledger.audit_log(&filter).await.unwrap();
        read.into_iter().map(|(position, _)| position).collect()
    };
    let all = AuditFilter::default;
    assert_eq!(positions(AuditFilter { rule: Some(name("old")), ..all() }).await, [6]);
    assert_eq!(positions(AuditFilter { store: Some(name("app")), ..all() }).await, [2, 3, 4]);
    assert_eq!(positions(AuditFilter { kind: Some("batch_done".into()), ..all() }).await, [3]);
    let since = AuditFilter { since: Some(at(4)), ..all() };
    assert_eq!(positions(since).await, [4, 5, 6]);
    assert_eq!(positions(AuditFilter { until: Some(at(1)), ..all() }).await, [0]);
    let newest = AuditFilter { limit: Some(2), newest_first: true, ..all() };
    assert_eq!(positions(newest).await, [6, 5]);
    let several = AuditFilter {
        rule: Some(name("inactive")),
        store: Some(name("app")),
        kind: Some("run_finished".into()),
        since: Some(at(0)),
        until: Some(at(9)),
        limit: Some(5),
        newest_first: false,
    };
    assert_eq!(positions(several).await, [4]);
    let other = AuditFilter { kind: Some("' OR 1=1 --".into()), ..all() };
    assert_eq!(positions(other).await, [] as [u64; 0]);
}

async fn a_ledger_is_opened_again_and_goes_on(place: Place) {
    for round in 1..=3 {
        let ledger = place.open().await;
        write(&ledger, &[refused(round)]).await;
        assert_valid(&ledger, round.unsigned_abs()).await;
        ledger.close().await;
    }
    let reader = Ledger::open_existing(&place.url, place.keys.clone()).await.unwrap();
    assert_valid(&reader, 3).await;
}

async fn all_who_open_a_new_ledger_at_once_get_the_same(place: Place) {
    let opening: Vec<_> = (0..6)
        .map(|_| {
            let (url, keys) = (place.url.clone(), place.keys.clone());
            tokio::spawn(async move {
                let ledger = Ledger::open(&url, keys).await.unwrap();
                write(&ledger, &[refused(0)]).await;
            })
        })
        .collect();
    for opened in opening {
        opened.await.unwrap();
    }
    assert_valid(&place.open().await, 6).await;
}

async fn nulls_and_bytes_survive(place: Place) {
    let ledger = place.open().await;
    let mut transaction = ledger.begin().await.unwrap();
    let insert = "INSERT INTO request VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    for id in ["a", "b"] {
        sqlx::query(insert)
            .bind(id)
            .bind("inactive")
            .bind("command")
            .bind(None::<String>)
            .bind("claimed")
            .bind("2026-11-21T12:00:00.000000Z")
            .bind(None::<&str>)
            .bind(Some("a note"))
            .execute(&mut *transaction)
            .await
            .unwrap();
    }
    sqlx::query(
        "INSERT INTO run (id, request_id, rule, rule_digest, store, table_name, action, mode, cutoff, \
                          state, records, remaining, started_at) \
         VALUES ('r', 'a', 'inactive', 'd', 'app', 'users', 'delete', 'enforce', 'c', 'running', \
                 $1, $2, 's')",
    )
    .bind(i64::MAX)
    .bind(None::<i64>)
    .execute(&mut *transaction)
    .await
    .unwrap();
    let every_byte: Vec<u8> = (0..=255).collect();
    sqlx::query(
        "INSERT INTO batch (id, run_id, seq, state, records, transaction_id, intent, commitments, \
                            intended_at) \
         VALUES ('b', 'r', 0, 'intended', 1, $1, $2, $3, 'i')",
    )
    .bind("12:34")
    .bind(every_byte.as_slice())
    .bind(None::<Vec<u8>>)
    .execute(&mut *transaction)
    .await
    .unwrap();
    commit(transaction).await.unwrap();

    let mut connection = place.connect().await;
    let query = "SELECT r.records, r.remaining, b.intent, b.commitments, q.slot, q.note \
                 FROM batch b JOIN run r ON b.run_id = r.id JOIN request q ON r.request_id = q.id";
    let row = sqlx::query(query).fetch_one(&mut connection).await.unwrap();
    assert_eq!(row.get::<i64, _>("records"), i64::MAX);
    assert_eq!(row.get::<Option<i64>, _>("remaining"), None);
    assert_eq!(row.get::<Vec<u8>, _>("intent"), every_byte);
    assert_eq!(row.get::<Option<Vec<u8>>, _>("commitments"), None);
    assert_eq!(row.get::<Option<String>, _>("slot"), None);
    assert_eq!(row.get::<Option<String>, _>("note").as_deref(), Some("a note"));
}

async fn states_that_do_not_exist_are_refused(place: Place) {
    let ledger = place.open().await;
    for statement in [
        "INSERT INTO rule_state VALUES ('r', 'd', 'perhaps', 't', NULL, NULL)",
        "INSERT INTO request VALUES ('i', 'r', 'slot', 's', 'lost', 't', NULL, NULL)",
        "INSERT INTO run VALUES ('i', 'no such request', 'r', 'd', 's', 't', 'delete', 'enforce', \
         'c', 'running', 0, NULL, 's', NULL, NULL)",
        "INSERT INTO audit_head VALUES (2, 0, '', '')",
    ] {
        let mut transaction = ledger.begin().await.unwrap();
        assert!(transaction.execute(statement).await.is_err(), "{statement}");
    }
    let slot = "INSERT INTO request VALUES ($1, 'r', 'slot', 's', 'pending', 't', NULL, NULL)";
    let mut transaction = ledger.begin().await.unwrap();
    sqlx::query(slot).bind("1").execute(&mut *transaction).await.unwrap();
    assert!(sqlx::query(slot).bind("2").execute(&mut *transaction).await.is_err(), "claimed twice");
}

async fn a_newer_ledger_is_refused(place: Place) {
    place.open().await.close().await;
    let mut connection = place.connect().await;
    let insert = if place.is_sqlite() {
        "INSERT INTO ledger_version VALUES (9, 'future', CURRENT_TIMESTAMP, TRUE, x'00', 0)"
    } else {
        "INSERT INTO ledger_version VALUES (9, 'future', CURRENT_TIMESTAMP, TRUE, '\\x00', 0)"
    };
    connection.execute(insert).await.unwrap();
    for opened in [
        Ledger::open(&place.url, place.keys.clone()).await,
        Ledger::open_existing(&place.url, place.keys.clone()).await,
    ] {
        let error = opened.unwrap_err();
        assert!(matches!(error, LedgerError::Newer { found: 9, known: 8, .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("version 9") && text.contains("up to 8"), "{text}");
    }
}

async fn an_older_ledger_is_not_read(place: Place) {
    place.open().await.close().await;
    let mut connection = place.connect().await;
    connection.execute("DELETE FROM ledger_version").await.unwrap();
    let error = Ledger::open_existing(&place.url, place.keys.clone()).await.unwrap_err();
    assert!(matches!(error, LedgerError::Older { found: 0, known: 8, .. }), "{error}");
}

async fn another_database_is_refused_untouched(place: Place) {
    if place.is_sqlite() {
        std::fs::create_dir(place.file().parent().unwrap()).unwrap();
        std::fs::write(place.file(), []).unwrap();
    }
    let mut connection = place.connect().await;
    // Also one that sqlx has migrated.
    let tables = "CREATE TABLE users (id BIGINT); CREATE TABLE _sqlx_migrations (version BIGINT)";
    connection.execute(tables).await.unwrap();
    connection.close().await.unwrap();
    let before = place.is_sqlite().then(|| std::fs::read(place.file()).unwrap());
    for opened in [
        Ledger::open(&place.url, place.keys.clone()).await,
        Ledger::open_existing(&place.url, place.keys.clone()).await,
    ] {
        let error = opened.unwrap_err();
        assert!(matches!(error, LedgerError::Foreign { .. }), "{error}");
        assert!(error.to_string().contains("`_sqlx_migrations`"), "{error}");
    }
    if let Some(before) = before {
        assert_eq!(std::fs::read(place.file()).unwrap(), before);
        let folder = place.file().parent().unwrap().to_owned();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "nothing was made beside it");
        std::fs::write(place.file(), "a letter, and not a short one, to nobody in particular")
            .unwrap();
        let error = Ledger::open(&place.url, place.keys.clone()).await.unwrap_err();
        assert!(matches!(error, LedgerError::Foreign { .. }), "{error}");
    } else {
        let mut connection = place.connect().await;
        assert!(connection.execute("SELECT 1 FROM ledger_version").await.is_err());
    }
}

async fn nothing_is_made_for_a_reader(place: Place) {
    let error = Ledger::open_existing(&place.url, place.keys.clone()).await.unwrap_err();
    assert!(matches!(error, LedgerError::Absent { .. }), "{error}");
    assert!(!place.file().parent().unwrap().exists());
    if !place.is_sqlite() {
        let mut connection = place.connect().await;
        assert!(connection.execute("SELECT 1 FROM ledger_version").await.is_err());
    }
}

async fn a_reader_cannot_write(place: Place) {
    write(&place.open().await, &history()).await;
    let reader = Ledger::open_existing(&place.url, place.keys.clone()).await.unwrap();
    assert_valid(&reader, 6).await;
    let mut connection = reader.snapshot().await.unwrap();
    assert!(connection.execute("DELETE FROM rule_state").await.is_err());
    drop(connection);
    if let Ok(mut transaction) = reader.begin().await {
        assert!(append(&mut transaction, reader.keys(), &refused(9)).await.is_err());
    }
    assert_valid(&reader, 6).await;
}

async fn what_is_rolled_back_leaves_no_trace(place: Place) {
    let ledger = place.open().await;
    write(&ledger, &[refused(1)]).await;
    let mut transaction = ledger.begin().await.unwrap();
    assert_eq!(append(&mut transaction, ledger.keys(), &refused(2)).await.unwrap(), 1);
    drop(transaction);
    assert_valid(&ledger, 1).await;
    write(&ledger, &[refused(3)]).await;
    assert_valid(&ledger, 2).await;
}

async fn entries_cannot_be_changed_or_removed_by_mistake(place: Place) {
    let ledger = place.open().await;
    write(&ledger, &history()).await;
    for statement in ["UPDATE audit_entry SET kind = kind", "DELETE FROM audit_entry"] {
        let mut transaction = ledger.begin().await.unwrap();
        let error = transaction.execute(statement).await.unwrap_err();
        assert!(error.to_string().contains("the audit log only grows"), "{error}");
    }
    if !place.is_sqlite() {
        let mut transaction = ledger.begin().await.unwrap();
        assert!(transaction.execute("TRUNCATE audit_entry").await.is_err());
    }
    assert_valid(&ledger, 6).await;
}

async fn many_append_at_once(place: Place) {
    let handles = [place.open().await, place.open().await];
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let ledger = handles[task % 2].clone();
            tokio::spawn(async move {
                let mut positions = Vec::new();
                for round in 0..8 {
                    let mut transaction = ledger.begin().await.unwrap();
                    for entry in [refused(round), refused(round + 100)] {
                        let position = append(&mut transaction, ledger.keys(), &entry).await;
                        positions.push(position.unwrap());
                    }
                    if round % 4 == 3 {
                        drop(transaction);
                        positions.truncate(positions.len() - 2);
                    } else {
                        commit(transaction).await.unwrap();
                    }
                }
                positions
            })
        })
        .collect();
    let mut positions = HashSet::new();
    for task in tasks {
        for position in task.await.unwrap() {
            assert!(positions.insert(position), "position {position} was given twice");
        }
    }
    assert_eq!(positions, (0..96).collect());
    assert_valid(&handles[0], 96).await;
}

async fn a_log_of_many_pages_is_verified(place: Place) {
    let ledger = place.open().await;
    write(&ledger, &(0..1_003).map(refused).collect::<Vec<_>>()).await;
    assert_valid(&ledger, 1_003).await;
    let mut connection = place.connect().await;
    lift_fence(&place, &mut connection).await;
    connection.execute("DELETE FROM audit_entry WHERE position IN (500, 501, 1000)").await.unwrap();
    let found = verify(&ledger).await;
    assert_eq!(found.problems[0], Problem::Missing { first: 500, last: 501 });
    assert_eq!(found.problems[1], Problem::Missing { first: 1_000, last: 1_000 });
    assert_eq!(found.problems[2], Problem::Truncated { signed: 1_003, found: 1_000 });
    assert!(matches!(found.problems[3..], [Problem::Root { .. }]));
    connection.execute("UPDATE audit_entry SET kind = 'x'").await.unwrap();
    let found = verify(&ledger).await;
    assert_eq!(found.problems.len(), 1_000, "the list is bounded");
    assert_eq!(found.omitted, 4, "and the rest is counted");
}

async fn nothing_is_built_on_a_head_that_was_tampered_with(place: Place) {
    let ledger = place.open().await;
    write(&ledger, &history()).await;
    let mut connection = place.connect().await;
    for change in [
        "UPDATE audit_head SET size = 5",
        "UPDATE audit_head SET size = 6, frontier = (SELECT leaf_hash FROM audit_entry WHERE position = 1)",
        "DELETE FROM audit_head",
    ] {
        connection.execute(change).await.unwrap();
        let mut transaction = ledger.begin().await.unwrap();
        let error = append(&mut transaction, ledger.keys(), &refused(9)).await.unwrap_err();
        assert!(matches!(error, LedgerError::Head(_)), "{error}");
        assert!(!error.is_transient());
    }
}

async fn a_removed_head_is_not_made_again(place: Place) {
    write(&place.open().await, &history()).await;
    place.connect().await.execute("DELETE FROM audit_head").await.unwrap();
    let found = verify(&place.open().await).await;
    assert_eq!(found.problems, [Problem::Head]);
}

async fn other_keys_neither_append_nor_verify(place: Place) {
    write(&place.open().await, &history()).await;
    let other = Ledger::open(&place.url, Arc::new(Keys::generate())).await.unwrap();
    let mut transaction = other.begin().await.unwrap();
    let error = append(&mut transaction, other.keys(), &refused(9)).await.unwrap_err();
    assert!(error.to_string().contains("not signed by this key"), "{error}");
    drop(transaction);
    let found = verify(&other).await;
    assert!(matches!(found.problems[..], [Problem::Checkpoint { .. }]), "{:?}", found.problems);
}

/// Takes the lock, which its last holder may still be giving up.
async fn lock_soon(ledger: &Ledger, rule: &Name) {
    let watch = Stopwatch::start();
    while ledger.lock_rule(rule).await.unwrap().is_none() {
        assert!(watch.elapsed() < Duration::from_secs(10), "the lock is not given up");
    }
}

async fn a_rule_is_locked_by_one_at_a_time(place: Place) {
    let (one, other) = (place.open().await, place.open().await);
    let (rule, unrelated) = (name("inactive"), name("old"));
    let mut lock = one.lock_rule(&rule).await.unwrap().expect("nobody has it");
    lock.check().await.unwrap();
    assert_eq!(lock.rule(), &rule);
    assert!(one.lock_rule(&rule).await.unwrap().is_none(), "not twice in one process");
    assert!(other.lock_rule(&rule).await.unwrap().is_none());
    let beside = other.lock_rule(&unrelated).await.unwrap().expect("it is another rule");
    lock.release().await.unwrap();
    let lock = other.lock_rule(&rule).await.unwrap().expect("it was released");
    drop(lock);
    lock_soon(&one, &rule).await;
    drop(beside);
    lock_soon(&one, &unrelated).await;
    assert_valid(&one, 0).await;
}

/// As root this gives the ledger to somebody else first, which is what happens when an operator runs a
/// command as root on the daemon's ledger.
#[tokio::test]
async fn locks_belong_to_whom_the_ledger_belongs() {
    use std::os::unix::fs::MetadataExt;
    let place = Place::sqlite().await;
    let ledger = place.open().await;
    let file = place.temporary.path().join("state/ledger.db");
    if file.metadata().unwrap().uid() == 0 {
        std::os::unix::fs::chown(&file, Some(65_534), Some(65_534)).unwrap();
    }
    let _lock = ledger.lock_rule(&name("inactive")).await.unwrap().expect("nobody has it");
    let mut folder = file.clone().into_os_string();
    folder.push(".locks");
    let folder = std::path::PathBuf::from(folder);
    let owner = file.metadata().unwrap().uid();
    assert_eq!(folder.metadata().unwrap().uid(), owner);
    let locks: Vec<_> = std::fs::read_dir(&folder).unwrap().map(Result::unwrap).collect();
    let of_rule = locks.iter().find(|lock| lock.file_name().to_string_lossy().contains("inactive"));
    assert_eq!(of_rule.expect("a lock file").metadata().unwrap().uid(), owner);
}

/// A session that the server ends, as when the network or the server fails.
#[tokio::test]
async fn a_lost_lock_is_noticed() {
    let place = Place::postgres().await;
    let ledger = place.open().await;
    let mut lock = ledger.lock_rule(&name("inactive")).await.unwrap().expect("nobody has it");
    let end = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' \
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    place.connect().await.execute(end).await.unwrap();
    lock_soon(&ledger, &name("inactive")).await;
    assert!(lock.check().await.is_err());
}

async fn a_lock_vanishes_with_a_killed_process(place: Place) {
    let ledger = place.open().await;
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_lock_is_held_until_its_process_ends", "--nocapture"])
        .env("LEDGER_URL", &place.url)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("locked")));
    assert!(ledger.lock_rule(&name("inactive")).await.unwrap().is_none());
    holder.kill().unwrap();
    holder.wait().unwrap();
    lock_soon(&ledger, &name("inactive")).await;
}

/// By itself, this takes a lock and gives it up. With a ledger in its environment it is the process that
/// the test above kills.
#[tokio::test]
async fn a_lock_is_held_until_its_process_ends() {
    let to_be_killed = std::env::var("LEDGER_URL").ok();
    let place = Place::sqlite().await;
    let url = to_be_killed.as_ref().unwrap_or(&place.url);
    let ledger = Ledger::open(url, Arc::new(Keys::generate())).await.unwrap();
    let lock = ledger.lock_rule(&name("inactive")).await.unwrap().expect("nobody has it");
    println!("locked");
    if to_be_killed.is_some() {
        std::future::pending::<()>().await;
    }
    assert!(ledger.lock_rule(&name("inactive")).await.unwrap().is_none());
    lock.release().await.unwrap();
    lock_soon(&ledger, &name("inactive")).await;
}
