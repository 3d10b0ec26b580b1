//! Many events at once, while the daemon is killed over and over: nothing is left, nothing is lost, and
//! nothing is recorded twice.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::time::Duration;

use expunged::clock::Stopwatch;
use expunged::keys::Keys;
use expunged::types::{Key, KeyValue};
use serde_json::json;

use crate::harness::poll;
use crate::house::{House, post, until};
use crate::support::{Pool, tell};

const CLIENTS: usize = 4;

/// Events by either way, and how often the daemon is killed.
fn size() -> (usize, u32) {
    if std::env::var_os("EXPUNGED_LONG").is_some() { (10_000, 10) } else { (1_500, 5) }
}

/// Clients that send an event for each of their photos, and again until it is acknowledged.
fn send(socket: &Path, photos: usize) -> Vec<std::thread::JoinHandle<()>> {
    let client = |client: usize| {
        let socket = socket.to_owned();
        std::thread::spawn(move || {
            for n in (client..photos).step_by(CLIENTS) {
                let values = json!({ "upload_key": format!("p{n}") });
                let id = format!("event-{n}");
                let watch = Stopwatch::start();
                loop {
                    match post(&socket, "synthesis.finished", &id, &values) {
                        Ok(202) => break,
                        Ok(status) => assert!(status >= 500, "{status}"),
                        Err(_) => std::thread::sleep(Duration::from_millis(5)),
                    }
                    assert!(watch.elapsed() < Duration::from_secs(120), "never taken in");
                }
            }
        })
    };
    (0..CLIENTS).map(client).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_photo_survives_a_burst_whatever_is_killed_meanwhile() {
    let (photos, kills) = size();
    let house = House::new().await;
    for n in 0..photos {
        for name in [format!("faces/p{n}"), format!("faces/t{n}")] {
            std::fs::write(house.file(&name), "a face").unwrap();
        }
    }
    let last = photos - 1;
    house
        .app
        .execute(&format!(
            "INSERT INTO face_features (upload_key, account_id, points, extracted_at)
             SELECT who || n, 7, '1 2 3', now()
             FROM generate_series(0, {last}) AS n, (VALUES ('p'), ('t')) AS way (who);
             INSERT INTO synthesis_jobs (upload_key, status)
             SELECT 't' || n, 'running' FROM generate_series(0, {last}) AS n"
        ))
        .await;
    let watch = Stopwatch::start();
    let clients = send(&house.place.path("api.sock"), photos);
    let random = RandomState::new();
    for kill in 0..kills {
        let daemon = house.place.start();
        if kill == 0 {
            house
                .app
                .execute(
                    "BEGIN; UPDATE synthesis_jobs SET status = 'finished', finished_at = now(); \
                     NOTIFY synthesis_jobs; COMMIT",
                )
                .await;
        }
        // Whenever it happens to be: that is the point.
        std::thread::sleep(Duration::from_millis(20 + random.hash_one(kill) % 1_200));
        daemon.kill();
    }
    let mut daemon = house.place.start();
    for client in clients {
        tokio::task::spawn_blocking(|| client.join().unwrap()).await.unwrap();
    }
    let faces = house.file("faces");
    let left = || std::fs::read_dir(&faces).unwrap().count();
    let patience = Stopwatch::start();
    while left() > 0 {
        if patience.elapsed() > Duration::from_secs(180) {
            daemon.drain();
            panic!("{} photos are left:\n{}", left(), daemon.text());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    until("no photo is left", || left() == 0).await;
    poll(&house.app.pool, "SELECT count(*) FROM face_features", |rows| rows == 0).await;
    house.settled(&mut daemon).await;
    let took = watch.elapsed();
    assert_eq!(daemon.stop().code(), Some(0));

    house.place.audit();
    let keys = Keys::open(&house.place.path("keys")).unwrap();
    let store = "uploads".parse().unwrap();
    let ledger = house.place.ledger().await;
    let open = "SELECT count(*) FROM batch WHERE state = 'intended'";
    assert_eq!(ledger.count(open).await, 0);
    let Pool::Sqlite(pool) = &ledger else { panic!("the ledger is SQLite") };
    let all: Vec<(Vec<u8>,)> = sqlx::query_as(
        "SELECT commitments FROM batch \
         WHERE state = 'done' AND commitments IS NOT NULL",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let mut times = HashMap::<[u8; 32], u32>::new();
    for commitment in all.iter().flat_map(|(bytes,)| bytes.chunks_exact(32)) {
        *times.entry(commitment.try_into().unwrap()).or_default() += 1;
    }
    for n in 0..photos {
        for path in [format!("faces/p{n}"), format!("faces/t{n}")] {
            let key = Key(vec![KeyValue::Text(path.clone())]);
            let commitment = keys.commitment(&store, "files", &key);
            assert_eq!(times.get(&commitment), Some(&1), "{path}");
        }
    }
    assert_eq!(times.len(), 4 * photos, "each photo and each row of features once");
    ledger.close().await;
    tell(&format!(
        "{photos} events by POST and {photos} rows of one transaction, {kills} kills: all gone in {:.1} s, each once, in {} batches",
        took.as_secs_f64(),
        all.len()
    ));
}
