//! A database and a tree of files that can be backed up and put back, rules over them, and a ledger.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use expunged::clock;
use expunged::config::Config;
use expunged::keys::Keys;
use expunged::ledger::Ledger;
use expunged::run::Runner;
use expunged::store::Stores;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::harness::Place;
use crate::support::{Kind, Pool, TestDatabase, environment};

/// Old accounts go, those in between are anonymized, and what events name goes.
pub(crate) const RULES: &str = r#"
[rule.old]
store = "app"
table = "accounts"
where = "status <> 'staff'"
starting_point = "last_seen"
retention = "2 years"
action = "delete"
subject = "id"
mode = "enforce"

[rule.mails]
store = "app"
table = "accounts"
where = "status <> 'staff'"
starting_point = "last_seen"
retention = "1 year"
action = "anonymize"
marker = "anonymized_at"
mode = "enforce"
[rule.mails.columns]
email = "null"

[rule.features]
store = "app"
table = "features"
on_event = "synthesis.done"
match = { photo = "photo" }
starting_point = "made_at"
max_age = "10 years"
action = "delete"
mode = "enforce"

[rule.photos]
store = "uploads"
path = "faces/{photo}"
on_event = "synthesis.done"
max_age = "10 years"
action = "delete"
mode = "enforce"
"#;

/// Whether the database has a marker.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marker {
    Yes,
    No,
}

pub(crate) struct House {
    pub(crate) place: Place,
    pub(crate) store: TestDatabase,
    marker: Marker,
}

