//! Servers of a test's own: a base backup that is restored has another timeline, and so has a failover.

use expunged::clock;

use crate::house::{House, Marker};
use crate::server::Server;
use crate::support::fresh_postgres_on;

const TIMELINE: &str = "its server is on another timeline";

async fn house(server: &Server, marker: Marker) -> House {
    House::new(fresh_postgres_on(&server.url()).await, marker).await
}

/// Without a marker, the timeline alone tells of a restore, and what comes back goes again.
#[tokio::test]
async fn a_base_backup_is_noticed_by_its_timeline_and_replayed() {
    let mut server = Server::postgres().await;
    let house = house(&server, Marker::No).await;
    house.store.pool.close().await;
    // The identity is noted at the first sight, and no record of these comes back.
    house.takes("mails", 25);
    let backup = server.base_backup();
    house.takes("old", 20);
    server.restore(&backup).await;
    assert_eq!(house.look(clock::now()).await, ["app"]);
    house.refuses("old", TIMELINE);
    let plan = house.plan("app", &[]);
    assert_eq!(plan["evidence"], TIMELINE);
    let replayed = house.replay("app", &[]);
    assert_eq!(
        (&replayed["records"], &replayed["released"]),
        (&20.into(), &true.into()),
        "{replayed}"
    );
    assert!(house.ids("accounts", "id <= 20").await.is_empty());
    assert_eq!(house.ids("accounts", "email IS NULL").await, [21, 22, 23, 24, 25]);
    assert_eq!(house.ids("accounts", "1 = 1").await.len(), 11);
    // It is known on its new timeline.
    assert!(house.look(clock::now()).await.is_empty());
    house.takes("old", 0);
    house.place.audit();
}

/// A base backup that holds the last marker is a copy of what is there: as after a failover.
#[tokio::test]
async fn a_failover_with_the_marker_intact_freezes_nothing() {
    let mut server = Server::postgres().await;
    let house = house(&server, Marker::Yes).await;
    house.store.pool.close().await;
    house.takes("old", 20);
    let timeline = "SELECT timeline FROM store_identity WHERE store = 'app'";
    // The look before a run notes it, the second one what the first has written.
    house.takes("old", 0);
    assert_eq!(house.ledger_count(timeline).await, 1);
    let backup = server.base_backup();
    server.restore(&backup).await;
    assert!(house.look(clock::now()).await.is_empty());
    assert_eq!(house.ledger_count(timeline).await, 2, "noted");
    house.add(50..=52, 2_000).await;
    house.takes("old", 3);
    // And one that lacks the last marker is a restore, on whichever timeline.
    server.restore(&backup).await;
    house.refuses("old", "its marker is older");
    let replayed = house.replay("app", &[]);
    assert_eq!(replayed["released"], true, "{replayed}");
    house.place.audit();
}

/// A managed server may tell nothing of itself.
#[tokio::test]
async fn a_server_that_does_not_tell_who_it_is_is_known_by_its_marker() {
    let server = Server::postgres().await;
    let house = house(&server, Marker::Yes).await;
    for denied in ["pg_control_system()", "pg_control_checkpoint()", "pg_walfile_name(pg_lsn)"] {
        house.execute(&format!("REVOKE EXECUTE ON FUNCTION {denied} FROM PUBLIC")).await;
    }
    let user = house
        .store
        .restricted_user(&[
            "SELECT, UPDATE, DELETE ON accounts",
            "SELECT, INSERT, UPDATE ON expunged_marker",
        ])
        .await;
    house.place.secret("app-url", &user);
    house.takes("old", 20);
    house.takes("old", 0);
    let told =
        "SELECT count(*) FROM store_identity WHERE server IS NOT NULL OR timeline IS NOT NULL";
    assert_eq!(house.ledger_count(told).await, 0);
    assert_eq!(house.count("SELECT number FROM expunged_marker").await, 2);
}
