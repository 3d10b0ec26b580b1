//! Certificates and explanations from the outside, with nothing but the command line.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test that cannot go on is to fail")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

mod support;

/// A configuration and a store in a folder: of the accounts 7 and 8 are due, 9 is not.
struct Place {
    folder: TempDir,
    store: support::TestDatabase,
}

const RULE: &str = r#"
[breakers]
max_share = "100 %"
[rule.inactive]
store = "app"
table = "accounts"
starting_point = "seen"
retention = "2 years"
action = "anonymize"
marker = "gone"
mode = "enforce"
basis = "Art. 5(1)(e) GDPR"
[rule.inactive.columns]
email = "hmac"
name = "null"
"#;

impl Place {
    async fn new() -> Place {
        let store = support::fresh_sqlite().await;
        store
            .execute(
                "CREATE TABLE accounts (id integer PRIMARY KEY, email text, name text, seen text, gone text);
                 INSERT INTO accounts VALUES
                 (7, 'ann@example.org', 'Ann', '2020-01-01T00:00:00Z', NULL),
                 (8, 'bob@example.org', 'Bob', '2020-01-01T00:00:00Z', NULL),
                 (9, 'eve@example.org', 'Eve', '2099-01-01T00:00:00Z', NULL)",
            )
            .await;
        let place = Place { folder: tempfile::tempdir().unwrap(), store };
        place.configure(RULE);
        place
    }

    fn configure(&self, rules: &str) {
        let url = &self.store.url;
        let text = format!(
            "[ledger]\nurl = \"sqlite:ledger.db\"\n[store.app]\nkind = \"sqlite\"\nurl = \"{url}\"\n{rules}"
        );
        fs::write(self.path("expunged.toml"), text).unwrap();
    }

    /// One whose rule has run, after somebody approved it.
    async fn after_a_run() -> Place {
        let place = Place::new().await;
        place.approve_and_run();
        place
    }

    fn approve_and_run(&self) {
        self.expunged(&["run"], 1);
        let status = self.json(&["status"], 0);
        let run = status["rules"][0]["waits_for_approval"]["run"].as_str().unwrap();
        self.expunged(&["approve", run, "--why", "looked at the plan"], 0);
        self.expunged(&["run"], 0);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn output(&self, arguments: &[&str], configuration: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_expunged"));
        command.current_dir(self.folder.path()).args(["--config", configuration]).args(arguments);
        command.env_remove("EXPUNGED_CONFIG").output().unwrap()
    }

    #[track_caller]
    fn expunged(&self, arguments: &[&str], code: i32) -> String {
        said(arguments, &self.output(arguments, "expunged.toml"), code)
    }

    /// The same where there is neither configuration nor ledger.
    #[track_caller]
    fn elsewhere(&self, arguments: &[&str], code: i32) -> String {
        said(arguments, &self.output(arguments, "none.toml"), code)
    }

    #[track_caller]
    fn json(&self, arguments: &[&str], code: i32) -> Value {
        let output = self.output(&[&["--json"], arguments].concat(), "expunged.toml");
        let text = said(arguments, &output, code);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{text}"))
    }

    async fn ledger(&self) -> support::Pool {
        let url = format!("sqlite://{}", self.path("ledger.db").display());
        support::Pool::connect(&url).await
    }
}

#[track_caller]
fn said(arguments: &[&str], output: &Output, code: i32) -> String {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    text
}

fn in_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What differs from run to run.
fn filters() -> Vec<(&'static str, &'static str)> {
    vec![
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "[id]"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "[time]"),
        (r"expunged/[0-9a-f]+", "[log]"),
        (r"[0-9a-f]{64}", "[digest]"),
        (r"approved by [^\n]+", "approved by [account]"),
        (r"expunged \d+\.\d+\.\d+", "expunged [version]"),
    ]
}

#[tokio::test]
async fn a_certificate_is_printed_and_written_and_its_proof_stands_by_itself() {
    let place = Place::after_a_run().await;
    insta::with_settings!({ filters => filters() }, {
        insta::assert_snapshot!(place.expunged(&["certificate", "inactive", "--brief"], 0));
    });
    let whole = place.json(&["certificate", "inactive"], 0);
    assert_eq!((&whole["records"], &whole["batches"]), (&2.into(), &1.into()));
    assert_eq!(whole["pseudonymized"], serde_json::json!(["email"]));
    let run = whole["run"].as_str().unwrap();
    let text = place.expunged(&["certificate", run, "--out", "."], 0);
    let file =
        |extension: &str| fs::read_to_string(place.path(&format!("{run}.{extension}"))).unwrap();
    assert_eq!(file("txt"), text);
    let json: Value = serde_json::from_str(&file("json")).unwrap();
    assert_eq!((&json["run"], &json["log"]["proof"]), (&run.into(), &file("tlog-proof").into()));
    assert!(text.ends_with(&file("tlog-proof")));
    let key = place.expunged(&["audit", "key"], 0);
    let proof = format!("{run}.tlog-proof");
    let verified = place.elsewhere(&["audit", "verify-proof", &proof, "--key", key.trim()], 0);
    assert!(in_one_line(&verified).contains("run_verified of rule inactive"), "{verified}");
    let issued = place.json(&["audit", "log", "--kind", "certificate_issued"], 0);
    assert_eq!(issued.as_array().unwrap().len(), 3, "each is in the log");

    let unknown = place.expunged(&["certificate", "active"], 1);
    assert!(unknown.contains("no rule `active` that has run"), "{unknown}");
}

