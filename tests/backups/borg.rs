//! Borg 1, on real repositories.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use expunged::backup::Fault;
use expunged::residue::{Doubt, Purge, Standing};
use jiff::SignedDuration;
use tempfile::TempDir;

use crate::house::{Set, awaits, folder, held_by, now, run, script, secret, tool, tried};

/// A mark that nothing else in a repository has.
const MARK: &[u8] = b"anna@example.org was here, and nobody else";

struct Repository {
    folder: TempDir,
}

impl Repository {
    fn new(encryption: &str) -> Repository {
        let repository = Repository { folder: folder() };
        fs::create_dir(repository.at("data")).unwrap();
        run(repository.borg().args(["init", "-e", encryption]).arg(repository.at("repository")));
        repository
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn borg(&self) -> Command {
        let mut borg = Command::new(tool("borg", "borgbackup"));
        borg.env("BORG_PASSPHRASE", "hunter2").env("BORG_BASE_DIR", self.at("base"));
        borg.env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes").env("TZ", "Asia/Tokyo");
        borg
    }

    fn archive(&self, name: &str) -> String {
        format!("{}::{name}", self.at("repository").display())
    }

    fn create(&self, name: &str) {
        let archive = self.archive(name);
        run(self.borg().args(["create", "--compression=none", &archive]).arg(self.at("data")));
    }

    /// As if it had begun so many minutes ago.
    fn create_at(&self, name: &str, minutes: i64) {
        let began = now() - SignedDuration::from_mins(minutes);
        let began = began.strftime("%Y-%m-%dT%H:%M:%S").to_string();
        let mut create = self.borg();
        create.args(["create", "--compression=none", "--timestamp", &began]);
        run(create.arg(self.archive(name)).arg(self.at("data")));
    }

    fn set(&self, lines: &str) -> Set {
        Set::new("borg", &self.lines(&self.at("repository"), lines))
    }

    fn lines(&self, repository: &std::path::Path, lines: &str) -> String {
        let base = self.at("ours");
        format!(
            "repository = \"{}\"\nenvironment = {{ BORG_BASE_DIR = \"{}\" }}\n{lines}\n",
            repository.display(),
            base.display()
        )
    }

    fn passphrase(&self) -> String {
        format!("passphrase = {}\n", secret(self.folder.path(), "hunter2"))
    }

    /// Whether the mark is anywhere in the repository.
    fn has_mark(&self) -> bool {
        let mut folders = vec![self.at("repository")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                    continue;
                }
                let mut content = Vec::new();
                File::open(entry.path()).unwrap().read_to_end(&mut content).unwrap();
                if content.windows(MARK.len()).any(|part| part == MARK) {
                    return true;
                }
            }
        }
        false
    }

    /// As the sample of the configuration says it.
    fn compact(&self, arguments: &[&str]) {
        let (new, stamp) = (self.at("stamp.new"), self.at("stamp"));
        File::create(&new).unwrap().set_modified(SystemTime::from(now())).unwrap();
        run(self.borg().arg("compact").args(arguments).arg(self.at("repository")));
        fs::rename(new, stamp).unwrap();
    }
}

#[tokio::test]
async fn a_deletion_is_clear_once_compacting_has_begun_after_its_last_archive_was_gone() {
    let repository = Repository::new("none");
    let set = repository.set(&format!("compacted = \"{}\"", repository.at("stamp").display()));
    let mut standing = Standing::default();
    fs::write(repository.at("data/personal"), MARK).unwrap();
    repository.create_at("a", 120);
    fs::remove_file(repository.at("data/personal")).unwrap();
    fs::write(repository.at("data/kept"), b"kept").unwrap();
    let deleted = now() - SignedDuration::from_mins(90);
    repository.create_at("b", 60);
    assert!(repository.has_mark());
    assert_eq!(held_by(&set.stays(&mut standing, deleted).await), 1);

    run(repository.borg().args(["delete", &repository.archive("a")]));
    let left = set.stays(&mut standing, deleted).await;
    assert!(awaits(&left).contains("compacted"), "{left:?}");
    assert!(repository.has_mark(), "deleted, and there");

    repository.compact(&["--threshold", "0"]);
    assert!(!repository.has_mark());
    let left = set.note(&mut standing, deleted).await;
    assert!(!left.is_clear(), "{left:?}");
    let left = set.note(&mut standing, deleted).await;
    assert!(left.is_clear(), "{left:?}");
}

