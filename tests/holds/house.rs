//! A store, rules over it and a ledger.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use expunged::audit::Event;
use expunged::clock;
use expunged::config::{Config, InputFile};
use expunged::hold::{Hold, Holds, Order, Range, Records, Scope, Terms};
use expunged::keys::Keys;
use expunged::ledger::audit::AuditFilter;
use expunged::ledger::{Ledger, Loaded};
use expunged::plan::{KeptReason, Plan};
use expunged::rule::{Condition, Dialect, Rule, StoreKind};
use expunged::run::{HoldError, InForce, RunResult, Runner, plan, run_by_command};
use expunged::store::Stores;
use jiff::{Timestamp, ToSpan};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::support::{Kind, TestDatabase, approve_in_advance, fresh_postgres};

/// Runs each function, which takes a database of its own, on each kind of database.
macro_rules! on_each_database {
    ($($name:ident),+ $(,)?) => {
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                Box::pin(super::$name(crate::support::fresh_postgres().await)).await;
            })+
        }
        mod mysql {
            $(#[tokio::test]
            async fn $name() {
                Box::pin(super::$name(crate::support::fresh_mysql().await)).await;
            })+
        }
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                Box::pin(super::$name(crate::support::fresh_sqlite().await)).await;
            })+
        }
    };
}
pub(crate) use on_each_database;

/// Nothing that is waited for here takes longer, on a busy machine either.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct House {
    pub(crate) store: TestDatabase,
    pub(crate) runner: Runner,
    pub(crate) config: Config,
    _ledger_store: Option<TestDatabase>,
    pub(crate) folder: TempDir,
}

impl House {
    /// With a SQLite ledger.
    pub(crate) async fn new(store: TestDatabase, tables: &str, rules: &str) -> House {
        House::build(store, tables, rules, None).await
    }

    /// With a ledger on PostgreSQL.
    pub(crate) async fn on_postgres(store: TestDatabase, tables: &str, rules: &str) -> House {
        House::build(store, tables, rules, Some(fresh_postgres().await)).await
    }

    async fn build(
        store: TestDatabase,
        tables: &str,
        rules: &str,
        ledger_store: Option<TestDatabase>,
    ) -> House {
        store.execute(tables).await;
        let folder = tempfile::tempdir().unwrap();
        secret(&folder, &store.url);
        let text = configuration(&store, rules);
        std::fs::write(folder.path().join("expunged.toml"), &text).unwrap();
        let file = InputFile { path: "expunged.toml".into(), bytes: text.into_bytes() };
        let config = Config::parse(vec![file], folder.path(), std::iter::empty()).unwrap();
        let url = match &ledger_store {
            Some(database) => database.url.clone(),
            None => format!("sqlite://{}", folder.path().join("ledger.db").display()),
        };
        let keys = Arc::new(Keys::open_or_create(&folder.path().join("keys")).unwrap());
        let ledger = Ledger::open(&url, keys).await.unwrap();
        let loaded =
            Loaded { rules: &config.rules, stores: 1, digest: &config.digest(), now: clock::now() };
        ledger.load_rules(loaded).await.unwrap();
        approve_in_advance(&url, &config).await;
        let stores = Arc::new(Stores::new(config.stores.clone()));
        let runner = Runner::new(ledger, stores, Arc::new(config.rules.clone()));
        House { store, runner, config, _ledger_store: ledger_store, folder }
    }

    pub(crate) fn rule(&self, name: &str) -> &Rule {
        &self.config.rules[&name.parse().unwrap()]
    }

    pub(crate) async fn run(&self, rule: &str) -> RunResult {
        let stop = CancellationToken::new();
        run_by_command(&self.runner, self.rule(rule), clock::now(), &stop, &|_| {}).await.unwrap()
    }

    pub(crate) async fn plan(&self, rule: &str) -> Plan {
        let now = clock::now();
        let (_, holds) = self.runner.ledger.held().await.unwrap();
        let holds = holds.into_iter().filter(|hold| hold.is_in_force(now)).collect();
        let holds = Holds::new(&self.config.rules, holds);
        plan(self.rule(rule), &self.runner.stores, &holds, now, 0, None).await.unwrap()
    }

    /// How many records are due, and how many are kept because they are held.
    pub(crate) async fn due_and_held(&self, rule: &str) -> (u64, u64) {
        let plan = self.plan(rule).await;
        let held = plan.kept.iter().find(|kept| kept.reason == KeptReason::Held);
        (plan.due, held.map_or(0, |kept| kept.records))
    }

