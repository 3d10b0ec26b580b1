//! `expunged demo`, as a new person meets it, and the commands that it leads to.
//!
//! What is deleted is judged here by SQL of its own, on the database before and after.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use assert_cmd::Command;
use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use tempfile::TempDir;

/// A folder to run in, and the command in it.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    /// A demo that was only built; once, and then copied.
    fn built() -> Place {
        static ORIGINAL: OnceLock<Place> = OnceLock::new();
        let original = ORIGINAL.get_or_init(|| {
            let place = Place::new();
            place.run(&["demo", "--build-only"], 0);
            place
        });
        let copy = Place::new();
        copy_folder(&original.path(""), &copy.path(""));
        copy
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_expunged"));
        command.current_dir(self.0.path()).args(arguments);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("EXPUNGED_")) {
            command.env_remove(name);
        }
        command.env_remove("COLUMNS").env_remove("CLICOLOR_FORCE");
        command
    }

    /// Runs a command that must end with this exit code, and gives what it prints.
    #[track_caller]
    fn run(&self, arguments: &[&str], code: i32) -> String {
        let output = self.command(arguments).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {complaint}\n{said}");
        said
    }

    /// The same by the generated configuration.
    #[track_caller]
    fn expunged(&self, arguments: &[&str], code: i32) -> String {
        self.run(&[&["--config", "expunged-demo/expunged.toml"], arguments].concat(), code)
    }

    /// What a command that must fail complains about.
    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("expunged-demo").join(name)
    }

    async fn database(&self) -> SqlitePool {
        connect(&self.path("app.db")).await
    }
}

/// Copies a folder with all that is in it, modes included.
fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, from.metadata().unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() {
            copy_folder(&path, &to);
        } else {
            fs::copy(path, to).unwrap();
        }
    }
}

async fn connect(file: &Path) -> SqlitePool {
    SqlitePool::connect_with(SqliteConnectOptions::new().filename(file)).await.unwrap()
}

async fn ids(pool: &SqlitePool, sql: &'static str) -> BTreeSet<i64> {
    sqlx::query_scalar(sql).fetch_all(pool).await.unwrap().into_iter().collect()
}

async fn count(pool: &SqlitePool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

/// Everything in a folder: names, and what the files say.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.symlink_metadata().unwrap().is_dir() {
            found.push((path.clone(), Vec::new()));
            found.extend(contents(&path));
        } else {
            found.push((path.clone(), fs::read(&path).unwrap_or_default()));
        }
    }
    found.sort();
    found
}

/// Due accounts and so on, in words of this test's own. Only rows whose starting point is a moment.
const DUE: [(&str, &str); 4] = [
    (
        "accounts",
        "SELECT id FROM accounts WHERE role = 'customer' AND length(last_seen_at) = 20 \
         AND julianday(last_seen_at) BETWEEN julianday('1970-01-02') AND julianday('now', '-2 years')",
    ),
    (
        "logins",
        "SELECT id FROM logins WHERE length(at) = 20 AND at NOT LIKE '%-02-30T%' \
         AND julianday(at) < julianday('now', CASE succeeded WHEN 1 THEN '-1 year' ELSE '-90 days' END)",
    ),
    (
        "synthesis_jobs",
        "SELECT id FROM synthesis_jobs WHERE finished_at > 100000 \
         AND finished_at < unixepoch('now', '-30 days')",
    ),
    (
        "orders",
        "SELECT id FROM orders WHERE status IN ('paid', 'refunded') AND disputed = 0 \
         AND julianday(updated_at) < julianday('now', '-3 years')",
    ),
];

