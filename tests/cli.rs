//! What the command line says when something is wrong: exit codes, and the same errors as JSON.

#![allow(clippy::unwrap_used, reason = "in helpers too, what fails to unwrap fails the test")]

use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

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
fn a_moment_that_is_none_is_refused() {
    let (code, _, stderr) = expunged(&folder(RULE), &["plan", "--at", "yesterday"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("write `2026-11-21`"), "{stderr}");
}
