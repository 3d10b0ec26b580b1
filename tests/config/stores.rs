//! Files and objects: their stores, the rules on them, and what belongs to rows.

use std::path::Path;
use std::time::Duration;

use expunged::config::{Config, FilesConfig, ObjectsConfig, Secret, Service, System};
use expunged::rule::{Action, PathStart, Paths, Rule, Selection};

use super::{error, good, rule};

const UPLOADS: &str = "[store.uploads]\nkind = \"files\"\nroot = \"/srv/uploads\"\n";

fn read(text: &str) -> Config {
    good(&[("expunged.toml", text)], &[])
}

fn refused(text: &str) -> String {
    error(&[("expunged.toml", text)], &[]).to_string()
}

fn system(config: &Config, name: &str) -> System {
    config.stores[&name.parse().expect("a name")].system.clone()
}

fn one_rule<'a>(config: &'a Config, name: &str) -> &'a Rule {
    &config.rules[&name.parse().expect("a name")]
}

fn paths(rule: &Rule) -> &Paths {
    match &rule.select {
        Selection::Paths(paths) => paths,
        Selection::Rows(_) => panic!("it is on paths"),
    }
}

/// A rule on `uploads`, with lines put over those of the same key.
fn on_files(lines: &str) -> String {
    let key = |line: &str| line.split('=').next().unwrap_or("").trim().to_owned();
    let replaced: Vec<String> = lines.lines().map(key).collect();
    let standing =
        "store = \"uploads\"\npath = \"faces/*\"\nretention = \"2 days\"\naction = \"delete\"";
    let kept: Vec<&str> = standing.lines().filter(|line| !replaced.contains(&key(line))).collect();
    format!("{UPLOADS}\n[rule.faces]\n{}\n{lines}\n", kept.join("\n"))
}

// --- stores ---------------------------------------------------------------------------------------

#[test]
fn a_tree_of_files_has_a_root_and_is_careful_by_default() {
    let config = read(UPLOADS);
    let root = Path::new("/srv/uploads").to_owned();
    let (cross_mounts, remove_empty_folders, report_open_files) = (false, false, false);
    let expected = FilesConfig { root, cross_mounts, remove_empty_folders, report_open_files };
    assert_eq!(system(&config, "uploads"), System::Files(expected));
    let text = "[ledger]\nurl = \"sqlite:ledger.db\"\n[store.a]\nkind = \"files\"\nroot = \"./uploads/\"\n\
                cross_mounts = true\nremove_empty_folders = true\nreport_open_files = true\n";
    let System::Files(files) = system(&read(text), "a") else { panic!("files") };
    assert_eq!(files.root, Path::new("/etc/expunged/uploads"), "beside a ledger there is room");
    assert!(files.cross_mounts && files.remove_empty_folders && files.report_open_files);
}

