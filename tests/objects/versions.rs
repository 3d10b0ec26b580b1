//! Buckets that keep versions, on moto: each version and each delete marker goes by itself, a marker only
//! after what it hides, and what is locked stays.

use std::sync::atomic::{AtomicUsize, Ordering};

use expunged::clock;
use expunged::config::{Config, InputFile};
use expunged::store::Store;
use expunged::store::objects::{Left, Objects};
use expunged::store::sql::Bounds;
use jiff::SignedDuration;

use crate::house::{Act, Fake, Moto, look, named, older, open, settings, started_before, walked};

async fn count(objects: &Objects) -> u64 {
    objects.survey(&older(&["**"], -1)).await.unwrap().total
}

#[tokio::test]
async fn every_version_and_marker_is_removed_and_read_back() {
    let server = Moto::versioned().await;
    for key in ["faces/a", "faces/b", "other"] {
        server.put(key).await;
        server.put(key).await;
        server.hide(key).await;
        server.put(key).await;
    }
    server.hide("faces/a").await;
    assert_eq!(server.kept().await, (9, 4));
    let objects = server.open();
    let search = older(&["faces/*"], -1);
    let entries = walked(&objects, &search, 100).await;
    assert_eq!(entries.len(), 9);
    let places: Vec<_> =
        entries.iter().map(|entry| (entry.path.clone(), entry.version.clone())).collect();
    assert!(entries.iter().all(|entry| entry.version.is_some()));
    assert_eq!(look(&objects, &places).await, [true; 9]);
    let deleted = objects.delete(&search, entries).await.unwrap();
    assert_eq!((deleted.gone.len(), deleted.kept), (9, vec![]));
    assert_eq!(look(&objects, &places).await, [false; 9]);
    assert_eq!(server.kept().await, (3, 1));
}

#[tokio::test]
async fn a_marker_is_the_last_of_its_key_and_batches_may_be_cut_anywhere() {
    let server = Moto::versioned().await;
    for _ in 0..4 {
        server.put("faces/a").await;
    }
    server.hide("faces/a").await;
    server.put("faces/b").await;
    let objects = server.open();
    let search = older(&["faces/*"], -1);
    let mut walk = objects.walk(search.clone());
    let mut markers = Vec::new();
    while let Some(some) = walk.next(2).await.unwrap() {
        markers.extend(some.iter().map(|entry| entry.is_marker));
        let deleted = objects.delete(&search, some).await.unwrap();
        assert_eq!(deleted.kept, []);
        assert!(!server.has("faces/a").await, "it came back");
    }
    assert_eq!(markers, [false, false, false, false, true, false]);
    assert_eq!(server.kept().await, (0, 0));
}

#[tokio::test]
async fn a_marker_stays_while_an_older_version_is_there() {
    let server = Moto::versioned().await;
    server.put("faces/a").await;
    server.hide("faces/a").await;
    let objects = server.open();
    let search = older(&["faces/*"], -1);
    let mut entries = walked(&objects, &search, 10).await;
    entries.retain(|entry| entry.is_marker);
    let deleted = objects.delete(&search, entries).await.unwrap();
    assert!(deleted.gone.is_empty());
    assert!(
        matches!(&deleted.kept[..], [(0, Left::Refused(why))] if why.contains("older version"))
    );
    assert_eq!(server.kept().await, (1, 1));
    assert!(!server.has("faces/a").await, "it came back");
}

#[tokio::test]
async fn a_marker_that_hides_nothing_goes_though_the_request_before_it_is_lost() {
    let server = Moto::versioned().await;
    server.put("faces/a").await;
    let version = server.put("faces/b").await;
    server.hide("faces/b").await;
    server.remove("faces/b", &version).await;
    assert_eq!(server.kept().await, (1, 1));
    let posts = AtomicUsize::new(0);
    let fake = Fake::before(&server.url, move |_, method, _| {
        let is_first = method == "POST" && posts.fetch_add(1, Ordering::SeqCst) == 0;
        if is_first { Act::Drop } else { Act::Pass }
    });
    let objects = open(settings(&fake.url, &server.bucket));
    let search = older(&["faces/*"], -1);
    let entries = walked(&objects, &search, 10).await;
    let deleted = objects.delete(&search, entries).await.unwrap();
    assert_eq!((deleted.gone, deleted.kept), (vec![0, 1], vec![]));
    assert_eq!(server.kept().await, (0, 0));
}

#[tokio::test]
async fn each_version_is_due_by_its_own_time() {
    let server = Moto::versioned().await;
    let objects = server.open();
    let old = server.put("faces/a").await;
    let start = objects.starts(&older(&["faces/*"], -1)).await.unwrap().oldest.unwrap();
    // Until the clock of the mock, which shows whole seconds, has gone on.
    let cutoff = loop {
        server.put("clock").await;
        let now = objects.find(&named(&["clock"])).await.unwrap();
        let search = older(&["clock"], -1);
        let latest = objects.survey(&search).await.unwrap().newest.unwrap();
        assert!(!now.is_empty());
        if latest > start {
            break latest;
        }
    };
    server.put("faces/a").await;
    let search = started_before(&["faces/*"], cutoff);
    let entries = walked(&objects, &search, 10).await;
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].version.as_deref(), Some(old.as_str()));
    assert_eq!(objects.delete(&search, entries).await.unwrap().gone, [0]);
    assert!(server.has("faces/a").await);
}

