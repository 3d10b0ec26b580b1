//! Rules that wait for events, sources of events, and what is never shared.

use std::time::Duration;

use expunged::config::Config;
use expunged::rule::{HoldPolicy, Sharing};
use expunged::schedule::Schedule;

use super::{error, good, rule};

const UPLOADS: &str = "[store.uploads]\nkind = \"files\"\nroot = \"/srv/uploads\"\n";
const FACES: &str = "\n[rule.faces]\nstore = \"uploads\"\npath = \"faces/{upload_key}\"\naction = \"delete\"\n\
    on_event = [\"synthesis.finished\", \"synthesis.failed\"]\nmax_age = \"1 hour\"\n";
const SOURCE: &str = "\n[source.synthesis]\nstore = \"app\"\ntable = \"jobs\"\nstatus = \"state\"\n\
    events = { done = \"synthesis.finished\", failed = \"synthesis.failed\" }\n\
    changed_at = \"changed\"\nvalues = [\"upload_key\"]\n";

fn read(text: &str) -> Config {
    good(&[("expunged.toml", text)], &[])
}

fn refused(text: &str) -> String {
    error(&[("expunged.toml", text)], &[]).to_string()
}

/// A rule on rows without a retention, with these lines.
fn on_rows(lines: &str) -> String {
    rule(lines).replace("retention = \"2 years\"\n", "")
}

// --- rules that wait ------------------------------------------------------------------------------

#[test]
fn records_go_upon_an_event_and_by_their_age() {
    let config = read(&format!("{UPLOADS}{FACES}"));
    let rule = config.rules.values().next().unwrap();
    let events: Vec<_> = rule.events.iter().map(|event| event.as_str()).collect();
    assert_eq!(events, ["synthesis.finished", "synthesis.failed"]);
    assert_eq!(rule.event_values.iter().collect::<Vec<_>>(), ["upload_key"]);
    assert_eq!(rule.retention.as_str(), "1 hour", "no opt-in is needed");
    assert_eq!(rule.schedule.to_string(), "continuous".parse::<Schedule>().unwrap().to_string());
}

#[test]
fn an_event_names_rows_by_columns() {
    let text = on_rows(
        "on_event = \"creation.fetched\"\nmax_age = \"7 days\"\nmatch = { file_key = \"key\", user_id = \"user\" }",
    );
    let config = read(&text);
    let rule = config.rules.values().next().unwrap();
    assert_eq!(rule.rows().unwrap().matching["file_key"], "key");
    assert_eq!(rule.event_values.iter().collect::<Vec<_>>(), ["key", "user"]);
    let variable = ("EXPUNGED__RULE__INACTIVE__MATCH__FILE_KEY", "file");
    let config = good(&[("expunged.toml", &text)], &[variable]);
    assert!(config.rules.values().next().unwrap().event_values.contains("file"));
}

#[test]
fn an_event_names_files_by_all_that_stands_in_their_paths() {
    let paths = "path = [\"faces/{upload_key}\", \"{user_id}/{upload_key}/*\"]\n";
    let text = format!("{UPLOADS}{FACES}").replace("path = \"faces/{upload_key}\"\n", paths);
    let config = read(&text);
    let rule = config.rules.values().next().unwrap();
    assert_eq!(rule.event_values.iter().collect::<Vec<_>>(), ["upload_key", "user_id"]);
}

#[test]
fn a_rule_that_waits_has_an_age_and_nothing_else_that_says_when() {
    insta::assert_snapshot!(refused(&rule(
        "on_event = \"a.b\"\nmatch = { a = \"b\" }\nallow_sub_day = true\nschedule = \"0 3 * * *\""
    )));
}

#[test]
fn what_no_event_names_must_go_as_well_and_events_name_something() {
    insta::assert_snapshot!(refused(&on_rows("on_event = [\"a.b\", \"A b\", \"a.b\"]")));
}

#[test]
fn what_belongs_to_events_is_refused_without_them() {
    insta::assert_snapshot!(refused(&on_rows("max_age = \"1 hour\"\nmatch = { a = \"b\" }")));
}

#[test]
fn an_event_never_means_everything() {
    let files = format!("{UPLOADS}{FACES}").replace("faces/{upload_key}", "faces/*");
    assert!(refused(&files).contains("an event would mean all of this path"));
    for (matching, said) in [
        ("{}", "every event would mean every row"),
        ("{ a = 1 }", "takes the name of an event's value"),
        ("{ a = \"\" }", "have names"),
        ("\"a\"", "`match` takes a table"),
    ] {
        let lines = format!("on_event = \"a.b\"\nmax_age = \"1 hour\"\nmatch = {matching}");
        let shown = refused(&on_rows(&lines));
        assert!(shown.contains(said), "{matching}: {shown}");
    }
    let ambiguous = on_rows("on_event = \"a.b\"\nmatch = { a = \"b\" }\nmax_age = \"6m\"");
    assert!(refused(&ambiguous).contains("is ambiguous"));
}

// --- sources --------------------------------------------------------------------------------------

fn with_source(lines: &str) -> String {
    rule("") + UPLOADS + FACES + SOURCE + lines
}