#[tokio::test]
async fn a_run_that_nobody_was_asked_for_stays_within_the_limits() {
    let place = Place::after_a_run().await;
    let again = "INSERT INTO accounts VALUES (10, 'a', 'b', '2020-01-01T00:00:00Z', NULL)";
    place.store.execute(again).await;
    place.expunged(&["run"], 0);
    let certificate = place.json(&["certificate", "inactive"], 0);
    assert_eq!(certificate["authority"], "within the limits of the rule");
}

/// Whoever can write into the ledger gets no certificate for what the log does not say.
#[tokio::test]
async fn what_the_log_does_not_say_is_not_certified() {
    let place = Place::after_a_run().await;
    let ledger = place.ledger().await;
    let issued = "SELECT count(*) FROM audit_entry WHERE kind = 'certificate_issued'";
    ledger.execute("DROP TRIGGER audit_entry_keeps").await;
    for (change, back, said) in [
        ("UPDATE run SET records = 3", "UPDATE run SET records = 2", "how many records it took"),
        (
            "UPDATE run SET verification = replace(verification, '\"checked\":2', '\"checked\":1')",
            "UPDATE run SET verification = replace(verification, '\"checked\":1', '\"checked\":2')",
            "what was seen afterwards",
        ),
        (
            "UPDATE run SET verification = replace(verification, 'physically_purged', 'unknown')",
            "UPDATE run SET verification = replace(verification, 'unknown', 'physically_purged')",
            "what was seen afterwards",
        ),
        ("UPDATE run SET remaining = 5", "UPDATE run SET remaining = 0", "still due"),
        (
            "UPDATE run SET cutoff = '3' || substr(cutoff, 2)",
            "UPDATE run SET cutoff = '2' || substr(cutoff, 2)",
            "its cutoff",
        ),
        // The log itself.
        (
            "UPDATE audit_entry SET entry = replace(entry, '\"records\":2', '\"records\":1') \
             WHERE kind = 'batch_done'",
            "UPDATE audit_entry SET entry = replace(entry, '\"records\":1', '\"records\":2') \
             WHERE kind = 'batch_done'",
            "verify the log",
        ),
    ] {
        ledger.execute(change).await;
        let refused = in_one_line(&place.expunged(&["certificate", "inactive"], 1));
        assert!(
            refused.contains(said) && refused.contains("verify the log"),
            "{change}: {refused}"
        );
        assert_eq!(ledger.count(issued).await, 0, "{change}");
        ledger.execute(back).await;
    }
    // A whole log lets it be issued; one entry with another hash makes the proof prove nothing.
    place.expunged(&["certificate", "inactive"], 0);
    ledger.execute("UPDATE audit_entry SET leaf_hash = zeroblob(32) WHERE position = 0").await;
    let refused = in_one_line(&place.expunged(&["certificate", "inactive"], 1));
    assert!(refused.contains("not proven") && refused.contains("verify the log"), "{refused}");
    ledger.close().await;
}

#[tokio::test]
async fn one_record_is_explained_before_and_after() {
    let place = Place::new().await;
    insta::with_settings!({ filters => filters() }, {
        insta::assert_snapshot!("due", place.expunged(&["why", "inactive", "7"], 0));
        insta::assert_snapshot!("kept", place.expunged(&["why", "inactive", "9"], 0));
        insta::assert_snapshot!("absent", place.expunged(&["why", "inactive", "99"], 0));
    });
    place.approve_and_run();
    insta::with_settings!({ filters => filters() }, {
        insta::assert_snapshot!("taken", place.expunged(&["why", "inactive", "7"], 0));
        insta::assert_snapshot!("not_taken", place.expunged(&["why", "inactive", "9"], 0));
    });
    let json = place.json(&["why", "inactive", "7"], 0);
    assert_eq!(json["happened"].as_array().unwrap().len(), 1);
    assert_eq!(json.get("not_found"), None);

    // Nobody can tell any more, and that is what is said.
    let destroy = ["audit", "destroy-commitment-key", "--yes", "forget-every-record"];
    place.expunged(&destroy, 0);
    let text = in_one_line(&place.expunged(&["why", "inactive", "7"], 0));
    assert!(text.contains("cannot be tied to a record any more"), "{text}");

    // The same table, spelled in another way.
    place.configure(&RULE.replace("\"accounts\"", "\"main.accounts\""));
    let text = in_one_line(&place.expunged(&["why", "inactive", "7"], 0));
    assert!(text.contains("tables known there: accounts"), "{text}");
}
