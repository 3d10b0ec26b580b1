//! What access paths are worth on PostgreSQL: prints figures of one run each, and makes sure that what is due
//! is gone.
//!
//! A debug build says little. `tests/run --release --test access speed -- --nocapture` measures what users see.

use expunged::clock::Stopwatch;
use expunged::run::RunState;

use crate::house::House;
use crate::support::{TestDatabase, fresh_postgres, tell};

const ROWS: u64 = if cfg!(debug_assertions) { 20_000 } else { 500_000 };

const WIDE: &str =
    "CREATE TABLE events (id bigint PRIMARY KEY, person bigint, at timestamptz, note text);
    CREATE INDEX events_at ON events (at)";

/// One row in a thousand is due, scattered; the time that a run takes, and the loop that everyone writes.
async fn few_due(rows: u64) -> (f64, f64) {
    let fill = format!(
        "INSERT INTO events SELECT n, n, CASE WHEN n::bigint * 7919 % 1000 = 0 THEN timestamptz '2020-06-01' + n * interval '1 s' \
         ELSE now() - (n % 300) * interval '1 day' END, repeat('x', 200) FROM generate_series(1, {rows}) n"
    );
    let house = House::new(fresh_postgres().await, &format!("{WIDE}; {fill}"), "").await;
    house.approve().await;
    settle(&house.store).await;
    assert_eq!(house.plan().await.access.unwrap().path.as_str(), "index");
    let run = house.run().await;
    assert_eq!((run.state, run.records), (RunState::Done, rows / 1_000), "{:?}", run.error);

    let other = fresh_postgres().await;
    other.execute(&format!("{WIDE}; {fill}")).await;
    settle(&other).await;
    let watch = Stopwatch::start();
    usual_loop(&other).await;
    (run.seconds, watch.elapsed().as_secs_f64())
}

/// Has nothing to do in the background while it is measured.
async fn settle(store: &TestDatabase) {
    store.execute("VACUUM ANALYZE events").await;
    store.execute("CHECKPOINT").await;
}

async fn usual_loop(store: &TestDatabase) {
    let delete = "WITH gone AS (DELETE FROM events WHERE id IN ( \
                      SELECT id FROM events WHERE at < now() - interval '2 years' ORDER BY at LIMIT 1000 \
                      FOR UPDATE SKIP LOCKED) RETURNING 1) SELECT count(*) FROM gone";
    while store.count(delete).await > 0 {}
}

#[tokio::test]
async fn few_due_rows_in_a_table_and_in_one_ten_times_larger() {
    let (run, by_loop) = few_due(ROWS).await;
    let (larger, by_loop_larger) = few_due(ROWS * 10).await;
    tell(&format!(
        "0.1 % of {ROWS} rows due, scattered: {run:.3} s, the usual loop {by_loop:.3} s; \
         of ten times as many {larger:.3} s, the usual loop {by_loop_larger:.3} s"
    ));
}

#[tokio::test]
async fn whole_partitions_and_the_plain_drop_of_them() {
    let sql = |part: u64| {
        format!(
            "CREATE TABLE p{part} PARTITION OF events FOR VALUES FROM ('2020-0{part}-01') TO ('2020-0{}-01');
             INSERT INTO events SELECT n, n, timestamptz '2020-0{part}-01' + n * interval '1 s', repeat('x', 200)
             FROM generate_series(1, {ROWS}) n",
            part + 1
        )
    };
    let all = format!(
        "CREATE TABLE events (id bigint, person bigint, at timestamptz, note text, PRIMARY KEY (id, at))
             PARTITION BY RANGE (at);
         CREATE INDEX ON events (at); {}; {}",
        sql(1),
        sql(2)
    );
    let mut took = Vec::new();
    for more in ["", "access = \"ranges\""] {
        let house = House::new(fresh_postgres().await, &all, more).await;
        house.approve().await;
        settle(&house.store).await;
        let run = house.run().await;
        assert_eq!((run.state, run.records), (RunState::Done, 2 * ROWS), "{:?}", run.error);
        took.push(run.seconds);
    }
    let other = fresh_postgres().await;
    other.execute(&all).await;
    settle(&other).await;
    let watch = Stopwatch::start();
    for part in ["p1", "p2"] {
        other
            .execute(&format!("ALTER TABLE events DETACH PARTITION {part}; DROP TABLE {part}"))
            .await;
    }
    let dropped = watch.elapsed().as_secs_f64();
    let watch = Stopwatch::start();
    let again = fresh_postgres().await;
    again.execute(&all).await;
    let filled = watch.elapsed().as_secs_f64();
    let watch = Stopwatch::start();
    again.execute("DELETE FROM events").await;
    tell(&format!(
        "2 partitions of {ROWS} rows: whole {:.3} s, row after row {:.3} s; one DELETE {:.3} s, the bare drop {dropped:.3} s \
         (filling them took {filled:.1} s)",
        took[0],
        took[1],
        watch.elapsed().as_secs_f64()
    ));
}
