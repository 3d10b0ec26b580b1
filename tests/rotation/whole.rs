//! From the deletion to the last copy's end, and a restore in between: real tools over a real PostgreSQL, and nothing but
//! the command line.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness;
use crate::house::{run, secret, tool};
use crate::server::{Server, bin, give};
use crate::stanza::Stanza;
use crate::support::Pool;

/// Nothing is deleted for their age but the first three.
const PERSONS: &str = "CREATE TABLE accounts (id integer PRIMARY KEY, email text, last_seen timestamptz); \
    INSERT INTO accounts SELECT n, 'p' || n || '@example.org', \
    CASE WHEN n <= 300 THEN '2020-01-01'::timestamptz ELSE '2099-01-01'::timestamptz END FROM generate_series(1, 1000) n";
const DUE: usize = 300;

/// expunged, and what it is to know of a server and of a set of backups.
struct House {
    place: harness::Place,
    set: String,
}

impl House {
    fn new(server: &Server, set: &str) -> House {
        let house = House { place: harness::Place::new(), set: set.to_owned() };
        house.is_on(server);
        house
    }

    /// The store is on this server from now on.
    fn is_on(&self, server: &Server) {
        let url = self.place.secret("app-url", &server.url());
        let store = format!("[store.app]\nkind = \"postgres\"\nurl = {url}\n");
        let set = format!(
            "[backup.nightly]\nstores = [\"app\"]\nrotation = \"7 days\"\nskew = \"0 s\"\n{}\n",
            self.set
        );
        let rule = harness::rule("inactive", "app", "0 3 1 1 *", "");
        self.place.configure(&format!("{store}{set}{rule}"));
    }

    #[track_caller]
    fn says(&self, arguments: &[&str], code: i32) -> Value {
        let output = self.place.run(&[&["--json"], arguments].concat());
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let wrong = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}{wrong}");
        serde_json::from_str(&said).unwrap_or(Value::Null)
    }

    /// What the set still holds, by one more listing.
    #[track_caller]
    fn check(&self) -> Vec<Value> {
        let listed = self.says(&["backups", "check"], 0);
        listed[0]["held"].as_array().unwrap_or_else(|| panic!("{listed}")).clone()
    }

    /// Two listings, neither of which clears anything, however often they are repeated.
    #[track_caller]
    fn is_held(&self) {
        for _ in 0..3 {
            assert!(!self.check().is_empty());
        }
    }

    /// The last copy is gone: one listing shows it, the next one confirms it.
    #[track_caller]
    fn clears(&self, deleted: &Value) {
        let once = self.check();
        assert!(
            once.iter().all(|day| day["awaits"].as_str().unwrap().contains("one more listing")),
            "{once:?}"
        );
        assert!(self.count("SELECT count(*) FROM tombstone") > 0);
        assert_eq!(self.check(), Vec::<Value>::new());
        assert_eq!(self.count("SELECT count(*) FROM tombstone"), 0, "the kept keys are destroyed");
        assert_eq!(
            self.says(&["certificate", deleted[0]["run"].as_str().unwrap()], 0)["complete"],
            true
        );
        assert_eq!(self.says(&["audit", "verify"], 0)["valid"], true);
    }

    /// It was only a look: another server, or timeline, than before is noticed, too, and somebody says what it is.
    #[track_caller]
    fn goes_back_to(&self, server: &Server) {
        self.is_on(server);
        assert_eq!(self.says(&["run", "inactive"], 1)[0]["state"], "refused");
        self.says(&["replay", "app", "--dismiss", "--why", "the copy was only looked at"], 0);
        assert_eq!(self.says(&["run", "inactive"], 0)[0]["records"], 0);
    }

    fn count(&self, sql: &str) -> i64 {
        past_expunged(&self.place.path("ledger.db"), sql)
    }

    /// Nothing runs on what was put back until it is replayed; then nobody is back, and all of the others are there.
    #[track_caller]
    fn replays(&self, restored: &Server) {
        assert_eq!(restored.query("SELECT count(*) FROM accounts"), ["1000"], "an old copy");
        self.is_on(restored);
        let refused = self.says(&["run", "inactive"], 1);
        assert_eq!(refused[0]["state"], "refused", "{refused}");
        assert!(refused[0]["error"].as_str().unwrap().contains("expunged replay app"), "{refused}");
        assert_eq!(restored.query("SELECT count(*) FROM accounts"), ["1000"]);
        self.says(&["replay", "app", "--dry-run"], 2);
        assert_eq!(
            restored.query("SELECT count(*) FROM accounts"),
            ["1000"],
            "that was only a look"
        );
        self.says(&["replay", "app", "--yes"], 0);
        let back = restored.query("SELECT count(*) FROM accounts WHERE last_seen < now()");
        let others = restored.query("SELECT count(*), min(id), max(id) FROM accounts");
        assert_eq!((back, others), (vec!["0".to_owned()], vec!["700|301|1000".to_owned()]));
        self.says(&["replay", "app", "--yes"], 0);
        assert_eq!(self.says(&["run", "inactive"], 0)[0]["records"], 0);
    }
}