    pub(crate) async fn try_place(&self, terms: Terms) -> Result<InForce, HoldError> {
        let now = clock::now();
        self.runner.place(terms, in_days(90), "ann", now, LIMIT).await
    }

    pub(crate) async fn place(&self, terms: Terms) -> Hold {
        let placed = self.try_place(terms).await.unwrap();
        assert!(placed.unresolved.is_empty(), "{:?}", placed.unresolved);
        placed.hold
    }

    pub(crate) async fn release(&self, hold: &Hold) {
        let ground = expunged::ledger::Ground::default();
        self.runner.ledger.release_hold(hold.id, ground, "ann", clock::now()).await.unwrap();
    }

    /// The ids that are left in a table, as texts, sorted.
    pub(crate) async fn ids(&self, table: &str) -> BTreeSet<String> {
        let text = match self.store.kind {
            Kind::MySql => "CAST(id AS CHAR)",
            _ => "CAST(id AS text)",
        };
        self.store.strings(&format!("SELECT {text} FROM {table}")).await.into_iter().collect()
    }

    pub(crate) async fn events(&self, kind: &str) -> Vec<Event> {
        let filter = AuditFilter { kind: Some(kind.into()), ..AuditFilter::default() };
        let entries = self.runner.ledger.audit_log(&filter).await.unwrap();
        entries.into_iter().map(|(_, entry)| entry.event).collect()
    }

    pub(crate) fn table(&self, table: &str, predicate: Option<&str>) -> Scope {
        let dialect = kind(&self.store);
        let predicate = predicate.map(|text| Condition::parse(dialect, text).unwrap());
        let kind = StoreKind::Sql(dialect);
        let (store, table) = ("app".parse().unwrap(), table.parse().unwrap());
        Scope::Table(Records { store, kind, table, predicate, paths: Vec::new() })
    }
}

pub(crate) fn configuration(store: &TestDatabase, rules: &str) -> String {
    let kind = kind(store).as_str();
    format!(
        "[ledger]\nurl = \"sqlite:ledger.db\"\n[keys]\ndirectory = \"keys\"\n[breakers]\nmax_share = \"100 %\"\n\
         [store.app]\nkind = \"{kind}\"\nurl = {{ file = \"url\" }}\nconnect_timeout = \"3 s\"\n{rules}"
    )
}

pub(crate) fn secret(folder: &TempDir, url: &str) {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.path().join("url");
    std::fs::write(&path, url).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

pub(crate) fn kind(store: &TestDatabase) -> Dialect {
    match store.kind {
        Kind::Postgres => Dialect::Postgres,
        Kind::MySql => Dialect::Mysql,
        Kind::Sqlite => Dialect::Sqlite,
    }
}

/// A type for moments.
pub(crate) fn moment(store: &TestDatabase) -> &'static str {
    match store.kind {
        Kind::Postgres => "timestamptz",
        Kind::MySql => "datetime",
        Kind::Sqlite => "text",
    }
}

/// A rule over `table` that deletes what is older than two years by its column `at`.
pub(crate) fn rule(name: &str, table: &str, more: &str) -> String {
    let action = if more.contains("action =") { "" } else { "action = \"delete\"\n" };
    format!(
        "[rule.{name}]\nstore = \"app\"\ntable = \"{table}\"\nstarting_point = \"at\"\n\
         retention = \"2 years\"\nmode = \"enforce\"\n{action}{more}\n"
    )
}

pub(crate) fn in_days(days: i64) -> Timestamp {
    let now = clock::now().to_zoned(jiff::tz::TimeZone::UTC);
    now.checked_add(days.days()).unwrap().timestamp()
}

pub(crate) fn terms(scope: Scope) -> Terms {
    let order = Order {
        authority: "District court".into(),
        reference: "12 Js 34/26".into(),
        ..Order::default()
    };
    let (range, broad) = (Range::default(), Some("the order says so".into()));
    Terms { scope, range, order, broad, columns: BTreeSet::new() }
}

/// A hold on persons.
pub(crate) fn persons(values: &[&str]) -> Terms {
    let values = values.iter().map(|value| (*value).to_owned()).collect();
    terms(Scope::Subjects { values, store: None, table: None })
}

pub(crate) fn set(values: &[&str]) -> BTreeSet<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}
