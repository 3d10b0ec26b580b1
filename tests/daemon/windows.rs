//! Maintenance windows: a slot waits until its rule's window opens, and a run ends when it closes. `faketime` sets the
//! clock of each process, as no test can wait for the night.

use std::fs;
use std::process::Stdio;

use expunged::clock::now;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};
use sqlx::{Connection, PgConnection};

use crate::clock::fake;
use crate::harness::{
    Place, accounts, add_month, left, months_of_accounts, output, poll, rule, says,
};
use crate::support::{fresh_postgres, fresh_sqlite};

const NIGHTLY: &str = "window = \"22:00-05:00\"\n";

/// Sets the clock of what is started from now on to a time of tomorrow, UTC.
fn set(place: &Place, time: &str) {
    let tomorrow = now().to_zoned(TimeZone::UTC).date() + 1.day();
    let wanted: Timestamp = format!("{tomorrow}T{time}Z").parse().unwrap();
    let ahead: SignedDuration = wanted.duration_since(now());
    fs::write(place.path("offset"), format!("+{}", ahead.as_secs())).unwrap();
}

#[tokio::test]
async fn a_slot_waits_for_its_window_and_a_command_is_refused_outside_it() {
    let store = fresh_sqlite().await;
    accounts(&store, 500).await;
    let mut place = Place::new();
    place.configure(&(place.store("app", &store) + &rule("nightly", "app", "0 12 * * *", NIGHTLY)));
    fake(&mut place);
    set(&place, "12:30:00");
    place.make_overdue().await;

    let mut daemon = place.start();
    daemon.wait_for("looked");
    let status = &place.json(&["status"])["rules"][0];
    assert!(status["next_run"].as_str().unwrap().contains("T22:00:00"), "{status}");
    assert_eq!(status["waits_for_window_until"], status["next_run"]);
    assert_eq!(daemon.stop().code(), Some(0));
    assert_eq!(left(&store).await, 501, "it is not the hour");
    let run = place.run(&["--json", "run"]);
    assert_eq!(run.status.code(), Some(1));
    let refused: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(refused[0]["state"], "refused");
    let error = refused[0]["error"].as_str().unwrap();
    assert!(error.contains("22:00-05:00") && error.contains("--anyway"), "{error}");
    let ledger = place.ledger().await;
    assert_eq!(ledger.count("SELECT count(*) FROM request WHERE slot IS NOT NULL").await, 0);

    set(&place, "22:30:00");
    let mut daemon = place.start();
    let run = daemon.wait_for_run("nightly");
    assert_eq!((&run["state"], &run["records"]), (&"done".into(), &500.into()));
    assert_eq!(daemon.stop().code(), Some(0));
    let slots = ledger.strings("SELECT slot FROM request WHERE slot IS NOT NULL").await;
    assert!(slots.len() == 1 && slots[0].contains("T12:00:00"), "{slots:?}");
    place.assert_settled(500).await;
}

#[tokio::test]
async fn who_insists_runs_a_rule_outside_its_window() {
    let store = fresh_sqlite().await;
    accounts(&store, 500).await;
    let mut place = Place::new();
    place.configure(&(place.store("app", &store) + &rule("nightly", "app", "0 12 * * *", NIGHTLY)));
    fake(&mut place);
    set(&place, "12:30:00");

    assert_eq!(place.json(&["run", "--anyway"])[0]["state"], "done");

    assert_eq!(left(&store).await, 1);
    place.assert_settled(500).await;
}

#[tokio::test]
async fn a_run_ends_when_its_window_closes_and_goes_on_in_the_next() {
    let store = fresh_sqlite().await;
    accounts(&store, 20_000).await;
    let mut place = Place::new();
    let (app, slow) = (place.store("app", &store), format!("{NIGHTLY}rate = \"500 per second\"\n"));
    place.configure(&(app.clone() + &rule("nightly", "app", "0 4 * * *", &slow)));
    fake(&mut place);
    set(&place, "04:59:00");
    place.make_overdue().await;

    let mut daemon = place.start();
    daemon.wait_for("a batch is done");
    // By less than what counts as a jump of the clock.
    let ahead = fs::read_to_string(place.path("offset")).unwrap();
    let later = ahead[1..].parse::<i64>().unwrap() + 50;
    fs::write(place.path("offset"), format!("+{later}")).unwrap();
    let run = daemon.wait_for_run("nightly");
    assert_eq!(run["state"], "stopped", "{run}");
    let taken = run["records"].as_i64().unwrap();
    assert!((1..20_000).contains(&taken), "{run}");
    assert_eq!(daemon.stop().code(), Some(0));
    let finished: Vec<_> =
        place.audit().into_iter().filter(|e| e["kind"] == "run_finished").collect();
    assert_eq!(finished[0]["reason"], "its window closed", "{finished:?}");

    // At the next start the window is closed still; when it is open, the run goes on with what is left.
    set(&place, "12:00:00");
    let mut daemon = place.start();
    daemon.wait_for("looked");
    assert_eq!(daemon.stop().code(), Some(0));
    assert_eq!(left(&store).await, 20_001 - taken);
    place.configure(&(app + &rule("nightly", "app", "0 4 * * *", NIGHTLY)));
    set(&place, "22:30:00");
    let mut daemon = place.start();
    let run = daemon.wait_for_run("nightly");
    assert_eq!((&run["state"], &run["records"]), (&"done".into(), &(20_000 - taken).into()));
    assert_eq!(daemon.stop().code(), Some(0));
    place.assert_settled(20_000).await;
}

