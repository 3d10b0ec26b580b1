//! A folder with a configuration, a tree of files, a bucket, and a table whose rows own some of them.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use expunged::clock;
use expunged::keys::Keys;
use expunged::types::{Key, KeyValue};
use serde_json::Value;

use crate::harness::Place;
use crate::servers::{BUCKET, Files, KEY_ID, SECRET};
use crate::support::{Kind, TestDatabase};

/// Older than every retention here.
pub(crate) const OLD: u64 = 400;

/// The rules that most tests act by.
pub(crate) const EXPORTS: &str = r#"
[rule.exports]
store = "uploads"
path = "exports/{user_id}/*"
retention = "30 days"
action = "delete"
subject = "user_id"
mode = "enforce"
"#;

pub(crate) struct House {
    pub(crate) place: Place,
    pub(crate) bucket: Option<Files>,
    pub(crate) store: Option<TestDatabase>,
}

/// What a command printed, and how it ended.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) text: String,
}

impl Said {
    #[track_caller]
    pub(crate) fn has(&self, what: &str) -> &Said {
        // Lines are broken to fit a terminal.
        let text = self.text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(what), "no `{what}` in:\n{}", self.text);
        self
    }

    #[track_caller]
    pub(crate) fn lacks(&self, what: &str) -> &Said {
        assert!(!self.text.contains(what), "`{what}` in:\n{}", self.text);
        self
    }
}

impl House {
    /// A tree of files alone.
    pub(crate) fn files(rules: &str) -> House {
        let house = House { place: Place::new(), bucket: None, store: None };
        fs::create_dir(house.root()).unwrap();
        house.place.configure(&format!("{}{rules}", house.uploads()));
        house
    }

    /// A bucket alone, without versions; it is called `uploads` as well.
    pub(crate) fn objects(rules: &str) -> House {
        let bucket = Files::serve();
        let house = House { place: Place::new(), bucket: Some(bucket), store: None };
        house.place.configure(&format!("{}{rules}", house.uploads()));
        house
    }

    /// Both in one: what is true of files and of objects.
    pub(crate) fn each(rules: &str) -> [House; 2] {
        [House::files(rules), House::objects(rules)]
    }

    /// A database called `app`, and a tree or a bucket called `uploads`.
    pub(crate) fn with_rows(store: TestDatabase, bucket: bool, rules: &str) -> House {
        let bucket = bucket.then(Files::serve);
        let house = House { place: Place::new(), bucket, store: Some(store) };
        if house.bucket.is_none() {
            fs::create_dir(house.root()).unwrap();
        }
        let app = house.place.store("app", house.store());
        house.place.configure(&format!("{app}{}{rules}", house.uploads()));
        house
    }

    /// Other rules, from now on.
    pub(crate) fn reconfigure(&self, rules: &str) {
        let app = self.store.as_ref().map(|store| self.place.store("app", store));
        let text = format!("{}{}{rules}", app.unwrap_or_default(), self.uploads());
        self.place.configure(&text);
    }

    pub(crate) fn store(&self) -> &TestDatabase {
        self.store.as_ref().unwrap()
    }

    /// The store `uploads`, for the configuration.
    pub(crate) fn uploads(&self) -> String {
        match &self.bucket {
            None => "[store.uploads]\nkind = \"files\"\nroot = \"tree\"\n".to_owned(),
            Some(bucket) => objects_store("uploads", &self.place, &bucket.url, BUCKET),
        }
    }