#[tokio::test]
async fn exactly_the_due_records_go() {
    let place = Place::built();
    let before = place.path("../before.db");
    fs::copy(place.path("app.db"), &before).unwrap();
    // In enforce mode, and new: they wait.
    place.expunged(&["run"], 1);
    let plan = place.path("plan.txt");
    place.expunged(&["plan", "--out", plan.to_str().unwrap()], 2);
    place.expunged(&["apply", plan.to_str().unwrap()], 0);

    let (old, new) = (connect(&before).await, place.database().await);
    for (table, due) in DUE {
        let due = ids(&old, due).await;
        assert!(due.len() > 100, "{table}: too few to be a demonstration");
        match table {
            "accounts" => {
                let gone = &ids(&old, "SELECT id FROM accounts").await
                    - &ids(&new, "SELECT id FROM accounts").await;
                assert_eq!(gone, due, "{table}");
            }
            "logins" => {
                let gone = &ids(&old, "SELECT id FROM logins").await
                    - &ids(&new, "SELECT id FROM logins").await;
                assert_eq!(gone, due, "{table}");
            }
            "synthesis_jobs" => {
                let gone = &ids(&old, "SELECT id FROM synthesis_jobs").await
                    - &ids(&new, "SELECT id FROM synthesis_jobs").await;
                assert_eq!(gone, due, "{table}");
            }
            _ => {
                // Orders are changed and stay; the rule that would delete carts only observes.
                let all = "SELECT id FROM orders";
                assert_eq!(ids(&old, all).await, ids(&new, all).await);
                let changed = "SELECT id FROM orders WHERE anonymized_at IS NOT NULL";
                assert_eq!(ids(&new, changed).await, due);
            }
        }
    }
    assert_eq!(
        count(
            &new,
            "SELECT count(*) FROM orders WHERE anonymized_at IS NOT NULL AND (customer_name IS NOT NULL \
             OR customer_email LIKE '%@%' OR length(customer_email) <> 64 \
             OR birth_date NOT LIKE '____-01-01' OR postal_code NOT LIKE '__***' \
             OR customer_phone NOT LIKE '*%__' OR ip_address NOT LIKE '%.0' AND ip_address NOT LIKE '%::')"
        )
        .await,
        0
    );
    let kept = "SELECT count(*) FROM orders WHERE anonymized_at IS NULL AND customer_name IS NULL";
    assert_eq!(count(&new, kept).await, 0);
    let emptied = "SELECT count(*) FROM orders WHERE account_id NOT IN (SELECT id FROM accounts)";
    assert_eq!(count(&new, emptied).await, 0);
}

/// The first time as people read it, and again where there are 80 columns only.
#[test]
fn the_demo_runs_and_runs_again() {
    let place = Place::new();
    let first = place.run(&["demo"], 0);
    assert!(first.contains("All that was due is gone"), "{first}");
    assert!(first.lines().all(|line| line.chars().count() <= 100), "{first}");
    insta::with_settings!({ filters => filters() }, {
        insta::assert_snapshot!("demo", first);
        insta::assert_snapshot!("help", place.run(&["--help"], 0));
        insta::assert_snapshot!("help_of_demo", place.run(&["demo", "--help"], 0));
    });
    // Another demo may have the usual port just now.
    let config = || {
        let text = fs::read_to_string(place.path("expunged.toml")).unwrap();
        regex::Regex::new(r"127\.0\.0\.1:\d+").unwrap().replace_all(&text, "[address]").into_owned()
    };
    let before = config();
    fs::write(place.path("ledger.db.locks/rule.of-mine.lock"), "").unwrap();

    let again = place.command(&["demo", "--dir", "expunged-demo/"]).env("COLUMNS", "80").output();
    let again = again.unwrap();
    let said = String::from_utf8(again.stdout).unwrap();
    assert_eq!(again.status.code(), Some(0), "{said}");
    // A temporary folder's path may be long.
    let program = env!("CARGO_BIN_EXE_expunged");
    for line in said.lines().filter(|line| !line.contains(program)) {
        assert!(line.chars().count() <= 80, "{line}");
    }
    assert_eq!(config(), before);
    let verified = place.expunged(&["audit", "verify"], 0);
    assert!(verified.starts_with("valid"), "{verified}");
}

