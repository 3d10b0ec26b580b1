//! restic, on real repositories; for what later versions than the installed one say, a program that says it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use expunged::backup::Fault;
use expunged::clock::{self, Stopwatch};
use expunged::residue::{Doubt, Purge, Standing};
use serde_json::Value;
use tempfile::TempDir;

use crate::house::{Set, awaits, folder, held_by, ids, now, run, script, secret, tool, tried};

struct Repository {
    folder: TempDir,
}

impl Repository {
    fn new() -> Repository {
        let repository = Repository { folder: folder() };
        fs::create_dir(repository.at("data")).unwrap();
        run(repository.restic().arg("init"));
        repository
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn restic(&self) -> Command {
        let mut restic = Command::new(tool("restic", "restic"));
        restic.env("RESTIC_PASSWORD", "hunter2").env("RESTIC_CACHE_DIR", self.at("cache"));
        restic.arg("--repo").arg(self.at("repository")).arg("--quiet");
        restic
    }

    fn backup(&self) {
        run(self.restic().args(["backup", "--host=db1"]).arg(self.at("data")));
    }

    fn write(&self, name: &str, length: u64) {
        let mut random = File::open("/dev/urandom").unwrap().take(length);
        std::io::copy(&mut random, &mut File::create(self.at("data").join(name)).unwrap()).unwrap();
    }

    fn set(&self, lines: &str) -> Set {
        self.set_by(&tool("restic", "restic"), &self.at("repository"), lines)
    }

    fn set_by(&self, program: &Path, repository: &Path, lines: &str) -> Set {
        let password = secret(self.folder.path(), "hunter2");
        Set::new(
            "restic",
            &format!(
                "program = \"{}\"\nrepository = \"{}\"\npassword = {password}\n{lines}",
                program.display(),
                repository.display()
            ),
        )
    }

    /// The data of a file, as the repository has it, whether or not a snapshot needs it.
    fn has(&self, blob: &str) -> bool {
        tried(self.restic().args(["--no-cache", "cat", "blob", blob])).status.success()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&run(self.restic().args(args))).unwrap()
    }

    /// The blob that a file of the newest snapshot is kept in.
    fn blob_of(&self, file: &str) -> String {
        let snapshots = self.json(&["snapshots", "--json", "latest"]);
        let mut trees = vec![snapshots[0]["tree"].as_str().unwrap().to_owned()];
        while let Some(tree) = trees.pop() {
            let tree = self.json(&["cat", "blob", &tree]);
            for node in tree["nodes"].as_array().unwrap() {
                if node["name"] == file {
                    return node["content"][0].as_str().unwrap().to_owned();
                }
                trees.extend(node["subtree"].as_str().map(str::to_owned));
            }
        }
        panic!("{file} is in no snapshot")
    }
}

#[tokio::test]
async fn a_deletion_is_clear_once_its_data_was_pruned_and_seen_twice() {
    let repository = Repository::new();
    let set = repository.set("");
    let mut standing = Standing::default();
    repository.write("kept", 8_000_000);
    repository.write("personal", 40_000);
    repository.backup();
    let personal = repository.blob_of("personal");
    let deleted = now();
    fs::remove_file(repository.at("data/personal")).unwrap();
    assert_eq!(held_by(&set.note(&mut standing, deleted).await), 1, "backed up");
    repository.backup();
    assert_eq!(held_by(&set.note(&mut standing, deleted).await), 1, "deleted, and in a backup");
    let listing = standing.listing.clone().unwrap();
    assert_eq!((listing.backups.len(), &listing.purge), (2, &Purge::Seen));
    assert!(listing.backups[1].parents.is_empty(), "a snapshot is whole without its parent");

    run(repository.restic().args(["forget", &listing.backups[0].id]));
    let left = set.stays(&mut standing, deleted).await;
    assert!(awaits(&left).contains("`restic prune --max-unused 0`"), "{left:?}");
    assert!(repository.has(&personal), "forgotten, and there");

    // By default a twentieth may stay unused, and so does what was deleted.
    run(repository.restic().arg("prune"));
    let left = set.stays(&mut standing, deleted).await;
    assert!(awaits(&left).contains("`restic prune --max-unused 0`"), "{left:?}");
    assert!(repository.has(&personal), "pruned, and there");

    run(repository.restic().args(["prune", "--max-unused=0"]));
    assert!(!repository.has(&personal));
    set.clears(&mut standing, deleted).await;
}