/// A moment so many days ago, as every database here reads it.
pub(crate) fn days_ago(days: i64) -> String {
    let at = clock::now() - SignedDuration::from_hours(24 * days);
    at.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

impl House {
    /// With the accounts 1 to 20 old, 21 to 25 in between, 31 to 35 young and 40 old and staff, and features of the photos
    /// `p1` to `p5`. A set of backups covers all of it.
    pub(crate) async fn new(store: TestDatabase, marker: Marker) -> House {
        House::at(Place::new(), store, marker).await
    }

    pub(crate) async fn at(place: Place, store: TestDatabase, marker: Marker) -> House {
        let moment = match store.kind {
            Kind::Postgres => "timestamptz",
            Kind::MySql => "datetime(6)",
            Kind::Sqlite => "text",
        };
        store
            .execute(&format!(
                "CREATE TABLE accounts (id integer PRIMARY KEY, email varchar(99), status varchar(9), \
                                        last_seen {moment}, anonymized_at {moment}); \
                 CREATE TABLE features (id integer PRIMARY KEY, photo varchar(99), made_at {moment}); \
                 CREATE TABLE expunged_marker (id integer PRIMARY KEY, number bigint NOT NULL, written_at text NOT NULL)"
            ))
            .await;
        let house = House { place, store, marker };
        for (ids, days) in [(1..=20, 2_000), (21..=25, 500), (31..=35, 3), (40..=40, 2_000)] {
            house.add(ids, days).await;
        }
        house.store.execute("UPDATE accounts SET status = 'staff' WHERE id = 40").await;
        for id in 1..=5 {
            let made = days_ago(20);
            let row = format!("INSERT INTO features VALUES ({id}, 'p{id}', '{made}')");
            house.store.execute(&row).await;
        }
        if house.store.kind == Kind::Sqlite {
            // What is put back is another file: nobody may have the old one open.
            house.store.pool.close().await;
        }
        fs::create_dir_all(house.place.path("tree/faces")).unwrap();
        house.configure(RULES);
        house.cover("[\"app\",\"uploads\"]").await;
        house
    }

    /// Other rules, from now on.
    pub(crate) fn configure(&self, rules: &str) {
        let marker = match self.marker {
            Marker::Yes => "marker = \"expunged_marker\"\n",
            Marker::No => "",
        };
        let app = self.place.store("app", &self.store);
        let uploads = "[store.uploads]\nkind = \"files\"\nroot = \"tree\"\n";
        self.place.configure(&format!("{app}{marker}{uploads}{rules}"));
    }

    /// Has a set of backups cover stores.
    pub(crate) async fn cover(&self, stores: &str) {
        let ledger = self.place.ledger().await;
        ledger
            .execute(&format!(
                "INSERT INTO backup_set (backup, stores, declared, configured, added_at, standing) \
                 VALUES ('nightly', '{stores}', 0, 1, '2026-01-01T00:00:00.000000Z', '{{}}')"
            ))
            .await;
        ledger.close().await;
    }

    /// Adds accounts that were last seen so many days ago.
    pub(crate) async fn add(&self, ids: std::ops::RangeInclusive<i32>, days: i64) {
        let seen = days_ago(days);
        let row = |id| format!("({id}, 'person{id}@example.org', 'user', '{seen}', NULL)");
        let rows: Vec<_> = ids.map(row).collect();
        self.execute(&format!("INSERT INTO accounts VALUES {}", rows.join(", "))).await;
    }

    async fn pool(&self) -> Pool {
        Pool::connect(&self.store.url).await
    }

    pub(crate) async fn execute(&self, sql: &str) {
        let pool = self.pool().await;
        pool.execute(sql).await;
        pool.close().await;
    }

    pub(crate) async fn count(&self, sql: &str) -> i64 {
        let pool = self.pool().await;
        let count = pool.count(sql).await;
        pool.close().await;
        count
    }

    /// The keys of a table that meet a condition, in order.
    pub(crate) async fn ids(&self, table: &str, condition: &str) -> Vec<i32> {
        let text = if self.store.kind == Kind::MySql { "CHAR" } else { "text" };
        let pool = self.pool().await;
        let sql = format!("SELECT CAST(id AS {text}) FROM {table} WHERE {condition}");
        let ids = pool.strings(&sql).await;
        pool.close().await;
        let mut ids: Vec<i32> = ids.iter().map(|id| id.parse().unwrap()).collect();
        ids.sort_unstable();
        ids
    }

    pub(crate) async fn ledger_count(&self, sql: &str) -> i64 {
        let ledger = self.place.ledger().await;
        let count = ledger.count(sql).await;
        ledger.close().await;
        count
    }

    // --- the tree -------------------------------------------------------------------------------------

    pub(crate) fn file(&self, path: &str) -> PathBuf {
        self.place.path("tree").join(path)
    }

    /// Puts a file there that was last modified so many days ago.
    pub(crate) fn put(&self, path: &str, days: u64) {
        let path = self.file(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = File::create(path).unwrap();
        let modified = SystemTime::from(clock::now()) - Duration::from_hours(24 * days);
        file.set_modified(modified).unwrap();
    }

    pub(crate) fn save_files(&self) {
        self.copy("tree", "saved-tree");
    }

    /// As `cp -a` does: with the times of before.
    pub(crate) fn restore_files(&self) {
        self.copy("saved-tree", "tree");
    }

    fn copy(&self, from: &str, to: &str) {
        let (from, to) = (self.place.path(from), self.place.path(to));
        fs::remove_dir_all(&to).ok();
        let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
        assert!(copied.success());
    }

    // --- the database's backup ------------------------------------------------------------------------

    /// Makes a backup of the database, with the tools of its kind.
    pub(crate) async fn save(&self) {
        let file = self.place.path("app.backup");
        fs::remove_file(&file).ok();
        match self.store.kind {
            Kind::Sqlite => self.execute(&format!("VACUUM INTO '{}'", file.display())).await,
            Kind::Postgres => {
                self.postgres("pg_dump", &["-Fc", "-f", file.to_str().unwrap(), "-d"])
            }
            Kind::MySql => {
                for table in ["accounts", "features", "expunged_marker"] {
                    self.execute(&format!(
                        "DROP TABLE IF EXISTS saved_{table}; CREATE TABLE saved_{table} AS SELECT * FROM {table}"
                    ))
                    .await;
                }
            }
        }
    }

    /// Puts it back.
    pub(crate) async fn restore(&self) {
        let file = self.place.path("app.backup");
        match self.store.kind {
            Kind::Sqlite => {
                let path = self.store.path();
                for more in ["-wal", "-shm"] {
                    fs::remove_file(format!("{}{more}", path.display())).ok();
                }
                fs::copy(file, path).unwrap();
            }
            Kind::Postgres => {
                let file = file.to_str().unwrap();
                self.postgres("pg_restore", &["--clean", "--if-exists", file, "-d"]);
            }
            Kind::MySql => {
                for table in ["accounts", "features", "expunged_marker"] {
                    self.execute(&format!(
                        "DELETE FROM {table}; INSERT INTO {table} SELECT * FROM saved_{table}"
                    ))
                    .await;
                }
            }
        }
    }

    fn postgres(&self, tool: &str, arguments: &[&str]) {
        let tool = PathBuf::from(environment("EXPUNGED_TEST_POSTGRES_BIN")).join(tool);
        let done = Command::new(tool).args(arguments).arg(&self.store.url).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    // --- what is asked of it --------------------------------------------------------------------------

    /// Runs a rule and gives what came of it.
    pub(crate) fn run(&self, rule: &str) -> Value {
        self.place.json(&["run", rule])[0].clone()
    }

    /// Runs a rule that has to take so many.
    #[track_caller]
    pub(crate) fn takes(&self, rule: &str, records: u64) {
        let run = self.run(rule);
        assert_eq!((&run["state"], &run["records"]), (&"done".into(), &records.into()), "{run}");
    }

    /// Runs a rule that must not run, because its store is frozen.
    #[track_caller]
    pub(crate) fn refuses(&self, rule: &str, evidence: &str) {
        let run = self.run(rule);
        assert_eq!(run["state"], "refused", "{run}");
        let error = run["error"].as_str().unwrap();
        assert!(error.contains(evidence) && error.contains("expunged replay"), "{error}");
    }

    /// Says that the synthesis of photos is done.
    pub(crate) fn done(&self, photos: &[&str]) {
        for photo in photos {
            let said = self.place.run(&["event", "synthesis.done", &format!("photo={photo}")]);
            assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        }
    }

    pub(crate) fn hold(&self, subject: &str) {
        let order = ["--authority", "court", "--reference", "7"];
        let said = self.place.run(&[&["hold", "place", "--subject", subject][..], &order].concat());
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    }

    /// What a replay would do.
    pub(crate) fn plan(&self, store: &str, more: &[&str]) -> Value {
        self.place.json(&[&["replay", store, "--dry-run"][..], more].concat())
    }

    /// Replays and gives what came of it.
    pub(crate) fn replay(&self, store: &str, more: &[&str]) -> Value {
        self.place.json(&[&["replay", store, "--yes"][..], more].concat())
    }

    /// What runs rules, in this process.
    pub(crate) async fn runner(&self) -> Runner {
        let config = Config::load(&self.place.path("expunged.toml"), std::iter::empty()).unwrap();
        let keys = Arc::new(Keys::open(&config.keys).unwrap());
        let ledger = Ledger::open(&self.place.ledger, keys).await.unwrap();
        let stores = Arc::new(Stores::new(config.stores.clone()));
        Runner::new(ledger, stores, Arc::new(config.rules.clone()))
    }

    /// The stores that a look freezes now.
    pub(crate) async fn look(&self, now: Timestamp) -> Vec<String> {
        let runner = self.runner().await;
        let noticed = runner.look_for_restores(now).await.unwrap();
        runner.stores.close().await;
        runner.ledger.close().await;
        noticed.iter().map(|frozen| frozen.store.to_string()).collect()
    }

    pub(crate) async fn frozen(&self) -> i64 {
        self.ledger_count("SELECT count(*) FROM frozen_store").await
    }
}

/// Of a replay's plan, what it says of one rule.
#[track_caller]
pub(crate) fn of_rule<'a>(plan: &'a Value, rule: &str) -> &'a Value {
    let rules = plan["rules"].as_array().unwrap();
    rules.iter().find(|one| one["rule"] == rule).unwrap_or_else(|| panic!("no {rule} in {plan}"))
}

/// Of a rule's part of a plan: how many are known, there again, and would go; held, changed and newer.
pub(crate) fn numbers(rule: &Value) -> [u64; 6] {
    ["known", "there", "due", "held", "changed", "newer"].map(|name| rule[name].as_u64().unwrap())
}
