//! What belongs to rows goes with them, or they stay.

use std::fs;

use crate::house::{House, OLD, accounts, accounts_rule};
use crate::support::{TestDatabase, fresh_mysql, fresh_postgres, fresh_sqlite};

const DELETE: &str = "action = \"delete\"";
const FACES: [&str; 2] = ["faces/{face}", "thumbs/{face}/*"];

async fn ids(house: &House) -> Vec<String> {
    let sql = match house.store().kind {
        crate::support::Kind::MySql => "SELECT CAST(id AS CHAR) FROM accounts ORDER BY id",
        _ => "SELECT CAST(id AS text) FROM accounts ORDER BY id",
    };
    house.store().strings(sql).await
}

fn fill(house: &House, ids: std::ops::RangeInclusive<u32>) {
    for id in ids {
        house.put(&format!("faces/k{id}"), 0);
        house.put(&format!("thumbs/k{id}/small.jpg"), 0);
        house.put(&format!("thumbs/k{id}/large.jpg"), OLD);
    }
    house.put("faces/other", OLD);
}

async fn row_and_files_go_together(store: TestDatabase, bucket: bool) {
    accounts(&store, 20).await;
    let house = House::with_rows(store, bucket, &accounts_rule(DELETE, &FACES));
    fill(&house, 0..=15);
    house.takes("accounts", 20);
    assert_eq!(ids(&house).await, ["0"]);
    assert_eq!(
        house.all(),
        ["faces/k0", "faces/other", "thumbs/k0/large.jpg", "thumbs/k0/small.jpg"]
    );
    // Each of them is in the batch that took it, and in no other.
    let times = house.committed().await;
    assert_eq!(times.len(), 20 + 15 * 3);
    assert!(times.values().all(|times| *times == 1));
    for path in ["faces/k7", "thumbs/k7/small.jpg"] {
        assert!(times.contains_key(&house.commitment(path)), "{path}");
        let key = ["audit", "prove", "--store", "uploads", "--table", house.table(), "--key", path];
        let proof = house.say(&key);
        assert_eq!(proof.code, 0, "{}", proof.text);
        proof.has("proven");
    }
    assert_eq!(house.open_batches().await, 0);
    let log = serde_json::to_string(&house.place.audit()).unwrap();
    assert!(!log.contains("faces") && !log.contains("k7"), "{log}");
}

#[tokio::test]
async fn rows_of_sqlite_and_their_files_go_together() {
    row_and_files_go_together(fresh_sqlite().await, false).await;
}

#[tokio::test]
async fn rows_of_sqlite_and_their_objects_go_together() {
    row_and_files_go_together(fresh_sqlite().await, true).await;
}

#[tokio::test]
async fn rows_of_postgres_and_their_files_go_together() {
    row_and_files_go_together(fresh_postgres().await, false).await;
}

#[tokio::test]
async fn rows_of_mariadb_and_their_objects_go_together() {
    row_and_files_go_together(fresh_mysql().await, true).await;
}

#[tokio::test]
async fn a_rule_on_files_explains_what_went_with_a_row() {
    let store = fresh_sqlite().await;
    accounts(&store, 1).await;
    let rules = "[rule.faces]\nstore = \"uploads\"\npath = \"faces/*\"\nretention = \"1 day\"\naction = \"delete\"\n";
    let rules = accounts_rule(DELETE, &FACES) + rules;
    let house = House::with_rows(store, false, &rules);
    fill(&house, 0..=1);
    house.takes("accounts", 1);
    house.say(&["why", "faces", "faces/k1"]).has("delete under rule accounts, in run");
}

#[tokio::test]
async fn a_row_that_names_nothing_that_could_be_is_kept_and_said() {
    let store = fresh_sqlite().await;
    accounts(&store, 8).await;
    for (id, value) in [(1, "NULL"), (2, "''"), (3, "'..'"), (4, "'a/b'"), (5, "'.'")] {
        store.execute(&format!("UPDATE accounts SET face = {value} WHERE id = {id}")).await;
    }
    let house = House::with_rows(store, false, &accounts_rule(DELETE, &["faces/{face}"]));
    fill(&house, 0..=8);
    let run = house.run("accounts");
    assert_eq!((&run["state"], &run["records"]), (&"done".into(), &3.into()), "{run}");
    let error = run["error"].as_str().unwrap();
    assert!(error.contains("5 due records were kept"), "{error}");
    assert_eq!(ids(&house).await, ["0", "1", "2", "3", "4", "5"]);
    assert!(house.has("faces/k1") && !house.has("faces/k6") && !house.has("faces/k8"));
    // Nothing but these is due, and nothing is wrong with the store.
    let run = house.run("accounts");
    assert_eq!((&run["state"], &run["records"]), (&"done".into(), &0.into()), "{run}");
}

