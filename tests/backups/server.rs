//! A PostgreSQL of a test's own whose log is archived.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use expunged::clock::Stopwatch;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::house::{folder, run, tried};
use crate::support::environment;

/// It listens on a socket in its folder and nowhere else, so that the port is only a part of a name.
const PORT: &str = "5432";

#[allow(dead_code, reason = "two test binaries compile this file for themselves")]
pub(crate) struct Server {
    pub(crate) folder: TempDir,
    process: Child,
}

#[allow(dead_code, reason = "each uses a part of it")]
impl Server {
    /// `archive` is its `archive_command`, with `{}` for its folder.
    pub(crate) fn start(archive: &str) -> Server {
        let initdb = |data: &Path| {
            let mut initdb = Command::new(bin("initdb"));
            initdb.args(["--username=postgres", "--auth=trust", "--no-sync", "--locale=C.UTF-8"]);
            run(&mut as_server(initdb.arg("--pgdata").arg(data)));
        };
        Server::filled(archive, initdb)
    }

    /// One whose data somebody else puts into its folder.
    pub(crate) fn filled(archive: &str, fill: impl FnOnce(&Path)) -> Server {
        let folder = folder();
        give(folder.path());
        fill(&folder.path().join("data"));
        let data = folder.path().join("data").display().to_string();
        let place = folder.path().display().to_string();
        let mut postgres = Command::new(bin("postgres"));
        postgres.args(["-D", &data, "-p", PORT]);
        for setting in [
            "listen_addresses=",
            &format!("unix_socket_directories={place}"),
            "fsync=off",
            "autovacuum=off",
            "archive_mode=on",
            "wal_level=replica",
            &format!("archive_command={}", archive.replace("{}", &place)),
        ] {
            postgres.args(["-c", setting]);
        }
        let log = File::create(folder.path().join("log")).unwrap();
        let mut postgres = as_server(&postgres);
        let process = postgres.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let server = Server { folder, process };
        let watch = Stopwatch::start();
        let mut ready = Command::new(bin("pg_isready"));
        ready.args(["--quiet", "-p", PORT, "-h", &place]);
        while !tried(&mut ready).status.success() {
            let log = || fs::read_to_string(server.at("log")).unwrap_or_default();
            assert!(watch.elapsed() < Duration::from_secs(60), "{}", log());
            // As for every server: it is asked until it answers.
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs statements, each by itself.
    pub(crate) fn execute(&self, statements: &[&str]) {
        let mut psql = Command::new(bin("psql"));
        psql.args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-p", PORT]);
        psql.arg("-h").arg(self.folder.path());
        for statement in statements {
            psql.args(["-c", statement]);
        }
        run(&mut psql);
    }

    /// Waits until it has recovered what it was filled with.
    pub(crate) fn wait_until_it_writes(&self) {
        let watch = Stopwatch::start();
        while self.query("SELECT pg_is_in_recovery()") != ["f"] {
            assert!(watch.elapsed() < Duration::from_secs(60), "it is still recovering");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What a query gives, row by row.
    pub(crate) fn query(&self, statement: &str) -> Vec<String> {
        let mut psql = Command::new(bin("psql"));
        psql.args([
            "-qAtX",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "postgres",
            "-p",
            PORT,
            "-c",
            statement,
        ]);
        let said = run(psql.arg("-h").arg(self.folder.path()));
        said.lines().map(str::to_owned).collect()
    }

    /// How expunged reaches it.
    pub(crate) fn url(&self) -> String {
        format!(
            "postgres://postgres@localhost:{PORT}/postgres?host={}",
            self.folder.path().display()
        )
    }

    /// How it is reached, in the words of libpq.
    pub(crate) fn conninfo(&self) -> String {
        let place = self.folder.path().display();
        format!("host={place} port={PORT} user=postgres dbname=postgres")
    }

    /// A folder within its own that its user may write to.
    pub(crate) fn make(&self, name: &str) -> PathBuf {
        let path = self.at(name);
        fs::create_dir_all(&path).unwrap();
        give(&path);
        path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // At once, and with all of its processes, which end with it.
        kill_process(Pid::from_child(&self.process), Signal::QUIT).ok();
        self.process.wait().ok();
    }
}

pub(crate) fn bin(name: &str) -> PathBuf {
    Path::new(&environment("EXPUNGED_TEST_POSTGRES_BIN")).join(name)
}

/// Gives a file or folder to the account which servers run as.
pub(crate) fn give(path: &Path) {
    if rustix::process::geteuid().is_root() {
        let user = environment("EXPUNGED_TEST_SERVER_USER");
        run(Command::new("chown").arg(user).arg(path));
    }
}

/// A command as that account, which ends with the test.
pub(crate) fn as_server(command: &Command) -> Command {
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
