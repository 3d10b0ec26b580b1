//! Events in the ledger: once each, sealed, in order, all or none, and gone when they are worked off.

use std::collections::BTreeMap;
use std::sync::Arc;

use expunged::audit::entry::Cause;
use expunged::clock;
use expunged::event::Occurrence;
use expunged::keys::Keys;
use expunged::ledger::{Ledger, Received};
use expunged::types::Name;
use jiff::{SignedDuration, Timestamp};

use crate::house::{House, name};
use crate::on_both;

on_both!(
    an_event_waits_once_for_each_rule_and_the_oldest_comes_first,
    values_are_sealed_and_bound_to_their_event_and_rule,
    what_is_worked_off_is_gone,
    one_request_is_left_until_somebody_claims_it,
    no_event_is_without_a_request_or_a_reader,
    an_event_that_cannot_be_opened_is_put_aside_and_tried_again_later,
    many_senders_at_once_neither_lose_nor_double_anything,
    a_rule_that_is_gone_keeps_its_events_until_it_is_back,
);

fn event(id: &str, key: &str) -> Occurrence {
    let values = BTreeMap::from([("upload_key".to_owned(), key.to_owned())]);
    Occurrence { id: id.to_owned(), name: "synthesis.finished".parse().unwrap(), values }
}

fn for_photos(id: &str, key: &str) -> (Occurrence, Vec<Name>) {
    (event(id, key), vec![name("photos")])
}

fn at(second: i64) -> Timestamp {
    let start: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
    start + SignedDuration::from_secs(second)
}

async fn keys_of(ledger: &Ledger, rule: &str, limit: u32) -> Vec<String> {
    let pending = ledger.pending_events(&name(rule), limit).await.unwrap();
    pending.iter().map(|event| event.values["upload_key"].clone()).collect()
}

async fn an_event_waits_once_for_each_rule_and_the_oldest_comes_first(house: House) {
    let ledger = house.ledger().await;
    let both = vec![name("photos"), name("jobs")];
    let late = ledger.receive(&[for_photos("b", "late")], at(9)).await.unwrap();
    assert_eq!(late, Received { new: 1, known: 0 });
    let events =
        [(event("a", "first"), both.clone()), for_photos("b", "again"), for_photos("c", "third")];
    let received = ledger.receive(&events, at(1)).await.unwrap();
    assert_eq!(received, Received { new: 2, known: 1 });
    let twice = [(event("a", "other"), both), for_photos("d", "fourth"), for_photos("d", "fifth")];
    assert_eq!(ledger.receive(&twice, at(20)).await.unwrap(), Received { new: 1, known: 2 });

    assert_eq!(keys_of(&ledger, "photos", 10).await, ["first", "third", "late", "fourth"]);
    assert_eq!(keys_of(&ledger, "photos", 2).await, ["first", "third"]);
    assert_eq!(keys_of(&ledger, "jobs", 10).await, ["first"]);
    assert!(keys_of(&ledger, "nobody", 10).await.is_empty());
    let counts = ledger.count_events().await.unwrap();
    assert_eq!((counts.len(), counts[&name("photos")].pending), (2, 4));
    assert_eq!(counts[&name("photos")].oldest, Some(at(1)));
    let first = &ledger.pending_events(&name("photos"), 1).await.unwrap()[0];
    assert_eq!((first.id.as_str(), first.received_at), ("a", at(1)));
    assert_eq!(first.name.as_str(), "synthesis.finished");
    assert!(!format!("{first:?}").contains("first"), "values are not shown");
}

