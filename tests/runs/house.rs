//! A store with accounts, rules over them, and a ledger.

use std::path::Path;
use std::sync::Arc;

use expunged::audit::entry::Cause;
use expunged::audit::{Entry, Event};
use expunged::clock;
use expunged::config::{Config, InputFile};
use expunged::keys::Keys;
use expunged::ledger::audit::AuditFilter;
use expunged::ledger::{Approved, Intended, Ledger, Loaded, Request, Start};
use expunged::rule::Rule;
use expunged::run::{RunResult, RunState, Runner, run_by_command};
use expunged::store::Batch;
use expunged::store::Stores;
use expunged::store::sql::{Access, Bounds};
use tempfile::{NamedTempFile, TempDir};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{Kind, TestDatabase, fresh_postgres};

/// A store with accounts of which some are due, its configuration, and a ledger.
pub(crate) struct House {
    pub(crate) store: TestDatabase,
    // Dropped after the connections to it.
    pub(crate) runner: Runner,
    pub(crate) config: Config,
    _ledger_store: Option<TestDatabase>,
    _folder: TempDir,
    _replica: Option<NamedTempFile>,
}

pub(crate) const RULES: &str = r#"
[breakers]
max_share = "100 %"

[rule.inactive]
store = "app"
table = "accounts"
where = "status <> 'staff'"
starting_point = "last_seen_at"
retention = "2 years"
action = "delete"
subject = "id"
mode = "enforce"

[rule.watching]
store = "app"
table = "accounts"
starting_point = "last_seen_at"
retention = "1 year"
action = "delete"

[rule.mails]
store = "app"
table = "accounts"
starting_point = "last_seen_at"
retention = "1 year"
action = "anonymize"
marker = "anonymized_at"
mode = "enforce"
[rule.mails.columns]
email = "hmac"
name = "null"
"#;

impl House {
    pub(crate) async fn new(store: TestDatabase, ledger_on_postgres: bool) -> House {
        House::with(store, ledger_on_postgres, RULES).await
    }

    /// With rules of its own.
    pub(crate) async fn with(store: TestDatabase, ledger_on_postgres: bool, rules: &str) -> House {
        fill(&store).await;
        House::over(store, ledger_on_postgres, "", rules).await
    }

    /// With lines of the store's own.
    pub(crate) async fn with_lines(store: TestDatabase, lines: &str, rules: &str) -> House {
        fill(&store).await;
        House::over(store, false, lines, rules).await
    }

