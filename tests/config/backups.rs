//! Sets of backups: how they are listed, what they promise, and what is refused.

use std::path::Path;
use std::time::Duration;

use expunged::config::{BackupConfig, Catalogue, Config, Secret};
use expunged::rule::PathStart;

use super::{error, good};

const DAY: Duration = Duration::from_hours(24);
const STORES: &str = "[store.app]\nkind = \"postgres\"\nurl = \"postgres://expunged@db/app\"\n\
                      [store.dumps]\nkind = \"files\"\nroot = \"/srv/dumps\"\n";

fn read(text: &str) -> Config {
    good(&[("expunged.toml", &format!("{STORES}{text}"))], &[])
}

fn refused(text: &str) -> String {
    error(&[("expunged.toml", &format!("{STORES}{text}"))], &[]).to_string()
}

/// A set of a kind, with what is written besides.
fn set(kind: &str, lines: &str) -> String {
    format!(
        "[backup.nightly]\nkind = \"{kind}\"\nstores = [\"app\"]\nrotation = \"90 days\"\n{lines}"
    )
}

fn one(kind: &str, lines: &str) -> BackupConfig {
    read(&set(kind, lines)).backups.into_values().next().expect("there is one")
}

const RESTIC: &str = "repository = \"/srv/restic\"\npassword = { credential = \"restic\" }\n";
const PATHS: &str = "store = \"dumps\"\npath = \"{date:%Y-%m-%d}/app.dump\"\n";

// --- what can be written --------------------------------------------------------------------------

#[test]
fn little_is_needed_and_the_rest_has_defaults() {
    let restic = one("restic", RESTIC);
    let stores: Vec<_> = restic.stores.iter().map(|store| store.as_str()).collect();
    assert_eq!((restic.name.as_str(), stores), ("nightly", vec!["app"]));
    assert_eq!((restic.lead, restic.every), (Duration::ZERO, Duration::from_hours(1)));
    assert_eq!(restic.timeout, Duration::from_mins(5));
    assert_eq!((restic.terms.skew, restic.terms.grace), (Duration::from_mins(10), DAY));
    assert_eq!(restic.terms.rotation.as_str(), "90 days");
    assert_eq!(restic.terms.zone.iana_name(), Some("UTC"));
    assert!(!restic.terms.is_declared);
    let Catalogue::Restic(catalogue) = restic.catalogue else { panic!("restic") };
    assert_eq!(catalogue.program.path, Path::new("/usr/bin/restic"));
    assert_eq!(catalogue.password, Secret::Credential("restic".into()));
    assert!(catalogue.program.environment.is_empty() && catalogue.host.is_none());
}

#[test]
fn everything_can_be_said() {
    let lines = "time_zone = \"Europe/Berlin\"\nskew = \"0 s\"\nlead = \"2 hours\"\ngrace = \"2 days\"\n\
                 every = \"6 hours\"\ntimeout = \"500 ms\"\nprogram = \"/opt/restic\"\nhost = \"db1\"\ntag = \"db\"\n\
                 environment = { RESTIC_CACHE_DIR = \"/var/cache/restic\", AWS_SECRET_ACCESS_KEY = { env = \"KEY\" } }\n";
    let restic = one("restic", &format!("{RESTIC}{lines}"));
    assert_eq!((restic.terms.skew, restic.terms.grace), (Duration::ZERO, DAY * 2));
    assert_eq!((restic.lead, restic.every), (Duration::from_hours(2), Duration::from_hours(6)));
    assert_eq!(restic.timeout, Duration::from_millis(500));
    let Catalogue::Restic(catalogue) = restic.catalogue else { panic!("restic") };
    assert_eq!((catalogue.host.as_deref(), catalogue.tag.as_deref()), (Some("db1"), Some("db")));
    let key = &catalogue.program.environment["AWS_SECRET_ACCESS_KEY"];
    assert_eq!(*key, Secret::Env("KEY".into()));
}

