//! How rules are paced, and when they may run.

use std::time::Duration;

use expunged::config::Config;
use expunged::pace::{Pacing, Rate, Tempo};

use super::{good, rule, rule_error, tables};

fn read(text: &str) -> Config {
    good(&[("expunged.toml", text)], &[])
}

/// A store and a rule, each with lines of its own.
fn both(store: &str, lines: &str) -> String {
    rule(lines).replace("\n\n[rule", &format!("\n{store}\n[rule"))
}

fn pacing(config: &Config) -> Pacing {
    config.rules.values().next().expect("a rule").pacing
}

#[test]
fn a_rule_is_paced_as_its_store_unless_it_says_otherwise() {
    let plain = read(&rule(""));
    assert_eq!(pacing(&plain), Pacing { tempo: Tempo::Balanced, rate: None, workers: 2 });
    let of_store = read(&both("pace = \"full\"\nrate = \"600 per minute\"\nworkers = 4\n", ""));
    let expected = Pacing { tempo: Tempo::Full, rate: Rate::new(10.0), workers: 4 };
    assert_eq!(pacing(&of_store), expected);
    let own = "pace = \"balanced\"\nrate = \"5000 per second\"\n";
    let own = read(&both("pace = \"gentle\"\nrate = \"1 per hour\"\nworkers = 4\n", own));
    let expected = Pacing { tempo: Tempo::Balanced, rate: Rate::new(5_000.0), workers: 4 };
    assert_eq!(pacing(&own), expected);
}

#[test]
fn what_is_gentle_and_what_has_one_writer_goes_alone() {
    assert_eq!(pacing(&read(&both("workers = 8\n", "pace = \"gentle\"\n"))).workers, 1);
    let sqlite = rule("").replace("\"postgres\"", "\"sqlite\"");
    let sqlite = sqlite.replace("postgres://expunged@db/app", "sqlite:app.db");
    assert_eq!(pacing(&read(&sqlite)).workers, 1);
}

#[test]
fn a_replica_is_waited_for_when_it_lags_ten_seconds_or_as_is_written() {
    let lag = |more: &str| {
        let config = read(&both(&format!("replica_url = {{ env = \"REPLICA\" }}\n{more}"), ""));
        tables(config.stores.values().next().expect("a store")).max_replica_lag
    };
    assert_eq!(lag(""), Duration::from_secs(10));
    assert_eq!(lag("max_replica_lag = \"1 minute\"\n"), Duration::from_mins(1));
}

#[test]
fn a_window_is_the_rules_own_or_the_general_one_and_never_an_event_rules_by_itself() {
    let windows = |text: &str| {
        let config = read(text);
        config.rules.values().next().expect("a rule").windows.to_string()
    };
    assert_eq!(windows(&rule("")), "");
    let general = "[daemon]\nwindow = \"22:00-05:00\"\n";
    assert_eq!(windows(&format!("{}{general}", rule(""))), "22:00-05:00");
    let own = rule("window = [\"12:00-13:00\", \"23:00-04:30\"]\n");
    assert_eq!(windows(&format!("{own}{general}")), "12:00-13:00, 23:00-04:30");
    let waiting =
        rule("on_event = \"account.closed\"\nmatch = { id = \"id\" }\nmax_age = \"1 day\"\n")
            .replace("retention = \"2 years\"\n", "");
    assert_eq!(windows(&format!("{waiting}{general}")), "");
}

#[test]
fn a_windows_hours_are_part_of_what_a_configuration_says() {
    let digest = |lines: &str| read(&rule(lines)).digest();
    assert_ne!(digest(""), digest("window = \"22:00-05:00\"\n"));
    assert_eq!(digest(""), digest("pace = \"gentle\"\n"));
}

#[test]
fn what_is_wrong_with_a_pace_is_said_with_what_to_write() {
    insta::assert_snapshot!(rule_error(
        "pace = \"slow\"\nrate = \"5000/s\"\nwindow = [\"22-05\", \"05:00-05:00\", \"22:00-25:00\"]\n"
    ));
}

#[test]
fn what_a_store_cannot_have_is_refused_with_the_reason() {
    let sqlite = "[store.a]\nkind = \"sqlite\"\nurl = \"sqlite:a.db\"\nworkers = 2\nmax_replica_lag = \"5 seconds\"\n\n\
                  [store.b]\nkind = \"postgres\"\nurl = \"postgres://db/app\"\nworkers = 17\nrate = \"0 per second\"\n\n\
                  [store.c]\nkind = \"files\"\nroot = \"/srv/c\"\nworkers = 2\npace = \"quick\"\n";
    insta::assert_snapshot!(super::error(&[("expunged.toml", sqlite)], &[]));
}
