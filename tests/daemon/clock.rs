//! A clock that is set while the daemon runs. `faketime` sets it for this one process; the clock that
//! nobody can set goes on.

use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;

use crate::harness::{Place, accounts, left, make_quick, make_slow, rule};
use crate::support::fresh_postgres;

const ROWS: u32 = 20_000;

#[tokio::test]
async fn a_clock_that_is_set_stops_everything_until_somebody_has_looked() {
    let store = fresh_postgres().await;
    accounts(&store, ROWS).await;
    make_slow(&store).await;
    let mut place = Place::new();
    place.configure(&(place.store("app", &store) + &rule("nightly", "app", "0 3 * * *", "")));
    place.make_overdue().await;
    let offset = fake(&mut place);
    fs::write(&offset, "+0").unwrap();

    let mut daemon = place.start();
    daemon.wait_for("a batch is done");
    fs::write(&offset, "+2h").unwrap();
    let jumped = daemon.wait_for("the clock jumped: nothing runs");
    assert!((7_190..7_210).contains(&jumped["seconds"].as_i64().unwrap()), "{jumped}");
    // Whoever noticed first, the run or the loop: it ends between two batches.
    let ended = |line: &serde_json::Value| {
        let state = line["state"] == "stopped" || line["message"] == "the run failed";
        line["rule"] == "nightly" && state
    };
    if !daemon.log.iter().any(ended) {
        daemon.wait("the end of the run", ended);
    }
    assert!(left(&store).await > 1, "it stopped in the middle");

    // Somebody sets it right and says so.
    fs::write(&offset, "+0").unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_for("the clock is right again");
    assert_eq!(daemon.stop().code(), Some(0));

    // A command with a wrong clock does nothing either: the server's is another.
    fs::write(&offset, "+2h").unwrap();
    let refused = &place.json(&["run"])[0];
    assert_eq!(refused["state"], "refused", "{refused}");
    fs::write(&offset, "+0").unwrap();
    make_quick(&store).await;
    assert_eq!(place.json(&["run"])[0]["state"], "done");
    assert_eq!(left(&store).await, 1);
    assert_eq!(place.entries("clock_jumped"), 1);
    place.assert_settled(i64::from(ROWS)).await;
}

/// Gives the processes of a place a clock of their own, which shows as much more than the real one as is written in the
/// file that this names.
pub(crate) fn fake(place: &mut Place) -> PathBuf {
    let offset = place.path("offset");
    for (name, value) in [
        ("LD_PRELOAD", library().to_str().unwrap()),
        ("FAKETIME_TIMESTAMP_FILE", offset.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ] {
        place.environment.push((name.to_owned(), value.to_owned()));
    }
    offset
}

fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").unwrap().map_while(Result::ok);
    let mut found = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    found
        .find(|path| path.exists())
        .expect("faketime is missing: `tests/run --install` installs it")
}
