//! The configuration from outside: the samples, what errors look like, and what never happens.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use expunged::config::{
    Config, ConfigError, InputFile, LogFormat, Secret, StoreConfig, TablesConfig,
};
use expunged::rule::{AccessPath, Action, Mode, Rule};
use jiff::civil::Date;
use proptest::prelude::*;

#[path = "config/backups.rs"]
mod backups;
#[path = "config/dependents.rs"]
mod dependents;
#[path = "config/events.rs"]
mod events;
#[path = "config/pacing.rs"]
mod pacing;
#[path = "config/recipients.rs"]
mod recipients;
#[path = "config/stores.rs"]
mod stores;
#[path = "config/tellings.rs"]
mod tellings;

const FOLDER: &str = "/etc/expunged";

fn input(files: &[(&str, &str)]) -> Vec<InputFile> {
    let file = |(name, text): &(&str, &str)| InputFile {
        path: Path::new(FOLDER).join(name),
        bytes: text.as_bytes().to_vec(),
    };
    files.iter().map(file).collect()
}

fn parse(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    Config::parse(input(files), Path::new(FOLDER), variables)
}

fn error(files: &[(&str, &str)], variables: &[(&str, &str)]) -> ConfigError {
    parse(files, variables).expect_err("this must be refused")
}

fn good(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Config {
    parse(files, variables).unwrap_or_else(|error| panic!("{error}"))
}

fn tables(store: &StoreConfig) -> &TablesConfig {
    store.tables().expect("it is a database")
}

fn earliest(rule: &Rule) -> Date {
    rule.rows().expect("it is of rows").starting_point.earliest
}

/// A whole rule, with lines put over those of the same key.
fn rule(lines: &str) -> String {
    let key = |line: &str| line.split('=').next().unwrap_or("").trim().to_owned();
    let standing = "store = \"app\"\ntable = \"users\"\nstarting_point = \"seen_at\"\nretention = \"2 years\"\naction = \"delete\"\n";
    let replaced: Vec<String> = lines.lines().map(key).collect();
    let kept: String = standing
        .lines()
        .filter(|line| !replaced.contains(&key(line)))
        .flat_map(|line| [line, "\n"])
        .collect();
    format!(
        "[store.app]\nkind = \"postgres\"\nurl = \"postgres://expunged@db/app\"\n\n[rule.inactive]\n{kept}{lines}\n"
    )
}

fn rule_error(lines: &str) -> ConfigError {
    error(&[("expunged.toml", &rule(lines))], &[])
}

fn samples() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/conf.d");
    let mut paths: Vec<_> =
        fs::read_dir(folder).expect("config/conf.d").flatten().map(|e| e.path()).collect();
    paths.sort();
    paths
}

fn main_sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/expunged.toml")
}

const WEBHOOK: &str = "[audit]\ncheckpoint_webhook = ";

#[test]
fn checkpoints_go_where_the_configuration_says() {
    let none = good(&[("expunged.toml", "")], &[]).audit;
    assert_eq!(none, expunged::config::AuditConfig::default());
    let text = "[audit]\ncheckpoint_file = \"out/checkpoints\"\ncheckpoint_journal = true\n\
                checkpoint_every = \"15 minutes\"\n\
                checkpoint_webhook = { url = \"https://w.example/x\", authorization = { env = \"TOKEN\" } }";
    let audit = good(&[("expunged.toml", text)], &[]).audit;
    assert_eq!(audit.checkpoint_file.as_deref(), Some(Path::new("/etc/expunged/out/checkpoints")));
    assert!(audit.checkpoint_journal);
    assert_eq!(audit.checkpoint_every, Duration::from_mins(15));
    let webhook = audit.checkpoint_webhook.expect("it is there");
    assert_eq!((webhook.url.as_str(), webhook.internal), ("https://w.example/x", false));
    assert_eq!(webhook.authorization, Some(Secret::Env("TOKEN".into())));
    let internal = format!("{WEBHOOK}{{ url = \"http://10.0.0.7/x\", internal = true }}");
    assert!(good(&[("expunged.toml", &internal)], &[]).audit.checkpoint_webhook.is_some());
}

