//! Files and objects, each of which is a backup.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use expunged::backup::Fault;
use expunged::residue::{Doubt, Listing, Purge, Standing};
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;

use crate::house::{Set, awaits, folder, ids, now, script};
use crate::objects::{KEY_ID, Moto, SECRET, nobody};

fn put(folder: &TempDir, path: &str, hours: i64) -> Timestamp {
    let file = folder.path().join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let at = now() - SignedDuration::from_hours(hours);
    File::create(file).unwrap().set_modified(SystemTime::from(at)).unwrap();
    at
}

fn set(folder: &TempDir, lines: &str) -> Set {
    let root = folder.path().display();
    let store = format!("[store.dumps]\nkind = \"files\"\nroot = \"{root}\"\n");
    Set::with_stores(&store, "paths", &format!("store = \"dumps\"\n{lines}"))
}

fn starts(listing: &Listing) -> Vec<String> {
    listing.backups.iter().map(|backup| backup.started_at.to_string()).collect()
}

const DATED: &str = "path = \"{date:%Y-%m-%d}/app.dump\"\nstart = \"path date\"\n";

#[tokio::test]
async fn a_date_in_a_path_is_the_beginning_of_that_day() {
    let folder = folder();
    for day in ["2026-11-02", "2026-10-25", "2026-11-01"] {
        put(&folder, &format!("{day}/app.dump"), 0);
    }
    put(&folder, "2026-11-03/other.dump", 0);
    let listing = set(&folder, DATED).listing().await;
    assert_eq!(
        ids(&listing),
        ["2026-10-25/app.dump", "2026-11-01/app.dump", "2026-11-02/app.dump"]
    );
    assert_eq!(starts(&listing)[1], "2026-11-01T00:00:00Z");
    assert_eq!(listing.purge, Purge::AtOnce);
    let there = set(&folder, &format!("{DATED}time_zone = \"Asia/Tokyo\"\nlead = \"1 hour\"\n"));
    assert_eq!(starts(&there.listing().await)[1], "2026-10-31T14:00:00Z");
    // What is no day of the calendar says nothing, and must not be left out.
    put(&folder, "2026-02-30/app.dump", 0);
    let fault = set(&folder, DATED).fault().await;
    assert!(matches!(fault, Fault::Undated { count: 1, .. }), "{fault}");
}

#[tokio::test]
async fn a_deletion_is_clear_once_the_last_file_from_before_is_gone_twice() {
    let folder = folder();
    let set = set(&folder, "path = \"*.dump\"\nlead = \"1 hour\"\n");
    put(&folder, "a.dump", 30);
    put(&folder, "b.dump", 6);
    put(&folder, "c.dump", 3);
    put(&folder, "c.tmp", 50);
    let mut standing = Standing::default();
    // Written until 6 hours ago, it may have begun before this.
    let deleted = now() - SignedDuration::from_mins(6 * 60 + 30);
    set.stays(&mut standing, deleted).await;
    fs::remove_file(folder.path().join("a.dump")).unwrap();
    set.stays(&mut standing, deleted).await;
    fs::remove_file(folder.path().join("b.dump")).unwrap();
    set.clears(&mut standing, deleted).await;
    let younger = now() - SignedDuration::from_mins(3 * 60 + 30);
    assert!(!standing.residue(&set.config.terms, younger, now()).is_clear());
}

#[tokio::test]
async fn an_empty_folder_proves_nothing_and_a_missing_one_is_an_error() {
    let folder = folder();
    let listing = set(&folder, DATED).listing().await;
    assert_eq!(Standing::default().note(listing, Duration::ZERO), Err(Doubt::Empty));
    let gone = set(&folder, DATED);
    drop(folder);
    let fault = gone.fault().await;
    assert!(matches!(fault, Fault::Store(_)), "{fault}");
}

