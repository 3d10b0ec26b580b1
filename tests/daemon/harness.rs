//! A daemon in a folder of its own, and the tables that it works on.

// Two test binaries compile this file for themselves, and each uses only a part of it.
#![allow(dead_code)]

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use expunged::clock::Stopwatch;
use expunged::config::Config;
use expunged::keys::Keys;
use expunged::ledger::Ledger;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Kind, Pool, TestDatabase, approve_in_advance};

/// Nothing that is waited for here takes longer, on a busy machine either.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);

/// A configuration, a ledger and keys.
pub(crate) struct Place {
    folder: TempDir,
    pub(crate) ledger: String,
    pub(crate) environment: Vec<(String, String)>,
}

impl Place {
    /// With a SQLite ledger.
    pub(crate) fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let ledger = format!("sqlite://{}/ledger.db", folder.path().display());
        let environment =
            vec![("EXPUNGED_LOG".to_owned(), "info,expunged=debug,sqlx=warn".to_owned())];
        Place { folder, ledger, environment }
    }

    /// With a ledger on PostgreSQL.
    pub(crate) fn on(ledger: &TestDatabase) -> Place {
        Place { ledger: ledger.url.clone(), ..Place::new() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Keeps a secret in a file; gives what to write in the configuration.
    pub(crate) fn secret(&self, name: &str, value: &str) -> String {
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = file.open(self.path(name)).unwrap();
        std::io::Write::write_all(&mut file, value.as_bytes()).unwrap();
        format!("{{ file = \"{name}\" }}")
    }

    /// Writes the configuration: the ledger and the keys, then `text`. Its rules are approved.
    pub(crate) fn configure(&self, text: &str) {
        let ledger = self.secret("ledger-url", &self.ledger);
        let text = format!(
            "[ledger]\nurl = {ledger}\n[keys]\ndirectory = \"keys\"\n[breakers]\nmax_share = \"100 %\"\n{text}"
        );
        fs::write(self.path("expunged.toml"), text).unwrap();
        self.approve();
    }

    /// The table of a store, for the configuration.
    pub(crate) fn store(&self, name: &str, database: &TestDatabase) -> String {
        let kind = match database.kind {
            Kind::Postgres => "postgres",
            Kind::MySql => "mysql",
            Kind::Sqlite => "sqlite",
        };
        let url = self.secret(&format!("{name}-url"), &database.url);
        format!("[store.{name}]\nkind = \"{kind}\"\nurl = {url}\nconnect_timeout = \"3 s\"\n")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_expunged"));
        command.arg("--config").arg(self.path("expunged.toml")).args(arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        for variable in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM"] {
            if !self.environment.iter().any(|(name, _)| name == variable) {
                command.env_remove(variable);
            }
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What a command prints as JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[&["--json"], arguments].concat());
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Starts a daemon and returns when it is ready.
    pub(crate) fn start(&self) -> Daemon {
        let mut daemon = self.start_without_waiting();
        daemon.wait_for("ready");
        daemon
    }

    pub(crate) fn start_without_waiting(&self) -> Daemon {
        let mut command = self.command(&["daemon"]);
        Daemon::new(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// A connection to the ledger.
    pub(crate) async fn ledger(&self) -> Pool {
        Pool::connect(&self.ledger).await
    }

    /// Makes every rule one that was first seen long ago, so that the next start finds a missed slot.
    pub(crate) async fn make_overdue(&self) {
        let daemon = self.start();
        assert_eq!(daemon.stop().code(), Some(0));
        let ledger = self.ledger().await;
        ledger.execute("UPDATE rule_state SET first_seen = '2020-01-01T00:00:00.000000Z'").await;
        ledger.close().await;
    }

    /// Approves the first run of each configured rule in advance, whatever it takes.
    fn approve(&self) {
        let Ok(config) = Config::load(&self.path("expunged.toml"), std::iter::empty()) else {
            return;
        };
        let url = self.ledger.clone();
        let approved = async move {
            let keys = Arc::new(Keys::open_or_create(&config.keys).unwrap());
            let Ok(ledger) = Ledger::open(&url, keys).await else { return };
            ledger.close().await;
            approve_in_advance(&url, &config).await;
        };
        let block = || tokio::runtime::Runtime::new().unwrap().block_on(approved);
        std::thread::spawn(block).join().unwrap();
    }

    /// The audit log, verified.
    pub(crate) fn audit(&self) -> Vec<Value> {
        let verified = self.run(&["audit", "verify"]);
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
        match self.json(&["audit", "log", "--limit", "0"]) {
            Value::Array(entries) => entries,
            other => panic!("{other}"),
        }
    }

    /// How many entries of a kind there are.
    pub(crate) fn entries(&self, kind: &str) -> usize {
        self.audit().iter().filter(|entry| entry["kind"] == kind).count()
    }

    /// What holds after every crash: nothing is open, and log, batches and store agree on how many
    /// records are gone.
    pub(crate) async fn assert_settled(&self, gone: i64) {
        let ledger = self.ledger().await;
        let open = "SELECT count(*) FROM batch WHERE state = 'intended'";
        assert_eq!(ledger.count(open).await, 0, "a batch without an outcome");
        let running = "SELECT count(*) FROM run WHERE state = 'running'";
        assert_eq!(ledger.count(running).await, 0, "a run without an end");
        let batches =
            "SELECT CAST(coalesce(sum(records), 0) AS bigint) FROM batch WHERE state = 'done'";
        assert_eq!(
            ledger.count(batches).await,
            gone,
            "batches that are done, and rows that are gone"
        );
        let runs = "SELECT CAST(coalesce(sum(records), 0) AS bigint) FROM run";
        assert_eq!(ledger.count(runs).await, gone, "records of runs, and rows that are gone");
        let audit = self.audit();
        let done: Vec<_> = audit.iter().filter(|entry| entry["kind"] == "batch_done").collect();
        let logged: i64 = done.iter().map(|entry| entry["records"].as_i64().unwrap()).sum();
        assert_eq!(logged, gone, "records in the audit log, and rows that are gone");
        let mut ids: Vec<_> = done.iter().map(|entry| entry["batch"].as_str().unwrap()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), done.len(), "a batch that was recorded twice");
        ledger.close().await;
    }
}

/// A rule over `accounts`, for the configuration.
pub(crate) fn rule(name: &str, store: &str, schedule: &str, more: &str) -> String {
    let mut text = format!("[rule.{name}]\nstore = \"{store}\"\ntable = \"accounts\"\n");
    let defaults = [
        ("starting_point", "\"last_seen\""),
        ("retention", "\"2 years\""),
        ("action", "\"delete\""),
        ("mode", "\"enforce\""),
    ];
    for (key, value) in defaults {
        if !more.contains(&format!("{key} =")) {
            let _ = writeln!(text, "{key} = {value}");
        }
    }
    let _ = writeln!(text, "schedule = \"{schedule}\"\n{more}");
    text
}

/// Makes `accounts` with so many rows that are due under [`rule`], and one that is not.
pub(crate) async fn accounts(database: &TestDatabase, due: u32) {
    let sql = match database.kind {
        Kind::Postgres => format!(
            "CREATE TABLE accounts (id bigint PRIMARY KEY, email text, last_seen timestamptz);
             CREATE INDEX ON accounts (last_seen);
             INSERT INTO accounts SELECT n, 'user' || n || '@example.org', now() - interval '3 years'
             FROM generate_series(1, {due}) AS n;
             INSERT INTO accounts VALUES (0, 'fresh@example.org', now());
             ANALYZE accounts"
        ),
        Kind::MySql => format!(
            "CREATE TABLE accounts (id bigint PRIMARY KEY, email varchar(99), last_seen datetime(6),
                                    KEY (last_seen));
             INSERT INTO accounts SELECT seq, concat('user', seq, '@example.org'),
             utc_timestamp(6) - INTERVAL 3 YEAR FROM seq_1_to_{due};
             INSERT INTO accounts VALUES (0, 'fresh@example.org', utc_timestamp(6))"
        ),
        Kind::Sqlite => format!(
            "PRAGMA journal_mode = WAL;
             CREATE TABLE accounts (id integer PRIMARY KEY, email text, last_seen text);
             CREATE INDEX seen ON accounts (last_seen);
             WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {due})
             INSERT INTO accounts SELECT n, 'user' || n || '@example.org',
             strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-3 years') FROM n;
             INSERT INTO accounts VALUES (0, 'fresh@example.org', strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))"
        ),
    };
    database.execute(&sql).await;
}

