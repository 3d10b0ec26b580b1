use std::path::Path;

use super::*;
use crate::config::InputFile;
use crate::keys::Keys;
use crate::ledger::Start;

async fn daemon(folder: &Path, schedule: &str) -> Daemon {
    let text = format!(
        "[store.app]\nkind = \"sqlite\"\nurl = \"sqlite:///nowhere/app.db\"\n\
         [rule.a]\nstore = \"app\"\ntable = \"t\"\nstarting_point = \"at\"\naction = \"delete\"\n\
         retention = \"2 years\"\nschedule = \"{schedule}\"\n"
    );
    let file = InputFile { path: "expunged.toml".into(), bytes: text.into_bytes() };
    let config = Config::parse(vec![file], Path::new("/"), std::iter::empty()).unwrap();
    let url = format!("sqlite://{}/ledger.db", folder.display());
    let ledger = Ledger::open(&url, Arc::new(Keys::generate())).await.unwrap();
    let load = || panic!("nobody reloads here");
    Daemon::new(config, ledger, Box::new(load))
}

async fn next_end(daemon: &mut Daemon) {
    let ended = daemon.tasks.join_next_with_id().await.unwrap();
    daemon.ended(ended);
}

#[tokio::test]
async fn a_task_that_panics_leaves_its_rule_free_and_is_not_repeated_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = daemon(folder.path(), "continuous").await;
    let rule: Name = "a".parse().unwrap();
    let stop = daemon.soft.child_token();
    daemon.launch(&rule, async { panic!("a defect, for this test") }, stop);
    assert!(daemon.running.contains_key(&rule));

    next_end(&mut daemon).await;

    assert!(daemon.running.is_empty());
    let next = daemon.agenda.next_look(|_| false).unwrap();
    assert!(next > clock::now() + SignedDuration::from_secs(50), "{next}");
}

#[tokio::test]
async fn a_run_that_a_panic_left_open_is_picked_up_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = daemon(folder.path(), "0 3 * * *").await;
    let config = daemon.active.config.clone();
    daemon.load_rules(&config).await.unwrap();
    let rule = config.rules.values().next().unwrap();
    let long_ago = clock::now() - SignedDuration::from_hours(1);
    let ledger = daemon.ledger.clone();
    let cause = crate::audit::entry::Cause::Slot;
    let request = ledger.request(&rule.name, cause, long_ago).await.unwrap();
    ledger.start_run(&request, rule, &Start::Unasked, long_ago).await.unwrap();
    daemon.picked_up = true;

    daemon.due_check().await;
    assert!(daemon.ledger_answers);
    assert!(daemon.running.contains_key(&rule.name));
    next_end(&mut daemon).await;

    // Its run had no open batch, so nothing had to be asked of the store, which is not there.
    assert!(ledger.open_runs(&rule.name).await.unwrap().is_empty());
    assert!(!ledger.is_open(&request).await.unwrap());
}

#[tokio::test]
async fn a_ledger_that_fails_is_asked_again_after_a_pause_and_not_in_a_loop() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = daemon(folder.path(), "continuous").await;
    daemon.ledger.close().await;

    daemon.due_check().await;

    assert!(!daemon.ledger_answers && daemon.running.is_empty());
    assert!(daemon.until_next_look() > Duration::from_secs(4));
}

#[tokio::test]
async fn without_a_ticker_the_loop_still_looks() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = daemon(folder.path(), "0 3 * * *").await;
    daemon.due_check().await;
    let wait = daemon.until_next_look();
    assert!(wait <= TICKER_LATE && TICKER_LATE < STUCK, "{wait:?}");
}

#[tokio::test]
async fn rules_that_another_process_removed_are_put_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = daemon(folder.path(), "0 3 * * *").await;
    let none = BTreeMap::new();
    let loaded = Loaded { rules: &none, stores: 0, digest: "x", now: clock::now() };
    daemon.ledger.load_rules(loaded).await.unwrap();

    daemon.due_check().await;

    assert_eq!(daemon.ledger.rule_states().await.unwrap().len(), 1);
}
