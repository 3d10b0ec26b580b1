//! The daemon with its interface: real processes that are started, reloaded, stopped and killed.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use expunged::clock::{self, Stopwatch};
use expunged::config::Config;
use expunged::daemon::Daemon;
use expunged::keys::Keys;
use expunged::ledger::Ledger;
use expunged::lifecycle::Signals;
use rustix::process::{Pid, Signal, kill_process};
use secrecy::ExposeSecret;

use crate::harness::{LIMIT, Place, accounts, left, poll, rule};
use crate::house::{Talk, finished, listening, name};
use crate::support::{fresh_postgres, fresh_sqlite, tell};

/// A daemon whose rules listen, in a process of its own: this very program, told to be one.
struct Listening {
    process: Child,
}

impl Listening {
    /// Starts it; returns when it takes requests.
    fn start(place: &Place) -> Listening {
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "daemon::a_process_of_its_own", "--nocapture"])
            .env("EXPUNGED_TEST_PLACE", place.path("expunged.toml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let daemon = Listening { process };
        let watch = Stopwatch::start();
        while Talk::try_at(&place.path("api.sock")).is_err() {
            assert!(watch.elapsed() < LIMIT, "no daemon");
            std::thread::sleep(Duration::from_millis(5));
        }
        daemon
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn stop(mut self) {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// By itself this does nothing. With a place in its environment it is the daemon of the tests below.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_of_its_own() {
    let Some(path) = std::env::var_os("EXPUNGED_TEST_PLACE") else { return };
    let load = move || {
        let mut config = Config::load(path.as_ref(), std::iter::empty())?;
        config.rules = listening(config.rules);
        Ok(config)
    };
    let config = load().unwrap();
    let keys = Arc::new(Keys::open_or_create(&config.keys).unwrap());
    let url = config.ledger.url.read().unwrap();
    let ledger = Ledger::open(url.expose_secret(), keys).await.unwrap();
    let signals = Signals::listen().unwrap();
    Daemon::new(config, ledger, Box::new(load)).serve(signals).await.unwrap();
}

/// Rules that nobody has approved, so that their events stay to be counted.
fn waiting(place: &Place, store: &crate::support::TestDatabase) -> String {
    place.store("app", store)
        + &rule("photos", "app", "0 3 * * *", "")
        + &rule("jobs", "app", "0 3 * * *", "")
}

/// Rules that only observe.
fn observing(place: &Place, store: &crate::support::TestDatabase) -> String {
    place.store("app", store)
        + &rule("photos", "app", "0 3 * * *", "mode = \"observe\"")
        + &rule("jobs", "app", "0 3 * * *", "mode = \"observe\"")
}

/// Several clients send as fast as they can, and the daemon is killed in the middle, over and over.
async fn kill_and_count(place: Place) {
    let rounds = if std::env::var_os("EXPUNGED_LONG").is_some() { 100 } else { 10 };
    let store = fresh_sqlite().await;
    accounts(&store, 3).await;
    place.configure(&waiting(&place, &store));
    let mut acknowledged = BTreeSet::new();
    for round in 0..rounds {
        let daemon = Listening::start(&place);
        let (sender, acks) = channel();
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let (socket, sender) = (place.path("api.sock"), sender.clone());
                std::thread::spawn(move || {
                    let Ok(mut talk) = Talk::try_at(&socket) else { return };
                    for n in 0.. {
                        let id = format!("{round}-{client}-{n}");
                        let json = "Content-Type: application/json\r\n";
                        let event = finished(&id, "k");
                        match talk.try_ask("POST", "/v1/events", json, event.as_bytes()) {
                            Ok(answer) if answer.status == 202 => sender.send(id).unwrap(),
                            Ok(answer) => panic!("{answer:?}"),
                            Err(_) => return,
                        }
                    }
                })
            })
            .collect();
        drop(sender);
        // Right after an acknowledgement: the first of all, or one of those after.
        acknowledged.extend(acks.iter().take(1 + 7 * round));
        daemon.kill();
        acknowledged.extend(acks.iter());
        for client in clients {
            client.join().unwrap();
        }
    }
    let keys = Arc::new(Keys::open(&place.path("keys")).unwrap());
    let ledger = Ledger::open(&place.ledger, keys).await.unwrap();
    for rule in ["photos", "jobs"] {
        let pending = ledger.pending_events(&name(rule), 1_000_000).await.unwrap();
        let there: BTreeSet<_> = pending.into_iter().map(|event| event.id).collect();
        let lost: Vec<_> = acknowledged.difference(&there).collect();
        assert!(lost.is_empty(), "acknowledged, and lost: {lost:?}");
        tell(&format!(
            "{rounds} daemons killed: {} events acknowledged, none lost, {} more were durable and not acknowledged yet",
            acknowledged.len(),
            there.len() - acknowledged.len()
        ));
    }
    ledger.close().await;
    let daemon = Listening::start(&place);
    daemon.stop();
    let verified = place.run(&["audit", "verify"]);
    assert!(verified.status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_any_kill() {
    kill_and_count(Place::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_any_kill_with_its_ledger_on_postgres() {
    let ledger = fresh_postgres().await;
    kill_and_count(Place::on(&ledger)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_has_its_rules_run_at_once_and_so_does_one_that_came_while_nobody_was_there() {
    let place = Place::new();
    let store = fresh_sqlite().await;
    accounts(&store, 3).await;
    place.configure(&observing(&place, &store));
    let daemon = Listening::start(&place);
    let watch = Stopwatch::start();
    let answer = Talk::at(&place.path("api.sock")).post(&finished("a", "k"));
    assert_eq!(answer.status, 202, "{answer:?}");
    let ledger = place.ledger().await;
    let runs = "SELECT count(*) FROM run JOIN request ON request.id = request_id \
                WHERE cause IN ('event', 'restart') AND run.state = 'observed'";
    poll(&ledger, runs, |runs| runs >= 2).await;
    // Not when the ticker comes, nor when somebody else would take it over.
    assert!(watch.elapsed() < Duration::from_secs(20), "{:?}", watch.elapsed());
    let open = "SELECT count(*) FROM request WHERE state IN ('pending', 'claimed')";
    poll(&ledger, open, |open| open == 0).await;
    daemon.kill();

    let keys = Arc::new(Keys::open(&place.path("keys")).unwrap());
    let direct = Ledger::open(&place.ledger, keys).await.unwrap();
    let pending = direct.pending_events(&name("photos"), 9).await.unwrap();
    assert_eq!(pending.len(), 0, "what is only observed does not pile up");
    let before = ledger.count(runs).await;
    let event = expunged::event::Occurrence {
        id: "b".to_owned(),
        name: "synthesis.failed".parse().unwrap(),
        values: [("upload_key".to_owned(), "k".to_owned())].into(),
    };
    direct.receive(&[(event, vec![name("photos")])], clock::now()).await.unwrap();
    direct.close().await;
    let daemon = Listening::start(&place);
    poll(&ledger, runs, |runs| runs > before).await;
    daemon.stop();
    assert_eq!(left(&store).await, 4);
    ledger.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_daemon_opens_its_doors_as_configured_and_closes_them_when_it_ends() {
    let place = Place::new();
    let store = fresh_sqlite().await;
    accounts(&store, 3).await;
    let token = place.secret("token", "a-token-of-many-characters");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let rules = observing(&place, &store);
    let api = |more: &str| format!("{rules}\n[api]\nlisten = \"{port}\"\ntoken = {token}\n{more}");
    place.configure(&api(""));
    let mut daemon = place.start();
    let socket = place.path("api.sock");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    assert_eq!(Talk::at(&socket).ask("GET", "/healthz", "", b"").status, 200);
    assert_eq!(Talk::to(port).ask("POST", "/v1/events", "", b"{}").status, 401);
    let headers =
        "Authorization: Bearer a-token-of-many-characters\r\nContent-Type: application/json\r\n";
    // Its configuration has no event yet.
    let event = finished("an-id-of-somebody", "a-key-of-somebody");
    let refused = Talk::to(port).ask("POST", "/v1/events", headers, event.as_bytes());
    assert_eq!(refused.status, 422);
    assert!(refused.error().contains("no rule listens to any"), "{refused:?}");

    place.configure(&api("socket = \"other.sock\"\nmode = \"0600\""));
    daemon.signal(Signal::HUP);
    daemon.wait_for("reloaded");
    assert!(!socket.exists());
    assert_eq!(Talk::at(&place.path("other.sock")).post(&event).status, 422);
    assert_eq!(Talk::to(port).ask("GET", "/healthz", "", b"").status, 200);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_for_end().code(), Some(0));
    assert!(!place.path("other.sock").exists() && std::net::TcpStream::connect(port).is_err());
    let log = daemon.text();
    assert!(log.contains("events were refused"), "{log}");
    assert!(!log.contains("somebody") && !log.contains("synthesis"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_shows_what_waits_and_refuses_what_nobody_hears() {
    let place = Place::new();
    let store = fresh_sqlite().await;
    accounts(&store, 3).await;
    place.configure(&observing(&place, &store));
    let refused = place.run(&["event", "synthesis.finished", "upload_key=k1"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("no rule listens to any, see `on_event`"), "{said}");
    for (arguments, words) in [
        (&["event", "Synthesis"][..], "is not the name of an event"),
        (&["event", "a.b", "upload_key"], "write `key=value`"),
        (&["event", "a.b", "a=1", "a=2"], "given twice"),
        (&["event", "a.b", "--id", ""], "id is empty"),
    ] {
        let refused = place.run(arguments);
        assert_ne!(refused.status.code(), Some(0));
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(said.contains(words), "{said}");
    }

    let keys = Arc::new(Keys::open(&place.path("keys")).unwrap());
    let ledger = Ledger::open(&place.ledger, keys).await.unwrap();
    let since = clock::now() - jiff::SignedDuration::from_hours(2);
    for (id, rules) in [("a", vec![name("photos")]), ("b", vec![name("photos"), name("gone")])] {
        let event = expunged::event::Occurrence {
            id: id.to_owned(),
            name: "synthesis.finished".parse().unwrap(),
            values: std::iter::once(("upload_key".to_owned(), "k".to_owned())).collect(),
        };
        ledger.receive(&[(event, rules)], since).await.unwrap();
    }
    ledger.close().await;
    let status = place.json(&["status"]);
    let mut rules = status["rules"].as_array().unwrap().iter();
    let photos = rules.find(|rule| rule["rule"] == "photos").unwrap();
    assert_eq!((&photos["pending_events"], &photos["unreadable_events"]), (&2.into(), &0.into()));
    assert_eq!(photos["oldest_event_at"], since.to_string());
    let shown = String::from_utf8(place.run(&["status"]).stdout).unwrap();
    let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(shown.contains("photos: 2 events to be worked off, the oldest since"), "{shown}");
    assert!(shown.contains("for a rule that is not configured"), "{shown}");
    let metrics = String::from_utf8(place.run(&["metrics"]).stdout).unwrap();
    assert!(metrics.contains("expunged_events_pending{rule=\"photos\"} 2"), "{metrics}");
    let age = metrics.lines().find(|line| line.starts_with("expunged_events_oldest_age_seconds"));
    let age: f64 = age.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap();
    assert!((7_200.0..8_000.0).contains(&age), "{age}");
}
