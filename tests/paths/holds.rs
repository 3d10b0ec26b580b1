//! Legal holds on files and objects.

use std::process::Stdio;

use crate::house::{EXPORTS, House, OLD, accounts, accounts_rule};
use crate::support::fresh_sqlite;

const TEMPS: &str = r#"
[rule.temps]
store = "uploads"
path = "**/*.tmp"
retention = "30 days"
action = "delete"
mode = "enforce"
"#;

fn fill(house: &House) {
    for user in ["ann", "bob"] {
        house.put(&format!("exports/{user}/1.csv"), OLD);
        house.put(&format!("exports/{user}/2.tmp"), OLD);
    }
    house.put("loose.tmp", OLD);
}

#[test]
fn a_hold_on_a_store_keeps_all_of_it() {
    for house in House::each(&format!("{EXPORTS}{TEMPS}")) {
        fill(&house);
        let said = house.hold(&["--store", "uploads", "--broad", "all of it"]);
        said.has("exports 4 of 4 records held").has("temps 3 of 3 records held");
        house.takes("exports", 0);
        house.takes("temps", 0);
        house.say(&["plan"]).has("held by a legal hold");
        house.say(&["why", "temps", "loose.tmp"]).has("it is kept: held by a legal hold");
        assert_eq!(house.all().len(), 5);
    }
}

#[test]
fn a_hold_on_files_or_objects_by_their_table_keeps_all_of_it() {
    for house in House::each(&format!("{EXPORTS}{TEMPS}")) {
        fill(&house);
        let place = ["--store", "uploads", "--table", house.table(), "--broad", "all of it"];
        house.hold(&place).has("exports 4 of 4 records held");
        house.takes("exports", 0);
        house.takes("temps", 0);
    }
}

#[test]
fn a_hold_on_a_rule_keeps_what_the_rule_means_from_every_rule_and_nothing_else() {
    for house in House::each(&format!("{EXPORTS}{TEMPS}")) {
        fill(&house);
        let said = house.hold(&["--rule", "exports", "--broad", "all of it"]);
        said.has("exports 4 of 4 records held").has("temps 2 of 3 records held");
        house.takes("exports", 0);
        house.takes("temps", 1);
        assert!(!house.has("loose.tmp"));
        assert_eq!(house.all().len(), 4);
    }
}

#[test]
fn a_person_is_kept_from_rules_that_do_not_name_persons() {
    for house in House::each(&format!("{EXPORTS}{TEMPS}")) {
        fill(&house);
        let said = house.hold(&["--subject", "ann"]);
        said.has("exports 2 of 4 records held").has("temps 1 of 3 records held");
        house.takes("temps", 2);
        house.takes("exports", 1);
        assert_eq!(house.all(), ["exports/ann/1.csv", "exports/ann/2.tmp"]);
        house.say(&["why", "temps", "exports/ann/2.tmp"]).has("held by a legal hold");
        // Also when the rule that says where persons are named is gone.
        house.reconfigure(TEMPS);
        house.takes("temps", 0);
        assert!(house.has("exports/ann/2.tmp"));
    }
}

#[test]
fn no_rule_says_where_persons_are_named_and_the_hold_says_so() {
    for house in House::each(TEMPS) {
        house.hold(&["--subject", "ann"]).has("NOT covered");
    }
}

#[test]
fn a_hold_with_dates_keeps_what_was_last_modified_then() {
    for house in House::each(EXPORTS) {
        house.put("exports/ann/1.csv", OLD);
        house.put("exports/ann/2.csv", 40);
        let day = (expunged::clock::now() - jiff::SignedDuration::from_hours(24 * 60))
            .strftime("%Y-%m-%d")
            .to_string();
        house.hold(&["--rule", "exports", "--from", &day, "--broad", "half of it"]);
        house.takes("exports", 1);
        assert_eq!(house.all(), ["exports/ann/2.csv"]);
    }
}

/// A hold that is placed while a run is under way is heeded by its next batch, and what the walk had in
/// hand by then is not lost.
#[test]
fn a_hold_in_the_middle_of_a_run_is_heeded_and_loses_nothing_else() {
    for (house, batch) in [(House::files(EXPORTS), 8_000_u32), (House::objects(EXPORTS), 8_000)] {
        let many = 2 * batch;
        for number in 0..many {
            house.put(&format!("exports/u{}/{number}.csv", number % 50), OLD);
        }
        // It waits where the second batch is taken and its intent is not written.
        let mut command = house.place.command(&["--json", "run", "exports"]);
        command.env("FAILPOINTS", "batch.taken=1*off->1*sleep(4000)->off");
        let run = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let ledger = house.place.ledger.clone();
        let wait = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let pool = crate::support::Pool::connect(&ledger).await;
                let done = "SELECT count(*) FROM batch WHERE state = 'done'";
                crate::harness::poll(&pool, done, |batches| batches >= 1).await;
                pool.close().await;
            });
        });
        wait.join().unwrap();
        let held: Vec<_> = (0..25).map(|number| format!("u{}", 2 * number + 1)).collect();
        let persons = held.iter().flat_map(|user| ["--subject", user]).collect::<Vec<_>>();
        house.hold(&persons);
        let is_held = |path: &String| held.iter().any(|user| path.split('/').nth(1) == Some(user));
        let kept = house.all().iter().filter(|path| is_held(path)).count();
        let output = run.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let run: serde_json::Value = serde_json::from_str(&text)
            .unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!(run[0]["state"], "done", "{run}");
        assert!(kept > 0);
        let left = house.all();
        assert_eq!(left.len(), kept, "all of theirs that were there stay, and no other");
        assert!(left.iter().all(is_held));
    }
}

/// A batch of rows takes files of another store along: a hold on that store waits for it, too.
#[tokio::test]
async fn a_hold_on_a_store_waits_for_rows_that_take_its_files_along() {
    let store = fresh_sqlite().await;
    accounts(&store, 3).await;
    let rule = accounts_rule("action = \"delete\"", &["faces/{face}"]);
    let house = House::with_rows(store, false, &rule);
    for id in 0..=3 {
        house.put(&format!("faces/k{id}"), OLD);
    }
    let mut command = house.place.command(&["--json", "run", "accounts"]);
    command.env("FAILPOINTS", "batch.intended=sleep(3000)");
    let mut run = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let ledger = house.place.ledger().await;
    let open = "SELECT count(*) FROM batch WHERE state = 'intended'";
    crate::harness::poll(&ledger, open, |open| open == 1).await;
    house.hold(&["--store", "uploads", "--broad", "all of it"]);
    // It has returned, so that nothing goes from now on.
    let there = house.all();
    assert_eq!(ledger.count(open).await, 0);
    run.wait().unwrap();
    assert_eq!(house.all(), there);
    ledger.close().await;
}
