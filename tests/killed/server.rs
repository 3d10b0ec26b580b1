//! A database server of a test's own, which can be killed like a machine that loses its power: all of
//! its processes at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use expunged::clock::Stopwatch;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::harness::LIMIT;
use crate::support::{Kind, Pool, environment, unique};

pub(crate) struct Server {
    kind: Kind,
    folder: TempDir,
    port: u16,
    password: String,
    process: Child,
}

impl Server {
    /// A PostgreSQL that writes its log out as rarely as it may, so that a crash loses as much as one can.
    pub(crate) async fn postgres() -> Server {
        let (folder, password) = prepare();
        let data = folder.path().join("data");
        let file = folder.path().join("password");
        fs::write(&file, &password).unwrap();
        give(&file);
        run(Command::new(postgres_bin().join("initdb")).args([
            "--username=postgres",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
            &format!("--pwfile={}", file.display()),
            &format!("--pgdata={}", data.display()),
        ]));
        Server::begin(Kind::Postgres, folder, password).await
    }

    pub(crate) async fn mariadb() -> Server {
        let (folder, password) = prepare();
        run(Command::new("mariadb-install-db").args([
            "--no-defaults",
            "--skip-test-db",
            "--auth-root-authentication-method=normal",
            "--innodb-flush-method=nosync",
            &format!("--datadir={}", folder.path().join("data").display()),
        ]));
        let accounts = folder.path().join("accounts.sql");
        let sql = format!(
            "ALTER USER root@localhost IDENTIFIED BY '{password}';
             CREATE OR REPLACE USER admin@'%' IDENTIFIED BY '{password}';
             GRANT ALL ON *.* TO admin@'%' WITH GRANT OPTION;"
        );
        fs::write(&accounts, sql).unwrap();
        give(&accounts);
        Server::begin(Kind::MySql, folder, password).await
    }

    async fn begin(kind: Kind, folder: TempDir, password: String) -> Server {
        // Nobody else gets it for as long as this is bound, and hardly anybody in the moment after.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = launch(kind, folder.path(), port);
        let mut server = Server { kind, folder, port, password, process };
        server.await_readiness().await;
        server
    }

    /// The URL of somebody who may do everything.
    pub(crate) fn url(&self) -> String {
        let (password, port) = (&self.password, self.port);
        match self.kind {
            Kind::Postgres => format!("postgres://postgres:{password}@127.0.0.1:{port}/postgres"),
            _ => format!("mysql://admin:{password}@127.0.0.1:{port}/mysql"),
        }
    }