#[test]
fn each_kind_has_its_own() {
    let Catalogue::PgBackRest(pgbackrest) =
        one("pgbackrest", "stanza = \"main\"\nconfig = \"pgbackrest.conf\"\n").catalogue
    else {
        panic!("pgbackrest")
    };
    assert_eq!(pgbackrest.config.as_deref(), Some(Path::new("/etc/expunged/pgbackrest.conf")));
    let Catalogue::Borg(borg) = one(
        "borg",
        "repository = \"backup@host:app\"\nprefix = \"app-\"\ncompacted = \"/var/lib/borg/stamp\"\n",
    )
    .catalogue
    else {
        panic!("borg")
    };
    assert_eq!((borg.passphrase, borg.prefix.as_deref()), (None, Some("app-")));
    let Catalogue::Barman(barman) = one("barman", "server = \"main\"\n").catalogue else {
        panic!("barman")
    };
    assert_eq!((barman.server.as_str(), barman.config), ("main", None));
    let Catalogue::Command(command) =
        one("command", "program = \"/bin/true\"\nargs = [\"--json\"]\n").catalogue
    else {
        panic!("command")
    };
    assert_eq!(command.args, ["--json"]);
    let declared = one("declared", "");
    assert!(declared.terms.is_declared && matches!(declared.catalogue, Catalogue::Declared));
}

#[test]
fn a_modification_time_is_when_writing_ended_so_that_the_start_is_earlier() {
    let dated =
        one("paths", &format!("{PATHS}start = \"path date\"\ntime_zone = \"Asia/Tokyo\"\n"));
    assert_eq!(dated.lead, Duration::ZERO);
    let Catalogue::Paths(paths) = dated.catalogue else { panic!("paths") };
    let PathStart::Day(zone) = paths.start else { panic!("a day") };
    assert_eq!(
        (zone.iana_name(), paths.path.as_str()),
        (Some("Asia/Tokyo"), "{date:%Y-%m-%d}/app.dump")
    );
    let modified = one("paths", &format!("{PATHS}start = \"modified\"\n"));
    assert_eq!(modified.lead, DAY);
    let plain = "store = \"dumps\"\npath = \"*.dump\"\n";
    assert_eq!(one("paths", plain).lead, DAY);
    assert_eq!(one("paths", &format!("{plain}lead = \"0 s\"\n")).lead, Duration::ZERO);
}

#[test]
fn the_digest_names_sets_with_what_they_promise() {
    let digest = |text: &str| read(text).digest();
    let digests = [
        digest(""),
        digest(&set("declared", "")),
        digest(&set("restic", RESTIC)),
        digest(&set("declared", "").replace("90 days", "91 days")),
        digest(&set("declared", "").replace("[\"app\"]", "[\"app\", \"dumps\"]")),
        digest(&set("declared", "").replace("nightly", "weekly")),
    ];
    for (place, one) in digests.iter().enumerate() {
        assert!(!digests[place + 1..].contains(one), "{digests:?}");
    }
    let elsewhere = RESTIC.replace("/srv/restic", "/srv/other");
    assert_eq!(digest(&set("restic", RESTIC)), digest(&set("restic", &elsewhere)));
}

// --- what is refused ------------------------------------------------------------------------------

#[test]
fn a_set_that_lacks_everything_says_so_at_once() {
    let kinds = ["restic", "pgbackrest", "borg", "barman", "paths", "command", "declared"];
    let sets = kinds.map(|kind| format!("[backup.{kind}]\nkind = \"{kind}\"\n")).concat();
    insta::assert_snapshot!(refused(&format!(
        "[backup.nothing]\n{sets}[backup.tape]\nkind = \"tape\"\nreel = 7\n"
    )));
}