#[test]
fn the_commands_that_the_demo_leads_to() {
    let place = Place::new();
    place.run(&["demo"], 0);
    let json = |arguments: &[&str], code| -> Value {
        let said = place.expunged(&[&["--json"], arguments].concat(), code);
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    };

    place.expunged(&["check"], 0);
    assert_eq!(json(&["check"], 0).as_array().unwrap().len(), 7);
    place.expunged(&["status"], 0);
    assert_eq!(json(&["status"], 0)["rules"][0]["last_state"], "observed");
    assert!(json(&["audit", "log", "--limit", "0"], 0).as_array().unwrap().len() > 40);
    assert_eq!(json(&["audit", "verify"], 0)["valid"], true);

    // Nothing due, something due, an error.
    place.expunged(&["plan", "closed-orders"], 0);
    assert_eq!(
        json(&["plan", "abandoned-carts", "--sample", "5"], 2)[0]["sample"][4]["key"][0]
            .as_str()
            .map(str::is_empty),
        Some(false)
    );
    place.expunged(&["plan", "no-such-rule"], 1);

    // The rule that observes is armed, by a variable, and acts.
    let armed = |arguments: &[&str]| {
        let mut command = place.command(&["--config", "expunged-demo/expunged.toml", "--json"]);
        command.env("EXPUNGED__RULE__ABANDONED_CARTS__MODE", "enforce").args(arguments);
        command.output().unwrap()
    };
    let run =
        || -> Value { serde_json::from_slice(&armed(&["run", "abandoned-carts"]).stdout).unwrap() };
    assert_eq!(run()[0]["state"], "waiting");
    let approved = armed(&["approve", "abandoned-carts", "--why", "looked at the plan"]);
    assert_eq!(approved.status.code(), Some(0));
    let result = run();
    assert_eq!((&result[0]["state"], &result[0]["remaining"]), (&"done".into(), &0.into()));
    assert!(result[0]["records"].as_u64().unwrap() > 100);
    assert_eq!(armed(&["plan"]).status.code(), Some(0));
}

#[tokio::test]
async fn a_log_that_was_tampered_with_is_found_out() {
    let place = Place::built();
    place.expunged(&["plan"], 2);
    let ledger = connect(&place.path("ledger.db")).await;
    for statement in
        ["DROP TRIGGER audit_entry_keeps", "UPDATE audit_entry SET at=0 WHERE position=3"]
    {
        sqlx::query(statement).execute(&ledger).await.unwrap();
    }
    ledger.close().await;
    let found = place.expunged(&["audit", "verify"], 1);
    assert!(found.contains("column `at` of entry 3 was changed"), "{found}");

    fs::remove_file(place.path("keys/commitment.key")).unwrap();
    place.expunged(&["audit", "verify"], 2);
}

#[test]
fn a_folder_of_somebody_elses_is_left_alone() {
    let place = Place::new();
    fs::create_dir(place.path("")).unwrap();
    fs::write(place.path("app.db"), "mine").unwrap();
    let before = contents(place.0.path());
    let complaint = place.refused(&["demo"]);
    assert!(complaint.contains("`app.db`, and the demo did not make it"), "{complaint}");
    assert_eq!(contents(place.0.path()), before);
}

#[test]
fn a_rebuild_stops_at_whatever_the_demo_did_not_make() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("audit-signing.key"), "somebody's").unwrap();
    let link = |name: &'static str| {
        let target = outside.path().to_owned();
        move |place: &Place| {
            let path = place.path(name);
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.unwrap();
            symlink(&target, path).unwrap();
        }
    };
    let write = |name: &'static str, text: &'static str| {
        move |place: &Place| fs::write(place.path(name), text).unwrap()
    };
    type Change = Box<dyn Fn(&Place)>;
    let cases: [(&str, Change); 8] = [
        ("notes.txt", Box::new(write("notes.txt", "mine"))),
        ("keys/notes", Box::new(write("keys/notes", "mine"))),
        ("edited", Box::new(write("expunged.toml", "# mine\n"))),
        ("app.db", Box::new(write("app.db", "a database of mine"))),
        ("app.db", Box::new(link("app.db"))),
        ("keys", Box::new(link("keys"))),
        (".expunged-demo", Box::new(write(".expunged-demo", "something else"))),
        ("app.db-wal", Box::new(|place: &Place| fs::create_dir(place.path("app.db-wal")).unwrap())),
    ];
    for (named, change) in cases {
        let place = Place::built();
        change(&place);
        let before = contents(place.0.path());
        let complaint = place.refused(&["demo"]);
        assert!(complaint.contains(named), "{named}: {complaint}");
        assert_eq!(contents(place.0.path()), before, "{named}");
    }
    assert_eq!(fs::read(outside.path().join("audit-signing.key")).unwrap(), b"somebody's");
}

