use serde_json::{Value, json};

use super::*;

const FIRST: i64 = 1_795_893_060;

fn segment(timeline: u32, number: u32) -> String {
    format!("{timeline:08X}00000000{number:08X}")
}

/// A backup that began with a segment of a timeline, so many minutes after the first.
fn backup(label: &str, start: &str, minutes: i64) -> Value {
    json!({
        "label": label, "database": {"id": 1, "repo-key": 1}, "error": false, "prior": null, "reference": null,
        "timestamp": {"start": FIRST + minutes * 60, "stop": FIRST + minutes * 60 + 5},
        "archive": {"start": start, "stop": start},
    })
}

fn stanza(backups: Vec<Value>, min: Option<&str>, max: Option<&str>) -> Value {
    json!({
        "name": "main", "status": {"code": 0, "message": "ok"},
        "repo": [{"cipher": "none", "key": 1, "status": {"code": 0, "message": "ok"}}],
        "archive": [{"id": "15-1", "database": {"id": 1, "repo-key": 1}, "min": min, "max": max}],
        "backup": Value::Array(backups),
    })
}

fn found(stanza: Value) -> Result<Found, Fault> {
    read(&serde_json::from_value(stanza).unwrap())
}

/// How far the log of each archive reaches back, in minutes after the first backup.
fn reach(stanza: Value) -> Vec<Option<i64>> {
    let logs = found(stanza).unwrap().logs;
    logs.iter().map(|log| Some((log.from?.as_second() - FIRST) / 60)).collect()
}

#[test]
fn a_log_reaches_back_to_the_backup_that_began_with_its_first_segment() {
    let [one, two, three] = [1, 2, 3].map(|number| segment(1, number));
    let backups = || vec![backup("a", &two, 0), backup("b", &three, 10)];
    assert_eq!(reach(stanza(backups(), Some(&two), Some(&three))), [Some(0)]);
    assert_eq!(reach(stanza(backups(), Some(&three), Some(&three))), [Some(0)], "never too late");
    assert_eq!(reach(stanza(backups(), Some(&one), Some(&three))), [None], "before any backup");
    assert_eq!(reach(stanza(vec![], Some(&one), Some(&three))), [None]);
    assert_eq!(reach(stanza(backups(), None, None)), [], "there is none");
    let one_end = stanza(backups(), Some(&one), None);
    assert!(matches!(found(one_end), Err(Fault::NotUnderstood { .. })));
}

#[test]
fn where_a_later_timeline_begins_is_not_known() {
    let (old, new) = (segment(1, 2), segment(2, 4));
    let backups = || vec![backup("a", &old, 0)];
    assert_eq!(reach(stanza(backups(), Some(&old), Some(&new))), [None]);
    assert_eq!(reach(stanza(backups(), Some(&new), Some(&new))), [None]);
    let both = vec![backup("a", &old, 0), backup("b", &new, 10)];
    assert_eq!(reach(stanza(both, Some(&new), Some(&new))), [Some(10)], "the earlier has expired");
    assert_eq!(reach(stanza(backups(), Some("short"), Some("short"))), [None]);
}

#[test]
fn backups_of_another_database_say_nothing_of_a_log() {
    let (two, three) = (segment(1, 2), segment(1, 3));
    let mut stanza = stanza(vec![backup("a", &two, 0)], Some(&two), Some(&three));
    let archives = stanza["archive"].as_array_mut().unwrap();
    archives.push(
        json!({"id": "16-2", "database": {"id": 2, "repo-key": 1}, "min": two, "max": three}),
    );
    archives.push(
        json!({"id": "15-1", "database": {"id": 1, "repo-key": 2}, "min": two, "max": three}),
    );
    assert_eq!(reach(stanza), [Some(0), None, None]);
}

#[test]
fn what_an_increment_refers_to_is_its_parent() {
    let (two, three) = (segment(1, 2), segment(1, 3));
    let mut increment = backup("a_i", &three, 10);
    increment["prior"] = json!("a_d");
    increment["reference"] = json!(["a", "a_d"]);
    let mut elsewhere = backup("c", &three, 20);
    elsewhere["database"] = json!({"id": 1, "repo-key": 2});
    let mut stanza = stanza(vec![backup("a", &two, 0), increment, elsewhere], None, None);
    stanza["repo"] = json!([
        {"key": 1, "status": {"code": 0, "message": "ok"}},
        {"key": 2, "status": {"code": 0, "message": "ok"}},
    ]);
    let backups = found(stanza).unwrap().backups;
    assert_eq!(backups[1].parents, ["a", "a_d"]);
    assert_eq!(backups[2].id, "c in repository 2");
}

#[test]
fn whatever_is_not_well_is_no_listing() {
    let two = segment(1, 2);
    let with = |code: i64, message: &str| {
        let mut stanza = stanza(vec![backup("a", &two, 0)], Some(&two), Some(&two));
        stanza["repo"][0]["status"] = json!({"code": code, "message": message});
        found(stanza).err()
    };
    assert!(with(0, "ok").is_none());
    assert!(matches!(with(1, "missing stanza path"), Some(Fault::Absent { .. })));
    assert!(matches!(with(2, "no valid backups"), Some(Fault::Reported { .. })));
    assert!(matches!(with(99, "[PathOpenError] x"), Some(Fault::Reported { .. })));
    assert!(
        matches!(with(99, "[CryptoError] x\nmore"), Some(Fault::WrongPassword { says }) if says == "[CryptoError] x")
    );
}
