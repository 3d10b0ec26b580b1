//! What is an event, and what is said about what is none.

use std::fmt::Write as _;

use expunged::event::json::read;
use expunged::event::{Occurrence, Told, Value};
use expunged::types::Name;
use proptest::prelude::*;

use crate::house::{finished, rules};

/// Reads one event and holds it against the rules.
fn hear(text: &str) -> Result<(Occurrence, Vec<Name>), String> {
    let mut told = read(text.as_bytes()).map_err(|error| error.to_string())?;
    let one = told.remove(0);
    one.heard_by(rules().values(), || "made".to_owned()).map_err(|error| error.to_string())
}

fn only(text: &str) -> Told {
    let mut told = read(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(told.len(), 1);
    told.remove(0)
}

fn told(text: &str, name: &str) -> Option<String> {
    match only(text).values.remove(name)? {
        Value::Text(text) => Some(text),
        Value::Other(what) => panic!("{what}"),
    }
}

#[test]
fn an_event_reaches_every_rule_that_listens_with_what_they_ask_for_and_nothing_else() {
    let text = r#"{"event": "synthesis.finished", "id": "a",
                   "values": {"upload_key": "k1", "job_id": 7, "mail": "a@example.org", "list": [1]}}"#;
    let (event, rules) = hear(text).unwrap();
    assert_eq!(rules.iter().map(Name::as_str).collect::<Vec<_>>(), ["jobs", "photos"]);
    assert_eq!(event.id, "a");
    let values: Vec<_> = event.values.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(values, [("job_id", "7"), ("upload_key", "k1")]);
    assert!(!format!("{event:?}").contains("k1"), "values are not shown");

    let text = r#"{"event": "synthesis.failed", "values": {"upload_key": "k1", "job_id": 7}}"#;
    let (event, rules) = hear(text).unwrap();
    assert_eq!(rules.iter().map(Name::as_str).collect::<Vec<_>>(), ["photos"]);
    assert_eq!((event.id.as_str(), event.values.len()), ("made", 1));
}

#[test]
fn a_cloud_event_is_the_same_and_its_source_is_part_of_its_id() {
    let text = |source: &str, id: &str| {
        format!(
            r#"{{"specversion": "1.0", "type": "synthesis.finished", "source": "{source}", "id": "{id}",
                 "time": "2026-11-22T03:00:00Z", "traceparent": "00-1-1-00",
                 "datacontenttype": "application/json; charset=utf-8",
                 "data": {{"upload_key": "k1", "job_id": true}}}}"#
        )
    };
    let (event, _) = hear(&text("/a", "b")).unwrap();
    assert_eq!(event.values["job_id"], "true");
    let same = hear(&text("/a", "b")).unwrap().0;
    assert_eq!(event, same);
    let ids = [("/a", "b"), ("/a ", "b"), ("/", "ab"), ("/ab", "b"), ("/a", "bb"), ("a", "/b")];
    let mut ids: Vec<_> = ids.iter().map(|(s, id)| hear(&text(s, id)).unwrap().0.id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 6, "each of its own");
}

