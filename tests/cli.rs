//! What the command line says when something is wrong: exit codes, and the same errors as JSON.

#![allow(clippy::unwrap_used, reason = "in helpers too, what fails to unwrap fails the test")]

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

mod support;

const RULE: &str = r#"
[ledger]
url = "sqlite:ledger.db"
[store.app]
kind = "sqlite"
url = "sqlite:app.db"
[rule.old]
store = "app"
table = "events"
starting_point = "at"
retention = "1 year"
action = "delete"
"#;

/// A folder with this configuration and nothing else.
fn folder(configuration: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("expunged.toml"), configuration).unwrap();
    folder
}

/// Exit code, stdout and stderr of a command.
fn expunged(folder: &TempDir, args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_expunged"))
        .arg("--config")
        .arg(folder.path().join("expunged.toml"))
        .args(args)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_wrong_configuration_is_told_to_people_and_to_programs() {
    let folder = folder(&RULE.replace("1 year", "6m").replace("action", "acton"));
    let (code, stdout, stderr) = expunged(&folder, &["check", "--json"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("did you mean `action`?"), "{stderr}");
    let json: Value = serde_json::from_str(&stdout).unwrap();
    let diagnostics = json["diagnostics"].as_array().unwrap();
    let lines: Vec<_> = diagnostics.iter().map(|one| one["line"].as_u64().unwrap()).collect();
    assert!(lines.contains(&11) && lines.contains(&12), "both, each at its line: {json}");
    assert_eq!(expunged(&folder, &["audit", "verify"]).0, 2, "not checked is not changed");
}

#[test]
fn a_rule_that_is_not_there_is_answered_with_those_that_are() {
    let (code, _, stderr) = expunged(&folder(RULE), &["plan", "odl"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("there is no rule `odl`; the configuration has old"), "{stderr}");
}

#[test]
fn looking_makes_no_ledger() {
    let folder = folder(RULE);
    let (code, _, stderr) = expunged(&folder, &["status"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("there is no ledger"), "{stderr}");
    assert_eq!(expunged(&folder, &["audit", "verify"]).0, 2);
    // The store is not there either: the plan fails, and says so per rule.
    let (code, stdout, _) = expunged(&folder, &["plan", "--json"]);
    let json: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(code, 1);
    assert!(json[0]["error"].as_str().unwrap().contains("store `app`"), "{json}");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "only the configuration: {left:?}");
}

#[test]
fn the_help_of_run_says_what_stopping_it_undoes() {
    let (code, help, _) = expunged(&folder(RULE), &["run", "--help"]);
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(code, 0);
    assert!(help.contains("Ctrl-C sees through what is intended, and undoes what"), "{help}");
}

#[test]
fn a_moment_that_is_none_is_refused() {
    let (code, _, stderr) = expunged(&folder(RULE), &["plan", "--at", "yesterday"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("write `2026-11-21`"), "{stderr}");
}

/// The samples of `expunged metrics`, after a look at every line.
fn metrics(folder: &TempDir) -> BTreeMap<String, f64> {
    let (code, stdout, stderr) = expunged(folder, &["metrics"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.ends_with("# EOF\n"), "{stdout}");
    let mut samples = BTreeMap::new();
    for line in stdout.lines().filter(|line| *line != "# EOF") {
        if let Some(comment) = line.strip_prefix("# ") {
            let (word, rest) = comment.split_once(' ').unwrap();
            assert!(["HELP", "TYPE"].contains(&word) && rest.starts_with("expunged_"), "{line}");
            assert!(word != "TYPE" || rest.ends_with(" gauge"), "{line}");
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with("expunged_"), "{line}");
            let before = samples.insert(name.to_owned(), value.parse().unwrap());
            assert_eq!(before, None, "{line}");
        }
    }
    samples
}

#[tokio::test]
async fn metrics_say_who_waits_and_leave_out_what_nobody_knows() {
    let folder = folder(&RULE.replace("delete\"", "delete\"\nmode = \"enforce\""));
    let url = format!("sqlite://{}", folder.path().join("app.db").display());
    let store = support::Pool::connect(&url).await;
    store
        .execute(
            "CREATE TABLE events (id integer PRIMARY KEY, at text);
             INSERT INTO events VALUES (1, '2020-01-01T00:00:00Z'), (2, '2020-01-01T00:00:00Z'),
                                       (3, '2099-01-01T00:00:00Z')",
        )
        .await;
    let of = |name: &str| format!("expunged_rule_{name}{{rule=\"old\"}}");
    // There is a ledger, and nobody has counted yet.
    assert_eq!(expunged(&folder, &["certificate", "old"]).0, 1);
    let fresh = metrics(&folder);
    assert_eq!((fresh[&of("armed")], fresh[&of("waits_for_approval")]), (1.0, 0.0));
    assert_eq!(fresh.get(&of("still_due_records")), None);

    assert_eq!(expunged(&folder, &["run"]).0, 1);
    let waiting = metrics(&folder);
    assert_eq!((waiting[&of("waits_for_approval")], waiting[&of("still_due_records")]), (1.0, 2.0));
    let (_, status, _) = expunged(&folder, &["status", "--json"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    let run = status["rules"][0]["waits_for_approval"]["run"].as_str().unwrap();
    assert_eq!(expunged(&folder, &["approve", run, "--why", "looked at it"]).0, 0);
    let (code, stdout, _) = expunged(&folder, &["run"]);
    assert_eq!(code, 0, "{stdout}");
    let done = metrics(&folder);
    assert_eq!((done[&of("waits_for_approval")], done[&of("still_due_records")]), (0.0, 0.0));
    assert_eq!((done[&of("records_taken")], done["expunged_open_batches"]), (2.0, 0.0));
    assert!(done[&of("last_success_timestamp_seconds")] > 1.7e9);
    store.close().await;
}