/// Has whoever drops a table wait, with the lock 1, for the lock 2.
const WAIT: &str = "CREATE FUNCTION wait() RETURNS event_trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock(1);
        WHILE NOT pg_try_advisory_xact_lock(2) LOOP PERFORM pg_sleep(0.01); END LOOP;
    END $$;
    CREATE EVENT TRIGGER wait ON sql_drop EXECUTE FUNCTION wait()";
const WAITING: &str = "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database \
    WHERE datname = current_database() AND locktype = 'advisory' AND objid = 1";

/// The window closes while the first of two partitions is being dropped.
#[tokio::test]
async fn a_run_ends_between_two_partitions_when_its_window_closes() {
    let store = fresh_postgres().await;
    months_of_accounts(&store).await;
    add_month(&store, 1, 1, 100).await;
    add_month(&store, 2, 101, 100).await;
    store.execute(WAIT).await;
    let mut place = Place::new();
    // As near to the server's clock as a run asks for: a time 40 seconds before the window closes.
    let ahead = 20 - i64::from(now().to_zoned(TimeZone::UTC).second());
    let shown = (now() + SignedDuration::from_secs(ahead)).to_zoned(TimeZone::UTC);
    let (opens, closes) = (&shown - 2.hours(), &shown + 1.minute());
    let window = format!("window = \"{}-{}\"\n", opens.strftime("%H:%M"), closes.strftime("%H:%M"));
    place.configure(&(place.store("app", &store) + &rule("nightly", "app", "0 4 * * *", &window)));
    fake(&mut place);
    fs::write(place.path("offset"), format!("{ahead:+}")).unwrap();
    let mut holder = PgConnection::connect(&store.url).await.unwrap();
    sqlx::raw_sql("SELECT pg_advisory_lock(2)").execute(&mut holder).await.unwrap();

    let run = place.command(&["--json", "run"]).stdout(Stdio::piped()).spawn().unwrap();
    poll(&store.pool, WAITING, |waiting| waiting == 1).await;
    // By less than what counts as a jump of the clock.
    fs::write(place.path("offset"), format!("{:+}", ahead + 50)).unwrap();
    holder.close().await.unwrap();
    let (_, said) = output(run);

    let run: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&run[0]["state"], &run[0]["records"]), (&"stopped".into(), &100.into()), "{run}");
    assert_eq!(left(&store).await, 101, "the other is there, with the row that is not due");
    let finished: Vec<_> =
        place.audit().into_iter().filter(|entry| entry["kind"] == "run_finished").collect();
    assert_eq!(finished[0]["reason"], "its window closed", "{finished:?}");
    place.assert_settled(100).await;
}

/// It costs nothing meanwhile, and is not overdue.
#[tokio::test]
async fn a_continuous_rule_sleeps_until_its_window_opens() {
    let store = fresh_sqlite().await;
    accounts(&store, 10).await;
    let mut place = Place::new();
    let text = place.store("app", &store) + &rule("always", "app", "continuous", NIGHTLY);
    place.configure(&text);
    fake(&mut place);
    set(&place, "12:30:00");

    let mut daemon = place.start();
    daemon.wait_for("looked");
    let status = &place.json(&["status"])["rules"][0];
    assert!(status["next_run"].as_str().unwrap().contains("T22:00:00"), "{status}");
    assert_eq!(status["overdue_seconds"], serde_json::Value::Null);
    daemon.drain();
    let looks = daemon.log.iter().filter(|line| says(line, "looked")).count();
    assert!(looks < 10, "it looks again and again:\n{}", daemon.text());
    assert_eq!(daemon.stop().code(), Some(0));
    assert_eq!(left(&store).await, 11);

    set(&place, "23:00:00");
    let mut daemon = place.start();
    assert_eq!(daemon.wait_for_run("always")["records"], 10);
    assert_eq!(daemon.stop().code(), Some(0));
    place.assert_settled(10).await;
}

#[tokio::test]
async fn a_window_in_a_rule_that_waits_for_events_is_warned_of() {
    let store = fresh_sqlite().await;
    accounts(&store, 10).await;
    let place = Place::new();
    let lines = "on_event = \"account.closed\"\nmatch = { id = \"id\" }\nmax_age = \"1 day\"\n";
    let waiting = rule("closed", "app", "", &format!("{lines}{NIGHTLY}"));
    let waiting = waiting.replace("retention = \"2 years\"\n", "").replace("schedule = \"\"\n", "");
    let nightly = rule("nightly", "app", "0 12 * * *", NIGHTLY);
    place.configure(&(place.store("app", &store) + &waiting + &nightly));

    let reports = place.json(&["check"]);

    let found = |report: usize| {
        let findings = reports[report]["findings"].as_array().unwrap();
        findings.iter().find(|finding| finding["topic"] == "window").unwrap().clone()
    };
    assert_eq!(found(0)["severity"], "warning", "{reports}");
    assert_eq!(found(1)["severity"], "fine", "{reports}");
    assert!(found(1)["message"].as_str().unwrap().contains("22:00-05:00"), "{reports}");
}