#[test]
fn checkpoints_do_not_go_where_anyone_could_change_them() {
    for (webhook, said) in [
        ("{ url = \"http://w.example/x\" }", "anyone on the way"),
        ("{ url = \"ftp://w.example/x\" }", "not a URL for HTTP"),
        ("{ url = \"https://a:hunter2@w.example/x\" }", "a password does not belong"),
        ("{ internal = true }", "url"),
        ("{ url = \"https://w.example\", authorization = \"hunter2\" }", "takes a table"),
        ("{ url = \"https://w.example\" }\ncheckpoint_every = \"0 s\"", "out of bounds"),
    ] {
        let error = error(&[("expunged.toml", &format!("{WEBHOOK}{webhook}"))], &[]).to_string();
        assert!(error.contains(said), "{webhook}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

// --- what is installed ---------------------------------------------------------------------------

#[test]
fn the_samples_are_valid_all_together() {
    let config = Config::load(&main_sample(), std::iter::empty()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.files.len(), 1 + samples().len());
    let rules: Vec<_> = config.rules.keys().map(|name| name.as_str()).collect();
    assert_eq!(
        rules,
        [
            "access-log",
            "access-log-addresses",
            "closed-orders",
            "creations",
            "export-logs",
            "exports",
            "face-features",
            "face-photos",
            "inactive-accounts",
            "media",
        ]
    );
    assert!(config.rules.values().all(|rule| rule.mode == Mode::Observe), "no sample is armed");
    let app = &config.stores[&"app".parse().unwrap()];
    assert_eq!(tables(app).connect_timeout, Duration::from_secs(5), "conf.d overrides");
    assert_eq!(tables(app).url, Secret::Credential("app-db-url".into()));
}

#[test]
fn each_sample_is_valid_with_the_main_one_alone() {
    let read = |path: PathBuf| InputFile { bytes: fs::read(&path).unwrap(), path };
    for path in samples() {
        let files = vec![read(main_sample()), read(path.clone())];
        let result = Config::parse(files, Path::new(FOLDER), std::iter::empty());
        assert!(result.is_ok(), "{}: {}", path.display(), result.unwrap_err());
    }
    let alone = vec![read(main_sample())];
    Config::parse(alone, Path::new(FOLDER), std::iter::empty()).unwrap();
}

#[test]
fn the_defaults_that_the_sample_names_are_the_defaults() {
    let empty = good(&[("expunged.toml", "")], &[]);
    let main = [("expunged.toml", &*fs::read_to_string(main_sample()).unwrap())];
    let sample = good(&main, &[]);
    assert_eq!(empty.ledger.url, sample.ledger.url);
    assert_eq!(empty.keys, sample.keys);
    assert_eq!(empty.daemon, sample.daemon);
    assert_eq!(empty.audit, sample.audit);
    let rule = good(&[("expunged.toml", &rule(""))], &[]).rules.into_values().next().unwrap();
    let written = sample.rules.into_values().next().unwrap();
    assert_eq!(rule.mode, written.mode);
    assert_eq!(rule.schedule.to_string(), written.schedule.to_string());
    assert_eq!(earliest(&rule), earliest(&written));
    assert_eq!(rule.time_zone.iana_name(), Some("UTC"));
}

// --- what is read --------------------------------------------------------------------------------

#[test]
fn a_folder_with_a_configuration_can_be_moved() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("conf.d")).unwrap();
    fs::write(at("expunged.toml"), "[ledger]\nurl = \"sqlite:ledger.db\"\n").unwrap();
    let app = "[store.app]\nkind = \"sqlite\"\nurl = \"sqlite://app.db\"\n\
        read_only_url = { file = \"secrets/url\" }\n";
    fs::write(at("conf.d/app.toml"), app).unwrap();
    fs::write(at("conf.d/.app.toml"), "an editor's left-over").unwrap();
    fs::write(at("conf.d/app.toml.bak"), "not a configuration").unwrap();
    let config = Config::load(&at("expunged.toml"), std::iter::empty()).unwrap();
    let Secret::Literal(url) = &tables(&config.stores[&"app".parse().unwrap()]).url else {
        panic!()
    };
    assert_eq!(url.as_str(), format!("sqlite://{}", at("app.db").display()));
    let read_only = tables(&config.stores[&"app".parse().unwrap()]).read_only_url.clone();
    assert_eq!(read_only, Some(Secret::File(at("secrets/url"))));
    assert_eq!(config.keys, at("keys"), "beside the ledger");
    assert_eq!(config.files, [at("expunged.toml"), at("conf.d/app.toml")]);
}

#[test]
fn fragments_are_layered_in_byte_order_of_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("conf.d")).unwrap();
    fs::write(at("expunged.toml"), "[daemon]\nlog = \"auto\"\n").unwrap();
    for (name, log) in [("10-b", "json"), ("9-a", "human"), ("a", "journald"), ("Z", "json")] {
        let text = format!("[daemon]\nlog = \"{log}\"\n");
        fs::write(at("conf.d").join(format!("{name}.toml")), text).unwrap();
    }
    let config = Config::load(&at("expunged.toml"), std::iter::empty()).unwrap();
    assert_eq!(config.daemon.log, LogFormat::Journald);
    let names: Vec<_> =
        config.files[1..].iter().map(|f| f.file_stem().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["10-b", "9-a", "Z", "a"]);
}

