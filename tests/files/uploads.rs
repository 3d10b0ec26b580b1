//! Where events say what goes, `max_age` counts from the upload: a file is not kept by a date of its own, nor by
//! being written again.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use expunged::config::{Config, InputFile};
use expunged::rule::Rule;
use expunged::store::Store;
use expunged::store::search::{Age, Limits, Search};
use expunged::store::sql::{Access, Bounds, SurveyDepth};
use jiff::{SignedDuration, Timestamp};

use crate::tree::{Tree, all, touch};

const RULES: &str = r#"
[store.photos]
kind = "files"
root = "root"
[rule.photos]
store = "photos"
path = "faces/{key}"
on_event = "synthesis.finished"
max_age = "1 hour"
action = "delete"
[rule.by-age]
store = "photos"
path = "faces/*"
retention = "1 hour"
allow_sub_day = true
action = "delete"
"#;

fn rule(tree: &Tree, name: &str) -> Rule {
    let file = InputFile { path: "expunged.toml".into(), bytes: RULES.into() };
    let folder = tree.root().parent().unwrap();
    let config = Config::parse(vec![file], folder, std::iter::empty()).unwrap();
    config.rules[&name.parse().unwrap()].clone()
}

fn made(path: &Path) -> Timestamp {
    fs::metadata(path).unwrap().created().unwrap().try_into().unwrap()
}

/// A photo that nobody has dated, and the moment it was made.
fn upload(tree: &Tree, key: &str) -> Timestamp {
    let path = tree.path(format!("faces/{key}"));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "somebody's face").unwrap();
    made(&path)
}

fn date(tree: &Tree, key: &str, modified: i64) {
    let path = tree.path(format!("faces/{key}"));
    touch(&fs::File::options().write(true).open(path).unwrap(), modified);
}

/// Photos of many dates, all uploaded now. Gives when the first of them was.
fn uploads(tree: &Tree) -> Timestamp {
    let begun = upload(tree, "plain");
    let later = |minutes| (begun + SignedDuration::from_mins(minutes)).as_second();
    let dates = [
        ("future", later(2_880)),
        ("epoch", 0),
        ("written again", later(90)),
        ("preserved", later(-40_000)),
    ];
    for (key, modified) in dates {
        upload(tree, key);
        date(tree, key, modified);
    }
    begun
}

#[tokio::test]
async fn what_no_event_named_falls_due_by_its_upload_whatever_its_own_date() {
    let tree = Tree::new();
    let begun = uploads(&tree);
    let store = Store::Files(tree.open_for(Access::ReadOnly));
    let survey = async |name: &str, minutes| {
        let rule = rule(&tree, name);
        let now = begun + SignedDuration::from_mins(minutes);
        let bounds = Bounds { cutoff: rule.cutoff(now), now };
        let target = store.target(&rule).await.unwrap();
        store.survey(&target, bounds, SurveyDepth::Due).await.unwrap()
    };
    let (half, over) = (survey("photos", 30).await, survey("photos", 120).await);
    assert_eq!((half.total, half.due), (5, 1), "only what came with an old date: {half:?}");
    assert_eq!((over.total, over.due), (5, 5), "{over:?}");
    // A retention counts by the last modification, as it says.
    let by_age = survey("by-age", 120).await;
    assert_eq!((by_age.total, by_age.due), (5, 2), "{by_age:?}");
    assert_eq!((by_age.future_start, by_age.placeholder_start), (1, 1));
    let said = ["photos", "by-age"].map(|name| rule(&tree, name).starts_from().to_owned());
    assert_eq!(said, ["upload", "last modification"]);
}

#[tokio::test]
async fn the_oldest_that_lives_is_known_whatever_its_own_date() {
    let tree = Tree::new();
    let begun = upload(&tree, "future");
    date(&tree, "future", (begun + SignedDuration::from_hours(48)).as_second());
    let store = Store::Files(tree.open_for(Access::ReadOnly));
    let rule = rule(&tree, "photos");
    let target = store.target(&rule).await.unwrap();
    for (minutes, is_due) in [(30, false), (120, true)] {
        let now = begun + SignedDuration::from_mins(minutes);
        let bounds = Bounds { cutoff: rule.cutoff(now), now };
        assert_eq!(store.oldest_start(&target, bounds).await.unwrap(), Some(begun));
        let next = store.next_start(&target, bounds).await.unwrap();
        assert_eq!(next, Some(begun).filter(|_| !is_due));
        let keys = target.keys_from_text("faces/future");
        let seen = store.explain(&target, bounds, &keys).await.unwrap().unwrap();
        assert_eq!((seen.starting_point, seen.is_due, seen.kept), (Some(begun), is_due, None));
    }
}

#[tokio::test]
async fn what_is_written_again_while_it_goes_goes_all_the_same() {
    let tree = Tree::new();
    let begun = uploads(&tree);
    let now = begun + SignedDuration::from_hours(2);
    let bounds = Bounds { cutoff: now - SignedDuration::from_hours(1), now };
    let age = Age::Uploaded(Limits { bounds, earliest: jiff::civil::date(1990, 1, 1) });
    let templates = vec!["faces/*".parse().unwrap()];
    let due = Arc::new(Search { templates, age, kept: Vec::new() });
    let files = tree.open();
    let entries = all(files.walk(due.clone())).await;
    assert_eq!(entries.len(), 5);
    date(&tree, "plain", now.as_second());
    let deleted = files.delete(&due, entries).await.unwrap();
    assert_eq!((deleted.gone.len(), deleted.kept), (5, vec![]));
    assert!(tree.files().is_empty());
}