#[tokio::test]
async fn archives_start_when_they_do_wherever_borg_thinks_it_is() {
    let repository = Repository::new("repokey");
    let before = now() - Duration::from_secs(1);
    repository.create("db-1");
    repository.create("web-1");
    // Broken off, an archive is a checkpoint, which a list leaves out unless it is asked for.
    repository.create("db-2.checkpoint");
    let set = repository.set(&repository.passphrase());
    let listing = set.listing().await;
    assert_eq!(listing.purge, Purge::Stamped(None));
    let names: Vec<_> =
        listing.backups.iter().map(|one| one.id.split(' ').next().unwrap()).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ["db-1", "db-2.checkpoint", "web-1"]);
    for backup in &listing.backups {
        assert!(before <= backup.started_at && backup.started_at <= now(), "{backup:?}");
        assert!(backup.parents.is_empty() && backup.permanent.is_none());
    }
    let lines = format!("{}prefix = \"db-\"", repository.passphrase());
    assert_eq!(repository.set(&lines).listing().await.backups.len(), 2);
}

#[tokio::test]
async fn a_repository_that_does_not_open_says_why() {
    let repository = Repository::new("repokey");
    let wrong = format!("passphrase = {}", secret(repository.folder.path(), "hunter3"));
    for lines in [wrong.as_str(), ""] {
        let fault = repository.set(lines).fault().await;
        assert!(matches!(fault, Fault::WrongPassword { .. }), "{fault}");
    }
    let elsewhere = repository.lines(&repository.at("nowhere"), &repository.passphrase());
    let absent = Set::new("borg", &elsewhere).fault().await;
    assert!(matches!(absent, Fault::Absent { .. }), "{absent}");
    let empty = repository.lines(&repository.at("data"), &repository.passphrase());
    let absent = Set::new("borg", &empty).fault().await;
    assert!(matches!(absent, Fault::Absent { .. }), "{absent}");
    // Moved, it is asked about, and nobody is there to answer.
    let set = repository.set(&repository.passphrase());
    set.listing().await;
    fs::rename(repository.at("repository"), repository.at("moved")).unwrap();
    let moved = repository.lines(&repository.at("moved"), &repository.passphrase());
    let fault = Set::new("borg", &moved).fault().await;
    assert!(matches!(&fault, Fault::Failed { says, .. } if says.contains("aborted")), "{fault}");
}

#[tokio::test]
async fn a_locked_repository_is_no_listing() {
    let repository = Repository::new("repokey");
    repository.create("a");
    let set = repository.set(&repository.passphrase());
    let mut holder = repository.borg();
    holder.arg("with-lock").arg(repository.at("repository"));
    holder.args(["sh", "-c", "echo locked; read rest"]);
    let mut holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "locked\n");
    let fault = set.fault().await;
    assert!(matches!(fault, Fault::Locked { .. }), "{fault}");
    drop(holder.stdin.take());
    holder.wait().unwrap();
    assert_eq!(set.listing().await.backups.len(), 1);
}

#[tokio::test]
async fn an_answer_that_broke_off_and_an_empty_repository_prove_nothing() {
    let repository = Repository::new("repokey");
    let set = repository.set(&repository.passphrase());
    let listing = set.listing().await;
    assert_eq!(Standing::default().note(listing, Duration::ZERO), Err(Doubt::Empty));
    repository.create("a");
    let borg = tool("borg", "borgbackup");
    for length in [0, 100, 300] {
        let text = format!("{} \"$@\" | head -c {length}", borg.display());
        let program = script(repository.folder.path(), "half", &text);
        let lines = format!("{}program = \"{}\"", repository.passphrase(), program.display());
        let fault = repository.set(&lines).fault().await;
        assert!(matches!(fault, Fault::NotUnderstood { .. }), "{length}: {fault}");
    }
}

/// Why the sample warns of it: the command succeeds, and the data is there.
#[tokio::test]
async fn an_append_only_repository_is_not_compacted() {
    let repository = Repository::new("none");
    fs::write(repository.at("data/personal"), MARK).unwrap();
    repository.create("a");
    let place = repository.at("repository");
    run(repository.borg().arg("config").arg(&place).args(["append_only", "1"]));
    run(repository.borg().args(["delete", &repository.archive("a")]));
    assert!(
        tried(repository.borg().args(["compact", "--threshold", "0"]).arg(&place)).status.success()
    );
    assert!(repository.has_mark());
}