#[test]
fn variables_override_files_and_are_parsed_as_their_key_needs() {
    let lines = "retention = \"6 minutes\"\naction = \"anonymize\"\n[rule.inactive.columns]\nZip-Code = { strategy = \"partial\", keep_first = 2 }";
    let text = rule(lines).replace("rule.inactive", "rule.inactive-accounts");
    let config = good(
        &[("expunged.toml", &text)],
        &[
            ("EXPUNGED__RULE__INACTIVE_ACCOUNTS__MODE", "enforce"),
            ("EXPUNGED__RULE__INACTIVE_ACCOUNTS__ALLOW_SUB_DAY", "true"),
            ("EXPUNGED__RULE__INACTIVE_ACCOUNTS__COLUMNS__ZIP_CODE__KEEP_FIRST", "3"),
            ("EXPUNGED__DAEMON__STOP_DEADLINE", "5s"),
            ("EXPUNGED__STORE__APP__READ_ONLY_URL__CREDENTIAL", "reader"),
            ("EXPUNGED_LOG", "not one of these"),
            ("HOME", "/root"),
        ],
    );
    let rule = &config.rules[&"inactive-accounts".parse().unwrap()];
    assert_eq!(rule.mode, Mode::Enforce);
    let Action::Anonymize(anonymization) = &rule.action else { panic!() };
    assert!(format!("{anonymization:?}").contains("keep_first: 3"));
    assert_eq!(config.daemon.stop_deadline, Duration::from_secs(5));
    let app = &config.stores[&"app".parse().unwrap()];
    assert_eq!(tables(app).read_only_url, Some(Secret::Credential("reader".into())));
}