#[tokio::test]
async fn what_object_lock_protects_is_blocked_with_its_date_and_its_marker_stays() {
    let server = Moto::locking().await;
    let until = (clock::now() + SignedDuration::from_hours(240)).round(jiff::Unit::Second);
    let until = until.unwrap();
    let date = until.to_string();
    let checked = ("x-amz-sdk-checksum-algorithm", "SHA256");
    let lock = [
        checked,
        ("x-amz-object-lock-mode", "COMPLIANCE"),
        ("x-amz-object-lock-retain-until-date", date.as_str()),
    ];
    server.put_with("faces/locked", &lock).await;
    server.hide("faces/locked").await;
    server.put_with("faces/held", &[checked, ("x-amz-object-lock-legal-hold", "ON")]).await;
    server.put("faces/free").await;
    server.hide("faces/free").await;
    let objects = server.open();
    let search = older(&["faces/*"], -1);
    let entries = walked(&objects, &search, 10).await;
    assert_eq!(entries.len(), 5);
    let names: Vec<_> = entries
        .iter()
        .map(|entry| (String::from_utf8(entry.path.clone()).unwrap(), entry.is_marker))
        .collect();
    let deleted = objects.delete(&search, entries).await.unwrap();
    let gone: Vec<_> = deleted.gone.iter().map(|index| names[*index].clone()).collect();
    assert_eq!(gone, [("faces/free".to_owned(), false), ("faces/free".to_owned(), true)]);
    for (index, left) in &deleted.kept {
        let expected = match names[*index].0.as_str() {
            "faces/locked" => Left::Blocked { until: Some(until) },
            _ => Left::Blocked { until: None },
        };
        assert_eq!(*left, expected, "{:?}", names[*index]);
    }
    assert_eq!(count(&objects).await, 3);
    assert!(!server.has("faces/locked").await, "it came back");
}

#[tokio::test]
async fn what_a_row_names_goes_with_all_its_versions() {
    let server = Moto::versioned().await;
    for _ in 0..3 {
        server.put("faces/7").await;
    }
    server.hide("faces/7").await;
    server.put("faces/77").await;
    let objects = server.open();
    let search = named(&["faces/7"]);
    let entries = objects.find(&search).await.unwrap();
    assert_eq!(entries.len(), 4);
    assert!(entries[3].is_marker);
    let there = [(b"faces/7".to_vec(), None), (b"faces/77".to_vec(), None)];
    assert_eq!(look(&objects, &there).await, [true, true]);
    assert_eq!(objects.delete(&search, entries).await.unwrap().gone, [0, 1, 2, 3]);
    assert_eq!(look(&objects, &there).await, [false, true]);
    assert_eq!(server.kept().await, (1, 0));
}

#[tokio::test]
async fn a_key_with_more_versions_than_an_answer_holds_goes_whole() {
    let server = Moto::versioned().await;
    for _ in 0..1_010 {
        server.put("faces/a").await;
    }
    server.hide("faces/a").await;
    server.put("faces/b").await;
    let objects = server.open();
    let search = named(&["faces/a", "faces/b"]);
    let entries = objects.find(&search).await.unwrap();
    assert_eq!(entries.len(), 1_012);
    let search = older(&["faces/*"], -1);
    let entries = walked(&objects, &search, 900).await;
    assert_eq!(entries.len(), 1_012);
    let deleted = objects.delete(&search, entries).await.unwrap();
    assert_eq!((deleted.gone.len(), deleted.kept), (1_012, vec![]));
    assert_eq!(server.kept().await, (0, 0));
}

#[tokio::test]
async fn one_version_is_asked_for_as_a_sample_shows_it_and_a_path_alone_means_the_newest() {
    let server = Moto::versioned().await;
    let first = server.put("faces/a").await;
    // The server's time has whole seconds.
    let listed = |entries: Vec<expunged::store::objects::Entry>| {
        entries.into_iter().map(|entry| entry.modified.unwrap()).max().unwrap()
    };
    let objects = server.open();
    let search = older(&["faces/*"], -1);
    let begun = listed(walked(&objects, &search, 9).await);
    let mut last = server.put("faces/a").await;
    while listed(walked(&objects, &search, 9).await) == begun {
        last = server.put("faces/a").await;
    }
    let text = "[store.photos]\nkind = \"objects\"\nbucket = \"photos\"\n\n\
                [rule.photos]\nstore = \"photos\"\npath = \"faces/*\"\nretention = \"1 day\"\naction = \"delete\"\n";
    let file = InputFile { path: "expunged.toml".into(), bytes: text.into() };
    let config = Config::parse(vec![file], "/".as_ref(), std::iter::empty()).unwrap();
    let store = Store::Objects(objects);
    let target = store.target(&config.rules[&"photos".parse().unwrap()]).await.unwrap();
    // So that what began with the first version is due, and what came a second later is not.
    let now = clock::now() + SignedDuration::from_hours(1);
    let bounds = Bounds { cutoff: begun + SignedDuration::from_millis(1), now };
    let explain = async |text: &str| {
        let keys = target.keys_from_text(text);
        store.explain(&target, bounds, &keys).await.unwrap()
    };
    let shown = store.sample(&target, bounds, 100).await.unwrap();
    assert!(shown.iter().any(|(key, _)| key.to_string() == format!("faces/a, {first}")));
    let asked = explain(&format!("faces/a, {first}")).await.unwrap();
    assert_eq!((asked.is_due, asked.starting_point), (true, Some(begun)));
    assert_eq!(asked.key, shown.iter().find(|(key, _)| *key == asked.key).unwrap().0);
    let newest = explain("faces/a").await.unwrap();
    assert!(!newest.is_due && newest.starting_point > Some(begun));
    assert_eq!(newest.key.to_string(), format!("faces/a, {last}"));
    assert!(explain("faces/a, none").await.is_none());

    // Hidden behind a marker, it is still there; the marker is asked for by its own name.
    let marker = server.hide("faces/a").await;
    assert_eq!(explain("faces/a").await.unwrap().key, newest.key);
    assert!(!explain(&format!("faces/a, {marker}")).await.unwrap().is_due);
}
