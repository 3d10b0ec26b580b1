//! A store with people, a ledger, and rules that tell recipients.

use std::fmt::Write as _;

use crate::harness::{Place, poll};
use crate::receiver::Receiver;
use crate::support::{Kind, Pool, TestDatabase, fresh_postgres, fresh_sqlite};

/// Signs what is told.
const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

pub(crate) struct House {
    pub(crate) place: Place,
    pub(crate) store: TestDatabase,
    /// The configuration so far.
    text: String,
    recipients: Vec<String>,
    // Where the ledger is on PostgreSQL, so that it is there as long as the house.
    _ledger: Option<TestDatabase>,
}

impl House {
    /// So many people on SQLite, all of them due.
    pub(crate) async fn new(people: u32) -> House {
        House::with(Kind::Sqlite, Kind::Sqlite, people).await
    }

    pub(crate) async fn with(store: Kind, ledger: Kind, people: u32) -> House {
        let store = match store {
            Kind::Postgres => fresh_postgres().await,
            _ => fresh_sqlite().await,
        };
        let ledger = match ledger {
            Kind::Postgres => Some(fresh_postgres().await),
            _ => None,
        };
        let mut place = ledger.as_ref().map_or_else(Place::new, Place::on);
        place.environment = vec![("EXPUNGED_LOG".into(), "info,sqlx=warn".into())];
        crate::harness::accounts(&store, people).await;
        let text = place.store("app", &store);
        place.secret("hook-secret", SECRET);
        House { place, store, text, recipients: Vec::new(), _ledger: ledger }
    }

    /// A recipient, with more of its configuration.
    pub(crate) fn recipient(&mut self, name: &str, receiver: &Receiver, more: &str) {
        let url = &receiver.url;
        let _ = writeln!(
            self.text,
            "[recipient.{name}]\nprotocol = \"webhook\"\nurl = \"{url}\"\ninternal = true\n\
             secret = {{ file = \"hook-secret\" }}\n{more}"
        );
        self.recipients.push(name.to_owned());
    }

    /// A recipient that is a table of a store of its own, with `people` who each have a row there.
    pub(crate) async fn table(&mut self, name: &str, people: u32, more: &str) -> TestDatabase {
        let table = fresh_sqlite().await;
        let fill = format!(
            "CREATE TABLE visits (n integer PRIMARY KEY, who integer);
             WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {people})
             INSERT INTO visits SELECT n, n FROM n"
        );
        table.execute(&fill).await;
        self.text += &self.place.store(name, &table);
        let _ = writeln!(
            self.text,
            "[recipient.{name}]\nprotocol = \"sql\"\nstore = \"{name}\"\ntable = \"visits\"\n\
             columns = {{ id = \"who\" }}\n{more}"
        );
        self.recipients.push(name.to_owned());
        table
    }

    /// Writes the configuration: all that is due goes at once, and each recipient is told of each record by its id.
    pub(crate) fn configure(&self) {
        let mut rule = crate::harness::rule("people", "app", "continuous", "");
        for name in &self.recipients {
            let _ = writeln!(
                rule,
                "[rule.people.recipients.{name}]\nidentify = {{ id = \"id\" }}\nper = \"record\""
            );
        }
        self.configure_rule(&rule);
    }

    /// Writes the configuration with these rules.
    pub(crate) fn configure_rule(&self, rules: &str) {
        self.place.configure(&format!("{}{rules}", self.text));
    }

    /// The configuration is written; it is done once the rule has run to its end.
    pub(crate) async fn gone(&self) {
        poll(&self.store.pool, "SELECT count(*) FROM accounts", |left| left == 1).await;
        let ledger = self.place.ledger().await;
        poll(&ledger, "SELECT count(*) FROM batch WHERE state = 'intended'", |open| open == 0)
            .await;
        ledger.close().await;
    }

    /// Waits until so many notices to a recipient are in a state.
    pub(crate) async fn until(&self, recipient: &str, state: &str, notices: i64) {
        let ledger = self.place.ledger().await;
        let sql = format!(
            "SELECT count(*) FROM notice WHERE recipient = '{recipient}' AND state = '{state}'"
        );
        poll(&ledger, &sql, |there| there == notices).await;
        ledger.close().await;
    }

    /// Waits, for as long as it takes, until all notices to a recipient are over.
    pub(crate) async fn until_over(&self, recipient: &str) {
        let ledger = self.place.ledger().await;
        let sql = format!(
            "SELECT count(*) FROM (SELECT 1 AS one FROM notice WHERE recipient = '{recipient}' \
             AND state = 'pending' LIMIT 1) AS some"
        );
        while ledger.count(&sql).await > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        ledger.close().await;
    }

    pub(crate) async fn ledger(&self) -> Pool {
        self.place.ledger().await
    }
}