#[test]
fn a_password_in_a_variable_stays_in_the_variable() {
    let url = ("EXPUNGED__STORE__APP__URL", "postgres://app:hunter2@db/app");
    let config = good(&[("expunged.toml", &rule(""))], &[url]);
    let app = &config.stores[&"app".parse().unwrap()];
    assert_eq!(tables(app).url, Secret::Env(url.0.into()));
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn a_later_layer_may_name_a_secret_in_another_way() {
    let later = "[store.app]\nurl = { file = \"/run/app-url\" }\n";
    let first = rule("").replace("\"postgres://expunged@db/app\"", "{ credential = \"app\" }");
    let config = good(&[("expunged.toml", &first), ("conf.d/a.toml", later)], &[]);
    let app = &config.stores[&"app".parse().unwrap()];
    assert_eq!(tables(app).url, Secret::File("/run/app-url".into()));
}

// --- what errors look like -----------------------------------------------------------------------

/// The report, and that it is given in one form only besides colours.
macro_rules! snapshot {
    ($error:expr) => {
        insta::assert_snapshot!($error.to_string())
    };
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let main = "\
[ledger]
url = \"mysql://ledger@db/ledger\"

[daemon]
stop_dedline = \"30 seconds\"
log = 1

[store.app]
kind = \"postgresql\"

[rule.Inactive]
store = \"app\"

[rule.inactive]
store = \"ap\"
table = \"users\"
starting_point = \"seen_at\"
retentoin = \"2 years\"
action = \"remove\"
mode = \"enforse\"

[stores.shop]
kind = \"mysql\"
";
    snapshot!(error(&[("expunged.toml", main)], &[]));
}

#[test]
fn an_unknown_key_comes_with_the_one_that_was_meant() {
    snapshot!(rule_error("shedule = \"0 4 * * *\"\ncolour = \"red\""));
}

#[test]
fn wrong_types_are_not_converted() {
    snapshot!(rule_error("retention = 730\nallow_sub_day = \"yes\"\nearliest = 1.5\nwhere = true"));
}

#[test]
fn numbers_are_whole_and_within_bounds() {
    snapshot!(rule_error(
        "action = \"anonymize\"\n[rule.inactive.columns]\n\
         age = { strategy = \"generalize\", step = 1 }\n\
         ip = { strategy = \"generalize\", ipv4_prefix = 24, ipv6_prefix = 129 }\n\
         zip = { strategy = \"partial\", keep_first = 2.0 }\n\
         phone = { strategy = \"partial\", keep_first = -1, mask = \"xx\" }"
    ));
}

#[test]
fn a_typed_in_password_is_refused_and_not_shown() {
    let text = rule("").replace("expunged@db", "expunged:hunter2@db");
    let error = error(&[("expunged.toml", &text)], &[]);
    assert!(!format!("{error} {error:?} {}", error.coloured()).contains("hunter2"));
    snapshot!(error);
}

#[test]
fn a_password_is_not_shown_by_other_errors_on_its_line() {
    for text in [
        "store = { app = { kind = \"postgre\", url = \"postgres://app:hunter2@db/app\" } }",
        "store.app = { kind = 1, url = \"postgres://app:hunter2@db/app\", x = 1 }",
        "[store.app]\nurl = postgres://app:hunter2@db/app\n",
        "[store.app]\nurl = \"postgres://app:hunter2@db/app\n",
        "[store.app]\npassword = hunter2\n",
        "[store.app]\nkind = \"postgres\"\npasswd = \"hunter2\"\nword = \"hunter2\"\n",
        "[store.app]\nkind = \"postgres\"\nurl = \"postgres://app:hunter\\u0032@db/app\"\n# hunter",
        "[store.app]\nkind = \"postgres\"\nurl = \"postgres://app:hunter2\\u0040db/app\"\n",
        "[store.app]\nkind = \"postgres\"\nurl = \"postgres:app:hunter2@db/app\"\n",
        "[store.app]\nkind = \"postgres://app:hunter2@db/app\"\n",
        "[store.app]\nkind = \"postgres\"\nurl = \"postgres://db/app?user=a&password=hunter2\"\n",
        "[store.app]\nkind = \"postgres\"\nurl = { credential = \"app/hunter2\" }\n",
        "[store.app]\nkind = \"postgres\"\nurl = { env = \"postgres://app:hunter2@db/app\" }\n",
        "[store.app]\nkind = \"postgres\"\nurl = { password = \"hunter2\" }\n",
        "[store]\napp = \"postgres://app:hunter2@db/app\"\n",
        "stores = { app = { url = \"x\", pw = \"hunter2\" } }",
        "url = \"hunter2\"",
    ] {
        let error = error(&[("expunged.toml", text)], &[]);
        let shown = format!("{error} {error:?} {}", error.coloured());
        assert!(!shown.contains("hunter2"), "{text}\n{error}");
        let json = serde_json::to_string(error.diagnostics()).unwrap();
        assert!(!json.contains("hunter2"), "{text}\n{json}");
    }
    let error = error(&[("expunged.toml", &rule(""))], &[("EXPUNGED__STORE__APP__PW", "hunter2")]);
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
}

#[test]
fn a_contradiction_over_two_files_shows_both() {
    let later = "[rule.inactive.columns]\nemail = \"null\"\n";
    snapshot!(error(&[("expunged.toml", &rule("")), ("conf.d/20-columns.toml", later)], &[]));
}

#[test]
fn contradictions_within_a_rule() {
    snapshot!(rule_error(
        "action = \"anonymize\"\nmarker = \"Seen_At\"\nsubject = \"seen_at\"\nallow_sub_day = true\n\
         starting_point_unit = \"seconds\"\nstarting_point_time_zone = \"Europe/Berlin\"\n\
         [rule.inactive.columns]\nseen_at = \"null\"\nemail = \"hmac\""
    ));
}

#[test]
fn a_rule_may_pin_its_access_path() {
    let path = |lines: &str| {
        let config = good(&[("expunged.toml", &rule(lines))], &[]);
        config.rules.values().next().and_then(|rule| rule.rows()).expect("it is of rows").access
    };
    assert_eq!(path(""), None);
    assert_eq!(path("access = \"auto\""), None);
    for pinned in AccessPath::ALL {
        assert_eq!(path(&format!("access = \"{pinned}\"")), Some(pinned));
    }
    snapshot!(rule_error("access = \"ctid\""));
}

#[test]
fn that_no_legal_hold_stops_a_rule_needs_a_reason() {
    let wrong = |text: &str| rule_error(text).to_string();
    let error = wrong("holds = \"not applicable\"");
    assert!(error.contains("needs a reason") && error.contains("holds_reason"), "{error}");
    let error = wrong("holds_reason = \"because\"");
    assert!(error.contains("holds = \"not applicable\""), "{error}");
    let error = wrong("holds = \"apply\"\nholds_reason = \"because\"");
    assert!(error.contains("legal holds apply"), "{error}");
}

#[test]
fn anonymizing_needs_columns_and_maybe_a_marker() {
    let one = rule("action = \"anonymize\"");
    let two = "[rule.two]\nstore = \"app\"\ntable = \"t\"\nstarting_point = \"at\"\nretention = \"1 day\"\naction = \"anonymize\"\n[rule.two.columns]\nemail = \"random\"\n";
    snapshot!(error(&[("expunged.toml", &format!("{one}\n{two}"))], &[]));
}

#[test]
fn a_store_is_not_the_ledger_and_its_url_is_of_its_kind() {
    let text = "\
[ledger]
url = \"sqlite:ledger.db\"

[store.self]
kind = \"sqlite\"
url = \"sqlite:///etc/expunged/ledger.db\"

[store.other]
kind = \"mysql\"
url = \"postgres://app@db/app\"
read_only_url = { credential = \"a\", env = \"B\" }

[store.memory]
kind = \"sqlite\"
url = \"sqlite::memory:\"
connect_timeout = \"2 days\"
";
    snapshot!(error(&[("expunged.toml", text)], &[]));
}

#[test]
fn a_retention_below_a_day_needs_a_plain_opt_in() {
    snapshot!(rule_error("retention = \"6 minutes\""));
}

#[test]
fn months_or_minutes() {
    snapshot!(rule_error("retention = \"6m\""));
}

#[test]
fn an_unkeyed_hash_is_refused_with_its_reason() {
    snapshot!(rule_error(
        "action = \"anonymize\"\n[rule.inactive.columns]\n\
         email = \"sha256\"\nphone = { strategy = \"MD5\" }\nname = \"fake\"\nzip = \"nul\""
    ));
}

#[test]
fn a_schedule_and_a_time_zone_that_do_not_exist() {
    snapshot!(rule_error("schedule = \"0 0 3 * * *\"\ntime_zone = \"Europe/Berln\""));
}

#[test]
fn a_condition_that_is_more_or_less_than_one_expression() {
    let rules: String = ["a = 1) OR (1 = 1", "a = ", "a = 1 -- all"]
        .iter()
        .enumerate()
        .map(|(number, condition)| {
            format!(
                "[rule.r{number}]\nstore = \"app\"\ntable = \"t\"\nstarting_point = \"at\"\n\
                 retention = \"1 year\"\naction = \"delete\"\nwhere = \"{condition}\"\n"
            )
        })
        .collect();
    snapshot!(error(&[("expunged.toml", &(rule("") + &rules))], &[]));
}

#[test]
fn a_variable_that_reaches_nothing_is_named() {
    snapshot!(error(
        &[("expunged.toml", &rule(""))],
        &[
            ("EXPUNGED__RULE__INACTIVE__MOED", "enforce"),
            ("EXPUNGED__RULE__INACTIV__MODE", "enforce"),
            ("EXPUNGED__RULES__INACTIVE__MODE", "enforce"),
            ("EXPUNGED__RULE__INACTIVE", "enforce"),
            ("EXPUNGED__RULE__INACTIVE__ALLOW_SUB_DAY", "maybe"),
            ("EXPUNGED__RULE__INACTIVE__MODE", "enforse"),
            ("EXPUNGED__STORE__OTHER__KIND", "mysql"),
            ("EXPUNGED__LEDGER__URL", "sqlite:a.db"),
            ("EXPUNGED__LEDGER__URL__FILE", "b"),
        ],
    ));
}

#[test]
fn a_syntax_error_hides_no_errors_of_other_files() {
    let broken = "[store.app]\nkind = \"postgres\nurl = 'sqlite:a'\n[rule.other\nmode = 1\n";
    let other = rule("retention = \"6m\"").replace("\"app\"", "\"elsewhere\"");
    snapshot!(error(&[("expunged.toml", broken), ("conf.d/10-rule.toml", &other)], &[]));
}

#[test]
fn what_is_not_text_or_not_there() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("conf.d/folder.toml")).unwrap();
    fs::write(folder.path().join("conf.d/a.toml"), b"[daemon]\nlog = \"\xff\"\n").unwrap();
    let error = Config::load(&folder.path().join("expunged.toml"), std::iter::empty()).unwrap_err();
    let shown = error.to_string().replace(folder.path().to_str().unwrap(), FOLDER);
    insta::assert_snapshot!(shown);
}

