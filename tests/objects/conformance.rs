//! What holds on every server: what is found, in which order, what is deleted and what is not.

use std::sync::Arc;

use expunged::clock;
use expunged::store::objects::{Deleted, Entry, Left, Probe, Starts};
use expunged::store::search::Age;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::house::{BUCKET, Files, Moto, look, named, older, open, paths, settings, walked};

#[tokio::test]
async fn more_than_one_answer_holds_is_listed_walked_and_deleted() {
    let server = Files::serve();
    for number in 0..2_500 {
        server.put(&format!("faces/{number:05}.jpg"), 48);
    }
    server.put("faces/young.jpg", 1);
    server.put("logs/old.txt", 48);
    let objects = server.open();
    let search = older(&["faces/*.jpg"], 24);

    let survey = objects.survey(&search).await.unwrap();
    assert_eq!((survey.due, survey.total), (2_500, 2_501));
    let mut seen = Vec::new();
    objects.in_order(&search, None, None, &mut |entry| seen.push(entry)).await.unwrap();
    let entries = walked(&objects, &search, 700).await;
    assert_eq!(seen, entries);
    assert!(entries.is_sorted_by_key(|entry| &entry.path) && entries.len() == 2_500);

    let deleted = objects.delete(&search, entries).await.unwrap();
    assert_eq!(deleted, Deleted { gone: (0..2_500).collect(), kept: Vec::new() });
    assert_eq!(objects.survey(&search).await.unwrap().due, 0);
    assert!(server.has("faces/young.jpg") && server.has("logs/old.txt"));
}

#[tokio::test]
async fn a_mock_lists_and_deletes_more_than_a_page_too() {
    let server = Moto::plain().await;
    for number in 0..1_050 {
        server.put(&format!("faces/{number:05}.jpg")).await;
    }
    server.put("other.txt").await;
    let objects = server.open();
    // Its clock cannot be set: what is there now is older than the day after tomorrow.
    let search = older(&["faces/*.jpg"], -1);
    let entries = walked(&objects, &search, 5_000).await;
    assert_eq!(entries.len(), 1_050);
    assert_eq!(objects.delete(&search, entries).await.unwrap().gone.len(), 1_050);
    assert_eq!(server.kept().await, (1, 0));
    assert!(server.has("other.txt").await);
}

#[tokio::test]
async fn a_server_says_whether_it_keeps_versions() {
    let server = Files::serve();
    let plain = Probe { versioned: false, shows_versions: true };
    assert_eq!(server.open().probe().await.unwrap(), plain);
    assert_eq!(Moto::plain().await.open().probe().await.unwrap(), plain);
    let versioned = Moto::versioned().await.open().probe().await.unwrap();
    assert_eq!(versioned, Probe { versioned: true, shows_versions: true });
}

#[tokio::test]
async fn ranges_begin_behind_a_key_and_end_with_one() {
    let server = Files::serve();
    for key in ["a/1", "a/2", "b/1", "b/2", "b/3", "c/1", "d/1"] {
        server.put(key, 48);
    }
    server.put("b/2-young", 1);
    let objects = server.open();
    let search = older(&["a/*", "b/*", "d/*"], 24);
    for (after, upto, expected) in [
        (None, None, vec!["a/1", "a/2", "b/1", "b/2", "b/3", "d/1"]),
        (Some("a/2"), None, vec!["b/1", "b/2", "b/3", "d/1"]),
        (Some("a/2"), Some("b/2"), vec!["b/1", "b/2"]),
        (Some("b"), Some("c"), vec!["b/1", "b/2", "b/3"]),
        (Some("c/1"), Some("d"), vec![]),
        (Some("d/1"), None, vec![]),
    ] {
        let mut seen = Vec::new();
        let (from, to) = (after.map(str::as_bytes), upto.map(str::as_bytes));
        objects.in_order(&search, from, to, &mut |entry| seen.push(entry)).await.unwrap();
        assert_eq!(paths(&seen), expected, "{after:?} {upto:?}");
    }
}

#[tokio::test]
async fn the_oldest_are_shown_first_and_the_next_to_fall_due_is_known() {
    let server = Files::serve();
    for (key, hours) in [("a", 50), ("b", 90), ("c", 60), ("d", 10), ("e", 3)] {
        server.put(key, hours);
    }
    server.put("other/x", 999);
    let objects = server.open();
    let search = older(&["*"], 24);
    let sample = objects.sample(&search, 2).await.unwrap();
    assert_eq!(paths(&sample), ["b", "c"]);
    let Starts { oldest, next } = objects.starts(&search).await.unwrap();
    assert_eq!(oldest, sample[0].start);
    let hours = |start: Option<Timestamp>| {
        clock::now().duration_since(start.unwrap()).as_secs_f64() / 3600.0
    };
    assert!((hours(next) - 10.0).abs() < 0.1 && (hours(oldest) - 90.0).abs() < 0.1);
}