    /// With a replica that holds the same.
    pub(crate) async fn with_replica(
        store: TestDatabase,
        replica: &TestDatabase,
        rules: &str,
    ) -> House {
        fill(&store).await;
        fill(replica).await;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &replica.url).unwrap();
        let more = format!("replica_url = {{ file = \"{}\" }}\n", file.path().display());
        House { _replica: Some(file), ..House::over(store, false, &more, rules).await }
    }

    async fn over(store: TestDatabase, ledger_on_postgres: bool, more: &str, rules: &str) -> House {
        let kind = match store.kind {
            Kind::Postgres => "postgres",
            Kind::MySql => "mysql",
            Kind::Sqlite => "sqlite",
        };
        let folder = tempfile::tempdir().unwrap();
        let password = folder.path().join("url");
        std::fs::write(&password, &store.url).unwrap();
        restrict(&password);
        let text = format!(
            "[store.app]\nkind = \"{kind}\"\nurl = {{ file = \"{}\" }}\n{more}{rules}",
            password.display()
        );
        let file = InputFile { path: "expunged.toml".into(), bytes: text.into_bytes() };
        let config = Config::parse(vec![file], folder.path(), std::iter::empty()).unwrap();
        let ledger_store = if ledger_on_postgres { Some(fresh_postgres().await) } else { None };
        let url = match &ledger_store {
            Some(database) => database.url.clone(),
            None => format!("sqlite://{}", folder.path().join("ledger.db").display()),
        };
        let keys = Arc::new(Keys::open_or_create(&folder.path().join("keys")).unwrap());
        let ledger = Ledger::open(&url, keys).await.unwrap();
        let loaded =
            Loaded { rules: &config.rules, stores: 1, digest: &config.digest(), now: clock::now() };
        ledger.load_rules(loaded).await.unwrap();
        let stores = Arc::new(Stores::new(config.stores.clone()));
        let runner = Runner::new(ledger, stores, Arc::new(config.rules.clone()));
        House {
            store,
            runner,
            config,
            _ledger_store: ledger_store,
            _folder: folder,
            _replica: None,
        }
    }

    pub(crate) fn rule(&self, name: &str) -> &Rule {
        &self.config.rules[&name.parse().unwrap()]
    }

    /// Runs a rule; where it waits for approval, approves it and runs it again.
    pub(crate) async fn run(&self, rule: &str) -> RunResult {
        let result = self.ask(rule).await;
        if result.state != RunState::Waiting {
            return result;
        }
        let run = self.approve(rule).await;
        let result = self.ask(rule).await;
        assert_eq!(result.run, Some(run), "it runs under the id that was approved");
        result
    }

    /// Has a rule ask for approval, and gives it; the id under which it will run.
    pub(crate) async fn approve(&self, rule: &str) -> Uuid {
        let result = self.ask(rule).await;
        assert_eq!((result.state, result.records), (RunState::Waiting, 0));
        let run = result.run.unwrap();
        let approved = self.runner.ledger.approve(run, "tester", "it is a test", clock::now());
        assert!(matches!(approved.await.unwrap(), Approved::Now(_)));
        run
    }

    pub(crate) async fn ask(&self, rule: &str) -> RunResult {
        let stop = CancellationToken::new();
        run_by_command(&self.runner, self.rule(rule), clock::now(), &stop, &|_| {}).await.unwrap()
    }

    pub(crate) async fn ids(&self, condition: &str) -> i64 {
        self.store.count(&format!("SELECT count(*) FROM accounts WHERE {condition}")).await
    }

    pub(crate) async fn events(&self, kind: &str) -> Vec<Event> {
        let filter = AuditFilter { kind: Some(kind.into()), ..AuditFilter::default() };
        let entries = self.runner.ledger.audit_log(&filter).await.unwrap();
        entries.into_iter().map(|(_, Entry { event, .. })| event).collect()
    }

    /// The log is whole, and holds nothing of the data.
    pub(crate) async fn assert_log_is_sound(&self) {
        let verification = self.runner.ledger.verify_audit().await.unwrap();
        assert!(verification.is_valid(), "{:?}", verification.problems);
        let entries = self.runner.ledger.audit_log(&AuditFilter::default()).await.unwrap();
        let text = serde_json::to_string(&entries).unwrap();
        assert!(!text.contains("example.org") && !text.contains("Person"), "{text}");
    }

    /// Has a trigger put an account back when it goes. On MySQL none can: there it may not write to its own table.
    pub(crate) async fn revive(&self, id: u32) {
        let again = "INSERT INTO accounts (id, status, last_seen_at) VALUES (OLD.id, 'user', OLD.last_seen_at)";
        let trigger = match self.store.kind {
            Kind::Postgres => format!(
                "CREATE FUNCTION revive() RETURNS trigger LANGUAGE plpgsql AS \
                 $$ BEGIN IF OLD.id = {id} THEN {again}; END IF; RETURN NULL; END $$; \
                 CREATE TRIGGER revive AFTER DELETE ON accounts FOR EACH ROW EXECUTE FUNCTION revive()"
            ),
            Kind::Sqlite => format!(
                "CREATE TRIGGER revive AFTER DELETE ON accounts WHEN OLD.id = {id} BEGIN {again}; END"
            ),
            Kind::MySql => unreachable!("no trigger there can do it"),
        };
        self.store.execute(&trigger).await;
    }

    /// Multiplies what there is: 1,000 rows more each time, 490 of them due.
    pub(crate) async fn copy(&self, times: u32) {
        for copy in 1..=times {
            let copies = format!(
                "INSERT INTO accounts (id, email, status, last_seen_at) \
                 SELECT id + {copy} * 10000, email, status, last_seen_at FROM accounts WHERE id <= 1000"
            );
            self.store.execute(&copies).await;
        }
    }

    /// Takes a batch of the rule, writes its intent, and hands both over: what a process has done
    /// that is killed then.
    pub(crate) async fn intend(&self, rule: &Rule) -> (Batch, expunged::ledger::Run) {
        let request = self.runner.ledger.request(&rule.name, Cause::Command, clock::now()).await;
        self.intend_for(rule, &request.unwrap()).await
    }

    /// The same, for a request.
    pub(crate) async fn intend_for(
        &self,
        rule: &Rule,
        request: &Request,
    ) -> (Batch, expunged::ledger::Run) {
        let now = clock::now();
        let ledger = &self.runner.ledger;
        let store = self.runner.stores.get(&rule.store, Access::ReadWrite).unwrap();
        let target = store.target(rule).await.unwrap();
        let bounds = Bounds { cutoff: rule.cutoff(now), now };
        let mut walk = store.walk(&target, bounds, 490, 1002).unwrap();
        let mut pace = walk.pace();
        let batch = store
            .take(&target, bounds, &mut walk, &mut pace, &|_, _, old| old.map(str::to_owned))
            .await
            .unwrap()
            .expect("a first window");
        let run = ledger.start_run(request, rule, &Start::Unasked, now).await.unwrap();
        let id = batch.transaction_id.as_deref();
        let intended = Intended {
            tellings: rule.tellings.clone(),
            told: batch.told.clone(),
            ..Intended::of(batch.keys.clone())
        };
        ledger.intend(&run, 0, &intended, id, 0, now).await.unwrap();
        (batch, run)
    }
}

/// Makes `accounts`, in which 490 records are due under the rule `inactive`.
async fn fill(store: &TestDatabase) {
    let moment = match store.kind {
        Kind::Postgres => "timestamptz",
        Kind::MySql => "datetime",
        Kind::Sqlite => "text",
    };
    store
            .execute(&format!(
                "CREATE TABLE accounts (id integer PRIMARY KEY, email varchar(200), name varchar(99), \
                                        status varchar(9), last_seen_at {moment}, anonymized_at {moment});
                 CREATE INDEX accounts_seen ON accounts (last_seen_at)"
            ))
            .await;
    // 1 to 10 staff and old, 11 to 500 old, 501 to 700 in between, the rest fresh; two without a date.
    for chunk in (1..=1000).collect::<Vec<u32>>().chunks(250) {
        let rows: Vec<_> = chunk
            .iter()
            .map(|id| {
                let seen = match id {
                    1..=500 => "2020-02-29 12:00:00",
                    501..=700 => "2025-03-01 12:00:00",
                    _ => "2026-11-01 12:00:00",
                };
                let status = if *id <= 10 { "staff" } else { "user" };
                format!(
                    "({id}, 'person{id}@example.org', 'Person {id}', '{status}', '{seen}', NULL)"
                )
            })
            .collect();
        store.execute(&format!("INSERT INTO accounts VALUES {}", rows.join(", "))).await;
    }
    store.execute("INSERT INTO accounts (id, status) VALUES (2001, 'user'), (2002, 'user')").await;
}

fn restrict(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}
