use std::path::Path;

use super::*;
use crate::config::InputFile;

const TEXT: &str = "[store.app]\nkind = \"sqlite\"\nurl = \"sqlite:///tmp/app.db\"\n\
    [rule.a]\nstore = \"app\"\ntable = \"t\"\nstarting_point = \"at\"\naction = \"delete\"\n\
    retention = \"2 years\"\nschedule = \"0 3 * * *\"\nmode = \"enforce\"\n";

fn config(text: &str) -> Config {
    let file = InputFile { path: "expunged.toml".into(), bytes: text.into() };
    Config::parse(vec![file], Path::new("/"), std::iter::empty()).unwrap()
}

fn after(from: &str, to: &str) -> Config {
    assert!(TEXT.contains(from));
    config(&TEXT.replace(from, to))
}

#[test]
fn each_difference_is_one_line_and_nothing_is_none() {
    let before = config(TEXT);
    assert_eq!(changes(&before, &config(TEXT)), [""; 0]);
    for (from, to, expected) in [
        ("2 years", "3 years", "rule a: retention was 2 years and is now 3 years"),
        ("0 3 * * *", "continuous", "rule a: schedule was 0 3 * * * and is now continuous"),
        ("\"t\"", "\"u\"", "rule a: table was t and is now u"),
        ("enforce", "observe", "rule a: mode was enforce and is now observe"),
        ("\"at\"", "\"seen\"", "rule a: starting_point was at and is now seen"),
        (
            "mode",
            "time_zone = \"Europe/Berlin\"\nmode",
            "rule a: time_zone was UTC and is now Europe/Berlin",
        ),
        (
            "[store",
            "[daemon]\nstop_deadline = \"5 s\"\n[store",
            "daemon: stop_deadline was 30 s and is now 5 s",
        ),
        (
            "[store",
            "[daemon]\nlog = \"json\"\n[store",
            "daemon: log has changed, which takes effect at the next start",
        ),
    ] {
        assert_eq!(changes(&before, &after(from, to)), [expected]);
    }
}

#[test]
fn an_address_and_a_condition_are_named_and_not_quoted() {
    let before = config(TEXT);
    let moved = changes(&before, &after("app.db", "secret.db"));
    assert_eq!(moved, ["store app: url has changed"]);
    let narrowed = changes(&before, &after("mode", "where = \"name <> 'Ann'\"\nmode"));
    assert_eq!(narrowed, ["rule a: where has changed"]);
}

#[test]
fn runs_go_on_unless_what_they_do_has_changed() {
    let before = config(TEXT);
    let is_overtaken = |after: &Config| !overtaken(&before, after).is_empty();
    assert!(!is_overtaken(&config(TEXT)));
    assert!(!is_overtaken(&after("0 3 * * *", "0 4 * * *")));
    assert!(is_overtaken(&after("2 years", "3 years")));
    assert!(is_overtaken(&after("enforce", "observe")));
    assert!(is_overtaken(&after("app.db", "other.db")), "its store has moved");
    assert!(is_overtaken(&after("rule.a", "rule.b")), "it is gone");
}
