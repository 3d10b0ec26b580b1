//! A store, a rule `old` that acts on its table `events`, and a ledger.

use std::sync::Arc;

use expunged::audit::{Entry, Event};
use expunged::clock;
use expunged::config::{Config, InputFile};
use expunged::hold::Holds;
use expunged::keys::Keys;
use expunged::ledger::audit::AuditFilter;
use expunged::ledger::{Approved, Ledger, Loaded};
use expunged::plan::Plan;
use expunged::rule::Rule;
use expunged::run::{RunResult, RunState, Runner, plan, run_by_command};
use expunged::store::Stores;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::support::{Kind, TestDatabase};

pub(crate) struct House {
    pub(crate) store: TestDatabase,
    // Dropped after the connections to it.
    pub(crate) runner: Runner,
    pub(crate) config: Config,
    folder: TempDir,
}

/// Three years of months, of which those of 2020 are over and those of 2090 are not; what fits in none goes to
/// a default partition. Two hundred rows in each month of 2020, a hundred in one of 2090.
pub(crate) const MONTHS: &str = "
    CREATE TABLE events (id bigint, person integer, at timestamptz, note text, PRIMARY KEY (id, at))
        PARTITION BY RANGE (at);
    CREATE TABLE events_2020_01 PARTITION OF events FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2020-02-01 00:00+00');
    CREATE TABLE events_2020_02 PARTITION OF events FOR VALUES FROM ('2020-02-01 00:00+00') TO ('2020-03-01 00:00+00');
    CREATE TABLE events_2020_03 PARTITION OF events FOR VALUES FROM ('2020-03-01 00:00+00') TO ('2020-04-01 00:00+00');
    CREATE TABLE events_2090 PARTITION OF events FOR VALUES FROM ('2090-01-01 00:00+00') TO (MAXVALUE);
    CREATE TABLE events_rest PARTITION OF events DEFAULT;
    INSERT INTO events SELECT n, n % 50, '2020-01-02 00:00+00'::timestamptz + n * interval '1 hour', 'one'
        FROM generate_series(1, 200) n;
    INSERT INTO events SELECT n, n % 50, '2020-02-02 00:00+00'::timestamptz + (n - 1000) * interval '1 hour', 'two'
        FROM generate_series(1001, 1200) n;
    INSERT INTO events SELECT n, n % 50, '2020-03-02 00:00+00'::timestamptz + (n - 2000) * interval '1 hour', 'three'
        FROM generate_series(2001, 2200) n;
    INSERT INTO events SELECT n, n % 50, '2090-03-02 00:00+00', 'later' FROM generate_series(3001, 3100) n";

impl House {
    /// Over what these statements make; `more` are lines of the rule.
    pub(crate) async fn new(store: TestDatabase, sql: &str, more: &str) -> House {
        House::with(store, sql, more, "").await
    }

    /// With tables of the configuration behind the rule.
    pub(crate) async fn with(store: TestDatabase, sql: &str, more: &str, rest: &str) -> House {
        let url = store.url.clone();
        House::acting_as(store, &url, sql, &format!("{more}\n{rest}")).await
    }

