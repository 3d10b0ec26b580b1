//! Windows of one table, taken side by side.

use expunged::run::RunState;

use crate::house::{House, RULES};
use crate::support::fresh_postgres;

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
