//! A table of which one row in four is due, a rule that acts on it, and the proof that it did.

use std::collections::BTreeMap;

use expunged::audit::Commitments;
use expunged::keys::Keys;
use expunged::types::{Key, KeyValue};
use serde_json::Value;

use crate::harness::{LIMIT, Place, rule};
use crate::notices;
use crate::support::{Kind, Pool, TestDatabase};
use expunged::clock::Stopwatch;

/// What the rule does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Act {
    Delete,
    /// Values that expunged computes, and a marker.
    Pseudonymize,
    /// Values that the database computes.
    Clear,
}

pub(crate) struct House {
    pub(crate) place: Place,
    pub(crate) store: TestDatabase,
    pub(crate) ledger: Pool,
    pub(crate) act: Act,
    rows: i64,
    /// Where the ledger is, if not in a file; kept, because it goes when it is dropped.
    _ledger: Option<TestDatabase>,
}

impl House {
    /// Makes the table, empty, and writes the configuration: the one place where these tests have a
    /// rule act.
    pub(crate) async fn new(
        store: TestDatabase,
        postgres_ledger: Option<TestDatabase>,
        act: Act,
    ) -> House {
        let place = postgres_ledger.as_ref().map_or_else(Place::new, Place::on);
        let moment = match store.kind {
            Kind::Postgres => "timestamptz",
            Kind::MySql => "datetime(6)",
            Kind::Sqlite => "text",
        };
        store
            .execute(&format!(
                "CREATE TABLE accounts (id bigint PRIMARY KEY, email varchar(99), \
                                        last_seen {moment}, anonymized_at {moment});
                 CREATE INDEX seen ON accounts (last_seen)"
            ))
            .await;
        let action = match act {
            Act::Delete => "",
            Act::Pseudonymize => {
                "action = \"anonymize\"\nmarker = \"anonymized_at\"\n\
                 [rule.nightly.columns]\nemail = \"hmac\"\n"
            }
            Act::Clear => "action = \"anonymize\"\n[rule.nightly.columns]\nemail = \"null\"\n",
        };
        place.configure(
            &(place.store("app", &store)
                + &recipients(&place)
                + &rule("nightly", "app", "0 3 * * *", action)
                + TELLS),
        );
        // Makes the ledger, and has the daemon know the rule.
        assert_eq!(place.start().stop().code(), Some(0));
        let ledger = place.ledger().await;
        House { place, store, ledger, act, rows: 0, _ledger: postgres_ledger }
    }

    /// Adds rows, one in four of them due.
    pub(crate) async fn add(&mut self, rows: i64) {
        let (first, last) = (self.rows + 1, self.rows + rows);
        let sql = match self.store.kind {
            Kind::Postgres => format!(
                "INSERT INTO accounts SELECT n, 'user' || n || '@example.org', \
                 now() - CASE WHEN n % 4 = 0 THEN interval '3 years' ELSE interval '1 day' END \
                 FROM generate_series({first}, {last}) AS n; ANALYZE accounts"
            ),
            Kind::MySql => format!(
                "INSERT INTO accounts SELECT seq, concat('user', seq, '@example.org'), \
                 utc_timestamp(6) - INTERVAL IF(seq % 4 = 0, 1100, 1) DAY, NULL \
                 FROM seq_{first}_to_{last}"
            ),
            Kind::Sqlite => format!(
                "WITH RECURSIVE n(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM n WHERE n < {last}) \
                 INSERT INTO accounts SELECT n, 'user' || n || '@example.org', \
                 strftime('%Y-%m-%dT%H:%M:%fZ', 'now', iif(n % 4 = 0, '-3 years', '-1 days')), NULL FROM n"
            ),
        };
        self.store.execute(&sql).await;
        self.rows = last;
    }

    /// Rows that were due when they were added, handled by now or not.
    pub(crate) fn due_ids(&self) -> impl Iterator<Item = i64> {
        (1..=self.rows).filter(|id| id % 4 == 0)
    }

    /// How many rows are due now.
    pub(crate) async fn due(&self) -> i64 {
        let untouched = match self.act {
            Act::Delete => "",
            Act::Pseudonymize => " AND anonymized_at IS NULL",
            Act::Clear => " AND email IS NOT NULL",
        };
        self.store
            .count(&format!("SELECT count(*) FROM accounts WHERE id % 4 = 0{untouched}"))
            .await
    }

    /// How many rows are gone or anonymized.
    pub(crate) async fn handled(&self) -> i64 {
        self.rows / 4 - self.due().await
    }

    pub(crate) async fn open_runs(&self) -> i64 {
        self.ledger.count("SELECT count(*) FROM run WHERE state = 'running'").await
    }

    pub(crate) async fn open_batches(&self) -> i64 {
        self.ledger.count("SELECT count(*) FROM batch WHERE state = 'intended'").await
    }

    /// How many records the batches have that are done.
    pub(crate) async fn recorded(&self) -> i64 {
        let records =
            "SELECT CAST(coalesce(sum(records), 0) AS bigint) FROM batch WHERE state = 'done'";
        self.ledger.count(records).await
    }

    /// Runs the rule until nothing is due, which is to succeed at once but for a lock that a process
    /// killed a moment ago still has.
    pub(crate) async fn finish(&self) {
        let watch = Stopwatch::start();
        loop {
            let run = self.place.json(&["run"]);
            match run[0]["state"].as_str() {
                Some("done") => return,
                Some("busy") if watch.elapsed() < LIMIT => {}
                _ => panic!("{run}"),
            }
        }
    }

