//! What goes to whom, once, in which order.

use crate::house::House;
use crate::receiver::{Act, Receiver};
use crate::support::Kind;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_recipient_is_told_of_each_record_once() {
    for ledger in [Kind::Sqlite, Kind::Postgres] {
        let (ads, lists) = (Receiver::well(), Receiver::well());
        let mut house = House::with(Kind::Postgres, ledger, 300).await;
        house.recipient("ads", &ads, "concurrency = 16");
        house.recipient("lists", &lists, "at_once = 100");
        house.configure();
        let daemon = house.place.start();
        house.gone().await;
        house.until("ads", "completed", 300).await;
        for receiver in [&ads, &lists] {
            let known = receiver.subjects("id");
            assert_eq!(known.len(), 300);
            assert!((1..=300).all(|id: i32| known[&id.to_string()].len() == 1));
        }
        let lists = lists.told();
        assert!(lists.len() < 30, "{} lists", lists.len());
        assert_eq!(daemon.stop().code(), Some(0));
        // Nothing of whom it was about is left, and the log says how it went.
        let pool = house.ledger().await;
        assert_eq!(pool.count("SELECT count(*) FROM notice WHERE sealed IS NOT NULL").await, 0);
        pool.close().await;
        let settled: u64 = house
            .place
            .audit()
            .iter()
            .filter(|entry| entry["kind"] == "notices_settled" && entry["recipient"] == "ads")
            .map(|entry| entry["notices"].as_u64().unwrap())
            .sum();
        assert_eq!(settled, 300);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_wait_for_the_one_before_them() {
    // The first list fails once; nothing may overtake it.
    let lists = Receiver::new(|told| match (told.subjects[0]["id"].as_str(), told.time) {
        ("1", 1) => Act::Answer(500),
        _ => Act::Answer(200),
    });
    let mut house = House::new(40).await;
    house.recipient("lists", &lists, "at_once = 10");
    house.configure();
    let daemon = house.place.start();
    house.until("lists", "completed", 4).await;
    let order: Vec<_> = lists.told().iter().map(|told| told.subjects[0]["id"].clone()).collect();
    assert_eq!(order, ["1", "1", "11", "21", "31"]);
    assert_eq!(daemon.stop().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_pass_one_that_is_put_off_for_itself() {
    // It is well, and does not take the first list just yet.
    let lists = Receiver::new(|told| match (told.subjects[0]["id"].as_str(), told.time) {
        ("1", 1) => Act::Answer(425),
        _ => Act::Answer(200),
    });
    let mut house = House::new(40).await;
    house.recipient("lists", &lists, "at_once = 10\nretries = [\"3 seconds\"]");
    house.configure();
    let daemon = house.place.start();
    house.until("lists", "completed", 4).await;
    let order: Vec<_> = lists.told().iter().map(|told| told.subjects[0]["id"].clone()).collect();
    assert_eq!(order, ["1", "11", "21", "31", "1"]);
    assert_eq!(daemon.stop().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_who_is_held_in_a_table_keeps_nobody_else_waiting() {
    for ledger in [Kind::Sqlite, Kind::Postgres] {
        let mut house = House::with(Kind::Sqlite, ledger, 40).await;
        let visits = house.table("warehouse", 40, "at_once = 10").await;
        house.configure();
        let hold = ["hold", "place", "--authority", "a court", "--reference", "1"];
        let what = ["--store", "warehouse", "--table", "visits", "--where", "who = 3"];
        let placed = house.place.run(&[&hold[..], &what].concat());
        assert!(placed.status.success(), "{placed:?}");
        let daemon = house.place.start();
        house.until("warehouse", "completed", 3).await;
        house.until("warehouse", "pending", 1).await;
        // Of the list that names the person, too, the others' rows are gone.
        assert_eq!(visits.count("SELECT sum(who) FROM visits").await, 3);
        assert_eq!(daemon.stop().code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_of_one_person_keeps_its_order() {
    // Of two notices about the same person each fails once; those about others go on meanwhile.
    let ads = Receiver::new(|told| match (told.subjects[0]["subject"].as_str(), told.time) {
        ("7", 1) => Act::Answer(500),
        _ => Act::Answer(200),
    });
    let mut house = House::new(0).await;
    house.recipient("ads", &ads, "concurrency = 8");
    house
        .store
        .execute(
            "CREATE TABLE posts (id integer PRIMARY KEY, person integer, last_seen text);
             INSERT INTO posts VALUES (1, 7, '2020-01-01'), (2, 8, '2020-01-01'), (3, 9, '2020-01-01')",
        )
        .await;
    house.configure_rule(
        "[rule.posts]\nstore = \"app\"\ntable = \"posts\"\nstarting_point = \"last_seen\"\n\
         retention = \"1 year\"\naction = \"delete\"\nmode = \"enforce\"\nschedule = \"continuous\"\n\
         subject = \"person\"\nrecipients = [\"ads\"]\n",
    );
    let daemon = house.place.start();
    ads.until("three are told", |told| told.len() >= 3).await;
    house
        .store
        .execute("INSERT INTO posts VALUES (4, 7, '2020-01-01'), (5, 8, '2020-01-01')")
        .await;
    let run = house.place.run(&["run", "posts"]);
    assert!(run.status.success(), "{run:?}");
    house.until("ads", "completed", 5).await;
    let told: Vec<_> = ads
        .told()
        .iter()
        .filter(|told| told.subjects[0]["subject"] == "7")
        .map(|told| (told.id.clone(), told.time))
        .collect();
    // Each fails once; the second one is not told before the first was taken.
    let (first, second) = (told[0].0.clone(), told[3].0.clone());
    assert_ne!(first, second);
    let order = [(first.clone(), 1), (first, 2), (second.clone(), 1), (second, 2)];
    assert_eq!(told, order);
    assert_eq!(daemon.stop().code(), Some(0));
}