#[test]
fn numbers_are_taken_digit_by_digit() {
    for number in ["12345678901234567890123", "-7", "1.50", "1e3", "0"] {
        let text = format!(r#"{{"event": "e", "values": {{"n": {number}}}}}"#);
        assert_eq!(told(&text, "n").as_deref(), Some(number));
    }
}

/// Each with what is said about it.
const WRONG: &[&str] = &[
    "",
    "{",
    "nonsense",
    r#"{"event": "synthesis.finished"} trailing"#,
    r#"{"event": "synthesis.finished", }"#,
    r#"{"event": "\ud800"}"#,
    "7",
    "null",
    r#""synthesis.finished""#,
    "[]",
    "[[]]",
    r#"[{"event": "synthesis.failed", "values": {"upload_key": "k"}}, {"evnt": "synthesis.failed"}]"#,
    "{}",
    r#"{"evnt": "synthesis.finished"}"#,
    r#"{"event": "synthesis.finished", "surprise": 1}"#,
    r#"{"event": "synthesis.finished", "event": "synthesis.failed"}"#,
    r#"{"event": "synthesis.failed", "values": {"upload_key": "a", "upload_key": "b"}}"#,
    r#"{"event": "synthesis.failed", "values": {"upload_key": "a", "upload\u005fkey": "b"}}"#,
    r#"{"event": 7}"#,
    r#"{"event": "Synthesis Finished"}"#,
    r#"{"event": "synthesis.finished", "values": "k1"}"#,
    r#"{"event": "synthesis.finished", "values": ["k1"]}"#,
    r#"{"event": "synthesis.finished", "values": null}"#,
    r#"{"event": "synthesis.finishd", "values": {"upload_key": "k1"}}"#,
    r#"{"event": "payment.done"}"#,
    r#"{"event": "synthesis.failed"}"#,
    r#"{"event": "synthesis.failed", "values": {"uploadkey": "k1"}}"#,
    r#"{"event": "synthesis.failed", "values": {"upload_key": ""}}"#,
    r#"{"event": "synthesis.failed", "values": {"upload_key": null}}"#,
    r#"{"event": "synthesis.failed", "values": {"upload_key": {"a": 1}}}"#,
    r#"{"event": "synthesis.failed", "values": {"upload_key": "a\u0000b"}}"#,
    r#"{"event": "synthesis.failed", "id": "", "values": {"upload_key": "k1"}}"#,
    r#"{"event": "synthesis.failed", "id": 7, "values": {"upload_key": "k1"}}"#,
    r#"{"event": "synthesis.failed", "id": "a\nb", "values": {"upload_key": "k1"}}"#,
    r#"{"specversion": "0.3", "type": "synthesis.failed", "source": "/a", "id": "b"}"#,
    r#"{"specversion": "1.0", "type": "synthesis.failed", "source": "/a"}"#,
    r#"{"specversion": "1.0", "type": "synthesis.failed", "id": "b"}"#,
    r#"{"specversion": "1.0", "type": "synthesis.failed", "source": "", "id": "b"}"#,
    r#"{"specversion": "1.0", "type": "synthesis.failed", "source": "/a", "id": "b", "data_base64": "e30="}"#,
    r#"{"specversion": "1.0", "type": "synthesis.failed", "source": "/a", "id": "b", "datacontenttype": "text/xml"}"#,
    r#"{"specversion": "1.0", "type": "synthesis.failed", "source": "/a", "id": "b", "data": {"upload-key": "k1"}}"#,
];

#[test]
fn what_is_wrong_is_said_in_words() {
    let mut said = String::new();
    for text in WRONG {
        let error = hear(text).expect_err(text);
        let _ = writeln!(said, "{text}\n    {error}");
    }
    insta::assert_snapshot!("messages", said);
}

#[test]
fn what_is_too_long_or_too_many_is_refused_and_what_just_fits_is_taken() {
    let with = |key: &str| {
        format!(r#"{{"event": "synthesis.failed", "values": {{"upload_key": "{key}"}}}}"#)
    };
    assert!(hear(&with(&"k".repeat(1_024))).is_ok());
    assert!(hear(&with(&"ü".repeat(513))).unwrap_err().contains("1,024 bytes"));
    assert!(hear(&finished(&"ü".repeat(200), "k")).is_ok());
    assert!(hear(&finished(&"u".repeat(201), "k")).unwrap_err().contains("200 characters"));
    let many = |count: usize| format!("[{}]", vec![with("k"); count].join(","));
    assert_eq!(read(many(1_000).as_bytes()).unwrap().len(), 1_000);
    assert!(read(many(1_001).as_bytes()).is_err());
    let deep = format!(r#"{{"event": "e", "values": {{"v": {}}}}}"#, "[".repeat(100_000));
    assert!(read(deep.as_bytes()).is_err(), "and nothing overflows");
}

#[test]
fn every_event_that_is_cut_short_is_refused() {
    let whole = finished("a", "k1");
    for length in 0..whole.len() {
        assert!(read(&whole.as_bytes()[..length]).is_err(), "{length}");
    }
}

/// Any JSON at all.
fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "[a-z._\\PC]{0,12}".prop_map(serde_json::Value::from),
    ];
    let key = prop_oneof![
        Just("event".to_owned()),
        Just("id".to_owned()),
        Just("values".to_owned()),
        Just("specversion".to_owned()),
        Just("data".to_owned()),
        "\\PC{0,8}",
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::btree_map(key.clone(), inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn nothing_that_is_sent_does_any_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&bytes);
    }

    #[test]
    fn json_that_is_no_event_is_not_taken_for_one(json in any_json()) {
        if let Ok(told) = read(json.to_string().as_bytes()) {
            prop_assert!(!told.is_empty());
            for one in json.as_array().map_or(std::slice::from_ref(&json), Vec::as_slice) {
                prop_assert!(one["event"].is_string() || one["specversion"].is_string());
            }
        }
    }

    #[test]
    fn values_arrive_as_they_were_sent(key in "[^\\p{Cc}]{1,200}", number in any::<i128>(), id in "[^\\p{Cc}]{1,200}") {
        let json = serde_json::json!({
            "event": "synthesis.finished", "id": id,
            "values": { "upload_key": key, "job_id": 0 }
        });
        let text = json.to_string().replace("\"job_id\":0", &format!("\"job_id\":{number}"));
        let (event, _) = hear(&text).unwrap();
        prop_assert_eq!(&event.values["upload_key"], &key);
        prop_assert_eq!(&event.values["job_id"], &number.to_string());
        prop_assert_eq!(event.id, id);
    }
}