#[test]
fn events_are_found_in_a_table() {
    let config = read(&with_source("notify = \"jobs\"\nchanged_at_unit = \"seconds\"\n"));
    let source = config.sources.values().next().unwrap();
    assert_eq!((source.store.as_str(), source.table.to_string().as_str()), ("app", "jobs"));
    assert_eq!(source.events["done"].as_str(), "synthesis.finished");
    assert_eq!((source.status.as_str(), source.changed_at.column.as_str()), ("state", "changed"));
    assert_eq!(
        (source.values.as_slice(), source.notify.as_deref()),
        (&["upload_key".to_owned()][..], Some("jobs"))
    );
    assert_eq!((source.poll, source.overlap), (Duration::from_secs(10), Duration::from_mins(15)));
    let times = read(&with_source("poll = \"1 s\"\noverlap = \"24 hours\"\n"));
    let source = times.sources.values().next().unwrap();
    assert_eq!((source.poll, source.overlap), (Duration::from_secs(1), Duration::from_hours(24)));
    let variables = [
        ("EXPUNGED__SOURCE__SYNTHESIS__POLL", "2 s"),
        ("EXPUNGED__SOURCE__SYNTHESIS__EVENTS__DONE", "synthesis.failed"),
    ];
    let other = good(&[("expunged.toml", &with_source(""))], &variables);
    let source = other.sources.values().next().unwrap();
    assert_eq!(source.poll, Duration::from_secs(2));
    assert_eq!(source.events["done"].as_str(), "synthesis.failed");
    let silent = read(&(rule("") + UPLOADS + FACES));
    assert_ne!(silent.digest(), config.digest());
}

#[test]
fn a_source_has_listeners_and_what_they_need() {
    let text = with_source("notify = \"jobs\"\npoll = \"2 hours\"\noverlap = \"1 s\"\n")
        .replace("values = [\"upload_key\"]", "values = [\"upload_id\", \"upload-key\"]")
        .replace("failed = \"synthesis.failed\"", "failed = \"synthesis.faild\", gone = \"x.y\"")
        .replace("kind = \"postgres\"\nurl = \"postgres://", "kind = \"mysql\"\nurl = \"mysql://");
    insta::assert_snapshot!(refused(&text));
}

#[test]
fn a_source_that_lacks_everything_says_so_at_once() {
    let text = format!("{UPLOADS}[source.a]\nstore = \"uploads\"\nevents = {{}}\nvalue = \"x\"\n");
    insta::assert_snapshot!(refused(&text));
}

#[test]
fn a_rule_that_is_wrong_is_not_said_to_miss_events_too() {
    let text = with_source("").replace("max_age = \"1 hour\"", "max_age = \"1 houre\"");
    let error = error(&[("expunged.toml", &text)], &[]);
    assert_eq!(error.diagnostics().len(), 1, "{error}");
}

// --- what is never shared -------------------------------------------------------------------------

/// Two rules on stores of all kinds, the first of which says that nothing is shared.
fn sharing(first: &str, second: &str) -> String {
    let rest = "action = \"delete\"\nretention = \"2 days\"\n";
    format!(
        "{UPLOADS}[store.same]\nkind = \"files\"\nroot = \"/srv/uploads/faces\"\n\
         [store.app]\nkind = \"sqlite\"\nurl = \"sqlite:/a.db\"\n\
         [rule.a]\n{rest}recipients = \"none\"\n{first}\n[rule.b]\n{rest}{second}\n"
    )
}

#[test]
fn a_rule_that_meets_what_is_never_shared_says_so_too() {
    let rows = "store = \"app\"\nstarting_point = \"at\"\n";
    let faces = "store = \"uploads\"\npath = \"faces/*\"\n";
    let attached = format!(
        "{rows}table = \"t\"\nattachments = [{{ store = \"uploads\", path = \"faces/{{key}}\" }}]\n"
    );
    for (first, second, meets) in [
        (faces, faces, true),
        (faces, "store = \"uploads\"\npath = [\"x/*\", \"fac*\"]\n", true),
        (faces, "store = \"uploads\"\npath = \"thumbs/*\"\n", false),
        (faces, "store = \"same\"\npath = \"thumbs/*\"\n", true),
        (faces, attached.as_str(), true),
        (attached.as_str(), faces, true),
        (&format!("{rows}table = \"T\"\n"), attached.as_str(), true),
        (&format!("{rows}table = \"main.T\"\n"), attached.as_str(), true),
        (&format!("{rows}table = \"other\"\n"), attached.as_str(), false),
    ] {
        let text = sharing(first, second);
        if meets {
            let shown = refused(&text);
            let said = "rule `b` could share what rule `a` says is never shared";
            assert!(shown.contains(said), "{first}{second}{shown}");
            let config = read(&text.replace("[rule.b]", "[rule.b]\nrecipients = \"none\""));
            assert!(config.rules.values().all(|rule| rule.sharing == Sharing::Never));
        } else {
            read(&text);
        }
    }
    insta::assert_snapshot!(refused(&sharing(faces, &attached)));
}

#[test]
fn what_is_never_shared_may_be_held_all_the_same() {
    let config = read(&rule("recipients = \"none\""));
    let rule = config.rules.values().next().unwrap();
    assert_eq!((rule.sharing, &rule.holds), (Sharing::Never, &HoldPolicy::Apply));
}
