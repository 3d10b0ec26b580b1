//! What recipients are told of files and objects, and of rows with what belongs to them.

use std::collections::BTreeMap;

use crate::house::{House, OLD, accounts, accounts_rule};
use crate::support::{fresh_mysql, fresh_postgres, fresh_sqlite};
use crate::told::{messages, open, times};

/// A recipient at whose door nobody answers.
fn recipient(house: &House) -> String {
    let secret = house.place.secret("webhook", "whsec_c2VjcmV0IG9mIHRoZSBraWxsIHN1aXRlIDEyMzQ1");
    format!(
        "[recipient.analytics]\nprotocol = \"webhook\"\nurl = \"http://127.0.0.1:9/\"\ninternal = true\n\
         secret = {secret}\nat_once = 50\n"
    )
}

const TELLS: &str = "[rule.exports]\nstore = \"uploads\"\nretention = \"30 days\"\naction = \"delete\"\n\
    mode = \"enforce\"\npath = [\"exports/{user_id}/{name}\", \"old/{name}/{user_id}/*\"]\n\
    [rule.exports.recipients.analytics]\nidentify = { user = \"user_id\", file = \"name\" }\n";

fn both() -> [House; 2] {
    let each = House::each("");
    for house in &each {
        house.reconfigure(&(recipient(house) + TELLS));
    }
    each
}

async fn told(house: &House) -> BTreeMap<(String, String), u32> {
    let ledger = open(&house.place.ledger, &house.place.path("keys")).await;
    let mut told = BTreeMap::new();
    for who in messages(&ledger, "analytics").await.into_iter().flatten() {
        *told.entry((who.0["user"].clone(), who.0["file"].clone())).or_default() += 1;
    }
    ledger.close().await;
    told
}

fn pair(user: &str, file: &str) -> (String, String) {
    (user.to_owned(), file.to_owned())
}

#[tokio::test]
async fn of_files_and_objects_is_told_what_stands_in_their_paths() {
    for house in both() {
        let due = ["exports/u1/a.csv", "exports/u1/b.csv", "exports/ü 2/a.csv", "old/logs/u3/x"];
        due.iter().for_each(|path| house.put(path, OLD));
        // The same person and name once more, which one message needs not say twice.
        house.put("old/logs/u3/y", OLD);
        house.put("exports/u4/young.csv", 1);
        house.takes("exports", 5);
        let expected = [("u1", "a.csv"), ("u1", "b.csv"), ("ü 2", "a.csv"), ("u3", "logs")];
        let expected = expected.map(|(user, file)| (pair(user, file), 1));
        assert_eq!(told(&house).await, expected.into());
        let audit = house.place.audit();
        let done: Vec<_> = audit.iter().filter(|entry| entry["kind"] == "batch_done").collect();
        assert_eq!(done[0]["notices"]["analytics"], 1, "{done:?}");
        let log = serde_json::to_string(&audit).unwrap();
        assert!(!log.contains("u1") && !log.contains("csv"), "{log}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn of_files_that_stay_nobody_is_told() {
    let house = House::files("");
    house.reconfigure(&(recipient(&house) + TELLS));
    (0..30).for_each(|number| house.put(&format!("exports/u{number}/a.csv"), OLD));
    // Changed between the look and the deletion: the fault point waits for nobody, so a hold does it.
    house.hold(&["--store", "uploads", "--subject", "u7", "--until", "2099-01-01"]);
    house.run("exports");
    let told = told(&house).await;
    for number in 0..30 {
        let user = format!("u{number}");
        let is_gone = !house.has(&format!("exports/{user}/a.csv"));
        assert_eq!(told.contains_key(&pair(&user, "a.csv")), is_gone, "{user}");
    }
}

#[tokio::test]
async fn of_rows_is_told_what_they_were_also_where_files_belong_to_them() {
    for (store, bucket) in [
        (fresh_sqlite().await, false),
        (fresh_postgres().await, true),
        (fresh_mysql().await, false),
    ] {
        accounts(&store, 20).await;
        store.execute("UPDATE accounts SET face = '../x' WHERE id = 3").await;
        let house = House::with_rows(store, bucket, "");
        let rule = accounts_rule("action = \"delete\"", &["faces/{face}"]);
        let tells =
            "[rule.accounts.recipients.analytics]\nidentify = { id = \"id\", mail = \"email\" }\n";
        house.reconfigure(&(recipient(&house) + &rule + tells));
        (0..=20).for_each(|id| house.put(&format!("faces/k{id}"), 0));
        house.run("accounts");
        let ledger = open(&house.place.ledger, &house.place.path("keys")).await;
        let told = times(&ledger, "analytics", "id").await;
        let expected = (1..=20).filter(|id| *id != 3).map(|id| (id.to_string(), 1));
        assert_eq!(told, expected.collect(), "the row that stays is told nobody");
        for who in messages(&ledger, "analytics").await.into_iter().flatten() {
            assert_eq!(who.0["mail"], format!("user{}@example.org", who.0["id"]));
        }
        ledger.close().await;
    }
}