/// Makes `accounts` for months to be added, with one row that is not due.
pub(crate) async fn months_of_accounts(database: &TestDatabase) {
    let sql = "CREATE TABLE accounts (id bigint, last_seen timestamptz, PRIMARY KEY (id, last_seen))
                   PARTITION BY RANGE (last_seen);
               CREATE TABLE later PARTITION OF accounts FOR VALUES FROM ('2090-01-01') TO ('2091-01-01');
               INSERT INTO accounts VALUES (0, '2090-06-01')";
    database.execute(sql).await;
}

/// Adds a month of the year 2020 with so many rows, numbered from `first` on, which are due under [`rule`].
pub(crate) async fn add_month(database: &TestDatabase, month: i64, first: i64, rows: i64) {
    let (next, last) = (month + 1, first + rows - 1);
    let sql = format!(
        "CREATE TABLE month_{month} PARTITION OF accounts
             FOR VALUES FROM ('2020-0{month}-01') TO ('2020-0{next}-01');
         INSERT INTO accounts SELECT n, '2020-0{month}-02' FROM generate_series({first}, {last}) n"
    );
    database.execute(&sql).await;
}

/// How many rows are left in `accounts`.
pub(crate) async fn left(database: &TestDatabase) -> i64 {
    database.count("SELECT count(*) FROM accounts").await
}