#[test]
fn a_bucket_needs_little_and_takes_more() {
    let config = read("[store.media]\nkind = \"objects\"\nbucket = \"app-media\"\n");
    let expected = ObjectsConfig {
        service: Service::S3,
        bucket: "app-media".into(),
        prefix: None,
        endpoint: None,
        region: None,
        access_key_id: None,
        secret_access_key: None,
        timeout: Duration::from_secs(30),
    };
    assert_eq!(system(&config, "media"), System::Objects(expected));
    let text = "[store.media]\nkind = \"objects\"\nservice = \"s3\"\nbucket = \"b\"\nprefix = \"a/b/\"\n\
                endpoint = \"http://127.0.0.1:9000/\"\nregion = \"eu\"\naccess_key_id = \"AKIA1\"\n\
                secret_access_key = { file = \"key\" }\ntimeout = \"5 s\"\n";
    let System::Objects(media) = system(&read(text), "media") else { panic!("objects") };
    assert_eq!(media.prefix.as_deref(), Some("a/b/"));
    assert_eq!(media.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
    assert!(matches!(&media.access_key_id, Some(Secret::Literal(id)) if id.as_str() == "AKIA1"));
    assert_eq!(media.secret_access_key, Some(Secret::File("/etc/expunged/key".into())));
    let google = "[store.g]\nkind = \"objects\"\nservice = \"gcs\"\nbucket = \"b\"\n\
                  secret_access_key = { credential = \"google\" }\n";
    assert!(matches!(system(&read(google), "g"), System::Objects(g) if g.service == Service::Gcs));
}

#[test]
fn a_secret_in_a_variable_stays_in_the_variable() {
    let text = "[store.media]\nkind = \"objects\"\nbucket = \"b\"\naccess_key_id = \"AKIA1\"\n";
    let name = "EXPUNGED__STORE__MEDIA__SECRET_ACCESS_KEY";
    let config = good(&[("expunged.toml", text)], &[(name, "hunter2")]);
    let System::Objects(media) = system(&config, "media") else { panic!("objects") };
    assert_eq!(media.secret_access_key, Some(Secret::Env(name.into())));
    assert!(!format!("{config:?}").contains("hunter2"));
    let typed_in = format!("{text}secret_access_key = \"hunter2\"\n");
    let shown = refused(&typed_in);
    assert!(shown.contains("takes a table") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_root_is_far_from_what_must_stay() {
    for (root, said) in [
        ("/", "the whole file system"),
        ("/srv/../etc", "`..`"),
        ("~/uploads", "`~` is not expanded"),
        ("", "is empty"),
        ("/var", "expunged's own ledger"),
        ("/var/lib/expunged", "expunged's own ledger"),
        ("/var/lib/expunged/keys", "expunged's own keys"),
        ("/var/lib/expunged/keys/old", "the folder of expunged's own keys"),
        ("/etc", "this configuration"),
        (".", "this configuration"),
    ] {
        let shown = refused(&format!("[store.a]\nkind = \"files\"\nroot = \"{root}\"\n"));
        assert!(shown.contains(said), "{root}: {shown}");
    }
    let elsewhere = "[ledger]\nurl = \"postgres://db/ledger\"\n[keys]\ndirectory = \"/srv/a/keys\"\n\
                     [store.a]\nkind = \"files\"\nroot = \"/srv/a\"\n";
    assert!(refused(elsewhere).contains("own keys"));
    let checkpoints = "[audit]\ncheckpoint_file = \"/mnt/a/checkpoints\"\n\
                       [store.a]\nkind = \"files\"\nroot = \"/mnt/a\"\n";
    assert!(refused(checkpoints).contains("checkpoints would be among its files"));
}

#[test]
fn a_key_of_another_kind_of_store_is_refused_by_name() {
    let text = "[store.db]\nkind = \"postgres\"\nurl = \"postgres://db/app\"\nroot = \"/srv\"\n\n\
                [store.tree]\nkind = \"files\"\nroot = \"/srv/a\"\nurl = \"postgres://a:hunter2@db/app\"\nbucket = \"b\"\n\n\
                [store.media]\nkind = \"s3\"\nbucket = \"b\"\n\n\
                [store.google]\nkind = \"objects\"\nservice = \"gcs\"\nbucket = \"b\"\nregion = \"eu\"\naccess_key_id = \"a\"\ncross_mounts = true\n";
    let shown = refused(text);
    assert!(!shown.contains("hunter2"), "{shown}");
    insta::assert_snapshot!(shown);
}

#[test]
fn a_bucket_is_reached_safely() {
    let text = "[store.one]\nkind = \"objects\"\nbucket = \"s3://app/media\"\nprefix = \"up\"\nendpoint = \"http://s3.example\"\n\n\
                [store.two]\nkind = \"objects\"\nprefix = \"/a/\"\nendpoint = \"https://s3.example/bucket\"\naccess_key_id = \"AKIA\"\n\n\
                [store.three]\nkind = \"objects\"\nbucket = \"b\"\nendpoint = \"https://s3.example\"\ninternal = true\ntimeout = \"2 hours\"\n\n\
                [store.four]\nkind = \"objects\"\nbucket = \"b\"\nendpoint = \"https://a:hunter2@s3.example\"\nservice = \"aws\"\n";
    let shown = refused(text);
    assert!(!shown.contains("hunter2"), "{shown}");
    insta::assert_snapshot!(shown);
    let own = "[store.a]\nkind = \"objects\"\nbucket = \"b\"\nendpoint = \"http://10.0.0.7:9000\"\ninternal = true\n";
    read(own);
}

// --- rules on files and objects -------------------------------------------------------------------

#[test]
fn a_rule_on_files_says_which_by_their_paths() {
    let config = read(&on_files(
        "path = [\"faces/{user_id}/*\", \"old/**\"]\nsubject = \"user_id\"\nearliest = 2000-01-01",
    ));
    let rule = one_rule(&config, "faces");
    assert_eq!(rule.table.to_string(), "files");
    assert_eq!((&rule.action, rule.subject.as_deref()), (&Action::Delete, Some("user_id")));
    let paths = paths(rule);
    let texts: Vec<_> = paths.templates.iter().map(|template| template.as_str()).collect();
    assert_eq!(texts, ["faces/{user_id}/*", "old/**"]);
    assert!(matches!(paths.start, PathStart::Modified));
    assert_eq!(paths.earliest, jiff::civil::date(2000, 1, 1));
    assert!(rule.events.is_empty() && rule.event_values.is_empty());
}

#[test]
fn a_day_in_the_path_has_a_zone() {
    let config = read(&on_files(
        "path = \"logs/{date:%Y-%m-%d}/**\"\nstarting_point = \"path date\"\nstarting_point_time_zone = \"Europe/Berlin\"",
    ));
    let PathStart::Day(zone) = &paths(one_rule(&config, "faces")).start else { panic!("a day") };
    assert_eq!(zone.iana_name(), Some("Europe/Berlin"));
}

#[test]
fn a_rule_on_objects_is_like_one_on_files() {
    let text = on_files("")
        .replace("kind = \"files\"\nroot = \"/srv/uploads\"", "kind = \"objects\"\nbucket = \"b\"");
    assert_eq!(one_rule(&read(&text), "faces").table.to_string(), "objects");
}

#[test]
fn what_only_rows_have_is_refused_for_files_with_the_reason() {
    insta::assert_snapshot!(refused(&on_files(
        "table = \"users\"\nwhere = \"a = 1\"\naction = \"anonymize\"\nmarker = \"done\"\n\
         starting_point_unit = \"seconds\"\nmatch = { a = \"b\" }\ncolumns = { email = \"null\" }\n\
         attachments = [{ store = \"uploads\", path = \"a/{b}\" }]"
    )));
}

#[test]
fn a_path_is_for_files_and_a_table_for_databases() {
    insta::assert_snapshot!(refused(&rule("path = \"faces/*\"")));
}

#[test]
fn a_rule_on_files_needs_a_path_that_says_something() {
    for (lines, said) in [
        ("path = []", "an empty list"),
        ("path = [\"a\", 1]", "a text or a list of texts"),
        ("path = [\"a\", \" \"]", "is empty"),
        ("path = \"/etc/*\"", "not a path below the store's root"),
        ("path = \"../a\"", "not a path below the store's root"),
        ("path = \"a**\"", "stands for whole names"),
        ("path = \"{a\"", "is no placeholder"),
        ("path = \"{a}/{a}\"", "stands there twice"),
        ("path = \"{a}{b}\"", "could stand for more than one thing"),
        ("path = \"{date:%Y}\"", "does not say a day"),
        ("path = \"{date:%Y-%m-%d}\"", "does retention count from the date"),
        ("starting_point = \"path date\"", "this path has none"),
        ("starting_point = \"mtime\"", "did you mean `modified`?"),
        ("starting_point_time_zone = \"UTC\"", "whatever the time zone"),
        ("subject = \"user_id\"", "no path has a placeholder `user_id`"),
        ("path = \"{user}/*\"\nsubject = \"usr\"", "did you mean `user`?"),
    ] {
        let shown = refused(&on_files(lines));
        assert!(shown.contains(said), "{lines}: {shown}");
    }
    let lacking = on_files("").replace("path = \"faces/*\"\n", "");
    assert!(refused(&lacking).contains("lacks `path`"));
}

#[test]
fn a_later_file_replaces_a_list_whole() {
    let first = on_files("path = [\"a/*\", \"b/*\"]");
    let later = "[rule.faces]\npath = [\"c/*\"]\n";
    let config = good(&[("expunged.toml", &first), ("conf.d/a.toml", later)], &[]);
    assert_eq!(paths(one_rule(&config, "faces")).templates.len(), 1);
    let variable = ("EXPUNGED__RULE__FACES__PATH", "d/*,e/*");
    let config = good(&[("expunged.toml", &first)], &[variable]);
    let paths = paths(one_rule(&config, "faces"));
    assert_eq!(paths.templates[0].as_str(), "d/*,e/*", "one text is one path");
}

// --- attachments ----------------------------------------------------------------------------------

#[test]
fn what_belongs_to_a_row_is_named_by_its_columns() {
    let text = rule("")
        + UPLOADS
        + "[[rule.inactive.attachments]]\nstore = \"uploads\"\npath = \"faces/{face_key}\"\n\
           [[rule.inactive.attachments]]\nstore = \"uploads\"\npath = \"thumbs/{face_key}/*\"\n";
    let config = read(&text);
    let attachments = one_rule(&config, "inactive").attachments();
    assert_eq!(attachments.len(), 2);
    assert_eq!(attachments[1].store.as_str(), "uploads");
    assert_eq!(attachments[1].path.as_str(), "thumbs/{face_key}/*");
}

#[test]
fn what_could_belong_to_other_rows_is_refused() {
    let mut text = rule("") + UPLOADS;
    for (store, path) in [
        ("uploads", "faces/all.jpg"),
        ("uploads", "*/{key}"),
        ("uploads", "{date:%Y-%m-%d}/{key}"),
        ("app", "faces/{key}"),
        ("upload", "faces/{key}"),
    ] {
        text += &format!("[[rule.inactive.attachments]]\nstore = \"{store}\"\npath = \"{path}\"\n");
    }
    text += "[[rule.inactive.attachments]]\npaths = \"faces/{key}\"\n";
    insta::assert_snapshot!(refused(&text));
}

#[test]
fn attachments_are_a_list_of_tables() {
    let one = rule("attachments = { store = \"uploads\", path = \"a/{b}\" }");
    assert!(refused(&one).contains("`attachments` takes a list of tables"));
}
