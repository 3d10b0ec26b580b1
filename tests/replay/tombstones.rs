//! The keys of what was deleted: kept sealed, and destroyed for good.

use std::fs;

use expunged::clock;
use expunged::restore::Evidence;
use jiff::SignedDuration;

use crate::harness::Place;
use crate::house::{House, Marker};
use crate::support::{fresh_postgres, fresh_sqlite};

/// Whether any file of the ledger holds a text.
fn is_plain(place: &Place, text: &str) -> bool {
    let bytes = text.as_bytes();
    let files = ["ledger.db", "ledger.db-wal"].map(|name| fs::read(place.path(name)));
    files.into_iter().flatten().any(|file| file.windows(bytes.len()).any(|part| part == bytes))
}

#[tokio::test]
async fn no_key_is_readable_in_the_ledger_and_none_is_left_after_its_time() {
    let house = House::new(fresh_sqlite().await, Marker::No).await;
    for photo in 1..=5 {
        house.put(&format!("faces/unmistakable-{photo}"), 10);
    }
    house.done(&["unmistakable-1", "unmistakable-2"]);
    house.takes("photos", 2);
    house.takes("old", 20);
    let runner = house.runner().await;
    let (uploads, app) = ("uploads".parse().unwrap(), "app".parse().unwrap());
    let kept = runner.ledger.tombstones_of(&uploads).await.unwrap();
    assert_eq!(kept.records, 2);
    assert!(kept.oldest.is_some_and(|oldest| oldest <= clock::now()), "{kept:?}");
    let sealed = runner.ledger.tombstones_after((&uploads, None), None, -1, 99).await.unwrap();
    assert_eq!(sealed.iter().map(|one| one.keys.len()).sum::<usize>(), 2);
    assert!(sealed.iter().all(|one| one.by_event && one.identities.len() == one.keys.len()));
    assert!(!is_plain(&house.place, "unmistakable"));

    // Only what is older, and of this store.
    let (now, long_ago) = (clock::now(), clock::now() - SignedDuration::from_hours(1));
    assert_eq!(runner.ledger.destroy_tombstones(&uploads, long_ago, now).await.unwrap(), 0);
    assert_eq!(house.place.entries("tombstones_destroyed"), 0, "nothing was, nothing is said");
    assert_eq!(runner.ledger.destroy_tombstones(&uploads, now, now).await.unwrap(), 2);
    assert_eq!(runner.ledger.destroy_tombstones(&uploads, now, now).await.unwrap(), 0);
    assert_eq!(house.place.entries("tombstones_destroyed"), 1);
    assert_eq!(runner.ledger.tombstones_of(&uploads).await.unwrap().batches, 0);
    // A store that was put back needs its own until they are replayed.
    runner.ledger.freeze(&app, &Evidence::records(), now).await.unwrap();
    assert_eq!(runner.ledger.destroy_tombstones(&app, clock::now(), now).await.unwrap(), 0);
    assert_eq!(runner.ledger.tombstones_of(&app).await.unwrap().records, 20);
    let bytes = sealed_rows(&house).await;
    assert_eq!(bytes, 1, "of the other store alone");
    runner.ledger.close().await;
    runner.stores.close().await;
}

async fn sealed_rows(house: &House) -> i64 {
    house.ledger_count("SELECT count(*) FROM tombstone WHERE length(sealed) > 0").await
}

/// Many are destroyed by bounded calls, and what each entry says is true when it is written.
#[tokio::test]
async fn many_are_destroyed_bit_by_bit() {
    let ledger = fresh_postgres().await;
    let house = House::at(Place::on(&ledger), fresh_sqlite().await, Marker::No).await;
    house.takes("old", 20);
    // The same batch again and again, a second apart: how many there are is all that counts here.
    ledger
        .execute(
            "INSERT INTO tombstone (batch_id, run_id, rule, store, table_name, attached, by_event, records, gone_at, \
                                    sealed) \
             SELECT batch_id, run_id, rule, store, table_name, attached, by_event, records, \
                    to_char(timestamp '2026-01-01' + n * interval '1 second', \
                            'YYYY-MM-DD\"T\"HH24:MI:SS.000000\"Z\"'), sealed \
             FROM tombstone, generate_series(1, 2500) AS n",
        )
        .await;
    let runner = house.runner().await;
    let app = "app".parse().unwrap();
    let (before, now) = ("2026-01-02T00:00:00Z".parse().unwrap(), clock::now());
    let mut destroyed = Vec::new();
    loop {
        match runner.ledger.destroy_tombstones(&app, before, now).await.unwrap() {
            0 => break,
            records => destroyed.push(records),
        }
    }
    assert_eq!(destroyed.iter().sum::<u64>(), 2_500 * 20);
    assert!(destroyed.len() == 3 && destroyed[0] <= 1_001 * 20, "{destroyed:?}");
    let said = house.place.audit();
    let said: Vec<_> = said.iter().filter(|e| e["kind"] == "tombstones_destroyed").collect();
    assert_eq!(said.len(), 3);
    assert_eq!(said[2]["before"], "2026-01-02T00:00:00.000000Z");
    assert_eq!(runner.ledger.tombstones_of(&app).await.unwrap().records, 20, "the one of today");
    runner.ledger.close().await;
    runner.stores.close().await;
}
