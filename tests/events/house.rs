//! Rules that listen, a ledger, the interface in front of it, and somebody who talks to that.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use expunged::config::{ApiConfig, Config, InputFile};
use expunged::http::Api;
use expunged::keys::Keys;
use expunged::ledger::Ledger;
use expunged::rule::Rule;
use expunged::types::Name;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::Notify;

use crate::support::{Pool, TestDatabase, fresh_postgres};

/// How long anything here may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Two rules: `photos` listens to the end of a synthesis and is told which upload it was, `jobs` listens
/// to its success and is told the job, too.
pub(crate) fn rules() -> BTreeMap<Name, Rule> {
    let rule = |name: &str| {
        format!(
            "[rule.{name}]\nstore = \"app\"\ntable = \"accounts\"\nstarting_point = \"last_seen\"\n\
             action = \"delete\"\nretention = \"2 years\"\n"
        )
    };
    let store = "[store.app]\nkind = \"sqlite\"\nurl = \"sqlite:///nowhere/app.db\"\n";
    let text = format!("{store}{}{}", rule("photos"), rule("jobs"));
    let file = InputFile { path: "expunged.toml".into(), bytes: text.into_bytes() };
    let config = Config::parse(vec![file], Path::new("/"), std::iter::empty()).unwrap();
    listening(config.rules)
}

/// The same rules, listening.
pub(crate) fn listening(mut rules: BTreeMap<Name, Rule>) -> BTreeMap<Name, Rule> {
    let told = [
        ("photos", &["synthesis.finished", "synthesis.failed"][..], &["upload_key"][..]),
        ("jobs", &["synthesis.finished"], &["job_id", "upload_key"]),
    ];
    for (rule, events, values) in told {
        if let Some(rule) = rules.get_mut(&name(rule)) {
            rule.events = events.iter().map(|event| event.parse().unwrap()).collect();
            rule.event_values = values.iter().map(|value| (*value).to_owned()).collect();
        }
    }
    rules
}

pub(crate) struct House {
    pub(crate) url: String,
    pub(crate) keys: Arc<Keys>,
    pub(crate) folder: TempDir,
    /// Kept, because it goes when it is dropped.
    _database: Option<TestDatabase>,
}

impl House {
    pub(crate) fn sqlite() -> House {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/ledger.db", folder.path().display());
        House { url, keys: Arc::new(Keys::generate()), folder, _database: None }
    }

    pub(crate) async fn postgres() -> House {
        let database = fresh_postgres().await;
        House { url: database.url.clone(), _database: Some(database), ..House::sqlite() }
    }

    pub(crate) fn is_sqlite(&self) -> bool {
        self.url.starts_with("sqlite")
    }

    pub(crate) async fn ledger(&self) -> Ledger {
        Ledger::open(&self.url, self.keys.clone()).await.unwrap()
    }

    /// A connection past the ledger.
    pub(crate) async fn pool(&self) -> Pool {
        Pool::connect(&self.url).await
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("api.sock")
    }

    pub(crate) fn settings(&self) -> ApiConfig {
        let mode = 0o660;
        ApiConfig { enabled: true, socket: self.socket(), mode, group: None, tcp: None }
    }

    /// The interface, open.
    pub(crate) async fn api(&self) -> Api {
        let ledger = self.ledger().await;
        let wake = Arc::new(Notify::new());
        let mut api = Api::new(ledger, self.settings(), Arc::new(rules()), wake);
        api.open();
        api
    }

    /// How many rows a table of the ledger has.
    pub(crate) async fn count(&self, from: &str) -> i64 {
        let pool = self.pool().await;
        let count = pool.count(&format!("SELECT count(*) FROM {from}")).await;
        pool.close().await;
        count
    }
}

/// Runs a test with either ledger.
#[macro_export]
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::house::House::sqlite()).await; })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::house::House::postgres().await).await; })+
        }
    };
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// What it says is wrong.
    pub(crate) fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_else(|| panic!("{self:?}")).to_owned()
    }
}

/// One connection, for many requests. It speaks HTTP by itself, so that nothing is glossed over.
pub(crate) struct Talk<S: Read + Write> {
    stream: BufReader<S>,
}

impl Talk<UnixStream> {
    pub(crate) fn at(socket: &Path) -> Self {
        Self::try_at(socket).unwrap_or_else(|error| panic!("{}: {error}", socket.display()))
    }

    pub(crate) fn try_at(socket: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(Talk { stream: BufReader::new(stream) })
    }
}

impl Talk<TcpStream> {
    pub(crate) fn to(address: std::net::SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Talk { stream: BufReader::new(stream) }
    }
}

impl<S: Read + Write> Talk<S> {
    pub(crate) fn post(&mut self, body: &str) -> Answer {
        self.ask("POST", "/v1/events", "Content-Type: application/json\r\n", body.as_bytes())
    }

    pub(crate) fn ask(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        self.try_ask(method, path, headers, body).unwrap()
    }

    pub(crate) fn try_ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> std::io::Result<Answer> {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n"
        );
        self.say(&[head.as_bytes(), body].concat())?;
        self.hear()
    }

    pub(crate) fn say(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    pub(crate) fn hear(&mut self) -> std::io::Result<Answer> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut head)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        let head = head.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).map_or("0", |rest| rest);
        let length = length.split("\r\n").next().unwrap().parse().unwrap();
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Ok(Answer { status, head, body: String::from_utf8(body).unwrap() })
    }
}

/// A synthesis that is finished.
pub(crate) fn finished(id: &str, key: &str) -> String {
    let json = serde_json::json!({
        "event": "synthesis.finished", "id": id, "values": { "upload_key": key, "job_id": 7 }
    });
    json.to_string()
}