    /// Exactly the due rows are gone or anonymized, each is in exactly one batch that is done, and the
    /// audit log vouches for that batch. Gives the number of batches.
    pub(crate) async fn assert_covered(&self) -> usize {
        let expected: Vec<i64> = self.due_ids().collect();
        let gone = i64::try_from(expected.len()).unwrap();
        let all = self.store.count("SELECT count(*) FROM accounts").await;
        let kept = "SELECT count(*) FROM accounts WHERE id % 4 <> 0 AND anonymized_at IS NULL AND email = ";
        let kept = match self.store.kind {
            Kind::MySql => format!("{kept} concat('user', id, '@example.org')"),
            _ => format!("{kept} 'user' || id || '@example.org'"),
        };
        assert_eq!(self.due().await, 0, "rows that are still due");
        assert_eq!(self.store.count(&kept).await, self.rows - gone, "rows to be kept, untouched");
        let left = if self.act == Act::Delete { self.rows - gone } else { self.rows };
        assert_eq!(all, left, "rows in the table");
        self.place.assert_settled(gone).await;

        let audit = self.place.audit();
        let done: BTreeMap<&str, &Value> = audit
            .iter()
            .filter(|entry| entry["kind"] == "batch_done")
            .map(|entry| (entry["batch"].as_str().unwrap(), entry))
            .collect();
        let mut times: BTreeMap<[u8; 32], u32> = BTreeMap::new();
        let batches = self.batches().await;
        assert_eq!(batches.len(), done.len(), "batches that are done, and entries that say so");
        for (id, bytes) in &batches {
            let commitments = Commitments::from_bytes(bytes).unwrap();
            let entry = done[id.as_str()];
            assert_eq!(entry["commitments"], commitments.root().to_string(), "of batch {id}");
            assert_eq!(entry["records"], commitments.count(), "of batch {id}");
            for commitment in bytes.as_chunks().0 {
                *times.entry(*commitment).or_default() += 1;
            }
        }
        let keys = Keys::open(&self.place.path("keys")).unwrap();
        let store = "app".parse().unwrap();
        for id in expected {
            let key = Key(vec![KeyValue::Int(id.into())]);
            let commitment = keys.commitment(&store, "accounts", &key);
            assert_eq!(times.remove(&commitment), Some(1), "times that row {id} is covered");
        }
        assert!(times.is_empty(), "{} commitments to rows that were not due", times.len());
        self.assert_told(&audit).await;
        batches.len()
    }

    /// Each row that is gone or anonymized is in exactly one notice to each recipient, with its old values,
    /// and no other row is in any; the log says how many notices there are.
    async fn assert_told(&self, audit: &[Value]) {
        let ledger = notices::open(&self.place.ledger, &self.place.path("keys")).await;
        for recipient in ["lists", "single"] {
            let mut ids = notices::times(&ledger, recipient, "id").await;
            let messages = notices::messages(&ledger, recipient).await;
            for identities in messages.iter().flatten() {
                let email = format!("user{}@example.org", identities.0["id"]);
                assert_eq!(identities.0.get("email"), Some(&email), "the old value");
            }
            for id in self.due_ids() {
                let times = ids.remove(&id.to_string());
                assert_eq!(times, Some(1), "times that {recipient} is told of row {id}");
            }
            assert!(ids.is_empty(), "{recipient} is told of {} rows that are there", ids.len());
            let logged: u64 =
                audit.iter().filter_map(|entry| entry["notices"][recipient].as_u64()).sum();
            assert_eq!(
                logged,
                messages.len() as u64,
                "notices to {recipient} that the log knows of"
            );
        }
        ledger.close().await;
    }

    /// The batches that are done, with their commitments.
    async fn batches(&self) -> Vec<(String, Vec<u8>)> {
        let hex = match self.ledger {
            Pool::Postgres(_) => "encode(commitments, 'hex')",
            _ => "lower(hex(commitments))",
        };
        let sql = format!("SELECT id || ' ' || {hex} FROM batch WHERE state = 'done'");
        let read = |line: &String| {
            let (id, hex) = line.split_once(' ').unwrap();
            (id.to_owned(), hex::decode(hex).unwrap())
        };
        self.ledger.strings(&sql).await.iter().map(read).collect()
    }
}

/// Two recipients, at whose door nobody answers: one takes lists, one does not.
fn recipients(place: &Place) -> String {
    let secret = place.secret("webhook", "whsec_c2VjcmV0IG9mIHRoZSBraWxsIHN1aXRlIDEyMzQ1");
    let recipient = |name: &str, at_once: u32| {
        format!(
            "[recipient.{name}]\nprotocol = \"webhook\"\nurl = \"http://127.0.0.1:9/\"\ninternal = true\n\
             secret = {secret}\nat_once = {at_once}\n"
        )
    };
    recipient("lists", 500) + &recipient("single", 1)
}

/// Whom the rule tells of each row.
const TELLS: &str = "[rule.nightly.recipients]\n\
    lists = { identify = { id = \"id\", email = \"email\" }, per = \"record\" }\n\
    single = { identify = { id = \"id\", email = \"email\" }, per = \"record\" }\n";

pub(crate) fn kind_of(database: &TestDatabase) -> &'static str {
    match database.kind {
        Kind::Postgres => "postgres",
        Kind::MySql => "mariadb",
        Kind::Sqlite => "sqlite",
    }
}
