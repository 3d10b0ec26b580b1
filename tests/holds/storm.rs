//! Holds are placed as fast as they can while deletion runs at full speed. Right after each placement
//! returned, the store is asked what is left of the person; all of that must be there at the end.
//!
//! `EXPUNGED_LONG=1` places ten times as many.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use expunged::clock;
use expunged::run::{RunState, run_by_command};
use tokio_util::sync::CancellationToken;

use crate::house::{House, moment, persons, rule};
use crate::support::{Kind, TestDatabase, fresh_mysql, fresh_postgres, fresh_sqlite};

/// Rows that are put in whenever a run has taken all of them.
const ROWS: u64 = 4_000;
const PERSONS: u64 = 2_000;

/// What one storm saw.
#[derive(Default, Debug)]
struct Storm {
    placed: u64,
    deleted: u64,
    /// Placements during which rows were deleted.
    while_deleting: u64,
    /// Rows of held persons that were there when their hold was placed, all of them due.
    seen: u64,
    violations: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_is_held_goes_however_fast_holds_come() {
    let each = if std::env::var_os("EXPUNGED_LONG").is_some() { 6_000 } else { 510 };
    let storms = [
        ("postgres", storm(fresh_postgres().await, false, each).await),
        ("mariadb", storm(fresh_mysql().await, false, each).await),
        ("sqlite", storm(fresh_sqlite().await, false, each).await),
        ("sqlite, ledger on postgres", storm(fresh_sqlite().await, true, each).await),
    ];
    let sum = |count: fn(&Storm) -> u64| storms.iter().map(|(_, storm)| count(storm)).sum::<u64>();
    crate::support::tell(&format!(
        "hold storm: {} holds placed while {} rows were deleted, {} violations",
        sum(|storm| storm.placed),
        sum(|storm| storm.deleted),
        sum(|storm| storm.violations)
    ));
    for (name, storm) in &storms {
        assert_eq!(storm.violations, 0, "{name}: held rows are gone");
        // Otherwise it would have proved nothing.
        assert!(storm.while_deleting >= storm.placed / 100, "{name}: {storm:?}");
        assert!(storm.deleted >= storm.placed * 5, "{name}: {storm:?}");
        assert!(storm.seen >= storm.placed / 2, "{name}: {storm:?}");
    }
}

async fn storm(store: TestDatabase, ledger_on_postgres: bool, placements: u64) -> Storm {
    let at = moment(&store);
    // Few rows to a page make small batches.
    let tables = format!(
        "CREATE TABLE events (id bigint PRIMARY KEY, who bigint, at {at}, payload varchar(600));
         CREATE INDEX events_who ON events (who)"
    );
    let rules = rule("old", "events", "subject = \"who\"");
    let house = if ledger_on_postgres {
        House::on_postgres(store, &tables, &rules).await
    } else {
        House::new(store, &tables, &rules).await
    };
    if house.store.kind == Kind::Sqlite {
        house.store.execute("PRAGMA journal_mode = WAL").await;
    }
    fill(&house, 0).await;
    let (deleted, placed) = (AtomicU64::new(0), AtomicU64::new(0));
    let seen = Mutex::new(Vec::new());
    let while_deleting = AtomicU64::new(0);
    let enough = CancellationToken::new();
    let watch = clock::Stopwatch::start();
    let delete = async {
        let mut filled = 1;
        let never = CancellationToken::new();
        while !enough.is_cancelled() {
            let before = deleted.load(Relaxed);
            let report = |progress: expunged::run::Progress| {
                deleted.store(before + progress.records, Relaxed);
            };
            let rule = house.rule("old");
            let run = run_by_command(&house.runner, rule, clock::now(), &never, &report).await;
            let run = run.unwrap();
            assert_eq!(run.state, RunState::Done, "{:?}", run.error);
            fill(&house, filled).await;
            filled += 1;
        }
    };
    let place = async || {
        while placed.fetch_add(1, Relaxed) < placements {
            let who = u64::from_le_bytes(clock::random_bytes()) % PERSONS;
            let before = deleted.load(Relaxed);
            house.place(persons(&[&who.to_string()])).await;
            let left = ids(&house, &format!("who = {who}")).await;
            seen.lock().unwrap().push((who, left));
            while_deleting.fetch_add(u64::from(deleted.load(Relaxed) > before), Relaxed);
        }
    };
    let place_all = async {
        tokio::join!(place(), place());
        enough.cancel();
    };
    tokio::join!(delete, place_all);
    // What was put in last goes, too, and only the held stays.
    assert_eq!(house.run("old").await.state, RunState::Done);
    let left = ids(&house, "1 = 1").await;
    let seen = seen.into_inner().unwrap();
    let gone = seen.iter().flat_map(|(_, ids)| ids).filter(|id| !left.contains(*id)).count();
    let held: BTreeSet<_> = seen.iter().map(|(who, _)| who.to_string()).collect();
    let held = held.into_iter().collect::<Vec<_>>().join(", ");
    let others = ids(&house, &format!("who NOT IN ({held})")).await;
    assert!(others.is_empty(), "{} rows of others are kept", others.len());
    let storm = Storm {
        placed: seen.len() as u64,
        deleted: deleted.into_inner(),
        while_deleting: while_deleting.into_inner(),
        seen: seen.iter().map(|(_, ids)| ids.len() as u64).sum(),
        violations: gone as u64,
    };
    crate::support::tell(&format!(
        "{:?}, {:.1} s: {storm:?}",
        house.store.kind,
        watch.elapsed().as_secs_f64()
    ));
    storm
}

/// Puts rows in that are due, some of each person, spread over the whole.
async fn fill(house: &House, times: u64) {
    let (from, to) = (times * ROWS, (times + 1) * ROWS - 1);
    let row =
        |id: &str, repeat: &str| format!("{id}, {id} % {PERSONS}, '2020-06-15 12:00:00', {repeat}");
    let sql = match house.store.kind {
        Kind::Postgres => format!(
            "INSERT INTO events SELECT i, i % {PERSONS}, '2020-06-15 12:00:00', repeat('x', 500) \
             FROM generate_series({from}, {to}) AS s (i)"
        ),
        Kind::MySql => {
            format!(
                "INSERT INTO events SELECT {} FROM seq_{from}_to_{to}",
                row("seq", "REPEAT('x', 500)")
            )
        }
        Kind::Sqlite => format!(
            "WITH RECURSIVE s (i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM s WHERE i < {to}) \
             INSERT INTO events SELECT {} FROM s",
            row("i", "printf('%.500c', 'x')")
        ),
    };
    while house.store.pool.try_execute(&sql).await.is_err() {
        // SQLite has one writer.
        tokio::task::yield_now().await;
    }
}

async fn ids(house: &House, condition: &str) -> BTreeSet<String> {
    let text = match house.store.kind {
        Kind::MySql => "CAST(id AS CHAR)",
        _ => "CAST(id AS text)",
    };
    let sql = format!("SELECT {text} FROM events WHERE {condition}");
    house.store.strings(&sql).await.into_iter().collect()
}