async fn values_are_sealed_and_bound_to_their_event_and_rule(house: House) {
    let ledger = house.ledger().await;
    ledger.receive(&[for_photos("a", "a-secret-key")], at(0)).await.unwrap();
    let others = [for_photos("b", "b"), (event("a", "c"), vec![name("jobs")])];
    ledger.receive(&others, at(1)).await.unwrap();
    let pool = house.pool().await;
    let text = if house.is_sqlite() { "hex(sealed)" } else { "encode(sealed, 'hex')" };
    let sealed = pool.strings(&format!("SELECT {text} FROM event WHERE id = 'a'")).await.concat();
    assert!(!sealed.to_lowercase().contains(&hex::encode("a-secret-key")));
    // Moved to another event, or another rule, they do not open.
    for other in ["id = 'b'", "rule = 'jobs'"] {
        pool.execute(&format!(
            "UPDATE event SET sealed = (SELECT sealed FROM event WHERE id = 'a' AND rule = 'photos') WHERE {other}"
        ))
        .await;
    }
    assert_eq!(keys_of(&ledger, "photos", 10).await, ["a-secret-key"]);
    assert!(keys_of(&ledger, "jobs", 10).await.is_empty());
    pool.close().await;
}

async fn what_is_worked_off_is_gone(house: House) {
    let ledger = house.ledger().await;
    let both = vec![name("photos"), name("jobs")];
    let events = [(event("a", "1"), both.clone()), (event("b", "2"), both)];
    ledger.receive(&events, at(0)).await.unwrap();
    ledger.forget_events(&name("photos"), &["a".to_owned(), "nothing".to_owned()]).await.unwrap();
    assert_eq!(keys_of(&ledger, "photos", 10).await, ["2"]);
    assert_eq!(keys_of(&ledger, "jobs", 10).await, ["1", "2"], "each rule works off for itself");
    assert_eq!(house.count("event").await, 3);
    // A late one is a new one, and does no harm.
    let late = ledger.receive(&[for_photos("a", "1")], at(5)).await.unwrap();
    assert_eq!(late, Received { new: 1, known: 0 });
}

async fn one_request_is_left_until_somebody_claims_it(house: House) {
    let ledger = house.ledger().await;
    for n in 0..3 {
        ledger.receive(&[for_photos(&n.to_string(), "k")], at(n)).await.unwrap();
    }
    let open = ledger.open_requests().await.unwrap();
    assert_eq!(open.len(), 1);
    assert_eq!((open[0].cause, open[0].rule.as_str()), (Cause::Event, "photos"));
    assert_eq!(ledger.rules_with_events().await.unwrap(), [name("photos")]);

    let claimed = ledger.claim_events(&name("photos")).await.unwrap().expect("one");
    assert_eq!(claimed, open[0]);
    assert_eq!(ledger.claim_events(&name("photos")).await.unwrap(), None, "only once");
    assert!(ledger.is_open(&claimed).await.unwrap(), "until it is worked off");
    assert!(ledger.rules_with_events().await.unwrap().is_empty());

    ledger.receive(&[for_photos("2", "k")], at(9)).await.unwrap();
    assert!(ledger.rules_with_events().await.unwrap().is_empty(), "a known one wakes nobody");
    ledger.receive(&[for_photos("later", "k")], at(9)).await.unwrap();
    assert_eq!(ledger.rules_with_events().await.unwrap(), [name("photos")]);
}

/// Senders and a worker at the same time: whenever the worker finds no request, it has read everything.
async fn no_event_is_without_a_request_or_a_reader(house: House) {
    const EACH: usize = 60;
    let ledger = house.ledger().await;
    let senders: Vec<_> = (0..3)
        .map(|sender| {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                for n in 0..EACH {
                    let events = [for_photos(&format!("{sender}-{n}"), "k")];
                    ledger.receive(&events, clock::now()).await.unwrap();
                }
            })
        })
        .collect();
    let mut read = 0;
    let photos = name("photos");
    loop {
        let over = senders.iter().all(tokio::task::JoinHandle::is_finished);
        let Some(request) = ledger.claim_events(&photos).await.unwrap() else {
            if over {
                break;
            }
            tokio::task::yield_now().await;
            continue;
        };
        let pending = ledger.pending_events(&photos, 1_000).await.unwrap();
        read += pending.len();
        let ids: Vec<_> = pending.into_iter().map(|event| event.id).collect();
        ledger.forget_events(&photos, &ids).await.unwrap();
        ledger.abandon_request(&request, "a test", clock::now()).await.unwrap();
    }
    assert_eq!(read, 3 * EACH);
    assert_eq!(house.count("event").await, 0);
}