    pub(crate) fn table(&self) -> &'static str {
        if self.bucket.is_some() { "objects" } else { "files" }
    }

    pub(crate) fn root(&self) -> PathBuf {
        match &self.bucket {
            None => self.place.path("tree"),
            Some(bucket) => bucket.folder.path().join(BUCKET),
        }
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    /// Puts one there, last modified so many days ago.
    pub(crate) fn put(&self, path: &str, days: u64) {
        self.put_at(path, SystemTime::from(clock::now()) - Duration::from_hours(days * 24));
    }

    pub(crate) fn put_at(&self, path: &str, modified: SystemTime) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = File::create(path).unwrap();
        file.set_modified(modified).unwrap();
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.at(path).exists()
    }

    /// Every path there is, in order.
    pub(crate) fn all(&self) -> Vec<String> {
        fn walk(folder: PathBuf, all: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { walk(path, all) } else { all.push(path) }
            }
        }
        let mut all = Vec::new();
        walk(self.root(), &mut all);
        let name = |path: &PathBuf| path.strip_prefix(self.root()).unwrap().display().to_string();
        let mut all: Vec<_> = all.iter().map(name).filter(|name| !name.starts_with('.')).collect();
        all.sort();
        all
    }

    pub(crate) fn say(&self, arguments: &[&str]) -> Said {
        let output = self.place.run(arguments);
        let text = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(text).unwrap();
        Said { code: output.status.code().unwrap(), text: said }
    }

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

    pub(crate) fn hold(&self, arguments: &[&str]) -> Said {
        let order = ["--authority", "court", "--reference", "7"];
        let said = self.say(&[&["hold", "place"], arguments, &order].concat());
        assert_eq!(said.code, 0, "{}", said.text);
        said
    }

    /// How a record of this store is committed to.
    pub(crate) fn commitment(&self, path: &str) -> [u8; 32] {
        let keys = Keys::open(&self.place.path("keys")).unwrap();
        let key = Key(vec![KeyValue::Text(path.to_owned())]);
        keys.commitment(&"uploads".parse().unwrap(), self.table(), &key)
    }

    /// How often each commitment is in a batch that is done, by the ledger; each batch is held against its
    /// entry in the log, which is verified.
    pub(crate) async fn committed(&self) -> std::collections::BTreeMap<[u8; 32], u32> {
        let audit = self.place.audit();
        let roots: std::collections::BTreeMap<&str, &Value> = audit
            .iter()
            .filter(|entry| entry["kind"] == "batch_done")
            .map(|entry| (entry["batch"].as_str().unwrap(), entry))
            .collect();
        let ledger = self.place.ledger().await;
        let sql = "SELECT id || ' ' || lower(hex(commitments)) FROM batch WHERE state = 'done'";
        let mut times = std::collections::BTreeMap::new();
        let batches = ledger.strings(sql).await;
        assert_eq!(batches.len(), roots.len(), "batches that are done, and entries that say so");
        for line in batches {
            let (id, bytes) = line.split_once(' ').unwrap();
            let bytes = hex::decode(bytes).unwrap();
            let commitments = expunged::audit::Commitments::from_bytes(&bytes).unwrap();
            assert_eq!(roots[id]["commitments"], commitments.root().to_string(), "of batch {id}");
            for commitment in bytes.as_chunks::<32>().0 {
                *times.entry(*commitment).or_default() += 1;
            }
        }
        ledger.close().await;
        times
    }

    /// How many batches have no outcome.
    pub(crate) async fn open_batches(&self) -> i64 {
        let ledger = self.place.ledger().await;
        let open = ledger.count("SELECT count(*) FROM batch WHERE state = 'intended'").await;
        ledger.close().await;
        open
    }
}

pub(crate) fn objects_store(name: &str, place: &Place, url: &str, bucket: &str) -> String {
    let secret = place.secret(&format!("{name}-secret"), SECRET);
    format!(
        "[store.{name}]\nkind = \"objects\"\nbucket = \"{bucket}\"\nendpoint = \"{url}\"\n\
         region = \"eu-central-1\"\naccess_key_id = \"{KEY_ID}\"\nsecret_access_key = {secret}\n"
    )
}

/// Makes `accounts`: `due` rows that are due, each with a key `k1`, `k2`, … of what belongs to it, and one
/// that is not.
pub(crate) async fn accounts(store: &TestDatabase, due: u32) {
    let (moment, old, new) = match store.kind {
        Kind::Postgres => ("timestamptz", "now() - interval '3 years'", "now()"),
        Kind::MySql => ("datetime(6)", "utc_timestamp(6) - INTERVAL 3 YEAR", "utc_timestamp(6)"),
        Kind::Sqlite => (
            "text",
            "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-3 years')",
            "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')",
        ),
    };
    let journal = if store.kind == Kind::Sqlite { "PRAGMA journal_mode = WAL;" } else { "" };
    store
        .execute(&format!(
            "{journal} CREATE TABLE accounts (id bigint PRIMARY KEY, email varchar(99), face varchar(99), \
             last_seen {moment}, anonymized_at {moment})"
        ))
        .await;
    store.execute("CREATE INDEX seen ON accounts (last_seen)").await;
    let ids: Vec<u32> = (1..=due).collect();
    for chunk in ids.chunks(500) {
        let row = |id: &u32| format!("({id}, 'user{id}@example.org', 'k{id}', {old}, NULL)");
        let rows = chunk.iter().map(row).collect::<Vec<_>>().join(", ");
        store.execute(&format!("INSERT INTO accounts VALUES {rows}")).await;
    }
    let young = format!("INSERT INTO accounts VALUES (0, 'young@example.org', 'k0', {new}, NULL)");
    store.execute(&young).await;
}

/// A rule over `accounts`, and what belongs to its rows.
pub(crate) fn accounts_rule(action: &str, attachments: &[&str]) -> String {
    let mut text = format!(
        "[rule.accounts]\nstore = \"app\"\ntable = \"accounts\"\nstarting_point = \"last_seen\"\n\
         retention = \"2 years\"\nmode = \"enforce\"\n{action}\n"
    );
    for path in attachments {
        text += &format!("[[rule.accounts.attachments]]\nstore = \"uploads\"\npath = \"{path}\"\n");
    }
    text
}