#[test]
fn errors_are_also_data() {
    let later = "[rule.inactive]\ncolumns.email = \"null\"\n";
    let text = rule("retention = \"6m\"");
    let error = error(&[("expunged.toml", &text), ("conf.d/a.toml", later)], &[]);
    insta::assert_json_snapshot!(error.diagnostics());
}

#[test]
fn colours_change_nothing_but_the_look() {
    let error = rule_error("retention = \"6m\"");
    assert!(error.coloured().contains("\u{1b}["));
    assert!(!error.to_string().contains('\u{1b}'));
    for diagnostic in error.diagnostics() {
        assert!(error.coloured().contains(&diagnostic.message));
    }
}

// --- what never happens --------------------------------------------------------------------------

/// Pieces that, put together, get further than random bytes do.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "[store.app]\n",
        "[rule.a]\n",
        "[rule.a.columns]\n",
        "[ledger]\n",
        "[daemon]\n",
        "[[rule]]\n",
        "[[rule.a.attachments]]\n",
        "[source.a]\n",
        "path",
        "on_event",
        "max_age",
        "match",
        "events",
        "values",
        "root",
        "bucket",
        "\"files\"",
        "\"objects\"",
        "\"faces/{key}\"",
        "[\"a.b\", \"c\"]",
        "kind",
        "url",
        "store",
        "table",
        "where",
        "starting_point",
        "retention",
        "action",
        "columns",
        "marker",
        "subject",
        "mode",
        "schedule",
        "earliest",
        "strategy",
        "step",
        " = ",
        "=",
        ".",
        ",",
        "\"",
        "'",
        "'''",
        "{",
        "}",
        "[",
        "]",
        "\n",
        "#",
        "\\u0040",
        "é",
        "\u{feff}",
        "\0",
        "1",
        "-1",
        "1.5",
        "true",
        "1970-01-02",
        "\"app\"",
        "\"delete\"",
        "\"anonymize\"",
        "\"2 years\"",
        "\"6m\"",
        "\"sqlite:a.db\"",
        "\"postgres://u:p@h\"",
        "\"hmac\"",
        "\"partial\"",
        "\"a = 1\"",
        "\"(\"",
        "99999999999999999999999999999999999999999999",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn toml_string(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_bytes_make_it_panic(a in prop::collection::vec(any::<u8>(), 0..200), b in pieces()) {
        let files = vec![
            InputFile { path: "a.toml".into(), bytes: a },
            InputFile { path: "b.toml".into(), bytes: b.into_bytes() },
        ];
        let _ = Config::parse(files, Path::new(FOLDER), std::iter::empty());
    }

    #[test]
    fn no_pieces_make_it_panic(a in pieces(), b in pieces(), name in "(RULE|STORE|LEDGER|X)?(__[A-Z_]{0,6}){0,4}", value in ".{0,10}") {
        let files = input(&[("a.toml", &a), ("b.toml", &b)]);
        let variable = (format!("EXPUNGED__{name}"), value);
        let _ = Config::parse(files, Path::new(FOLDER), std::iter::once(variable));
    }

    #[test]
    fn no_value_makes_it_panic_wherever_it_stands(key in prop::sample::select(vec![
        "store", "table", "where", "starting_point", "starting_point_unit", "starting_point_time_zone",
        "earliest", "retention", "action", "marker", "subject", "schedule", "time_zone", "mode",
    ]), value in prop_oneof![".{0,30}", "[0-9a-z *,/()'=<>@:-]{0,30}"]) {
        let text = rule(&format!("{key} = {}", toml_string(&value)));
        let _ = parse(&[("expunged.toml", &text)], &[]);
    }

    /// Whatever goes wrong around it, and wherever it was put.
    #[test]
    fn no_error_shows_a_password(before in pieces(), after in pieces(), last in pieces()) {
        let text = format!("{before}\"postgres://u:hunter2@h\"{after}");
        let url = ("EXPUNGED__STORE__APP__URL", "postgres://u:hunter2@h");
        for (text, variables) in [(&text, &[][..]), (&rule(&text), &[url])] {
            let Err(error) = parse(&[("a.toml", text), ("b.toml", &last)], variables) else { continue };
            let shown = format!("{error} {error:?} {}", error.coloured());
            prop_assert!(!shown.contains("hunter2"), "{}", error);
        }
    }

    #[test]
    fn every_error_has_a_place_in_its_file(a in pieces(), b in pieces()) {
        let files = [("a.toml", a.as_str()), ("b.toml", b.as_str())];
        let Err(error) = parse(&files, &[]) else { return Ok(()) };
        prop_assert!(!error.diagnostics().is_empty());
        for diagnostic in error.diagnostics() {
            let (_, text) = files
                .iter()
                .find(|(name, _)| diagnostic.file == format!("{FOLDER}/{name}"))
                .expect("one of the files");
            let lines = text.matches('\n').count() + 1;
            prop_assert!((1..=lines).contains(&diagnostic.line.unwrap()), "{:?}", diagnostic);
            prop_assert!(diagnostic.column.unwrap() >= 1);
        }
    }

    /// Each key takes the value of the last layer that sets it.
    #[test]
    fn later_layers_win_key_by_key(
        layers in prop::collection::vec(prop::collection::btree_map(0usize..4, 1u32..50, 0..4), 1..5),
        variables in prop::collection::btree_map(0usize..4, 1u32..50, 0..4),
    ) {
        let keys = ["connect_timeout", "stop_deadline", "retention", "description"];
        let write = |key: usize, number: u32| match key {
            3 => format!("text {number}"),
            2 => format!("{number} years"),
            _ => format!("{number} seconds"),
        };
        let table = ["[store.app]", "[daemon]", "[rule.inactive]", "[rule.inactive]"];
        let mut files = vec![("expunged.toml".to_owned(), rule("description = \"text 0\""))];
        let mut expected = BTreeMap::from([(0, 10), (1, 30), (2, 2), (3, 0)]);
        for (number, layer) in layers.iter().enumerate() {
            let mut text = String::new();
            // The two keys of the rule share a header.
            for section in 0..3 {
                let of_section = |key: &usize| table[*key] == table[section];
                let lines: String = layer.iter().filter(|(key, _)| of_section(key))
                    .map(|(key, value)| format!("{} = \"{}\"\n", keys[*key], write(*key, *value)))
                    .collect();
                if !lines.is_empty() {
                    text += &format!("{}\n{lines}", table[section]);
                }
            }
            files.push((format!("conf.d/{number}.toml"), text));
            expected.extend(layer.clone());
        }
        expected.extend(variables.clone());
        let section = ["STORE__APP", "DAEMON", "RULE__INACTIVE", "RULE__INACTIVE"];
        let variables: Vec<_> = variables.iter().map(|(key, value)| {
            let name = format!("EXPUNGED__{}__{}", section[*key], keys[*key].to_uppercase());
            (name, write(*key, *value))
        }).collect();
        let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let variables: Vec<_> = variables.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let config = good(&files, &variables);
        let rule = &config.rules[&"inactive".parse().unwrap()];
        let timeout = tables(&config.stores[&"app".parse().unwrap()]).connect_timeout.as_secs();
        prop_assert_eq!(timeout, u64::from(expected[&0]));
        prop_assert_eq!(config.daemon.stop_deadline.as_secs(), u64::from(expected[&1]));
        prop_assert_eq!(rule.retention.to_string(), write(2, expected[&2]));
        prop_assert_eq!(rule.description.clone().unwrap(), write(3, expected[&3]));
    }
}
