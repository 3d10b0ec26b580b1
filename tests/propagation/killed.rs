//! The daemon is killed while it deletes and while it tells: each deletion is told, none forgotten, and what is told
//! twice has the same id.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::harness::poll;
use crate::house::House;
use crate::receiver::{Act, Receiver};
use crate::support::{Kind, tell};

/// People, milliseconds between kills, and how many of these.
fn size() -> (u32, u64, u64) {
    if std::env::var_os("EXPUNGED_LONG").is_some() {
        (100_000, 3_000, 100)
    } else {
        (3_000, 500, 12)
    }
}

async fn kill_over_and_over(store: Kind, ledger: Kind) {
    let (people, pause, most) = size();
    // Now and then it takes a notice and does not get to say so.
    let ads = Receiver::new(|told| match (told.time, told.id.ends_with('0')) {
        (1, true) => Act::Reset,
        _ => Act::Answer(200),
    });
    let lists = Receiver::well();
    let mut house = House::with(store, ledger, people).await;
    house.recipient("ads", &ads, "concurrency = 32");
    house.recipient("lists", &lists, "at_once = 100");
    house.configure();
    let (random, mut kills) = (RandomState::new(), 0_u64);
    let pool = house.ledger().await;
    let open = "SELECT count(*) FROM notice WHERE state <> 'completed'";
    let written = "SELECT count(*) FROM notice WHERE recipient = 'ads'";
    loop {
        let daemon = house.place.start();
        // Whenever it happens to be: that is the point.
        tokio::time::sleep(Duration::from_millis(pause / 2 + random.hash_one(kills) % pause)).await;
        daemon.kill();
        kills += 1;
        let is_over = pool.count(written).await == i64::from(people) && pool.count(open).await == 0;
        if is_over || kills >= most {
            break;
        }
    }
    let daemon = house.place.start();
    house.gone().await;
    poll(&pool, written, |notices| notices == i64::from(people)).await;
    poll(&pool, open, |open| open == 0).await;
    assert_eq!(daemon.stop().code(), Some(0));
    pool.close().await;
    house.place.audit();
    let mut again = 0;
    for receiver in [&ads, &lists] {
        let known = receiver.subjects("id");
        assert_eq!(known.len(), people as usize, "each deletion is told, and nothing else is");
        for (id, notices) in known {
            assert!(notices.iter().all(|notice| *notice == notices[0]), "{id}: {notices:?}");
        }
        let mut times = HashMap::<String, usize>::new();
        for told in receiver.told() {
            *times.entry(told.id).or_default() += 1;
        }
        again += times.values().filter(|times| **times > 1).count();
    }
    tell(&format!(
        "{people} deletions told to two recipients over {kills} kills; {again} notices more than once"
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_notice_is_lost_whatever_is_killed() {
    kill_over_and_over(Kind::Sqlite, Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_notice_is_lost_either_where_the_databases_are_servers() {
    kill_over_and_over(Kind::Postgres, Kind::Postgres).await;
}
