//! The audit log from the outside: exported, verified, proven and brought under new keys with nothing
//! but the command line, on a real ledger and a real store.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test that cannot go on is to fail")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use expunged::config::Config;
use serde_json::Value;
use tempfile::TempDir;

mod support;

/// A configuration and a store in a folder; two members of teams and an account are due.
struct Place {
    folder: TempDir,
    store: support::TestDatabase,
}

const RULES: &str = r#"
[rule.inactive]
store = "app"
table = "accounts"
starting_point = "seen"
retention = "2 years"
action = "delete"
mode = "enforce"
[rule.left]
store = "app"
table = "members"
starting_point = "seen"
retention = "2 years"
action = "delete"
mode = "enforce"
"#;

impl Place {
    async fn new() -> Place {
        let store = support::fresh_sqlite().await;
        store
            .execute(
                "CREATE TABLE accounts (id integer PRIMARY KEY, seen text);
                 INSERT INTO accounts VALUES (7, '2020-01-01T00:00:00Z'), (8, '2020-01-01T00:00:00Z'),
                 (9, '2099-01-01T00:00:00Z');
                 CREATE TABLE members (team text, id integer, seen text, PRIMARY KEY (team, id)) WITHOUT ROWID;
                 INSERT INTO members VALUES ('red', 1, '2020-01-01T00:00:00Z'),
                 ('red', 2, '2020-01-01T00:00:00Z')",
            )
            .await;
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "[ledger]\nurl = \"sqlite:ledger.db\"\n[breakers]\nmax_share = \"100 %\"\n[store.app]\nkind = \"sqlite\"\nurl = \"{}\"\n{RULES}",
            store.url
        );
        let file = folder.path().join("expunged.toml");
        fs::write(&file, text).unwrap();
        let place = Place { folder, store };
        // The ledger is made, and says that the rules may act.
        place.expunged(&["run"], 1);
        let config = Config::load(&file, std::iter::empty()).unwrap();
        let ledger = format!("sqlite://{}", place.path("ledger.db").display());
        support::approve_in_advance(&ledger, &config).await;
        place
    }

    /// One whose rules have run.
    async fn after_runs() -> Place {
        let place = Place::new().await;
        place.expunged(&["run"], 0);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn output(&self, arguments: &[&str], configuration: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_expunged"));
        command.current_dir(self.folder.path()).args(["--config", configuration]).args(arguments);
        command.env_remove("EXPUNGED_CONFIG").output().unwrap()
    }

    /// Runs a command that must end with this code; gives what it prints, errors last.
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

    fn keys(&self) -> Vec<String> {
        self.expunged(&["audit", "key"], 0).lines().map(str::to_owned).collect()
    }

    /// The checkpoint as it would be kept elsewhere.
    fn keep_checkpoint(&self, name: &str) {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().to_str().unwrap();
        self.expunged(&["audit", "export", dir], 0);
        fs::copy(folder.path().join("checkpoint"), self.path(name)).unwrap();
    }
}

#[track_caller]
fn said(arguments: &[&str], output: &Output, code: i32) -> String {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    // What is wrapped for people is one line here.
    let text = String::from_utf8(text).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    text
}

fn in_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn an_exported_log_is_verified_with_nothing_but_the_key() {
    let place = Place::after_runs().await;
    place.expunged(&["audit", "export", "out"], 0);
    let key = &place.keys()[0];
    let text = place.elsewhere(&["audit", "verify", "--from", "out", "--key", key], 0);
    assert!(text.starts_with("valid"), "{text}");
    place.elsewhere(&["audit", "verify", "--from", "out", "--key", "out/key"], 0);
    let stranger = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    place.elsewhere(&["audit", "verify", "--from", "out", "--key", stranger], 1);
    place.elsewhere(&["audit", "verify", "--from", "nowhere", "--key", key], 2);
    place.elsewhere(&["audit", "verify", "--from", "out"], 2);

    let secret = fs::read_to_string(place.path("keys/commitment.key")).unwrap();
    let secret = secret.trim_end().split_once('+').unwrap().1;
    for file in ["key", "checkpoint", "tile/entries/000.p/9"] {
        let Ok(bytes) = fs::read(place.path("out").join(file)) else { continue };
        assert!(!String::from_utf8_lossy(&bytes).contains(secret), "{file}");
    }
    let bundle = fs::read_dir(place.path("out/tile/entries/000.p")).unwrap().next().unwrap();
    let bundle = bundle.unwrap().path();
    let mut bytes = fs::read(&bundle).unwrap();
    bytes[40] ^= 1;
    fs::write(&bundle, bytes).unwrap();
    let text = place.elsewhere(&["audit", "verify", "--from", "out", "--key", key], 1);
    assert!(text.contains("the audit log was changed"), "{text}");
}

