//! What recipients are told of files and objects, and of rows with what belongs to them.

use std::collections::BTreeMap;

use crate::harness::{Place, poll};
use crate::house::{House, OLD, accounts, accounts_rule, objects_store};
use crate::servers::Moto;
use crate::support::{fresh_mysql, fresh_postgres, fresh_sqlite};
use crate::told::{messages, open, times};
use crate::versions::{locked_until, put_locked};

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

#[tokio::test]
async fn of_what_the_store_kept_of_a_batch_nobody_is_told() {
    let moto = Moto::locking().await;
    let house = House { place: Place::new(), bucket: None, store: None };
    let bucket = objects_store("uploads", &house.place, &moto.url, &moto.bucket);
    let rule = TELLS.replace("{user_id}/{name}", "{date:%Y-%m-%d}/{user_id}/{name}");
    let rule = rule.replace(", \"old/{name}/{user_id}/*\"", "");
    let rule = rule.replace("mode =", "starting_point = \"path date\"\nmode =");
    house.place.configure(&(bucket + &recipient(&house) + &rule));
    for user in ["u1", "u2", "u3"] {
        moto.put(&format!("exports/2024-01-01/{user}/a")).await;
    }
    put_locked(&moto, "exports/2024-01-01/u4/a", &locked_until()).await;
    let run = house.run("exports");
    assert_eq!((&run["state"], &run["records"]), (&"failed".into(), &3.into()), "{run}");
    let gone = ["u1", "u2", "u3"].map(|user| (pair(user, "a"), 1));
    assert_eq!(told(&house).await, gone.into());
}

#[tokio::test]
async fn of_what_events_name_is_told_once() {
    let store = fresh_sqlite().await;
    accounts(&store, 3).await;
    let house = House::with_rows(store, false, "");
    let files = "[rule.exports]\nstore = \"uploads\"\naction = \"delete\"\nmode = \"enforce\"\n\
        path = [\"exports/{user_id}/{name}\", \"old/{name}/*\"]\non_event = \"upload.done\"\nmax_age = \"9 years\"\n\
        [rule.exports.recipients.analytics]\nidentify = { user = \"user_id\", file = \"name\" }\n";
    let rows = accounts_rule("action = \"delete\"", &[]).replace(
        "retention = \"2 years\"",
        "max_age = \"9 years\"\non_event = \"account.closed\"\nmatch = { id = \"id\" }",
    );
    let tells =
        "[rule.accounts.recipients.analytics]\nidentify = { user = \"id\", file = \"email\" }\n";
    house.reconfigure(&(recipient(&house) + files + &rows + tells));
    for path in ["exports/u1/a", "exports/u2/a", "exports/u1/b", "old/a/x"] {
        house.put(path, 1);
    }
    let mut daemon = house.place.start();
    for event in [
        &["upload.done", "user_id=u1", "name=a"][..],
        &["account.closed", "id=2"],
        &["account.closed", "id=2"],
    ] {
        let said = house.say(&[&["event"], event].concat());
        assert_eq!(said.code, 0, "{}", said.text);
    }
    let ledger = house.place.ledger().await;
    poll(&ledger, "SELECT count(*) FROM event", |waiting| waiting == 0).await;
    poll(
        &ledger,
        "SELECT CAST(coalesce(sum(records), 0) AS bigint) FROM batch WHERE state = 'done'",
        |gone| gone == 3,
    )
    .await;
    ledger.close().await;
    daemon.drain();
    assert_eq!(daemon.stop().code(), Some(0));
    assert!(!house.has("exports/u1/a") && !house.has("old/a/x") && house.has("exports/u1/b"));
    let ledger = open(&house.place.ledger, &house.place.path("keys")).await;
    let mut told: Vec<_> = messages(&ledger, "analytics").await.into_iter().flatten().collect();
    told.sort();
    let shown = serde_json::to_string(&told).unwrap();
    let expected = concat!(
        r#"[{"file":"a"},{"file":"a","user":"u1"},"#,
        r#"{"file":"user2@example.org","user":"2"}]"#
    );
    assert_eq!(shown, expected);
    ledger.close().await;
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
