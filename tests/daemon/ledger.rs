//! A ledger that is away for a while.

use rustix::process::Signal;

use crate::harness::{Place, accounts, left, rule};
use crate::support::{Pool, fresh_postgres, fresh_sqlite, postgres_url};

#[tokio::test]
async fn while_the_ledger_is_away_nothing_is_deleted_or_taken_on_and_then_all_goes_on() {
    let (store, ledger) = (fresh_sqlite().await, fresh_postgres().await);
    accounts(&store, 10).await;
    let place = Place::on(&ledger);
    let app = place.store("app", &store);
    place.configure(&(app.clone() + &rule("kept", "app", "0 3 * * *", "")));
    let mut daemon = place.start();
    daemon.wait_for("looked");

    let server = Pool::connect(&postgres_url()).await;
    let name = &ledger.name;
    server.execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
    let sessions = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{name}'"
    );
    server.count(&sessions).await;
    let new = app + &rule("new", "app", "continuous", "");
    place.configure(&new);
    daemon.signal(Signal::HUP);
    let refused = daemon.wait_for("the ledger could not take note of the new configuration");
    assert_eq!(refused["level"], "ERROR");
    daemon.wait_for("the ledger does not answer");
    assert_eq!(left(&store).await, 11);

    server.execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await;
    daemon.wait_for("the ledger answers again");
    place.configure(&new);
    daemon.signal(Signal::HUP);
    daemon.wait_for("reloaded");
    let run = daemon.wait_for_run("new");
    assert_eq!(run["records"], 10, "{run}");

    // It is also no reason not to end.
    server.execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
    server.count(&sessions).await;
    assert_eq!(daemon.stop().code(), Some(0));
    server.execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await;
    place.assert_settled(10).await;
}
