//! A rule that tells two recipients, after it has run: of the accounts 1 to 4, each of somebody else, and of 5, which
//! is nobody's as far as `crm` knows.

use std::process::{Command, Output};
use std::sync::Arc;

use expunged::config::Config;
use expunged::keys::Keys;
use expunged::ledger::{Answered, Ledger, Notice, NoticeFilter};
use expunged::notice::{Answer, Order, State};
use expunged::types::Name;
use serde_json::Value;

use crate::harness;
use crate::support::{TestDatabase, fresh_postgres, fresh_sqlite};

/// What signs receipts of `ads`.
pub(crate) const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

pub(crate) struct Place {
    pub(crate) inner: harness::Place,
    pub(crate) store: TestDatabase,
    _ledger: Option<TestDatabase>,
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

impl Place {
    pub(crate) async fn sqlite() -> Place {
        Place::with(harness::Place::new(), None).await
    }

    pub(crate) async fn postgres() -> Place {
        let ledger = fresh_postgres().await;
        Place::with(harness::Place::on(&ledger), Some(ledger)).await
    }

    async fn with(mut inner: harness::Place, ledger: Option<TestDatabase>) -> Place {
        inner.environment.push(("COLUMNS".to_owned(), "100".to_owned()));
        let store = fresh_sqlite().await;
        store
            .execute(
                "CREATE TABLE accounts (id integer PRIMARY KEY, email text, last_seen text);
                 INSERT INTO accounts VALUES
                 (1, 'ann@example.org', '2020-01-01T00:00:00Z'), (2, 'bob@example.org', '2020-01-01T00:00:00Z'),
                 (3, 'cyd@example.org', '2020-01-01T00:00:00Z'), (4, 'dan@example.org', '2020-01-01T00:00:00Z'),
                 (5, NULL, '2020-01-01T00:00:00Z'), (9, 'eve@example.org', '2099-01-01T00:00:00Z')",
            )
            .await;
        let place = Place { inner, store, _ledger: ledger };
        place.configure(&place.recipients("https://ads.invalid/hooks", ""));
        place
    }

    /// The tables of `ads`, which sends receipts, and of `crm`, which is told three at a time. `crm` is a program that
    /// always refuses, so that nothing here leaves the machine.
    pub(crate) fn recipients(&self, ads: &str, internal: &str) -> String {
        let secret = self.inner.secret("ads-secret", SECRET);
        format!(
            "[recipient.ads]\nprotocol = \"webhook\"\nurl = \"{ads}\"\nsecret = {secret}\n\
             receipt_secret = {secret}\nack = \"callback\"\n{internal}\n\
             [recipient.crm]\nprotocol = \"command\"\nprogram = \"/bin/false\"\nat_once = 3\n"
        )
    }

    /// Writes the configuration with these recipients.
    pub(crate) fn configure(&self, recipients: &str) {
        let told = "recipients = { ads = {}, crm = { identify = { email = \"email\" } } }\nsubject = \"id\"\n";
        self.configure_with(recipients, told);
    }

    pub(crate) fn configure_with(&self, recipients: &str, told: &str) {
        let store = self.inner.store("app", &self.store);
        let rule = harness::rule("inactive", "app", "0 3 1 1 *", told);
        self.inner.configure(&format!("{store}{recipients}{rule}"));
    }

    /// One whose rule has run.
    pub(crate) async fn after_a_run() -> Place {
        let place = Place::sqlite().await;
        place.says(&["run"]);
        place
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.inner.command(arguments);
        command.env_remove("SUDO_USER");
        command
    }

    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What a command prints that ends with this exit code, and what it complains about.
    #[track_caller]
    pub(crate) fn ends(&self, arguments: &[&str], code: i32) -> (String, String) {
        let output = self.output(arguments);
        let [said, wrong] =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}{wrong}");
        (said, wrong)
    }

    /// What a command says when all is well.
    #[track_caller]
    pub(crate) fn says(&self, arguments: &[&str]) -> String {
        self.ends(arguments, 0).0
    }

    /// What a command complains about.
    #[track_caller]
    pub(crate) fn refuses(&self, arguments: &[&str]) -> String {
        self.ends(arguments, 1).1
    }

    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let said = self.says(&[&["--json"], arguments].concat());
        serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}"))
    }

    /// The configuration and the ledger, opened here.
    pub(crate) async fn open(&self) -> (Config, Ledger) {
        let file = self.inner.path("expunged.toml");
        let config = Config::load(&file, std::iter::empty()).unwrap();
        let keys = Arc::new(Keys::open(&config.keys).unwrap());
        let ledger = Ledger::open(&self.inner.ledger, keys).await.unwrap();
        (config, ledger)
    }

    /// The notices to a recipient, in order.
    pub(crate) async fn notices(&self, recipient: &str) -> Vec<Notice> {
        let (_, ledger) = self.open().await;
        let filter = NoticeFilter { recipient: Some(name(recipient)), ..NoticeFilter::default() };
        let notices = ledger.notices(&filter, 100).await.unwrap();
        ledger.close().await;
        notices
    }

    pub(crate) async fn state(&self, id: uuid::Uuid) -> State {
        let (_, ledger) = self.open().await;
        let filter = NoticeFilter { id: Some(id), ..NoticeFilter::default() };
        let state = ledger.notices(&filter, 1).await.unwrap()[0].state;
        ledger.close().await;
        state
    }

    /// Has the first notices to a recipient that wait be answered so, one by one.
    pub(crate) async fn answer(&self, recipient: &str, answers: &[Answer]) {
        let (_, ledger) = self.open().await;
        let (recipient, now) = (name(recipient), expunged::clock::now());
        let queued = ledger.queued_notices(&recipient, Order::Lists, 0, 100, now).await.unwrap();
        assert!(queued.len() >= answers.len(), "{queued:?}");
        let answered = queued.iter().zip(answers).map(|(queued, answer)| Answered {
            seq: queued.seq,
            id: queued.message.id,
            answer: answer.clone(),
            next_at: None,
        });
        let answered: Vec<_> = answered.collect();
        ledger.settle_notices(&recipient, &answered, now).await.unwrap();
        ledger.close().await;
    }

    /// The run of the rule.
    pub(crate) async fn run(&self) -> String {
        self.notices("ads").await[0].run.to_string()
    }
}

/// What people read, without what differs from run to run: ids, moments, days, the account.
pub(crate) fn settled(text: &str) -> String {
    let account = Command::new("id").arg("-un").output().unwrap().stdout;
    let account = String::from_utf8(account).unwrap();
    let mut text = text.to_owned();
    for (pattern, replacement) in [
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "ID".to_owned()),
        (r"expunged/[0-9a-f]{16}", "ORIGIN".to_owned()),
        (r"20\d\d-\d\d-\d\d \d\d:\d\d(:\d\d)?", "MOMENT".to_owned()),
        (r"20\d\d-\d\d-\d\d", "DAY".to_owned()),
        (&*format!(r"(says|by) {}\b", account.trim()), "$1 ACCOUNT".to_owned()),
    ] {
        let pattern = regex::Regex::new(pattern).unwrap();
        text = pattern.replace_all(&text, replacement).into_owned();
    }
    text
}