#[tokio::test]
async fn a_record_is_proven_to_whoever_has_the_verifier_key() {
    let place = Place::after_runs().await;
    let key = &place.keys()[0];
    let prove = ["audit", "prove", "--store", "app", "--table", "accounts", "--key", "7"];
    let text = place.expunged(&[&prove[..], &["--out", "seven.tlog-proof"]].concat(), 0);
    assert!(in_one_line(&text).contains("was deleted under rule inactive"), "{text}");
    let proof = fs::read_to_string(place.path("seven.tlog-proof")).unwrap();
    assert!(proof.starts_with("c2sp.org/tlog-proof@v1\nextra "));
    let verify = ["audit", "verify-proof", "seven.tlog-proof", "--key", key];
    let text = in_one_line(&place.elsewhere(&verify, 0));
    assert!(
        text.contains("of table accounts in store app was deleted under rule inactive"),
        "{text}"
    );
    place.expunged(&["audit", "verify-proof", "seven.tlog-proof"], 0);
    place.elsewhere(&["audit", "verify-proof", "seven.tlog-proof"], 2);

    // A composite key, as it is displayed, of a text and a number.
    let members = ["audit", "prove", "--store", "app", "--table", "members", "--key", "red, 2"];
    assert!(place.json(&members, 0)["says"].as_str().unwrap().contains("rule left"));

    // What was not deleted, and what never was.
    for key in ["9", "70"] {
        let prove = ["audit", "prove", "--store", "app", "--table", "accounts", "--key", key];
        assert!(place.expunged(&prove, 2).contains("took a record with this key"));
    }
    let prove = ["audit", "prove", "--store", "app", "--table", "account", "--key", "7"];
    assert!(place.expunged(&prove, 2).contains("tables known there: accounts, members"));

    // Any change makes it prove nothing.
    for (from, to) in [("index ", "index 1"), ("\nextra ey", "\nextra eX"), ("\n\n", "\n\nx")] {
        fs::write(place.path("changed"), proof.replacen(from, to, 1)).unwrap();
        let output = place.output(&["audit", "verify-proof", "changed", "--key", key], "none.toml");
        assert_ne!(output.status.code(), Some(0), "{from:?}");
    }
}

#[tokio::test]
async fn an_entry_is_proven_too() {
    let place = Place::after_runs().await;
    let proven = place.json(&["audit", "prove", "0"], 0);
    let log = place.json(&["audit", "log", "--limit", "0"], 0);
    assert_eq!(proven["entry"]["kind"], log[0]["kind"]);
    fs::write(place.path("proof"), proven["proof"].as_str().unwrap()).unwrap();
    let verified = place.json(&["audit", "verify-proof", "proof"], 0);
    assert_eq!((&verified["valid"], &verified["position"]), (&true.into(), &0.into()));
    // Another entry is not what is proven.
    fs::write(
        place.path("other"),
        "{\"at\":\"2026-11-21T12:00:00.000000Z\",\"kind\":\"daemon_started\",\"version\":\"1\"}\n",
    )
    .unwrap();
    place.expunged(&["audit", "verify-proof", "proof", "--entry", "other"], 1);
    assert!(place.expunged(&["audit", "prove", "999"], 2).contains("no entry 999"));
}

#[tokio::test]
async fn a_log_that_was_put_back_is_found_with_a_kept_checkpoint() {
    let place = Place::after_runs().await;
    place.keep_checkpoint("old");
    let copies = ["ledger.db", "ledger.db-wal"];
    for file in copies {
        fs::copy(place.path(file), place.path(&format!("{file}.copy"))).ok();
    }
    place.expunged(&["run"], 0);
    place.keep_checkpoint("new");
    let text = place.expunged(&["audit", "verify", "--since", "old", "--since", "new"], 0);
    assert!(text.contains("2 checkpoints"), "{text}");
    for file in copies {
        fs::remove_file(place.path(file)).ok();
        fs::copy(place.path(&format!("{file}.copy")), place.path(file)).ok();
    }
    fs::remove_file(place.path("ledger.db-shm")).ok();
    place.expunged(&["audit", "verify"], 0);
    place.expunged(&["audit", "verify", "--since", "old"], 0);
    let text = place.expunged(&["audit", "verify", "--since", "new"], 1);
    assert!(text.contains("the log was put back"), "{text}");
    fs::write(place.path("letter"), "dear").unwrap();
    assert!(place.expunged(&["audit", "verify", "--since", "letter"], 2).contains("not checked"));
}

#[tokio::test]
async fn the_log_goes_on_under_a_new_key() {
    let place = Place::after_runs().await;
    place.keep_checkpoint("old");
    let first = place.keys();
    place.expunged(&["audit", "rotate-key"], 0);
    let keys = place.keys();
    assert_eq!((keys.len(), &keys[0]), (2, &first[0]));
    assert!(!place.path("keys/audit-signing.next").exists());
    place.expunged(&["run"], 0);
    place.expunged(&["audit", "rotate-key"], 0);
    let text = place.expunged(&["audit", "verify", "--since", "old"], 0);
    assert!(text.contains("2 changes of the signing key"), "{text}");
    place.expunged(&["audit", "export", "out"], 0);
    let last = place.keys().pop().unwrap();
    for key in [&keys[0], &keys[1], &last] {
        let verify = ["audit", "verify", "--from", "out", "--key", key, "--since", "old"];
        let code = if *key == keys[0] { 0 } else { 2 };
        place.elsewhere(&verify, code);
        place.elsewhere(&verify[..6], 0);
    }
    let prove =
        ["audit", "prove", "--store", "app", "--table", "accounts", "--key", "7", "-o", "p"];
    place.expunged(&prove, 0);
    place.elsewhere(&["audit", "verify-proof", "p", "--key", "out/key"], 0);
    fs::remove_file(place.path("out/checkpoints").join(checkpoint_of_first_change(&place)))
        .unwrap();
    place.elsewhere(&["audit", "verify", "--from", "out", "--key", &keys[0]], 1);
}

