//! A ledger that cannot grow any more, in the middle of a run: the run ends with what was done recorded,
//! nothing goes unrecorded, and the next run settles what is open and finishes. A daemon refuses events
//! meanwhile, and takes them again once there is room.

#![allow(clippy::unwrap_used, reason = "in helpers too, what fails to unwrap fails the test")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use expunged::clock::Stopwatch;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;
use tempfile::TempDir;

#[path = "daemon/harness.rs"]
mod harness;
mod support;

use harness::{Daemon, LIMIT, Place};
use support::{TestDatabase, fresh_postgres};

const DUE: i64 = 60_000;

#[tokio::test]
async fn a_full_disk_loses_nothing_and_hides_nothing() {
    let store = fresh_postgres().await;
    store
        .execute(
            "CREATE TABLE events (id bigint PRIMARY KEY, at timestamptz, payload text);
             INSERT INTO events SELECT i, now() - interval '3 years', repeat('x', 100)
             FROM generate_series(1, 60000) AS s (i);
             CREATE INDEX ON events (at); ANALYZE events",
        )
        .await;
    let folder = folder();
    // So much is there before the first batch.
    assert_eq!(expunged(&folder, &store, "plan", None).0, 2);
    assert_eq!(expunged(&folder, &store, "status", None).0, 1, "no ledger yet");

    let (code, run) = expunged(&folder, &store, "run", None);
    assert_eq!((code, &run[0]["state"]), (1, &"waiting".into()), "{run}");
    assert_eq!(expunged(&folder, &store, "approve old-events --why tested", None).0, 0);
    // Each file may have 512 KiB: enough to begin, not enough for all the intents and entries.
    let (code, run) = expunged(&folder, &store, "run", Some(512));
    assert_eq!((code, &run[0]["state"]), (1, &"failed".into()), "{run}");
    assert!(run[0]["error"].as_str().unwrap().contains("is its disk full?"), "{run}");
    let left = store.count("SELECT count(*) FROM events").await;
    assert!((1..DUE).contains(&left), "it failed in the middle, with {left} left");

    let (code, run) = expunged(&folder, &store, "run", None);
    assert_eq!((code, &run[0]["state"]), (0, &"done".into()), "{run}");
    assert_eq!(store.count("SELECT count(*) FROM events").await, 0);
    let (_, batches) = expunged(&folder, &store, "audit log --kind batch_done --limit 0", None);
    let recorded: i64 =
        batches.as_array().unwrap().iter().map(|batch| batch["records"].as_i64().unwrap()).sum();
    assert_eq!(recorded, DUE, "every record is in the audit log, once");
    assert_eq!(expunged(&folder, &store, "audit verify", None).0, 0);
}

/// More failures than there are connections to the ledger.
const REFUSED: usize = 25;

#[tokio::test]
async fn a_daemon_whose_disk_was_full_takes_events_again_once_there_is_room() {
    let place = Place::new();
    let uploads = place.path("uploads");
    std::fs::create_dir_all(uploads.join("faces")).unwrap();
    let photo = uploads.join("faces/k1");
    std::fs::write(&photo, "a face").unwrap();
    place.configure(&format!(
        r#"
        [store.uploads]
        kind = "files"
        root = "{}"
        [rule.photos]
        store = "uploads"
        path = "faces/{{key}}"
        on_event = "synthesis.finished"
        max_age = "1 hour"
        action = "delete"
        mode = "enforce"
        "#,
        uploads.display()
    ));
    let mut limited = Command::new("bash");
    limited.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]);
    let whole = place.command(&["daemon"]);
    limited.arg(whole.get_program()).args(whole.get_args());
    limited.envs(whole.get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut daemon = Daemon::new(limited.spawn().unwrap());
    daemon.wait_for("ready");

    limit_files(&daemon, Some(4_096));
    for _ in 0..REFUSED {
        let status = post(&place.path("api.sock"), "k1");
        assert_eq!(status, 503, "a full disk makes nothing durable");
    }
    assert!(photo.exists());
    limit_files(&daemon, None);
    let status = post(&place.path("api.sock"), "k1");
    assert_eq!(status, 202, "there is room again");
    let watch = Stopwatch::start();
    while photo.exists() {
        daemon.drain();
        assert!(watch.elapsed() < LIMIT, "the photo is still there:\n{}", daemon.text());
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(daemon.stop().code(), Some(0));
}

/// How large each file may become, in bytes, that a daemon writes from now on.
fn limit_files(daemon: &Daemon, most: Option<u64>) {
    let daemon = Pid::from_raw(daemon.id().cast_signed());
    let was = prlimit(daemon, Resource::Fsize, Rlimit { current: most, maximum: None }).unwrap();
    assert_eq!(was.maximum, None, "it can be raised again");
}

/// Says that a synthesis is finished; gives the status of the answer.
fn post(socket: &Path, key: &str) -> u16 {
    let event = format!(r#"{{"event": "synthesis.finished", "values": {{"key": "{key}"}}}}"#);
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    write!(
        stream,
        "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{event}",
        event.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let configuration = r#"
        [ledger]
        url = "sqlite:ledger.db"
        [store.app]
        kind = "postgres"
        url = { env = "APP_URL" }
        [rule.old-events]
        store = "app"
        table = "events"
        starting_point = "at"
        retention = "2 years"
        action = "delete"
        mode = "enforce"
    "#;
    std::fs::write(folder.path().join("expunged.toml"), configuration).unwrap();
    folder
}

/// Runs a command, its files limited to so many KiB: a write beyond that fails, as on a full disk.
fn expunged(
    folder: &TempDir,
    store: &TestDatabase,
    command: &str,
    most: Option<u32>,
) -> (i32, Value) {
    let limit = most.map_or_else(String::new, |most| format!("trap '' XFSZ; ulimit -f {most};"));
    let program = env!("CARGO_BIN_EXE_expunged");
    let output = Command::new("bash")
        .args(["-c", &format!("{limit} exec {program} --config expunged.toml {command} --json")])
        .current_dir(folder.path())
        .env("APP_URL", &store.url)
        .output()
        .unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap(), json)
}