async fn an_event_that_cannot_be_opened_is_put_aside_and_tried_again_later(house: House) {
    let ledger = house.ledger().await;
    let events: Vec<_> = (0..5).map(|n| for_photos(&n.to_string(), &n.to_string())).collect();
    ledger.receive(&events, at(0)).await.unwrap();
    ledger.close().await;

    let stranger = Ledger::open(&house.url, Arc::new(Keys::generate())).await;
    // Other keys neither sign this log nor open its events.
    let stranger = stranger.unwrap();
    assert!(keys_of(&stranger, "photos", 2).await.is_empty());
    stranger.receive(&[for_photos("new", "new")], at(1)).await.unwrap();
    assert_eq!(keys_of(&stranger, "photos", 2).await, ["new"], "the others are in nobody's way");
    let backlog = stranger.count_events().await.unwrap()[&name("photos")];
    assert_eq!((backlog.pending, backlog.unreadable, backlog.oldest), (1, 5, Some(at(1))));
    stranger.close().await;

    let ledger = house.ledger().await;
    assert!(keys_of(&ledger, "photos", 10).await.is_empty());
    ledger.renew_events([name("photos")].iter(), at(2)).await.unwrap();
    assert_eq!(keys_of(&ledger, "photos", 10).await, ["0", "1", "2", "3", "4"]);
}

async fn many_senders_at_once_neither_lose_nor_double_anything(house: House) {
    let ledger = house.ledger().await;
    // Each sends the same twenty, in an order of its own, for two rules.
    let senders: Vec<_> = (0..6)
        .map(|sender: usize| {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                let mut new = 0;
                for n in 0..20 {
                    let n = (n * 7 + sender * 3) % 20;
                    let rules = if sender.is_multiple_of(2) {
                        ["photos", "jobs"]
                    } else {
                        ["jobs", "photos"]
                    };
                    let rules: Vec<_> = rules.iter().map(|rule| name(rule)).collect();
                    let pair = [
                        (event(&format!("{n}"), "k"), rules.clone()),
                        (event(&format!("{}", (n + 11) % 20), "k"), rules),
                    ];
                    new += ledger.receive(&pair, clock::now()).await.unwrap().new;
                }
                new
            })
        })
        .collect();
    let mut new = 0;
    for sender in senders {
        new += sender.await.unwrap();
    }
    assert_eq!(new, 20);
    assert_eq!(house.count("event").await, 40);
    assert_eq!(house.count("request WHERE cause = 'event'").await, 2);
}

async fn a_rule_that_is_gone_keeps_its_events_until_it_is_back(house: House) {
    let ledger = house.ledger().await;
    let rules = crate::house::rules();
    let load = async |rules: &BTreeMap<Name, _>| {
        let loaded = expunged::ledger::Loaded { rules, stores: 1, digest: "d", now: clock::now() };
        ledger.load_rules(loaded).await.unwrap();
        ledger.renew_events(rules.keys(), clock::now()).await.unwrap();
    };
    load(&rules).await;
    ledger.receive(&[for_photos("a", "k")], at(0)).await.unwrap();
    load(&BTreeMap::new()).await;
    assert!(ledger.rules_with_events().await.unwrap().is_empty());
    assert_eq!(house.count("event").await, 1, "it was acknowledged");
    load(&rules).await;
    assert_eq!(ledger.rules_with_events().await.unwrap(), [name("photos")]);
    assert_eq!(keys_of(&ledger, "photos", 10).await, ["k"]);
}