#[tokio::test]
async fn a_row_whose_file_is_held_is_kept_whole_and_others_go() {
    for bucket in [false, true] {
        let store = fresh_sqlite().await;
        accounts(&store, 5).await;
        let rules = "[rule.thumbs]\nstore = \"uploads\"\npath = \"thumbs/{who}/*\"\nretention = \"1 year\"\n\
                     action = \"delete\"\nsubject = \"who\"\n";
        let house = House::with_rows(store, bucket, &(accounts_rule(DELETE, &FACES) + rules));
        fill(&house, 0..=5);
        let said = house.hold(&["--subject", "k3"]);
        said.has("thumbs");
        let run = house.run("accounts");
        assert_eq!((&run["state"], &run["records"]), (&"done".into(), &4.into()), "{run}");
        assert!(run["error"].as_str().unwrap().contains("1 due records were kept"), "{run}");
        assert_eq!(ids(&house).await, ["0", "3"]);
        assert!(
            house.has("faces/k3") && house.has("thumbs/k3/small.jpg") && !house.has("faces/k4")
        );
        // All of the store: the row that is due again stays, too.
        house.store().execute("UPDATE accounts SET last_seen = '2020-01-01' WHERE id = 0").await;
        house.hold(&["--store", "uploads", "--broad", "all of it"]);
        let run = house.run("accounts");
        assert_eq!((&run["state"], &run["records"]), (&"done".into(), &0.into()), "{run}");
        assert_eq!(ids(&house).await, ["0", "3"]);
        assert!(house.has("faces/k0"));
    }
}

/// A folder that a file system is mounted on, or a file that cannot be changed: neither is to be had
/// everywhere, so that this asks for the one that is.
fn make_undeletable(path: &std::path::Path) -> bool {
    let set = std::process::Command::new("chattr").arg("+i").arg(path).status();
    set.is_ok_and(|status| status.success())
}

#[tokio::test]
async fn a_file_that_cannot_be_deleted_keeps_its_row_and_no_other() {
    let store = fresh_sqlite().await;
    accounts(&store, 6).await;
    let house = House::with_rows(store, false, &accounts_rule(DELETE, &FACES));
    fill(&house, 0..=6);
    let stuck = house.at("thumbs/k3/large.jpg");
    assert!(make_undeletable(&stuck), "chattr +i needs root and a file system that knows it");
    let run = house.run("accounts");
    let again = house.run("accounts");
    assert!(std::process::Command::new("chattr").arg("-i").arg(&stuck).status().unwrap().success());
    assert_eq!(run["state"], "failed", "{run}");
    let error = run["error"].as_str().unwrap();
    assert!(error.contains("1 files or objects in store `uploads`"), "{error}");
    assert!(!error.contains("k3"), "{error}");
    assert_eq!(run["records"], 5, "{run}");
    assert_eq!(again["state"], "failed", "{again}");
    assert_eq!(ids(&house).await, ["0", "3"]);
    assert!(house.has("thumbs/k3/large.jpg"));
    house.say(&["status"]).has("are still there");
    // What is gone of what belongs to it is recorded, once, and what is not is not.
    let times = house.committed().await;
    assert!(!times.contains_key(&house.commitment("thumbs/k3/large.jpg")));
    for path in ["faces/k3", "thumbs/k3/small.jpg", "faces/k1", "thumbs/k6/large.jpg"] {
        assert_eq!(
            times.get(&house.commitment(path)).copied().unwrap_or(0),
            u32::from(!house.has(path)),
            "{path}"
        );
    }
    house.takes("accounts", 1);
    assert_eq!(ids(&house).await, ["0"]);
    assert!(!house.has("thumbs/k3/large.jpg"));
    assert!(house.committed().await.values().all(|times| *times == 1));
}

#[tokio::test]
async fn a_folder_in_the_place_of_a_file_is_not_what_was_meant() {
    let store = fresh_sqlite().await;
    accounts(&store, 2).await;
    let house = House::with_rows(store, false, &accounts_rule(DELETE, &["faces/{face}"]));
    fs::create_dir_all(house.at("faces/k1/more")).unwrap();
    house.put("faces/k1/more/file", OLD);
    // Where the file is, is not known: in doubt nothing goes, and it is said.
    let run = house.run("accounts");
    assert_eq!((&run["state"], &run["records"]), (&"failed".into(), &0.into()), "{run}");
    assert!(run["error"].as_str().unwrap().contains("no file has the name"), "{run}");
    assert!(house.has("faces/k1/more/file"));
}

async fn anonymized(store: TestDatabase, bucket: bool) {
    accounts(&store, 10).await;
    let action = "action = \"anonymize\"\nmarker = \"anonymized_at\"\n\
                  columns = { face = \"null\", email = \"hmac\" }";
    let house = House::with_rows(store, bucket, &accounts_rule(action, &FACES));
    fill(&house, 0..=10);
    house.takes("accounts", 10);
    let count = |condition: &str| format!("SELECT count(*) FROM accounts WHERE {condition}");
    let store = house.store();
    assert_eq!(store.count(&count("1 = 1")).await, 11);
    assert_eq!(store.count(&count("face IS NULL AND anonymized_at IS NOT NULL")).await, 10);
    assert_eq!(store.count(&count("email LIKE '%@example.org'")).await, 1);
    assert_eq!(house.all().len(), 4);
    assert_eq!(house.committed().await.len(), 10 + 30);
    house.takes("accounts", 0);
}

#[tokio::test]
async fn the_file_goes_and_the_row_stays_without_its_name_on_sqlite() {
    anonymized(fresh_sqlite().await, false).await;
}

#[tokio::test]
async fn the_file_goes_and_the_row_stays_without_its_name_on_postgres() {
    anonymized(fresh_postgres().await, true).await;
}

#[tokio::test]
async fn the_file_goes_and_the_row_stays_without_its_name_on_mariadb() {
    anonymized(fresh_mysql().await, false).await;
}