#[test]
fn keys_of_other_kinds_are_named_with_theirs() {
    let lines = format!(
        "{RESTIC}stanza = \"main\"\nprefix = \"x\"\nserver = \"x\"\nstart = \"modified\"\nhots = \"db\"\n"
    );
    let declared = set("declared", "every = \"1 hour\"\nlead = \"1 hour\"\nrepository = \"/x\"\n");
    insta::assert_snapshot!(refused(&format!(
        "{}{}",
        set("restic", &lines),
        declared.replace("nightly", "provider")
    )));
}

#[test]
fn a_store_that_is_not_there_comes_with_the_one_that_was_meant() {
    let text = set("declared", "").replace("[\"app\"]", "[\"ap\", \"dumps\", \"elsewhere\"]");
    let paths = format!("{PATHS}start = \"path date\"\n");
    let database = set("paths", &paths.replace("\"dumps\"", "\"app\"")).replace("nightly", "two");
    let unknown = set("paths", &paths.replace("\"dumps\"", "\"dump\"")).replace("nightly", "three");
    insta::assert_snapshot!(refused(&format!("{text}{database}{unknown}")));
}

#[test]
fn whether_a_date_in_a_path_is_the_start_has_to_be_said() {
    let undated = PATHS.replace("{date:%Y-%m-%d}/", "");
    let two = set("paths", &format!("{undated}start = \"path date\"\n")).replace("nightly", "two");
    let three = set("paths", &format!("{PATHS}start = \"created\"\n")).replace("nightly", "three");
    insta::assert_snapshot!(refused(&format!("{}{two}{three}", set("paths", PATHS))));
}

#[test]
fn times_are_within_bounds() {
    let lines = "skew = \"2 days\"\nlead = \"-1 hour\"\ngrace = \"1 month\"\nevery = \"0 s\"\ntimeout = \"soon\"\ntime_zone = \"Mars\"\n";
    let text = set("restic", &format!("{RESTIC}{lines}")).replace("90 days", "3m");
    insta::assert_snapshot!(refused(&text));
}

#[test]
fn programs_and_repositories_are_where_they_say() {
    let lines = "repository = \"backups\"\npassword = { env = \"P\" }\nprogram = \"restic\"\n";
    let borg = set("borg", "repository = \"~/borg\"\n").replace("nightly", "two");
    insta::assert_snapshot!(refused(&format!("{}{borg}", set("restic", lines))));
}

#[test]
fn a_typed_in_secret_is_refused_and_not_shown() {
    let restic = |lines: &str| set("restic", &format!("{RESTIC}{lines}"));
    for text in [
        set("restic", &RESTIC.replace("{ credential = \"restic\" }", "\"hunter2\"")),
        set("restic", &RESTIC.replace("/srv/restic", "rest:https://u:hunter2@host/")),
        set("borg", "repository = \"/srv/borg\"\npassphrase = \"hunter2\"\n"),
        restic("environment = { AWS_SECRET_ACCESS_KEY = \"hunter2\" }\n"),
        restic("environment = { B2_ACCOUNT_KEY = \"hunter2\" }\n"),
        restic("environment = { RESTIC_PASSWORD = \"hunter2\" }\n"),
        restic("environment = { \"A B\" = \"hunter2\" }\n"),
        restic("environment = \"hunter2\"\n"),
        restic("passphrase = \"hunter2\"\n"),
    ] {
        let shown = refused(&text);
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    insta::assert_snapshot!(refused(&restic(
        "environment = { RESTIC_PASSWORD = \"hunter2\", AWS_SECRET_ACCESS_KEY = \"hunter2\", \"A B\" = \"x\", N = 1 }\n"
    )));
}

#[cfg(feature = "s3")]
#[test]
fn only_s3_shows_all_that_a_bucket_has() {
    let bucket = "[store.media]\nkind = \"objects\"\nbucket = \"media\"\n";
    let paths = set("paths", "store = \"media\"\npath = \"*.dump\"\n");
    read(&format!("{bucket}{paths}"));
    for service in ["gcs", "azure"] {
        let shown = refused(&format!("{bucket}service = \"{service}\"\n{paths}"));
        assert!(shown.contains("only S3 shows"), "{shown}");
    }
}