#[tokio::test]
async fn the_day_in_a_path_counts_where_the_rule_says_so() {
    let server = Files::serve();
    for key in ["logs/2020/02/29/a", "logs/2020/02/30/a", "logs/2999/01/01/a"] {
        server.put(key, 0);
    }
    let objects = server.open();
    let mut search = (*older(&["logs/{date:%Y/%m/%d}/*"], 24)).clone();
    let Age::Modified(limits) = search.age else { panic!("it is by age") };
    search.age = Age::Day(limits, TimeZone::UTC);
    let search = Arc::new(search);
    let survey = objects.survey(&search).await.unwrap();
    assert_eq!((survey.due, survey.unreadable_start, survey.total), (1, 1, 3));
    let entries = walked(&objects, &search, 10).await;
    assert_eq!(objects.delete(&search, entries).await.unwrap().gone, [0]);
    assert!(!server.has("logs/2020/02/29/a") && server.has("logs/2999/01/01/a"));
}

#[tokio::test]
async fn nothing_outside_the_prefix_is_seen_or_touched() {
    let server = Files::serve();
    for key in ["tenant/faces/a", "tenant-2/faces/a", "faces/a", "tenan", "tenant2"] {
        server.put(key, 48);
    }
    for prefix in ["tenant", "tenant/"] {
        server.put("tenant/faces/a", 48);
        let objects = open(expunged::store::objects::Settings {
            prefix: Some(prefix.to_owned()),
            ..settings(&server.url, BUCKET)
        });
        let search = older(&["**"], 24);
        let entries = walked(&objects, &search, 10).await;
        assert_eq!(paths(&entries), ["faces/a"]);
        let mut outside = entries.clone();
        outside[0].path = b"../faces/a".to_vec();
        let deleted = objects.delete(&search, outside).await.unwrap();
        assert!(server.has("faces/a") && server.has("tenant/faces/a"), "{deleted:?}");
        assert_eq!(objects.delete(&search, entries).await.unwrap().gone, [0]);
        assert!(!server.has("tenant/faces/a"));
    }
    for key in ["tenant-2/faces/a", "faces/a", "tenan", "tenant2"] {
        assert!(server.has(key), "{key}");
    }
}

const ODD: [&str; 13] = [
    "a\u{1}b",
    "a b",
    "a+b",
    "a%20b",
    "a%2Bb",
    "größe",
    "日本語",
    "a&b",
    "a<b>",
    "a'b\"c",
    "a\nb",
    "=?#",
    " a ",
];

#[tokio::test]
async fn keys_with_odd_characters_are_taken_exactly() {
    let server = Files::serve();
    for key in ODD {
        server.put(&format!("odd/{key}"), 48);
        server.put(&format!("odd/{key}.young"), 1);
    }
    let objects = server.open();
    let search = older(&["odd/*"], 24);
    let mut expected: Vec<String> = ODD.iter().map(|key| format!("odd/{key}")).collect();
    expected.sort();
    let entries = walked(&objects, &search, 100).await;
    assert_eq!(paths(&entries), expected);
    let places: Vec<_> =
        entries.iter().map(|entry| (entry.path.clone(), entry.version.clone())).collect();
    assert_eq!(look(&objects, &places).await, vec![true; ODD.len()]);
    let deleted = objects.delete(&search, entries).await.unwrap();
    assert_eq!(deleted.kept, []);
    assert_eq!(look(&objects, &places).await, vec![false; ODD.len()]);
    for key in ODD {
        assert!(!server.has(&format!("odd/{key}")), "{key}");
        assert!(server.has(&format!("odd/{key}.young")), "{key}");
    }
}

#[tokio::test]
async fn a_key_is_never_tidied_into_another() {
    let server = Moto::versioned().await;
    // What clients make one of the other of: `x//b` becomes `x/b`, and ` a` becomes `a`.
    let (untidy, tidy) = ([" a", "a "], ["a"]);
    for key in untidy.iter().chain(&tidy) {
        server.put(key).await;
    }
    let objects = server.open();
    let search = named(&untidy);
    let entries = objects.find(&search).await.unwrap();
    let mut found = paths(&entries);
    found.sort();
    assert_eq!(found, [" a", "a "]);
    let deleted = objects.delete(&search, entries).await.unwrap();
    assert_eq!(deleted.kept, []);
    assert_eq!(server.kept().await, (1, 0));
    for key in tidy {
        assert!(server.has(key).await, "{key}");
    }
}