/// What a query counts in a ledger, past expunged.
fn past_expunged(file: &Path, sql: &str) -> i64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let pool = Pool::connect(&format!("sqlite://{}", file.display())).await;
        let count = pool.count(sql).await;
        pool.close().await;
        count
    })
}

// --- pgBackRest ---------------------------------------------------------------------------------------

#[test]
fn pgbackrest_from_the_deletion_to_the_last_copys_end() {
    let stanza = Stanza::new();
    stanza.run(&["stanza-create"]);
    stanza.server.execute(&[PERSONS]);
    stanza.run(&["--type=full", "backup"]);
    let set = format!(
        "kind = \"pgbackrest\"\nstanza = \"main\"\nconfig = \"{}\"",
        stanza.config().display()
    );
    let house = House::new(&stanza.server, &set);
    let deleted = house.says(&["run", "inactive"], 0);
    assert_eq!(deleted[0]["records"], DUE, "{deleted}");
    stanza.server.execute(&["VACUUM accounts", "SELECT pg_switch_wal()"]);
    house.is_held();

    // The first backup is put onto a server of its own, as it was then.
    let restored = Server::filled("true", |data| {
        let path = format!("--pg1-path={}", data.display());
        fs::create_dir(data).unwrap();
        give(data);
        stanza.run(&[&path, "--type=immediate", "--target-action=promote", "restore"]);
    });
    restored.wait_until_it_writes();
    house.replays(&restored);
    house.goes_back_to(&stanza.server);

    // The backups of before go: an increment keeps the one that it needs.
    stanza.run(&["--type=incr", "backup"]);
    house.is_held();
    stanza.run(&["--type=full", "backup"]);
    house.is_held();
    stanza.run(&["--repo1-retention-full=1", "expire"]);
    house.clears(&deleted);
}

// --- restic -------------------------------------------------------------------------------------------

struct Repository {
    folder: tempfile::TempDir,
}

impl Repository {
    fn restic(&self) -> Command {
        let mut restic = Command::new(tool("restic", "restic"));
        restic
            .env("RESTIC_PASSWORD", "hunter2")
            .env("RESTIC_CACHE_DIR", self.folder.path().join("cache"));
        restic.arg("--repo").arg(self.folder.path().join("repository")).arg("--quiet");
        restic
    }

    /// A dump of a server, made now and backed up at once.
    fn back_up(&self, server: &Server) {
        let dump = self.folder.path().join("app.sql");
        let mut pg_dump = Command::new(bin("pg_dump"));
        run(pg_dump.arg("-f").arg(&dump).args(["-d", &server.conninfo()]));
        run(self.restic().arg("backup").arg(&dump));
    }
}

#[test]
fn restic_from_the_deletion_to_the_last_copys_end() {
    let repository = Repository { folder: tempfile::tempdir().unwrap() };
    run(repository.restic().arg("init"));
    let server = Server::start("true");
    server.execute(&[PERSONS]);
    repository.back_up(&server);
    let set = format!(
        "kind = \"restic\"\nrepository = \"{}\"\npassword = {}",
        repository.folder.path().join("repository").display(),
        secret(repository.folder.path(), "hunter2")
    );
    let house = House::new(&server, &set);
    let deleted = house.says(&["run", "inactive"], 0);
    assert_eq!(deleted[0]["records"], DUE, "{deleted}");
    house.is_held();

    // What the first snapshot has is put onto a fresh server.
    let dump = run(repository
        .restic()
        .args(["dump", "latest"])
        .arg(repository.folder.path().join("app.sql")));
    let restored = Server::start("true");
    let file = repository.folder.path().join("restored.sql");
    fs::write(&file, dump).unwrap();
    restored.execute(&[&format!("\\i {}", file.display())]);
    house.replays(&restored);
    house.goes_back_to(&server);

    repository.back_up(&server);
    house.is_held();
    // Off the list, and its data is where it was.
    run(repository.restic().args(["forget", "--keep-last", "1"]));
    let left = house.check();
    assert!(left[0]["awaits"].as_str().unwrap().contains("restic prune"), "{left:?}");
    house.is_held();
    run(repository.restic().args(["prune", "--max-unused", "0"]));
    house.clears(&deleted);
}