    /// Kills it. Stopped first, so that no part of it sees another die and still acts on that.
    pub(crate) fn crash(&mut self) {
        if self.process.try_wait().unwrap().is_some() {
            return;
        }
        let parent = Pid::from_child(&self.process);
        kill_process(parent, Signal::STOP).unwrap();
        let list = format!("/proc/{0}/task/{0}/children", self.process.id());
        let children = fs::read_to_string(list).unwrap();
        let children: Vec<_> = children
            .split_whitespace()
            .filter_map(|id| Pid::from_raw(id.parse().unwrap()))
            .collect();
        for signal in [Signal::STOP, Signal::KILL] {
            for child in &children {
                kill_process(*child, signal).ok();
            }
        }
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again after [`Server::crash`].
    pub(crate) async fn restart(&mut self) {
        self.process = launch(self.kind, self.folder.path(), self.port);
        self.await_readiness().await;
    }

    /// Makes a base backup of a PostgreSQL.
    #[allow(dead_code, reason = "for one of the binaries that have this")]
    pub(crate) fn base_backup(&self) -> PathBuf {
        let backup = self.folder.path().join("backup");
        fs::remove_dir_all(&backup).ok();
        run(Command::new(postgres_bin().join("pg_basebackup")).args([
            "--checkpoint=fast",
            "--no-sync",
            &format!("--dbname={}", self.url()),
            &format!("--pgdata={}", backup.display()),
        ]));
        backup
    }

    /// A PostgreSQL that follows this one.
    #[allow(dead_code, reason = "for one of the binaries that have this")]
    pub(crate) async fn follower(&self) -> Server {
        let (folder, _) = prepare();
        run(Command::new(postgres_bin().join("pg_basebackup")).args([
            "--checkpoint=fast",
            "--no-sync",
            "--write-recovery-conf",
            &format!("--dbname={}", self.url()),
            &format!("--pgdata={}", folder.path().join("data").display()),
        ]));
        Server::begin(self.kind, folder, self.password.clone()).await
    }

    /// Where it is reached.
    #[allow(dead_code, reason = "for one of the binaries that have this")]
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Puts a base backup in the place of what is there, and starts it: on another timeline, as after any recovery from
    /// an archive.
    #[allow(dead_code, reason = "for one of the binaries that have this")]
    pub(crate) async fn restore(&mut self, backup: &Path) {
        self.crash();
        let data = self.folder.path().join("data");
        fs::remove_dir_all(&data).unwrap();
        let copied = Command::new("cp").arg("-a").arg(backup).arg(&data).status().unwrap();
        assert!(copied.success());
        let signal = data.join("recovery.signal");
        fs::write(&signal, "").unwrap();
        give(&signal);
        let settings = data.join("postgresql.auto.conf");
        let mut text = fs::read_to_string(&settings).unwrap();
        // There is no archive, so it ends with what the backup brings.
        text.push_str("\nrestore_command = 'false'\n");
        fs::write(&settings, text).unwrap();
        self.restart().await;
    }

    /// PostgreSQL gives up at once while something of its former self is left; it is started again then.
    async fn await_readiness(&mut self) {
        let watch = Stopwatch::start();
        while Pool::try_connect(&self.url()).await.is_err() {
            assert!(watch.elapsed() < LIMIT, "{}", log(self.folder.path()));
            if self.process.try_wait().unwrap().is_some() {
                self.process = launch(self.kind, self.folder.path(), self.port);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.crash();
    }
}

fn postgres_bin() -> PathBuf {
    environment("EXPUNGED_TEST_POSTGRES_BIN").into()
}

/// A folder that belongs to the account which the servers run as, and a password.
fn prepare() -> (TempDir, String) {
    // Under /tmp whatever TMPDIR says: that account must be able to reach it.
    let folder = tempfile::Builder::new().prefix("expunged-server.").tempdir_in("/tmp").unwrap();
    give(folder.path());
    (folder, unique("p"))
}

fn give(path: &Path) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let user = environment("EXPUNGED_TEST_SERVER_USER");
    let given = Command::new("chown").arg(user).arg(path).status().unwrap();
    assert!(given.success());
}

/// A command as that account, which ends with the test.
fn as_server(command: &Command) -> Command {
    let mut whole = Command::new("setpriv");
    whole.args(["--pdeathsig", "KILL"]);
    if rustix::process::geteuid().is_root() {
        let user = environment("EXPUNGED_TEST_SERVER_USER");
        whole.args(["--reuid", &user, "--regid", &user, "--init-groups"]);
    }
    whole.arg("--").arg(command.get_program()).args(command.get_args());
    whole.current_dir("/").stdin(Stdio::null());
    whole
}

fn run(command: &Command) {
    let output = as_server(command).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn launch(kind: Kind, folder: &Path, port: u16) -> Child {
    let place = folder.display();
    let command = match kind {
        Kind::Postgres => {
            let mut command = Command::new(postgres_bin().join("postgres"));
            let sockets = format!("unix_socket_directories={place}");
            command.arg("-D").arg(folder.join("data")).arg("-p").arg(port.to_string());
            let settings = [
                "listen_addresses=127.0.0.1",
                &sockets,
                "fsync=off",
                "full_page_writes=off",
                "wal_writer_delay=10s",
                "wal_writer_flush_after=1GB",
            ];
            for setting in settings {
                command.args(["-c", setting]);
            }
            command
        }
        _ => {
            let mut command = Command::new("mariadbd");
            command.args([
                "--no-defaults",
                "--bind-address=127.0.0.1",
                "--skip-name-resolve",
                "--innodb-flush-method=nosync",
                "--innodb-flush-log-at-trx-commit=2",
                "--character-set-server=utf8mb4",
                &format!("--port={port}"),
                &format!("--datadir={place}/data"),
                &format!("--socket={place}/mariadb.sock"),
                &format!("--pid-file={place}/mariadb.pid"),
                &format!("--init-file={place}/accounts.sql"),
            ]);
            command
        }
    };
    let mut append = fs::OpenOptions::new();
    let log = append.create(true).append(true).open(folder.join("log")).unwrap();
    let mut whole = as_server(&command);
    whole.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

fn log(folder: &Path) -> String {
    fs::read_to_string(folder.join("log")).unwrap_or_default()
}