/// Root reads everything, so the test runs itself as somebody else where root runs it.
#[tokio::test]
async fn a_folder_that_cannot_be_read_is_an_error_and_no_shorter_listing() {
    const NAME: &str = "paths::a_folder_that_cannot_be_read_is_an_error_and_no_shorter_listing";
    if rustix::process::geteuid().is_root() {
        let program = folder();
        let copy = program.path().join("test");
        fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
        let mut run = Command::new("setpriv");
        run.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy);
        let run =
            run.args(["--exact", NAME, "--nocapture"]).env("TMPDIR", "/tmp").output().unwrap();
        let output = String::from_utf8_lossy(&run.stdout);
        let errors = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success() && output.contains("1 passed"), "{output}{errors}");
        return;
    }
    let folder = folder();
    put(&folder, "2026-11-01/app.dump", 0);
    put(&folder, "2026-11-02/app.dump", 0);
    let shut = folder.path().join("2026-11-01");
    let mode =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let modified = "path = \"*/app.dump\"\n";
    mode(&shut, 0o000);
    for lines in [DATED, modified] {
        let fault = set(&folder, lines).fault().await;
        assert!(matches!(fault, Fault::Store(_)), "{lines}: {fault}");
    }
    // Its names can be read, and not when they were modified.
    mode(&shut, 0o400);
    for lines in [DATED, modified] {
        let fault = set(&folder, lines).fault().await;
        assert!(matches!(fault, Fault::Store(_)), "{lines}: {fault}");
    }
    mode(&shut, 0o700);
    mode(folder.path(), 0o000);
    let fault = set(&folder, DATED).fault().await;
    assert!(matches!(fault, Fault::Store(_)), "{fault}");
    mode(folder.path(), 0o700);
    assert_eq!(set(&folder, DATED).listing().await.backups.len(), 2);
    // A program that may not be started at all.
    let program = script(folder.path(), "list", "exit 0");
    mode(&program, 0o600);
    let own = Set::new("command", &format!("program = \"{}\"", program.display()));
    assert!(matches!(own.fault().await, Fault::NotExecutable { .. }));
}

/// The secrets are kept in the folder, and read when they are needed.
fn bucket(folder: &TempDir, url: &str, bucket: &str, lines: &str) -> Set {
    let secret = |text: &str| crate::house::secret(folder.path(), text);
    let store = format!(
        "[store.dumps]\nkind = \"objects\"\nbucket = \"{bucket}\"\nregion = \"eu-central-1\"\nendpoint = \"{url}\"\n\
         access_key_id = {}\nsecret_access_key = {}\n",
        secret(KEY_ID),
        secret(SECRET)
    );
    Set::with_stores(&store, "paths", &format!("store = \"dumps\"\n{lines}"))
}

#[tokio::test]
async fn each_version_of_an_object_is_a_backup_and_a_marker_is_none() {
    let folder = folder();
    let server = Moto::versioned().await;
    server.put("app.dump").await;
    let second = server.put("app.dump").await;
    server.hide("app.dump").await;
    server.put("other").await;
    let set = bucket(&folder, &server.url, &server.bucket, "path = \"*.dump\"\nlead = \"0 s\"\n");
    let listing = set.listing().await;
    assert_eq!(listing.backups.len(), 2, "{listing:?}");
    assert!(ids(&listing).contains(&format!("app.dump version {second}").as_str()));
    let recently = now() - SignedDuration::from_mins(10);
    assert!(listing.backups.iter().all(|backup| backup.started_at > recently));
}

#[tokio::test]
async fn objects_without_versions_are_listed_by_their_names() {
    let folder = folder();
    let server = Moto::plain().await;
    server.put("2026-11-01/app.dump").await;
    server.put("2026-11-02/app.dump").await;
    let dated = bucket(&folder, &server.url, &server.bucket, DATED);
    let listing = dated.listing().await;
    assert_eq!(ids(&listing), ["2026-11-01/app.dump", "2026-11-02/app.dump"]);
    let mut standing = Standing::default();
    let deleted = "2026-11-01T12:00:00Z".parse().unwrap();
    dated.stays(&mut standing, deleted).await;
    server.hide("2026-11-01/app.dump").await;
    dated.clears(&mut standing, deleted).await;
    let gone = bucket(&folder, &server.url, "there-is-no-such-bucket", DATED).fault().await;
    assert!(matches!(gone, Fault::Store(_)), "{gone}");
    let lines = format!("{DATED}timeout = \"2 seconds\"\n");
    let silent = bucket(&folder, &nobody(), &server.bucket, &lines).fault().await;
    assert!(matches!(silent, Fault::Store(_) | Fault::TimedOut(_)), "{silent}");
}

#[tokio::test]
async fn a_versioned_bucket_clears_only_when_its_versions_are_gone() {
    let folder = folder();
    let server = Moto::versioned().await;
    let first = server.put("2026-11-01/app.dump").await;
    server.put("2026-11-02/app.dump").await;
    let set = bucket(&folder, &server.url, &server.bucket, DATED);
    let mut standing = Standing::default();
    let deleted = "2026-11-01T12:00:00Z".parse().unwrap();
    set.stays(&mut standing, deleted).await;
    server.hide("2026-11-01/app.dump").await;
    let hidden = set.stays(&mut standing, deleted).await;
    assert!(std::panic::catch_unwind(|| awaits(&hidden).to_owned()).is_err(), "a backup holds it");
    server.remove("2026-11-01/app.dump", &first).await;
    set.clears(&mut standing, deleted).await;
}