#[tokio::test]
async fn what_is_not_there_counts_as_gone() {
    let server = Files::serve();
    server.put("faces/a", 48);
    let objects = server.open();
    let search = older(&["faces/*"], 24);
    let entries = walked(&objects, &search, 10).await;
    let again = entries.clone();
    assert_eq!(objects.delete(&search, entries).await.unwrap().gone, [0]);
    assert_eq!(objects.delete(&search, again).await.unwrap().gone, [0]);
}

#[tokio::test]
async fn what_was_overwritten_since_it_was_found_stays() {
    let server = Files::serve();
    for key in ["faces/a", "faces/b", "faces/c"] {
        server.put(key, 48);
    }
    let objects = server.open();
    let search = older(&["faces/*"], 24);
    let entries = walked(&objects, &search, 10).await;
    server.put("faces/b", 0);
    let deleted = objects.delete(&search, entries).await.unwrap();
    assert_eq!(deleted, Deleted { gone: vec![0, 2], kept: vec![(1, Left::Changed)] });
    assert!(server.has("faces/b"));
}

#[tokio::test]
async fn what_a_row_or_an_event_names_is_found_and_deleted_whatever_its_age() {
    let server = Files::serve();
    for key in ["faces/7", "faces/77", "thumbs/7/small", "thumbs/7/x/large", "thumbs/77/small"] {
        server.put(key, 0);
    }
    let objects = server.open();
    let search = named(&["faces/7", "thumbs/7/**", "faces/none"]);
    let entries = objects.find(&search).await.unwrap();
    assert_eq!(paths(&entries), ["faces/7", "thumbs/7/small", "thumbs/7/x/large"]);
    assert_eq!(objects.delete(&search, entries).await.unwrap().gone, [0, 1, 2]);
    assert!(server.has("faces/77") && server.has("thumbs/77/small"));
    assert_eq!(objects.find(&search).await.unwrap(), []);
}

#[tokio::test]
async fn certain_keys_are_looked_at_wherever_they_lie() {
    let server = Files::serve();
    for number in 0..3_000 {
        server.put(&format!("many/{number:05}"), 48);
    }
    let objects = server.open();
    // Close together, far apart, and some that are not there.
    let numbers = (0..1_200).chain((1_200..3_000).step_by(300)).chain([2_999]);
    let mut which: Vec<_> =
        numbers.map(|number| (format!("many/{number:05}").into_bytes(), None)).collect();
    let there = which.len();
    for absent in ["a", "many/", "many/00000x", "many/02999x", "z"] {
        which.push((absent.as_bytes().to_vec(), None));
    }
    which.push((b"not utf-8 \xff".to_vec(), None));
    let seen = look(&objects, &which).await;
    assert!(seen[..there].iter().all(|seen| *seen));
    assert!(seen[there..].iter().all(|seen| !*seen));
}

/// Nobody's age matters here, so nothing but what is known of the object itself tells it from the next.
#[tokio::test]
async fn an_object_that_was_put_there_anew_is_another() {
    let server = Files::serve();
    server.put("faces/a", 48);
    server.put("faces/b", 48);
    let objects = server.open();
    let search = named(&["faces/a", "faces/b"]);
    let entries = objects.find(&search).await.unwrap();
    let marks: Vec<String> = entries.iter().map(Entry::mark).collect();
    let which: Vec<_> = entries.iter().map(|entry| (entry.path.clone(), None)).collect();
    let bear = async || {
        let found = objects.look(&which).await.unwrap();
        let same = found.iter().zip(&marks).map(|(found, mark)| found[0].bears(mark));
        same.collect::<Vec<_>>()
    };
    assert_eq!(bear().await, [true, true]);
    server.put("faces/b", 24);
    assert_eq!(bear().await, [true, false]);
    assert!(objects.look(&which).await.unwrap()[1][0].bears(""), "an older intent names none");
    let deleted = objects.delete(&search, entries).await.unwrap();
    assert_eq!(deleted, Deleted { gone: vec![0], kept: vec![(1, Left::Changed)] });
    assert!(server.has("faces/b"));
}
