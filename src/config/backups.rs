//! `[backup.NAME]`: sets of backups, which stores they cover, and how they are listed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::Secret;
use crate::path::Template;
use crate::residue::Terms;
use crate::rule::PathStart;
use crate::types::Name;

/// A set of backups.
#[derive(Clone, Debug)]
pub struct BackupConfig {
    /// Its name.
    pub name: Name,
    /// The stores whose records are in it.
    pub stores: BTreeSet<Name>,
    /// What it has promised.
    pub terms: Terms,
    /// By how much older what a backup holds may be than the moment that its catalogue gives: the age of a dump that
    /// is backed up, or how long writing a file takes.
    pub lead: Duration,
    /// How often it is listed; every hour by default.
    pub every: Duration,
    /// How long listing it may take; 5 minutes by default.
    pub timeout: Duration,
    /// How it is listed.
    pub catalogue: Catalogue,
}

/// How a set of backups is listed.
#[derive(Clone, Debug)]
pub enum Catalogue {
    /// A repository of restic.
    Restic(ResticCatalogue),
    /// A stanza of pgBackRest.
    PgBackRest(PgBackRestCatalogue),
    /// A repository of Borg 1.
    Borg(BorgCatalogue),
    /// A server of barman.
    Barman(BarmanCatalogue),
    /// Files or objects of a registered store, each of which is a backup.
    Paths(PathsCatalogue),
    /// A program of the operator's, which prints our JSON.
    Command(CommandCatalogue),
    /// None: there is the rotation alone.
    Declared,
}

impl Catalogue {
    /// The word for it in the configuration.
    pub fn as_str(&self) -> &'static str {
        match self {
            Catalogue::Restic(_) => "restic",
            Catalogue::PgBackRest(_) => "pgbackrest",
            Catalogue::Borg(_) => "borg",
            Catalogue::Barman(_) => "barman",
            Catalogue::Paths(_) => "paths",
            Catalogue::Command(_) => "command",
            Catalogue::Declared => "declared",
        }
    }
}

/// A program that lists backups, and what it is given.
#[derive(Clone, Debug)]
pub struct Program {
    /// By its absolute path.
    pub path: PathBuf,
    /// What it sees of the environment besides where programs are and what language is spoken.
    pub environment: BTreeMap<String, Secret>,
}

/// A repository of restic.
#[derive(Clone, Debug)]
pub struct ResticCatalogue {
    /// restic; `/usr/bin/restic` by default.
    pub program: Program,
    /// As restic's `--repo` takes it.
    pub repository: String,
    /// Its password.
    pub password: Secret,
    /// Only snapshots of this host.
    pub host: Option<String>,
    /// Only snapshots with this tag.
    pub tag: Option<String>,
}

/// A stanza of pgBackRest.
#[derive(Clone, Debug)]
pub struct PgBackRestCatalogue {
    /// pgBackRest; `/usr/bin/pgbackrest` by default.
    pub program: Program,
    /// The stanza.
    pub stanza: String,
    /// Its configuration, where it is not the usual one.
    pub config: Option<PathBuf>,
}

/// A repository of Borg 1.
#[derive(Clone, Debug)]
pub struct BorgCatalogue {
    /// Borg; `/usr/bin/borg` by default.
    pub program: Program,
    /// The repository.
    pub repository: String,
    /// Its passphrase, where it has one.
    pub passphrase: Option<Secret>,
    /// Only archives whose names begin so.
    pub prefix: Option<String>,
    /// The file whose modification time is when the last `borg compact` that succeeded began.
    pub compacted: Option<PathBuf>,
}

/// A server of barman.
#[derive(Clone, Debug)]
pub struct BarmanCatalogue {
    /// barman; `/usr/bin/barman` by default.
    pub program: Program,
    /// The server.
    pub server: String,
    /// Its configuration, where it is not the usual one.
    pub config: Option<PathBuf>,
}

/// Files or objects of a registered store, each of which is a backup.
#[derive(Clone, Debug)]
pub struct PathsCatalogue {
    /// The store.
    pub store: Name,
    /// What they are called.
    pub path: Template,
    /// When each started.
    pub start: PathStart,
}

/// A program of the operator's.
#[derive(Clone, Debug)]
pub struct CommandCatalogue {
    /// The program.
    pub program: Program,
    /// What it is started with.
    pub args: Vec<String>,
}
