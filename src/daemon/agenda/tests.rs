use std::path::Path;

use super::*;
use crate::config::InputFile;

fn config(schedule: &str, retention: &str) -> Config {
    let opt_in = if retention.contains("minute") { "allow_sub_day = true\n" } else { "" };
    let text = format!(
        "[store.app]\nkind = \"sqlite\"\nurl = \"sqlite:///tmp/app.db\"\n\
         [rule.a]\nstore = \"app\"\ntable = \"t\"\nstarting_point = \"at\"\naction = \"delete\"\n\
         {opt_in}retention = \"{retention}\"\nschedule = \"{schedule}\"\n"
    );
    let file = InputFile { path: "expunged.toml".into(), bytes: text.into_bytes() };
    Config::parse(vec![file], Path::new("/"), std::iter::empty()).unwrap()
}

fn rule(schedule: &str) -> Rule {
    config(schedule, "2 years").rules.into_values().next().unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn a_clock_that_was_set_back_by_years_does_not_silence_a_rule_for_years() {
    let (rule, mut agenda) = (rule("0 3 * * *"), Agenda::default());
    let seen = at("2036-01-01T03:00:00Z");
    assert_eq!(agenda.due_slot(&rule, seen, at("2026-01-01T12:00:00Z")), None);
    assert!(agenda.clock_was_set_back(&rule.name));
    let slot = at("2026-01-02T03:00:00Z");
    assert_eq!(agenda.due_slot(&rule, seen, at("2026-01-02T03:00:01Z")), Some(slot));
    agenda.claimed(&rule.name, slot);
    assert_eq!(agenda.due_slot(&rule, seen, at("2026-01-02T03:00:02Z")), None, "claimed already");
    assert_eq!(agenda.due_slot(&rule, slot, at("2026-01-02T03:00:03Z")), None);
    assert!(!agenda.clock_was_set_back(&rule.name), "the ledger knows the earlier slot now");
}

#[test]
fn a_clock_that_goes_further_back_takes_the_mark_along() {
    let (rule, mut agenda) = (rule("0 3 * * *"), Agenda::default());
    let seen = at("2036-01-01T03:00:00Z");
    agenda.due_slot(&rule, seen, at("2030-01-01T12:00:00Z"));
    agenda.due_slot(&rule, seen, at("2026-01-01T12:00:00Z"));
    let slot = agenda.due_slot(&rule, seen, at("2026-01-02T12:00:00Z"));
    assert_eq!(slot, Some(at("2026-01-02T03:00:00Z")));
}

#[test]
fn a_continuous_rule_looks_at_once_then_when_it_said_and_at_most_an_hour_later() {
    let (rule, mut agenda) = (rule("continuous"), Agenda::default());
    let now = at("2026-01-01T12:00:00Z");
    assert_eq!(agenda.due_look(&rule.name, now), Some(Looked::Never));
    let next = at("2026-01-01T12:10:00Z");
    agenda.looked(&rule, Ending::Well(Some(next)), now);
    assert_eq!(agenda.due_look(&rule.name, at("2026-01-01T12:09:59Z")), None);
    assert_eq!(agenda.due_look(&rule.name, next), Some(Looked::Well));
    // The clock goes back by a day.
    let yesterday = at("2025-12-31T12:00:00Z");
    assert_eq!(agenda.due_look(&rule.name, yesterday), None);
    assert_eq!(agenda.next_look(|_| false), Some(at("2025-12-31T13:00:00Z")));
    assert_eq!(agenda.next_look(|_| true), None, "whoever runs is not waited for");
}

#[test]
fn failures_that_leave_entries_become_rarer_and_others_do_not() {
    let (rule, mut agenda) = (rule("continuous"), Agenda::default());
    let now = at("2026-01-01T12:00:00Z");
    let mut wait = |ending| {
        agenda.looked(&rule, ending, now);
        agenda.next_look(|_| false).unwrap().duration_since(now).as_secs()
    };
    let waits: Vec<_> = (0..9).map(|_| wait(Ending::Recorded)).collect();
    assert_eq!(waits, [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
    assert_eq!(wait(Ending::Unrecorded), 60);
    wait(Ending::Well(None));
    assert_eq!(wait(Ending::Recorded), 60, "what goes well is forgotten");
}

#[test]
fn a_reload_has_continuous_rules_look_again_and_forgets_those_that_are_gone() {
    let (rule, mut agenda) = (rule("continuous"), Agenda::default());
    let now = at("2026-01-01T12:00:00Z");
    agenda.looked(&rule, Ending::Recorded, now);
    agenda.reconfigured(&config("continuous", "1 year"));
    assert_eq!(agenda.due_look(&rule.name, now), Some(Looked::Failed));
    agenda.looked(&rule, Ending::Recorded, now);
    agenda.reconfigured(&config("0 3 * * *", "1 year"));
    assert_eq!(agenda.next_look(|_| false), None);
}

#[test]
fn the_next_look_is_when_the_next_record_falls_due() {
    let rule = rule("continuous");
    let now = at("2026-01-01T12:00:00Z");
    let start = at("2024-01-01T12:30:00Z");
    assert_eq!(next_look(&rule, Some(start), now), at("2026-01-01T12:30:00.001Z"));
    assert_eq!(next_look(&rule, Some(at("2024-01-01T12:00:01Z")), now), now + GATHER);
    assert_eq!(next_look(&rule, Some(at("2020-01-01T00:00:00Z")), now), now + GATHER, "due since");
    assert_eq!(next_look(&rule, Some(at("2025-01-01T00:00:00Z")), now), now + LOOK_AGAIN);
    assert_eq!(next_look(&rule, None, now), now + LOOK_AGAIN);
}

/// An empty table tells nothing, but what is inserted now cannot fall due before its period ends.
#[test]
fn a_short_period_is_kept_also_for_records_that_are_not_there_yet() {
    let rule = config("continuous", "10 minutes").rules.into_values().next().unwrap();
    let now = at("2026-01-01T12:00:00Z");
    assert_eq!(next_look(&rule, None, now), at("2026-01-01T12:10:00.001Z"));
}

#[test]
fn records_that_stayed_are_looked_for_again_soon() {
    let result = |state, remaining| RunResult {
        verification: None,
        left: None,
        stuck_events: 0,
        lives_on: None,
        rule: "a".parse().unwrap(),
        run: None,
        state,
        records: 0,
        dependents: Vec::new(),
        remaining,
        batches: 0,
        attachments: 0,
        seconds: 0.0,
        error: None,
    };
    let next = Some(at("2026-01-01T12:00:00Z"));
    let ending = |state, remaining, mode| Ending::of(&result(state, remaining), mode, next);
    assert_eq!(ending(RunState::Done, Some(0), Mode::Enforce), Ending::Well(next));
    assert_eq!(ending(RunState::Done, Some(1), Mode::Enforce), Ending::Unrecorded);
    assert_eq!(ending(RunState::Done, None, Mode::Enforce), Ending::Recorded);
    assert_eq!(ending(RunState::Observed, Some(9), Mode::Observe), Ending::Well(next));
    assert_eq!(ending(RunState::Refused, None, Mode::Enforce), Ending::Recorded);
    assert_eq!(ending(RunState::Busy, None, Mode::Enforce), Ending::Unrecorded);
    let stuck = |remaining| RunResult { stuck_events: 1, ..result(RunState::Failed, remaining) };
    let ending = |remaining| Ending::of(&stuck(remaining), Mode::Enforce, next);
    assert_eq!(ending(Some(0)), Ending::Well(next), "what is due by its age is gone");
    assert_eq!(ending(Some(1)), Ending::Recorded);
}

/// Its `max_age` is a promise, also where one record or one event keeps failing.
#[test]
fn a_rule_that_events_wake_looks_again_in_minutes_whatever_failed() {
    let (mut rule, mut agenda) = (rule("continuous"), Agenda::default());
    rule.events = vec!["synthesis.finished".parse().unwrap()];
    let now = at("2026-01-01T12:00:00Z");
    for _ in 0..9 {
        agenda.looked(&rule, Ending::Recorded, now);
        assert!(agenda.next_look(|_| false).unwrap() <= now + SignedDuration::from_mins(4));
    }
}
