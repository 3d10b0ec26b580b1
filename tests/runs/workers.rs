//! Windows of one table, taken side by side.

use expunged::run::RunState;

use crate::house::{House, RULES};
use crate::support::{Kind, TestDatabase, fresh_mysql, fresh_postgres};

/// Notes, for each deleting statement, how many sessions delete from the table at that moment.
const WATCH: &str = "CREATE TABLE seen (sessions bigint);
    CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        PERFORM pg_sleep(0.1);
        INSERT INTO seen SELECT count(DISTINCT pid) FROM pg_locks
            WHERE relation = 'accounts'::regclass AND mode = 'RowExclusiveLock' AND granted;
        RETURN NULL;
    END $$;
    CREATE TRIGGER watch AFTER DELETE ON accounts FOR EACH STATEMENT EXECUTE FUNCTION watch();
    ANALYZE accounts";

/// The most sessions that deleted at a time, in a run of the rule at this pace.
async fn most_at_a_time(pace: &str) -> i64 {
    let paced = format!("[rule.inactive]\n{pace}\n");
    let rules = RULES.replace("[rule.inactive]\n", &paced);
    let house = House::with(fresh_postgres().await, false, &rules).await;
    house.copy(20).await;
    house.store.execute(WATCH).await;
    house.approve("inactive").await;

    let result = house.run("inactive").await;

    assert_eq!((result.state, result.records), (RunState::Done, 490 * 21), "{:?}", result.error);
    assert!(result.batches > 1, "one batch alone shows nothing");
    house.assert_log_is_sound().await;
    house.store.count("SELECT max(sessions) FROM seen").await
}

#[tokio::test]
async fn batches_are_taken_side_by_side_and_each_record_once() {
    assert_eq!(most_at_a_time("pace = \"balanced\"").await, 2, "as many as there are workers");
}

#[tokio::test]
async fn what_is_to_be_felt_as_little_as_possible_goes_one_by_one() {
    assert_eq!(most_at_a_time("pace = \"gentle\"").await, 1);
}

/// Has each session that deletes wait until there are eight of them, or ten seconds are over; notes how many there
/// were. Each has a lock that has its number.
const MEET_ON_POSTGRES: &str = "CREATE TABLE seen (sessions bigint);
    CREATE FUNCTION met() RETURNS bigint LANGUAGE sql AS $$
        SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database
            WHERE datname = current_database() AND locktype = 'advisory'
    $$;
    CREATE FUNCTION meet() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE began timestamptz := clock_timestamp(); number integer := 1;
    BEGIN
        IF current_setting('house.met', true) IS NULL THEN
            PERFORM set_config('house.met', 'yes', false);
            WHILE number <= 8 AND NOT pg_try_advisory_lock(number) LOOP number := number + 1; END LOOP;
            WHILE met() < 8 AND clock_timestamp() < began + interval '10 s' LOOP PERFORM pg_sleep(0.01); END LOOP;
            INSERT INTO seen SELECT met();
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER meet AFTER DELETE ON accounts FOR EACH STATEMENT EXECUTE FUNCTION meet();
    ANALYZE accounts";
const MEET_ON_MYSQL: &str = "CREATE TABLE seen (sessions bigint);
    CREATE FUNCTION met() RETURNS bigint NOT DETERMINISTIC READS SQL DATA RETURN (
        SELECT count(is_used_lock(concat(database(), seq))) FROM seq_1_to_8);
    CREATE TRIGGER meet BEFORE DELETE ON accounts FOR EACH ROW BEGIN
        DECLARE began datetime(6) DEFAULT sysdate(6);
        DECLARE number integer DEFAULT 1;
        IF @met IS NULL THEN
            SET @met = 'yes';
            WHILE number <= 8 AND get_lock(concat(database(), number), 0) = 0 DO SET number = number + 1; END WHILE;
            WHILE met() < 8 AND sysdate(6) < began + INTERVAL 10 SECOND DO DO sleep(0.01); END WHILE;
            INSERT INTO seen SELECT met();
        END IF;
    END;
    ANALYZE TABLE accounts";

/// Beside those that delete, a batch is being committed, and the next windows are looked for.
async fn eight_workers_have_connections_enough(store: TestDatabase) {
    let meet = if store.kind == Kind::MySql { MEET_ON_MYSQL } else { MEET_ON_POSTGRES };
    let rules = RULES.replace("[rule.inactive]\n", "[rule.inactive]\npace = \"full\"\n");
    let lines = "workers = 8\nconnect_timeout = \"3 s\"\n";
    let house = House::with_lines(store, lines, &rules).await;
    house.copy(40).await;
    house.store.execute(meet).await;
    house.approve("inactive").await;

    let result = house.run("inactive").await;

    assert_eq!((result.state, result.records), (RunState::Done, 490 * 41), "{:?}", result.error);
    assert_eq!(house.store.count("SELECT max(sessions) FROM seen").await, 8);
    house.assert_log_is_sound().await;
}

#[tokio::test]
async fn eight_workers_have_connections_enough_on_postgres() {
    eight_workers_have_connections_enough(fresh_postgres().await).await;
}

#[tokio::test]
async fn eight_workers_have_connections_enough_on_mysql() {
    eight_workers_have_connections_enough(fresh_mysql().await).await;
}