    /// With this URL of the store's.
    pub(crate) async fn acting_as(
        store: TestDatabase,
        store_url: &str,
        sql: &str,
        more: &str,
    ) -> House {
        store.execute(sql).await;
        let kind = match store.kind {
            Kind::Postgres => "postgres",
            Kind::MySql => "mysql",
            Kind::Sqlite => "sqlite",
        };
        let folder = tempfile::tempdir().unwrap();
        let url = folder.path().join("url");
        std::fs::write(&url, store_url).unwrap();
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&url, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let text = format!(
            "[breakers]\nmax_share = \"100 %\"\n[store.app]\nkind = \"{kind}\"\nurl = {{ file = \"{}\" }}\n\
             [rule.old]\nstore = \"app\"\ntable = \"events\"\nstarting_point = \"at\"\nretention = \"2 years\"\n\
             action = \"delete\"\nmode = \"enforce\"\nsubject = \"person\"\n{more}\n",
            url.display()
        );
        let file = InputFile { path: "expunged.toml".into(), bytes: text.into_bytes() };
        let config = Config::parse(vec![file], folder.path(), std::iter::empty());
        let config = config.unwrap_or_else(|error| panic!("{error}"));
        let keys = Arc::new(Keys::open_or_create(&folder.path().join("keys")).unwrap());
        let ledger = format!("sqlite://{}", folder.path().join("ledger.db").display());
        let ledger = Ledger::open(&ledger, keys).await.unwrap();
        let loaded =
            Loaded { rules: &config.rules, stores: 1, digest: &config.digest(), now: clock::now() };
        ledger.load_rules(loaded).await.unwrap();
        let stores = Arc::new(Stores::new(config.stores.clone()));
        let runner = Runner::new(ledger, stores, Arc::new(config.rules.clone()));
        House { store, runner, config, folder }
    }

    /// Has the first run not wait for approval.
    pub(crate) async fn approve(&self) {
        let ledger = format!("sqlite://{}", self.folder.path().join("ledger.db").display());
        crate::support::approve_in_advance(&ledger, &self.config).await;
    }

    pub(crate) fn rule(&self) -> &Rule {
        &self.config.rules[&"old".parse().unwrap()]
    }

    /// Runs the rule; where it waits for approval, approves it and runs it again.
    pub(crate) async fn run(&self) -> RunResult {
        let result = self.ask().await;
        if result.state != RunState::Waiting {
            return result;
        }
        let run = result.run.unwrap();
        let approved = self.runner.ledger.approve(run, "tester", "it is a test", clock::now());
        assert!(matches!(approved.await.unwrap(), Approved::Now(_)));
        self.ask().await
    }

    pub(crate) async fn ask(&self) -> RunResult {
        let stop = CancellationToken::new();
        run_by_command(&self.runner, self.rule(), clock::now(), &stop, &|_| {}).await.unwrap()
    }

    pub(crate) async fn plan(&self) -> Plan {
        let stores = Stores::new(self.config.stores.clone());
        let plan =
            plan(self.rule(), &stores, &Holds::default(), clock::now(), 0, None).await.unwrap();
        stores.close().await;
        plan
    }

    /// The partitions that are there.
    pub(crate) async fn partitions(&self) -> Vec<String> {
        let sql =
            "SELECT relid::regclass::text FROM pg_partition_tree('events') WHERE isleaf ORDER BY 1";
        self.store.strings(sql).await
    }

    pub(crate) async fn rows(&self, condition: &str) -> i64 {
        self.store.count(&format!("SELECT count(*) FROM events WHERE {condition}")).await
    }

    /// The batches that are done: how many records, and the partition that went with them.
    pub(crate) async fn done(&self) -> Vec<(u64, Option<String>)> {
        let filter = AuditFilter { kind: Some("batch_done".into()), ..AuditFilter::default() };
        let entries = self.runner.ledger.audit_log(&filter).await.unwrap();
        let batch = |(_, entry): (u64, Entry)| match entry.event {
            Event::BatchDone { records, partition, .. } => (records, partition),
            other => panic!("{other:?}"),
        };
        entries.into_iter().map(batch).collect()
    }

    /// The partitions that went whole, without their schema.
    pub(crate) async fn dropped(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.done().await.into_iter().filter_map(|(_, partition)| partition).collect();
        names.dedup();
        names.iter().map(|name| name.trim_start_matches("public.").to_owned()).collect()
    }

    /// The log is whole.
    pub(crate) async fn assert_log_is_sound(&self) {
        let verification = self.runner.ledger.verify_audit().await.unwrap();
        assert!(verification.is_valid(), "{:?}", verification.problems);
    }
}