/// Makes each deletion on PostgreSQL slow, so that a run can be met in the middle.
pub(crate) async fn make_slow(database: &TestDatabase) {
    let sql = "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN PERFORM pg_sleep(0.1); RETURN NULL; END $$;
               CREATE TRIGGER dawdle AFTER DELETE ON accounts FOR EACH STATEMENT EXECUTE FUNCTION dawdle()";
    database.execute(sql).await;
}

pub(crate) async fn make_quick(database: &TestDatabase) {
    database.execute("DROP TRIGGER dawdle ON accounts").await;
}

/// Waits until a query on the ledger or a store gives a number, where nothing else tells.
pub(crate) async fn poll(pool: &Pool, sql: &str, wanted: impl Fn(i64) -> bool) {
    let started = Stopwatch::start();
    while !wanted(pool.count(sql).await) {
        assert!(started.elapsed() < LIMIT, "in vain: {sql}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A daemon that runs; killed when this is dropped.
pub(crate) struct Daemon {
    child: Child,
    lines: Receiver<String>,
    /// Everything it has logged, as far as it was read.
    pub(crate) log: Vec<Value>,
    ended: bool,
}

impl Daemon {
    pub(crate) fn new(mut child: Child) -> Daemon {
        let (sender, lines) = channel();
        let errors = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Daemon { child, lines, log: Vec::new(), ended: false }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next log line that fits; those before it are passed over.
    pub(crate) fn wait(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.wait_within(LIMIT, what, fits)
    }

    pub(crate) fn wait_within(
        &mut self,
        limit: Duration,
        what: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Value {
        let started = Stopwatch::start();
        loop {
            let rest = limit.saturating_sub(started.elapsed());
            match self.lines.recv_timeout(rest) {
                Ok(line) => {
                    let line = read(&line);
                    self.log.push(line.clone());
                    if fits(&line) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no `{what}` in:\n{}", self.text()),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("it ended without `{what}`:\n{}", self.text())
                }
            }
        }
    }

    /// Whether a line that fits comes within a moment.
    pub(crate) fn saw_within(&mut self, limit: Duration, fits: impl Fn(&Value) -> bool) -> bool {
        let started = Stopwatch::start();
        while let Ok(line) = self.lines.recv_timeout(limit.saturating_sub(started.elapsed())) {
            let line = read(&line);
            self.log.push(line.clone());
            if fits(&line) {
                return true;
            }
        }
        false
    }

    /// The next log line with this message.
    pub(crate) fn wait_for(&mut self, message: &str) -> Value {
        self.wait(message, |line| says(line, message))
    }

    /// The end of the next run of a rule.
    pub(crate) fn wait_for_run(&mut self, rule: &str) -> Value {
        self.wait(&format!("end of a run of {rule}"), |line| {
            line["rule"] == rule && says(line, "the run")
        })
    }

    /// Reads what it has logged so far.
    pub(crate) fn drain(&mut self) {
        while let Ok(line) = self.lines.try_recv() {
            self.log.push(read(&line));
        }
    }

    pub(crate) fn text(&self) -> String {
        self.log.iter().map(|line| format!("{line}\n")).collect()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn wait_for_end(&mut self) -> ExitStatus {
        self.ended = true;
        let started = Stopwatch::start();
        loop {
            // Its log is read on, so that it does not wait for its reader.
            while let Ok(line) = self.lines.try_recv() {
                self.log.push(read(&line));
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(1)) {
                    self.log.push(read(&line));
                }
                return status;
            }
            assert!(started.elapsed() < LIMIT, "it does not end:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Has it stop softly.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_for_end()
    }

    /// Kills it.
    pub(crate) fn kill(mut self) {
        self.signal(Signal::KILL);
        self.wait_for_end();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.ended {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

fn read(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|_| panic!("not a line of JSON: {line}"))
}

/// Whether a log line's message begins so.
pub(crate) fn says(line: &Value, message: &str) -> bool {
    line["message"].as_str().is_some_and(|text| text.starts_with(message))
}

/// Waits for a child and gives what it printed.
pub(crate) fn output(mut child: Child) -> (ExitStatus, String) {
    let mut text = String::new();
    if let Some(mut out) = child.stdout.take() {
        out.read_to_string(&mut text).unwrap();
    }
    (child.wait().unwrap(), text)
}
