//! What thousands of held persons cost a purge: prints the ratio, and makes sure that exactly they stay.
//!
//! The bound that is asserted is loose: a debug build on a busy machine makes batches slow, and slow
//! batches small. `tests/run --release --test holds speed -- --nocapture` measures what users see.

use expunged::run::RunState;

use crate::house::{House, moment, persons, rule};
use crate::support::{Kind, TestDatabase};

const ROWS: u64 = if cfg!(debug_assertions) { 6_000 } else { 60_000 };
const HELD: u64 = 5_000;
const ROUNDS: usize = if cfg!(debug_assertions) { 1 } else { 5 };

#[tokio::test]
async fn on_postgres() {
    held_persons_hardly_slow_a_purge(crate::support::fresh_postgres().await).await;
}

#[tokio::test]
async fn on_mysql() {
    held_persons_hardly_slow_a_purge(crate::support::fresh_mysql().await).await;
}

#[tokio::test]
async fn on_sqlite() {
    held_persons_hardly_slow_a_purge(crate::support::fresh_sqlite().await).await;
}

async fn held_persons_hardly_slow_a_purge(store: TestDatabase) {
    let (at, kind) = (moment(&store), store.kind);
    let tables = format!(
        "CREATE TABLE events (id bigint PRIMARY KEY, who bigint, at {at}, payload varchar(300))"
    );
    let house = House::new(store, &tables, &rule("old", "events", "subject = \"who\"")).await;
    let values: Vec<String> = (0..HELD).map(|who| who.to_string()).collect();
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let mut rates = [Vec::new(), Vec::new()];
    for round in 0..=ROUNDS {
        for (held, rates) in rates.iter_mut().enumerate() {
            let hold = if held == 1 { Some(house.place(persons(&values)).await) } else { None };
            fill(&house, kind).await;
            let run = house.run("old").await;
            assert_eq!(run.state, RunState::Done, "{:?}", run.error);
            // Some of them are there, and stay.
            assert_eq!(run.records, if hold.is_some() { ROWS - HELD / 5 } else { ROWS });
            if let Some(hold) = &hold {
                house.release(hold).await;
            }
            // The first is for warming up.
            if round > 0 {
                #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                rates.push(run.records as f64 / run.seconds);
            }
        }
    }
    let median = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let [mut without, mut with] = rates;
    let ratio = median(&mut with) / median(&mut without);
    crate::support::tell(&format!(
        "{kind:?}: {HELD} held persons, {ratio:.2} of the speed without; rows/s without {without:.0?}, with {with:.0?}"
    ));
    let least = if cfg!(debug_assertions) { 0.1 } else { 0.8 };
    assert!(
        ratio >= least,
        "{kind:?}: {ratio:.2} of the speed without holds, and {least} is the least"
    );
}

/// The same rows each time, all due; every fifth of the held persons has one.
async fn fill(house: &House, kind: Kind) {
    let columns = |id: &str, x: &str| {
        format!(
            "{id}, CASE WHEN {id} < {HELD} AND {id} % 5 <> 0 THEN {id} + 1000000 ELSE {id} END, \
             '2020-06-15 12:00:00', {x}"
        )
    };
    let last = ROWS - 1;
    let insert = match kind {
        Kind::Postgres => format!(
            "INSERT INTO events SELECT {} FROM generate_series(0, {last}) AS s (i)",
            columns("i", "repeat('x', 200)").replace("'2020", "timestamptz '2020")
        ),
        Kind::MySql => format!(
            "INSERT INTO events SELECT {} FROM seq_0_to_{last}",
            columns("seq", "REPEAT('x', 200)")
        ),
        Kind::Sqlite => format!(
            "WITH RECURSIVE s (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM s WHERE i < {last}) \
             INSERT INTO events SELECT {} FROM s",
            columns("i", "printf('%.200c', 'x')")
        ),
    };
    let empty = if kind == Kind::Sqlite { "DELETE FROM events" } else { "TRUNCATE TABLE events" };
    house.store.execute(&format!("{empty}; {insert}")).await;
}