#[test]
fn a_link_or_a_file_in_place_of_the_folder_is_refused() {
    let place = Place::new();
    fs::create_dir(place.0.path().join("elsewhere")).unwrap();
    symlink("elsewhere", place.0.path().join("link")).unwrap();
    fs::write(place.0.path().join("file"), "mine").unwrap();
    let before = contents(place.0.path());
    for dir in ["link", "link/", "./link/.", "file"] {
        let complaint = place.refused(&["demo", "--dir", dir]);
        assert!(complaint.contains("not a plain folder"), "{dir}: {complaint}");
    }
    assert_eq!(contents(place.0.path()), before);
}

#[test]
fn an_interrupted_build_is_built_again() {
    let place = Place::built();
    // What may be there when the first attempt ends early.
    for name in ["ledger.db", "expunged.toml"] {
        fs::remove_file(place.path(name)).unwrap();
    }
    fs::write(place.path("app.db"), "").unwrap();
    place.run(&["demo", "--build-only"], 0);
    place.expunged(&["check"], 0);
}

#[test]
fn a_reader_that_stops_early_gets_no_panic() {
    let place = Place::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_expunged"));
    let command = command.current_dir(place.0.path()).args(["demo", "--build-only"]).stdout(writer);
    let output = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let output = output.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn json_is_refused_with_a_reason() {
    let place = Place::new();
    assert!(place.refused(&["--json", "demo"]).contains("has no JSON"));
    assert!(!place.path("").exists());
}

/// What differs from one demo to the next.
fn filters() -> Vec<(&'static str, &'static str)> {
    vec![
        (r"stands for\s+\S+expunged\.", "stands for [expunged]."),
        // Batches follow the machine's pace; their entries are told by one.
        (r"(?m)^ *\d+  [\d-]* ?\d\d:\d\d:\d\d(?: UTC)? +(\w+) .*\n(?: {30}.*\n)*", "[entry] $1\n"),
        (r"(?:\[entry\] (?:run|batch)_\w+\n)+", "[entries of runs]\n"),
        // So do messages, one for each batch.
        (r"(?:\[entry\] notices_settled\n)+", "[entries of notices]\n"),
        (r"(accepted|completed) +\d+  (signed)", "$1  [messages]  $2"),
        (
            r"newsletter: \d+ completed, by entry \d+",
            "newsletter: [messages] completed, by entry [number]",
        ),
        (r"(?m)^# .* what$", "[headings]"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d(?::\d\d)?", "[date and time]"),
        (r"\d{4}-\d\d-\d\d", "[date]"),
        (r"(?m)(done|observed)( +[\d,]+) +\d+( +[\d,?]+) +.*$", "$1$2  [batches]$3  [time]"),
        (r" +~?\d[\d.]* (?:ms|s|min \d+ s)\b", "  [time]"),
        (r"valid  \d+ entries", "valid  [count] entries"),
        (r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", "[id]"),
        (r"plan [0-9a-f]{8}", "plan [digest]"),
        (r"Plan [0-9a-f]{8}", "Plan [digest]"),
        (r"([\d,]+) in \d+ batches", "$1 in [batches]"),
        (r"entry \d+ of", "entry [number] of"),
        (r"expunged/[0-9a-f]{16}", "expunged/[key]"),
        (r"\b[0-9a-f]{64}\b", "[root]"),
    ]
}