fn checkpoint_of_first_change(place: &Place) -> String {
    let log = place.json(&["audit", "log", "--kind", "key_rotated", "--limit", "0"], 0);
    (log[0]["position"].as_u64().unwrap() + 1).to_string()
}

/// Killed at any step of a change of the signing key, the log goes on under the old one or the new.
#[tokio::test]
async fn a_change_of_the_signing_key_survives_being_killed() {
    let place = Place::after_runs().await;
    let old = place.keys();
    let keep = |from: &str, to: &str| fs::copy(place.path(from), place.path(to)).unwrap();
    for file in ["audit-signing.key", "audit-signing.pub"] {
        keep(&format!("keys/{file}"), file);
    }
    // Before the log says so: the old key goes on, and the new one is there for the next attempt.
    expunged::keys::Keys::prepare_rotation(&place.path("keys")).unwrap();
    keep("keys/audit-signing.next", "audit-signing.next");
    place.expunged(&["run"], 0);
    place.expunged(&["audit", "verify"], 0);
    assert_eq!(
        fs::read_to_string(place.path("keys/audit-signing.pub")).unwrap().lines().count(),
        1
    );
    // After: the new one goes on, whichever files had been moved.
    place.expunged(&["audit", "rotate-key"], 0);
    let both = fs::read_to_string(place.path("keys/audit-signing.pub")).unwrap();
    for has_public in [false, true] {
        for file in ["audit-signing.key", "audit-signing.pub", "audit-signing.next"] {
            keep(file, &format!("keys/{file}"));
        }
        if has_public {
            fs::write(place.path("keys/audit-signing.pub"), &both).unwrap();
        }
        place.expunged(&["audit", "verify"], 0);
        place.expunged(&["run"], 0);
        place.expunged(&["audit", "verify"], 0);
        assert!(!place.path("keys/audit-signing.next").exists());
        assert_eq!(fs::read_to_string(place.path("keys/audit-signing.pub")).unwrap(), both);
    }
    assert_eq!(place.keys()[..1], old[..]);
    // Somebody who still has the old keys adds nothing.
    for file in ["audit-signing.key", "audit-signing.pub"] {
        keep(file, &format!("keys/{file}"));
    }
    let text = place.expunged(&["run"], 1);
    assert!(text.contains("newer signing key"), "{text}");
}

#[tokio::test]
async fn a_destroyed_commitment_key_leaves_a_log_that_speaks_of_nobody() {
    let place = Place::after_runs().await;
    let prove = ["audit", "prove", "--store", "app", "--table", "accounts", "--key", "7"];
    place.expunged(&prove, 0);
    let key = || fs::read_to_string(place.path("keys/commitment.key")).unwrap();
    let before = key();
    let text = place.expunged(&["audit", "destroy-commitment-key"], 2);
    assert!(text.contains("nothing was done") && key() == before, "{text}");
    let destroy = ["audit", "destroy-commitment-key", "--yes", "forget-every-record"];
    place.expunged(&destroy, 0);
    assert_ne!(key(), before);
    assert!(!place.path("keys/commitment.next").exists());
    place.expunged(&["audit", "verify"], 0);
    let text = place.expunged(&prove, 2);
    assert!(in_one_line(&text).contains("cannot be tied to a record any more"), "{text}");
    let log = place.json(&["audit", "log", "--kind", "commitment_key_destroyed"], 0);
    assert_eq!(log.as_array().unwrap().len(), 1);
    // What is taken from now on is proven again, under the new key.
    let insert = "INSERT INTO accounts VALUES (10, '2020-01-01T00:00:00Z')";
    place.store.execute(insert).await;
    place.expunged(&["run"], 0);
    place.expunged(&["audit", "prove", "--store", "app", "--table", "accounts", "--key", "10"], 0);
}

/// Killed once the old key was overwritten: the next command that writes says so in the log.
#[tokio::test]
async fn a_destruction_that_was_interrupted_is_recorded() {
    let place = Place::after_runs().await;
    expunged::keys::Keys::forget(&place.path("keys")).unwrap();
    place.expunged(&["audit", "verify"], 0);
    place.expunged(&["run"], 0);
    let log = place.json(&["audit", "log", "--kind", "commitment_key_destroyed"], 0);
    assert_eq!(log.as_array().unwrap().len(), 1);
    assert!(!place.path("keys/commitment.next").exists());
    place.expunged(&["run"], 0);
    let log = place.json(&["audit", "log", "--kind", "commitment_key_destroyed"], 0);
    assert_eq!(log.as_array().unwrap().len(), 1, "once");
}
