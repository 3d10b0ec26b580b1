//! Partitions go whole when every row in them is due, and otherwise never.

use expunged::check::{Severity, examine};
use expunged::clock;
use expunged::ledger::Intended;
use expunged::run::RunState;
use expunged::store::sql::Access;
use expunged::types::{Key, KeyValue};

use crate::house::{House, MONTHS};
use crate::support::fresh_postgres;

/// As PostgreSQL writes the key of a row.
fn key(id: i128, at: &str) -> Key {
    Key(vec![KeyValue::Int(id), KeyValue::Text(at.to_owned())])
}

#[tokio::test]
async fn partitions_of_due_rows_go_whole_and_each_row_is_recorded() {
    let house = House::new(fresh_postgres().await, MONTHS, "").await;

    let plan = house.plan().await;
    let access = plan.access.unwrap();
    assert_eq!(access.path.as_str(), "partitions", "{access:?}");
    assert_eq!(access.why, "3 partitions hold nothing but due rows");
    let planned: Vec<_> = access.partitions.iter().map(|one| (one.rows, &one.spared)).collect();
    assert_eq!(planned, [(200, &None), (200, &None), (200, &None)]);
    assert_eq!(house.partitions().await.len(), 5, "a plan touches nothing");

    let run = house.run().await;
    assert_eq!((run.state, run.records, run.remaining), (RunState::Done, 600, Some(0)));
    assert_eq!(house.partitions().await, ["events_2090", "events_rest"]);
    assert_eq!(house.rows("true").await, 100);
    assert_eq!(house.dropped().await, ["events_2020_01", "events_2020_02", "events_2020_03"]);
    let seen = run.verification.unwrap();
    assert_eq!((seen.checked, seen.present), (600, 0), "read back");

    // Each record can be shown to have been in a batch.
    let key = key(1001, "2020-02-02 01:00:00+00");
    let store = "app".parse().unwrap();
    let found = house.runner.ledger.find_record(&store, "events", &[key]).await.unwrap();
    assert_eq!(found.len(), 1);
    let last = house.runner.ledger.last_run(&"old".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(last.access.as_deref(), Some("partitions: every row of them was due"));
    house.assert_log_is_sound().await;
}

#[tokio::test]
async fn one_row_that_is_to_stay_keeps_its_partition() {
    // Rows of the condition, of no starting point (which a partition by it cannot hold), of a placeholder.
    let sql = format!(
        "{MONTHS};
         UPDATE events SET note = 'keep' WHERE id = 7;
         INSERT INTO events VALUES (5000, 1, '2090-03-01 00:00+00', 'one of the future')"
    );
    let house = House::new(fresh_postgres().await, &sql, "where = \"note <> 'keep'\"").await;
    let access = house.plan().await.access.unwrap();
    let spared: Vec<_> = access.partitions.iter().filter_map(|one| one.spared.clone()).collect();
    assert_eq!(spared, ["1 of its 200 rows are not due"]);

    let run = house.run().await;
    assert_eq!((run.state, run.records), (RunState::Done, 599));
    assert_eq!(house.partitions().await, ["events_2020_01", "events_2090", "events_rest"]);
    assert_eq!(house.store.count("SELECT count(*) FROM events_2020_01").await, 1);
    assert_eq!(house.dropped().await, ["events_2020_02", "events_2020_03"]);
    house.assert_log_is_sound().await;
}

#[tokio::test]
async fn a_condition_that_is_unknown_keeps_the_partition() {
    let sql = format!("{MONTHS}; UPDATE events SET note = NULL WHERE id = 7");
    let house = House::new(fresh_postgres().await, &sql, "where = \"note <> 'keep'\"").await;
    house.run().await;
    assert_eq!(house.store.strings("SELECT id::text FROM events_2020_01").await, ["7"]);
}

#[tokio::test]
async fn a_held_row_keeps_its_partition() {
    let house = House::new(fresh_postgres().await, MONTHS, "").await;
    let hold = crate::paths::hold_subject(&house, "7").await;
    let run = house.run().await;
    assert_eq!(run.state, RunState::Done, "{:?}", run.error);
    // The person has four rows in each month.
    assert_eq!(run.records, 600 - 12);
    assert_eq!(house.partitions().await.len(), 5);
    assert_eq!(house.rows("person = 7 AND at < '2021-01-01'").await, 12);
    assert_eq!(house.dropped().await, Vec::<String>::new());
    drop(hold);
}

#[tokio::test]
async fn a_default_partition_stays_and_its_rows_go() {
    let sql = format!(
        "{MONTHS};
         INSERT INTO events SELECT n, 1, '2019-05-01 00:00+00', 'early' FROM generate_series(6001, 6010) n"
    );
    let house = House::new(fresh_postgres().await, &sql, "access = \"partitions\"").await;
    let run = house.run().await;
    assert_eq!((run.state, run.records), (RunState::Done, 610));
    assert_eq!(house.partitions().await, ["events_2090", "events_rest"]);
    assert_eq!(house.rows("true").await, 100);
}

#[tokio::test]
async fn partitions_of_partitions_go_as_leaves() {
    let house = House::new(
        fresh_postgres().await,
        "CREATE TABLE events (id bigint, person integer, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
         CREATE TABLE y2020 PARTITION OF events FOR VALUES FROM ('2020-01-01') TO ('2021-01-01') PARTITION BY HASH (id);
         CREATE TABLE y2020_a PARTITION OF y2020 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE y2020_b PARTITION OF y2020 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         CREATE TABLE y2090 PARTITION OF events FOR VALUES FROM ('2090-01-01') TO ('2091-01-01');
         INSERT INTO events SELECT n, n, '2020-06-01' FROM generate_series(1, 300) n;
         INSERT INTO events VALUES (1, 1, '2090-06-01')",
        "",
    )
    .await;
    let run = house.run().await;
    assert_eq!((run.state, run.records), (RunState::Done, 300), "{:?}", run.error);
    // What is over by the bounds of the year takes nothing any more, however it is divided.
    assert_eq!(house.dropped().await, ["y2020_a", "y2020_b"]);
    assert_eq!(house.rows("true").await, 1);
}

const BY_LIST: &str = "
    CREATE TABLE events (id bigint, person integer, at timestamptz, region text, PRIMARY KEY (id, region))
        PARTITION BY LIST (region);
    CREATE TABLE north PARTITION OF events FOR VALUES IN ('north');
    CREATE TABLE south PARTITION OF events FOR VALUES IN ('south');
    INSERT INTO events SELECT n, n, '2020-06-01', 'north' FROM generate_series(1, 50) n;
    INSERT INTO events SELECT n, n, '2020-06-01', 'south' FROM generate_series(1, 50) n;
    INSERT INTO events VALUES (99, 1, now(), 'south')";

#[tokio::test]
async fn a_partition_that_may_take_new_rows_goes_only_where_the_rule_says_so() {
    let house = House::new(fresh_postgres().await, BY_LIST, "").await;
    assert_eq!((house.run().await.records, house.partitions().await.len()), (100, 2));

    let house = House::new(fresh_postgres().await, BY_LIST, "access = \"partitions\"").await;
    let run = house.run().await;
    assert_eq!((run.state, run.records), (RunState::Done, 100));
    assert_eq!(house.partitions().await, ["south"]);
    assert_eq!(house.rows("true").await, 1);
}

#[tokio::test]
async fn what_a_deletion_would_bring_about_is_never_left_out() {
    for (more, why) in [
        (
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';
             CREATE TRIGGER note BEFORE DELETE ON events FOR EACH ROW EXECUTE FUNCTION note()",
            "triggers of the table fire when rows are deleted",
        ),
        (
            "CREATE TABLE parts (id bigint, at timestamptz, FOREIGN KEY (id, at) REFERENCES events ON DELETE CASCADE)",
            "foreign keys point at the table",
        ),
    ] {
        let house = House::new(fresh_postgres().await, &format!("{MONTHS}; {more}"), "").await;
        let access = house.plan().await.access.unwrap();
        assert_eq!(access.keeps_partitions, Some(why));
        let run = house.run().await;
        assert_eq!((run.state, run.records), (RunState::Done, 600), "{why}: {:?}", run.error);
        assert_eq!(house.partitions().await.len(), 5, "{why}");
    }
    for (more, why) in [
        ("CREATE PUBLICATION all_of_it FOR TABLE events", "subscribers would keep its rows"),
        ("ALTER TABLE events_2020_01 ENABLE ROW LEVEL SECURITY", ""),
        (
            "CREATE RULE keep AS ON DELETE TO events_2020_01 DO INSTEAD NOTHING",
            "rules rewrite what is done to it",
        ),
        ("CREATE VIEW january AS SELECT * FROM events_2020_01", ""),
    ] {
        let house = House::new(fresh_postgres().await, &format!("{MONTHS}; {more}"), "").await;
        let plan = house.plan().await;
        let spared: Vec<_> =
            plan.access.unwrap().partitions.into_iter().filter_map(|one| one.spared).collect();
        assert_eq!(spared.is_empty(), why.is_empty(), "{more}: {spared:?}");
        assert!(spared.iter().all(|spared| spared.contains(why)), "{spared:?}");
        let run = house.run().await;
        assert_eq!(
            (run.state, run.remaining),
            (RunState::Done, Some(0)),
            "{more}: {:?}",
            run.error
        );
        let kept = house.partitions().await.contains(&"events_2020_01".to_owned());
        // Nobody is denied a row by row security here, because the owner is not.
        assert_eq!(kept, !more.contains("SECURITY"), "{more}");
        house.assert_log_is_sound().await;
    }
}

#[tokio::test]
async fn whoever_does_not_own_the_partitions_deletes_rows() {
    let store = fresh_postgres().await;
    store.execute(MONTHS).await;
    let url = store.restricted_user(&["SELECT, DELETE ON events"]).await;
    let house = House::acting_as(store, &url, "SELECT 1", "").await;
    let access = house.plan().await.access.unwrap();
    let spared: Vec<_> = access.partitions.iter().filter_map(|one| one.spared.as_deref()).collect();
    assert_eq!(spared, ["it cannot be read by itself"; 3]);
    let run = house.run().await;
    assert_eq!((run.state, run.records), (RunState::Done, 600), "{:?}", run.error);
    assert_eq!(house.partitions().await.len(), 5);
}

#[tokio::test]
async fn recipients_keep_partitions() {
    let keeps = "[recipient.warehouse]\nprotocol = \"sql\"\nstore = \"app\"\ntable = \"facts\"\n\
                 columns = { subject = \"person\" }\n";
    let sql = format!("{MONTHS}; CREATE TABLE facts (person integer)");
    let more = "recipients = [\"warehouse\"]";
    let house = House::with(fresh_postgres().await, &sql, more, keeps).await;
    let run = house.run().await;
    assert_eq!((run.state, run.records), (RunState::Done, 600), "{:?}", run.error);
    assert_eq!(house.partitions().await.len(), 5);
}

#[tokio::test]
async fn a_pinned_path_that_is_not_there_is_refused_with_its_reason() {
    let plain = "CREATE TABLE events (id bigint PRIMARY KEY, person integer, at timestamptz);
                 INSERT INTO events VALUES (1, 1, '2020-01-01')";
    for (pinned, why) in [
        ("partitions", "partitions cannot be dropped whole: the table is not partitioned"),
        ("index", "the rule pins the index, and no index starts with at"),
    ] {
        let more = format!("access = \"{pinned}\"");
        let house = House::new(fresh_postgres().await, plain, &more).await;
        let store = house.runner.stores.get(&house.rule().store, Access::ReadOnly).unwrap();
        let table = store.inspect(house.rule()).await.unwrap();
        let findings = examine(house.rule(), &table);
        let found = findings.iter().find(|finding| finding.topic == "access").unwrap();
        assert_eq!((found.severity, found.message.as_str()), (Severity::Error, why));
        let run = house.ask().await;
        assert_eq!(run.state, RunState::Refused);
        assert!(run.error.unwrap().contains(why));
        assert_eq!(house.rows("true").await, 1);
    }
}

#[tokio::test]
async fn rows_of_whole_partitions_count_for_the_breakers() {
    let house = House::new(fresh_postgres().await, MONTHS, "max_rows = 599").await;
    let run = house.ask().await;
    assert_eq!((run.state, run.records), (RunState::Waiting, 0));
    let why = run.error.unwrap();
    assert!(why.contains("600 of 700 records"), "{why}");
    assert!(!why.contains("first run"), "{why}");
    assert_eq!((house.partitions().await.len(), house.rows("true").await), (5, 700));
}

#[tokio::test]
async fn a_partition_that_others_are_at_work_on_loses_its_rows_and_stays() {
    let house = House::new(fresh_postgres().await, MONTHS, "").await;
    let mut session = crate::concurrent::session(&house.store).await;
    // A reader of the whole table who does not end.
    crate::concurrent::say(&mut session, "BEGIN; SELECT count(*) FROM events").await;
    let run = house.run().await;
    assert_eq!((run.state, run.records, run.remaining), (RunState::Done, 600, Some(0)));
    assert_eq!(house.partitions().await.len(), 5, "a reader is not made to wait for it");
    crate::concurrent::say(&mut session, "COMMIT").await;
    house.assert_log_is_sound().await;

    // What is empty is not due, and stays.
    assert_eq!(house.run().await.records, 0);
    assert_eq!(house.partitions().await.len(), 5);
}

#[tokio::test]
async fn what_a_dead_process_left_is_settled_by_what_the_server_says() {
    for commits in [true, false] {
        let house = House::new(fresh_postgres().await, MONTHS, "").await;
        let (ledger, rule) = (&house.runner.ledger, house.rule());
        let now = clock::now();
        let cause = expunged::audit::entry::Cause::Command;
        let request = ledger.request(&rule.name, cause, now).await.unwrap();
        let start = expunged::ledger::Start::Unasked;
        let run = ledger.start_run(&request, rule, &start, now).await.unwrap();
        let store = house.runner.stores.get(&rule.store, Access::ReadWrite).unwrap();
        let target = store.target(rule).await.unwrap();
        let (target, tables) = (target.rows().unwrap(), store.tables().unwrap());
        let bounds = expunged::store::sql::Bounds { cutoff: rule.cutoff(now), now };
        let found = tables.partitions(target, bounds).await.unwrap();
        let partition = found[0].clone();
        let mut dropping = tables.begin_drop(target, bounds, partition).await.unwrap().unwrap();
        for sequence in 0.. {
            let keys = dropping.next_keys(target, 90).await.unwrap();
            if keys.is_empty() {
                break;
            }
            let partition = Some("public.events_2020_01".to_owned());
            let intended = Intended { partition, ..Intended::of(keys) };
            let id = Some(&*dropping.transaction_id);
            ledger.intend(&run, sequence, &intended, id, 0, now).await.unwrap();
        }
        assert_eq!(dropping.detach_and_drop(target, bounds).await.unwrap(), Ok(()));
        if commits {
            dropping.commit().await.unwrap();
        } else {
            dropping.rollback().await.unwrap();
        }
        let recovered = house.runner.recover(rule, clock::now()).await.unwrap();
        let expected = if commits { (3, 0) } else { (0, 3) };
        assert_eq!((recovered.done, recovered.undone), expected);
        house.run().await;
        let records: u64 = house.done().await.iter().map(|(records, _)| records).sum();
        assert_eq!((records, house.rows("true").await), (600, 100));
        house.assert_log_is_sound().await;
    }
}

/// A partition of which more batches than one are intended reads back whole.
#[tokio::test]
async fn a_large_partition_goes_in_several_batches() {
    let sql = format!(
        "{MONTHS};
         INSERT INTO events SELECT n, 1, '2020-01-05 00:00+00', 'more' FROM generate_series(10001, 55000) n"
    );
    let house = House::new(fresh_postgres().await, &sql, "").await;
    let run = house.run().await;
    assert_eq!((run.state, run.records, run.remaining), (RunState::Done, 45_600, Some(0)));
    let done = house.done().await;
    let january = done.iter().filter(|(_, name)| name.as_deref() == Some("public.events_2020_01"));
    let january: Vec<u64> = january.map(|(records, _)| *records).collect();
    assert_eq!(january, [20_000, 20_000, 5_200]);
    house.assert_log_is_sound().await;
}

#[tokio::test]
async fn a_partition_whose_rows_take_others_along_goes_row_by_row() {
    let sql = format!(
        "{MONTHS};
         CREATE TABLE notes (id bigint PRIMARY KEY, event bigint);
         INSERT INTO notes SELECT id, id FROM events WHERE id <= 20 OR id > 3090"
    );
    let with = "with = [{ table = \"notes\", column = \"event\", references = \"id\" }]";
    let house = House::new(fresh_postgres().await, &sql, with).await;

    let run = house.run().await;

    assert_eq!((run.state, run.records, run.remaining), (RunState::Done, 600, Some(0)));
    assert_eq!(house.dropped().await, Vec::<String>::new());
    assert_eq!(house.store.count("SELECT count(*) FROM notes").await, 10, "those of later events");
    house.assert_log_is_sound().await;
}