#[tokio::test]
async fn starts_are_those_of_snapshots_less_the_lead() {
    let repository = Repository::new();
    repository.write("a", 1_000);
    let before = now();
    repository.backup();
    let between = now();
    repository.backup();
    let starts = |listing: expunged::residue::Listing| -> Vec<_> {
        listing.backups.iter().map(|backup| backup.started_at).collect()
    };
    let plain = starts(repository.set("").listing().await);
    assert!(before <= plain[0] && plain[0] <= between && between <= plain[1], "{plain:?}");
    let led = starts(repository.set("lead = \"2 hours\"").listing().await);
    assert_eq!(led, plain.iter().map(|at| *at - Duration::from_hours(2)).collect::<Vec<_>>());
}

#[tokio::test]
async fn only_what_is_asked_for_is_listed_and_prune_looks_at_all() {
    let repository = Repository::new();
    repository.write("a", 1_000);
    repository.backup();
    repository.write("b", 1_000);
    let data = repository.at("data");
    run(repository.restic().args(["backup", "--host=db2", "--tag=db"]).arg(&data));
    let count = async |lines: &str| repository.set(lines).listing().await.backups.len();
    assert_eq!(count("").await, 2);
    assert_eq!(count("tag = \"db\"").await, 1);
    assert_eq!(count("host = \"db1\"\ntag = \"db\"").await, 0);
    let of_two = repository.set("host = \"db2\"").listing().await;
    run(repository.restic().args(["forget", &of_two.backups[0].id]));
    let of_one = repository.set("host = \"db1\"").listing().await;
    assert!(matches!(of_one.purge, Purge::Owed(_)), "{of_one:?}");
}

/// As a prune leaves it that is broken off between its two last steps.
#[tokio::test]
async fn a_pack_that_the_index_does_not_know_has_data_as_well() {
    let repository = Repository::new();
    repository.write("a", 1_000);
    repository.backup();
    let folder = repository.at("repository/data/ab");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("ab".repeat(32)), "x").unwrap();
    let listing = repository.set("").listing().await;
    let Purge::Owed(words) = &listing.purge else { panic!("{listing:?}") };
    assert!(words.contains("1 packs that its index does not know"), "{words}");
    run(repository.restic().args(["prune", "--max-unused=0"]));
    assert_eq!(repository.set("").listing().await.purge, Purge::Seen);
}

#[tokio::test]
async fn an_empty_repository_proves_nothing() {
    let repository = Repository::new();
    let listing = repository.set("").listing().await;
    assert_eq!((ids(&listing), &listing.purge), (vec![], &Purge::Seen));
    assert_eq!(Standing::default().note(listing, Duration::ZERO), Err(Doubt::Empty));
}

#[tokio::test]
async fn a_repository_that_does_not_open_says_why() {
    let repository = Repository::new();
    let place = repository.at("repository");
    let wrong = secret(repository.folder.path(), "hunter3");
    let set =
        Set::new("restic", &format!("repository = \"{}\"\npassword = {wrong}", place.display()));
    let fault = set.fault().await;
    assert!(matches!(fault, Fault::WrongPassword { .. }), "{fault}");
    let restic = tool("restic", "restic");
    let absent = repository.set_by(&restic, &repository.at("nowhere"), "").fault().await;
    assert!(matches!(absent, Fault::Absent { .. }), "{absent}");
    let elsewhere = Path::new("rest:http://127.0.0.1:9/");
    let Fault::Failed { ended, says, .. } = repository.set_by(&restic, elsewhere, "").fault().await
    else {
        panic!("nobody listens there, and whether there is a repository is not known")
    };
    assert!(ended == "ended with 1" && says.contains("connection refused"), "{ended}: {says}");
}

