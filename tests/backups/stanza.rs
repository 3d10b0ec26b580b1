//! A stanza of pgBackRest, over a PostgreSQL whose log it archives.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::house::{run, tool};
use crate::server::{Server, as_server, give};

/// A PostgreSQL and the repository that it archives into; the stanza is not created yet.
pub(crate) struct Stanza {
    pub(crate) server: Server,
}

impl Stanza {
    pub(crate) fn new() -> Stanza {
        let program = tool("pgbackrest", "pgbackrest");
        let push = format!(
            "{} --config={{}}/pgbackrest.conf --stanza=main archive-push %p",
            program.display()
        );
        let server = Server::start(&push);
        let at = |name: &str| server.make(name).display().to_string();
        let (repo, log, lock, spool) = (at("repo"), at("log.d"), at("lock"), at("spool"));
        // Not compressed, so that data can be looked for.
        let config = format!(
            "[global]\nrepo1-path={repo}\nlog-path={log}\nlock-path={lock}\nspool-path={spool}\n\
             repo1-retention-full=9\ncompress-type=none\nstart-fast=y\nlog-level-console=warn\n\
             [main]\npg1-path={}\npg1-socket-path={}\npg1-port=5432\npg1-user=postgres\n",
            server.at("data").display(),
            server.folder.path().display()
        );
        fs::write(server.at("pgbackrest.conf"), config).unwrap();
        give(&server.at("pgbackrest.conf"));
        Stanza { server }
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.server.at("pgbackrest.conf")
    }

    pub(crate) fn run(&self, args: &[&str]) {
        let mut command = Command::new(tool("pgbackrest", "pgbackrest"));
        command.arg(format!("--config={}", self.config().display()));
        run(&mut as_server(command.arg("--stanza=main").args(args)));
    }
}
