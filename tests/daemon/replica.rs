//! A run waits for a replica that lags behind, and goes on when that has caught up.

use crate::harness::{Place, accounts, left, poll, rule, says};
use crate::server::Server;
use crate::support::{Pool, fresh_postgres_on};

#[tokio::test]
async fn a_replica_that_lags_behind_is_waited_for() {
    let primary = Server::postgres().await;
    let store = fresh_postgres_on(&primary.url()).await;
    let follower = primary.follower().await;
    let replica_url = store.url.replace(&primary.address(), &follower.address());
    let replica = Pool::connect(&replica_url).await;
    accounts(&store, 20_000).await;
    poll(&replica, "SELECT count(*) FROM pg_class WHERE relname = 'accounts'", |tables| {
        tables == 1
    })
    .await;
    let place = Place::new();
    let url = place.secret("replica-url", &replica_url);
    let more = format!(
        "replica_url = {url}\nmax_replica_lag = \"1 second\"\nrate = \"2000 per second\"\n"
    );
    place.configure(
        &(place.store("app", &store) + &more + &rule("nightly", "app", "0 3 * * *", "")),
    );
    place.make_overdue().await;
    replica.execute("SELECT pg_wal_replay_pause()").await;

    let mut daemon = place.start();
    daemon.wait_for("the replica lags behind");
    // A stop does not wait for it.
    assert_eq!(daemon.stop().code(), Some(0));
    let stopped = place.audit().into_iter().find(|entry| entry["kind"] == "run_finished").unwrap();
    assert_eq!(stopped["state"], "stopped", "{stopped}");

    let mut daemon = place.start();
    daemon.wait_for("the replica lags behind");
    let seen = daemon.log.len();
    assert!(left(&store).await > 1, "it waits in the middle");
    replica.execute("SELECT pg_wal_replay_resume()").await;
    daemon.wait_for("the replica is no longer waited for");
    let is_batch = |line: &serde_json::Value| says(line, "a batch is done");
    assert!(!daemon.log[seen..].iter().any(is_batch), "{}", daemon.text());
    let run = daemon.wait_for_run("nightly");
    assert_eq!(run["state"], "done");
    assert_eq!(left(&store).await, 1);
    assert_eq!(daemon.stop().code(), Some(0));
    place.assert_settled(20_000).await;
}