/// Its data is there before its snapshot is, and no listing waits for it.
#[tokio::test]
async fn a_repository_at_work_is_listed_nevertheless() {
    let repository = Repository::new();
    repository.write("a", 1_000);
    repository.backup();
    let mut backup = repository.restic();
    backup.args(["backup", "--stdin"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut backup = backup.spawn().unwrap();
    let mut stdin = backup.stdin.take().unwrap();
    stdin.write_all(b"x").unwrap();
    let watch = Stopwatch::start();
    while fs::read_dir(repository.at("repository/locks")).unwrap().next().is_none() {
        assert!(watch.elapsed() < Duration::from_secs(60), "it takes no lock");
        std::thread::yield_now();
    }
    assert_eq!(repository.set("").listing().await.backups.len(), 1);
    drop(stdin);
    assert!(backup.wait().unwrap().success());
    assert_eq!(repository.set("").listing().await.backups.len(), 2);
}

/// The installed version ends with 1 whatever it is; later ones have codes.
#[tokio::test]
async fn the_codes_of_later_versions_are_known() {
    let repository = Repository::new();
    let said = async |text: &str| {
        let program = script(repository.folder.path(), "restic", text);
        repository.set_by(&program, &repository.at("repository"), "").fault().await
    };
    let json = |code: u8, words: &str| {
        format!(
            "echo '{{\"message_type\":\"exit_error\",\"code\":{code},\"message\":\"Fatal: {words}\"}}' >&2; exit {code}"
        )
    };
    let absent = said(&json(10, "repository does not exist")).await;
    assert!(matches!(absent, Fault::Absent { .. }), "{absent}");
    let locked = said(&json(11, "unable to create lock in backend")).await;
    assert!(matches!(locked, Fault::Locked { .. }), "{locked}");
    let wrong = said(&json(12, "wrong password or no key found")).await;
    assert!(matches!(wrong, Fault::WrongPassword { .. }), "{wrong}");
    let words = "echo 'unable to create lock in backend: repository is already locked exclusively by PID 7' >&2; exit 1";
    assert!(matches!(said(words).await, Fault::Locked { .. }));
    let unknown = said("echo 'Fatal: no idea' >&2; echo trailing >&2; exit 1").await;
    assert!(
        matches!(&unknown, Fault::Failed { says, .. } if says == "Fatal: no idea"),
        "{unknown}"
    );
    let secret = said("echo \"Fatal: it is $RESTIC_PASSWORD\" >&2; exit 1").await;
    assert!(
        matches!(&secret, Fault::Failed { says, .. } if says == "Fatal: it is ***"),
        "{secret}"
    );
}

#[tokio::test]
async fn an_answer_that_broke_off_is_no_listing() {
    let repository = Repository::new();
    repository.write("a", 1_000);
    repository.backup();
    let restic = tool("restic", "restic");
    let half = |command: &str, length: usize| {
        format!(
            "case $1 in {command}) {restic} \"$@\" | head -c {length};; *) exec {restic} \"$@\";; esac",
            restic = restic.display()
        )
    };
    let cut = [("snapshots", 150), ("stats", 20), ("list", 30), ("cat", 100)];
    for text in cut.map(|(command, length)| half(command, length)) {
        let program = script(repository.folder.path(), "half", &text);
        let cut = repository.set_by(&program, &repository.at("repository"), "").list().await;
        let cut = cut.map_err(|error| error.fault);
        assert!(matches!(cut, Err(Fault::NotUnderstood { .. })), "{text}: {cut:?}");
    }
    let program = script(repository.folder.path(), "half", &half("snapshots", 100_000));
    let whole = repository.set_by(&program, &repository.at("repository"), "").listing().await;
    assert_eq!(whole.backups.len(), 1);
}

#[tokio::test]
async fn what_began_before_its_time_began_then() {
    let repository = Repository::new();
    let restic = tool("restic", "restic");
    let text = format!(
        "case $1 in snapshots) echo '[{{\"id\": \"a\", \"time\": \"2026-11-02T00:00:00+01:00\", \"summary\": {{\"backup_start\": \"2026-11-01T00:00:00Z\"}}}}]';; *) exec {} \"$@\";; esac",
        restic.display()
    );
    let program = script(repository.folder.path(), "later", &text);
    let listing = repository.set_by(&program, &repository.at("repository"), "").listing().await;
    assert_eq!(listing.backups[0].started_at.to_string(), "2026-11-01T00:00:00Z");
    assert!(listing.at <= clock::now());
}
