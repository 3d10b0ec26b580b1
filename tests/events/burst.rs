//! A burst of events by several clients, each event by a request of its own.

use expunged::clock::Stopwatch;

use crate::house::{House, LIMIT, Talk, finished};
use crate::on_both;
use crate::support::tell;

on_both!(ten_thousand_events_are_taken_in_within_seconds);

const CLIENTS: usize = 16;
const EACH: usize = 625;

async fn ten_thousand_events_are_taken_in_within_seconds(house: House) {
    let mut api = house.api().await;
    let watch = Stopwatch::start();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let socket = house.socket();
            std::thread::spawn(move || {
                let mut talk = Talk::at(&socket);
                let mut slowest = std::time::Duration::ZERO;
                for n in 0..EACH {
                    let watch = Stopwatch::start();
                    let answer = talk.post(&finished(&format!("{client}-{n}"), "k"));
                    assert_eq!(answer.status, 202, "{answer:?}");
                    slowest = slowest.max(watch.elapsed());
                }
                slowest
            })
        })
        .collect();
    let slowest = tokio::task::spawn_blocking(|| {
        clients.into_iter().map(|client| client.join().unwrap()).max().unwrap()
    });
    let slowest = slowest.await.unwrap();
    let seconds = watch.elapsed().as_secs_f64();
    let kind = if house.is_sqlite() { "SQLite" } else { "PostgreSQL" };
    tell(&format!(
        "{} events by {CLIENTS} clients, one per request, two rules each, ledger on {kind}: {seconds:.1} s, slowest answer {:.0} ms",
        CLIENTS * EACH,
        slowest.as_secs_f64() * 1000.0
    ));
    assert_eq!(house.count("event WHERE rule = 'photos'").await, 10_000);
    assert_eq!(house.count("request").await, 2);
    assert!(watch.elapsed() < LIMIT);
    api.close().await;
}
