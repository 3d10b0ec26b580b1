//! What the daemon costs when there is nothing to do.

use std::time::Duration;

use crate::harness::{Place, accounts, rule};
use crate::support::{fresh_mysql, fresh_postgres, fresh_sqlite};

#[tokio::test]
async fn an_idle_daemon_with_ten_rules_is_small_and_sleeps() {
    let stores = [
        ("one", fresh_postgres().await),
        ("two", fresh_mysql().await),
        ("three", fresh_sqlite().await),
    ];
    let place = Place::new();
    let mut text = String::new();
    for (name, store) in &stores {
        accounts(store, 2_000).await;
        text += &place.store(name, store);
    }
    for number in 0..10 {
        let schedule = if number < 3 { "continuous" } else { "0 3 * * *" };
        text += &rule(&format!("rule-{number}"), stores[number % 3].0, schedule, "");
    }
    place.configure(&text);
    place.make_overdue().await;
    let mut daemon = place.start();
    for _ in 0..10 {
        daemon.wait("the end of each rule's run", |line| line["message"] == "the run is over");
    }
    daemon.wait("rest", |line| line["message"] == "looked" && line["running"] == 0);

    // Time that passes is what is measured here: five seconds in which it should do nothing.
    let before = processor_time(daemon.id());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let ticks = processor_time(daemon.id()) - before;
    let [resident, own] = ["VmRSS:", "RssAnon:"].map(|what| kib(daemon.id(), what));
    println!(
        "resident: {resident} KiB, its own: {own} KiB; processor: {ticks} ticks of 10 ms in 5 s"
    );
    assert!(ticks <= 3, "{ticks} ticks of 10 ms in five seconds");
    // A third of a debug build's binary is resident alone, which says nothing about the real one.
    let (measured, most) = if cfg!(debug_assertions) { (own, 16) } else { (resident, 32) };
    assert!(measured < most * 1024, "{measured} KiB");
    daemon.stop();
}

/// User and system time, in hundredths of a second.
fn processor_time(id: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    // The name, in parentheses, may hold spaces; what is wanted are the 14th and 15th fields.
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn kib(id: u32, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
