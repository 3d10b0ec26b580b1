//! What systemd hears from the daemon, over a real socket.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use expunged::clock::Stopwatch;

use rustix::process::Signal;

use crate::harness::{LIMIT, Place, accounts, rule};
use crate::support::fresh_sqlite;

struct Manager(UnixDatagram);

impl Manager {
    fn hear(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).expect("a datagram in time");
        let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// The next datagram that is not from the watchdog.
    fn hear_news(&self) -> Vec<String> {
        loop {
            let heard = self.hear();
            if heard != ["WATCHDOG=1"] {
                return heard;
            }
        }
    }
}

#[tokio::test]
async fn systemd_hears_when_the_daemon_is_ready_reloads_lives_and_stops() {
    let store = fresh_sqlite().await;
    accounts(&store, 3).await;
    let mut place = Place::new();
    let valid = place.store("app", &store) + &rule("old", "app", "0 3 * * *", "");
    place.configure(&valid);
    let socket = place.path("notify");
    let manager = Manager(UnixDatagram::bind(&socket).unwrap());
    manager.0.set_read_timeout(Some(LIMIT)).unwrap();
    place.environment.push(("NOTIFY_SOCKET".into(), socket.to_str().unwrap().into()));
    place.environment.push(("WATCHDOG_USEC".into(), "400000".into()));

    let mut daemon = place.start_without_waiting();
    assert_eq!(manager.hear(), ["READY=1", "STATUS=1 rules, 1 of them armed"]);

    // Half of the interval, with room for a busy machine: systemd would have waited for 400 ms.
    assert_eq!(manager.hear(), ["WATCHDOG=1"]);
    let first = Stopwatch::start();
    for _ in 0..5 {
        assert_eq!(manager.hear(), ["WATCHDOG=1"]);
    }
    let mean = first.elapsed() / 5;
    assert!(mean > Duration::from_millis(150) && mean < Duration::from_millis(350), "{mean:?}");

    for (text, outcome) in [
        (&*valid.replace("2 years", "3 years"), "reloaded"),
        ("[nonsense]\n", "the configuration was refused"),
    ] {
        place.configure(text);
        daemon.signal(Signal::HUP);
        let reloading = manager.hear_news();
        assert_eq!(reloading[0], "RELOADING=1");
        let monotonic = reloading[1].strip_prefix("MONOTONIC_USEC=").expect("in one datagram");
        assert!(monotonic.parse::<u64>().is_ok(), "{monotonic}");
        assert_eq!(manager.hear_news()[0], "READY=1", "after a reload that failed too");
        daemon.wait_for(outcome);
    }

    daemon.signal(Signal::TERM);
    let stopping = manager.hear_news();
    assert_eq!(stopping[0], "STOPPING=1");
    assert!(stopping[1].starts_with("EXTEND_TIMEOUT_USEC="), "{stopping:?}");
    assert_eq!(daemon.wait_for_end().code(), Some(0));
}

#[tokio::test]
async fn a_daemon_that_cannot_write_its_ledger_does_not_say_that_it_is_ready() {
    let store = fresh_sqlite().await;
    accounts(&store, 3).await;
    let mut place = Place::new();
    std::fs::create_dir(place.path("ledger.db")).unwrap();
    place.configure(&(place.store("app", &store) + &rule("old", "app", "continuous", "")));
    let socket = place.path("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    place.environment.push(("NOTIFY_SOCKET".into(), socket.to_str().unwrap().into()));

    let output = place.run(&["daemon"]);

    assert_eq!(output.status.code(), Some(1));
    manager.set_nonblocking(true).unwrap();
    assert!(manager.recv(&mut [0; 64]).is_err(), "it said something");
    assert_eq!(crate::harness::left(&store).await, 4);
}
