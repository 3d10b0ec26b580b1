//! Catalogues of backups: what sets of backups have, as the tools that make them tell it.
//!
//! ```text
//! BackupConfig -> list -> residue::Listing       all that is there, what it depends on, what is left of the rest
//!                    '--> CatalogueError         why nobody knows
//! ```
//!
//! What a catalogue says is taken for less than it may mean: a start that is vague is the earliest that it can be, what
//! failed or was not finished has data in it as well, and an answer that is not understood to its end is an error and
//! never a shorter listing. Nothing here changes a repository.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;
use serde::de::DeserializeOwned;

use crate::clock::Stopwatch;
use crate::config::{self, BackupConfig, Catalogue, SecretError};
use crate::program::{Ended, Program, ProgramError};
use crate::residue::{Backup, Listing, LogRange, Purge};
use crate::store::{StoreError, Stores};
use crate::types::Name;

mod barman;
mod borg;
mod command;
mod paths;
mod pgbackrest;
mod restic;

/// No catalogue prints more, in bytes.
const MOST: usize = 64 * 1024 * 1024;
/// So much of what a program said is quoted, in characters.
const QUOTED: usize = 300;

/// Why a set of backups could not be listed.
#[derive(Debug, thiserror::Error)]
#[error("backup `{set}`: {fault}")]
pub struct CatalogueError {
    /// The set.
    pub set: Name,
    /// What is wrong.
    pub fault: Fault,
}

impl CatalogueError {
    /// The same in words that name nothing, for the audit log.
    pub fn in_log_words(&self) -> &'static str {
        self.fault.in_log_words()
    }
}

/// What is wrong with a catalogue. No secret is in it; what a program said is quoted from its last line, and bounded.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// There is nothing to ask.
    #[error("`kind = \"declared\"` has no catalogue, so there is nothing to list")]
    Declared,
    /// The program is not there.
    #[error("there is no program {}: install it, or correct `program`", .0.display())]
    Missing(PathBuf),
    /// The program may not be executed, or is none.
    #[error("{} cannot be started ({why}): let expunged's user execute it, or correct `program`", program.display())]
    NotExecutable {
        /// The program.
        program: PathBuf,
        /// Why not.
        why: std::io::ErrorKind,
    },
    /// A secret cannot be read.
    #[error("{0}")]
    Secret(#[from] SecretError),
    /// It took too long, and was ended with all that it had started.
    #[error(
        "it was not listed within {} s: find out what that waits for, or raise `timeout`", .0.as_secs_f64()
    )]
    TimedOut(Duration),
    /// The repository does not open to the password.
    #[error(
        "its repository does not open to the password that was given: correct the secret ({says})"
    )]
    WrongPassword {
        /// What the program said.
        says: String,
    },
    /// Somebody else is at work in the repository.
    #[error(
        "its repository is locked: the next listing may find it free; if nobody is at work in it, break the lock ({says})"
    )]
    Locked {
        /// What the program said.
        says: String,
    },
    /// There is no such repository, stanza or server.
    #[error("its repository is not there: correct where it is, or make it ({says})")]
    Absent {
        /// What the program said.
        says: String,
    },
    /// The program failed, for another reason.
    #[error("{} {ended}: {says}", program.display())]
    Failed {
        /// The program.
        program: PathBuf,
        /// How it ended, in words.
        ended: String,
        /// The last line of its complaints.
        says: String,
    },
    /// The program printed far more than any catalogue has.
    #[error("{} printed more than 64 MiB, which is no catalogue", .0.display())]
    TooMuch(PathBuf),
    /// What was printed broke off, or is something else than is known of the program.
    #[error(
        "what {of} printed is not understood: {why}; this version of it may be newer than expunged"
    )]
    NotUnderstood {
        /// Which program, and which of its commands.
        of: &'static str,
        /// Where, and what was expected.
        why: String,
    },
    /// The program answered, and what it says is that something is wrong.
    #[error("its catalogue itself reports that something is wrong: {says}")]
    Reported {
        /// What it says.
        says: String,
    },
    /// A file or object does not say when the backup started.
    #[error(
        "{count} of its files or objects do not say when they started, because {why}: correct `path`, or move them away"
    )]
    Undated {
        /// How many.
        count: usize,
        /// Why not.
        why: &'static str,
    },
    /// The file `compacted` cannot be relied on.
    #[error("the file `compacted` says nothing of when compacting began: {0}")]
    Stamp(String),
    /// The store of its files or objects failed.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl Fault {
    fn in_log_words(&self) -> &'static str {
        match self {
            Fault::Declared => "it has no catalogue",
            Fault::Missing(_) => "the program is not there",
            Fault::NotExecutable { .. } => "the program cannot be started",
            Fault::Secret(_) => "a secret cannot be read",
            Fault::TimedOut(_) => "it took too long",
            Fault::WrongPassword { .. } => "the password is wrong",
            Fault::Locked { .. } => "the repository is locked",
            Fault::Absent { .. } => "the repository is not there",
            Fault::Failed { .. } => "the program failed",
            Fault::TooMuch(_) => "the program printed too much",
            Fault::NotUnderstood { .. } => "the answer is not understood",
            Fault::Reported { .. } => "the catalogue reports that something is wrong",
            Fault::Undated { .. } => "a backup does not say when it started",
            Fault::Stamp(_) => "nobody knows when compacting began",
            Fault::Store(_) => "the store cannot be listed",
        }
    }
}

/// Lists a set of backups, the oldest first. `now` is the moment of the listing.
///
/// # Errors
/// When its catalogue cannot be asked, or its answer not understood; always for a set that is only declared.
pub async fn list(
    config: &BackupConfig,
    stores: &Stores,
    now: Timestamp,
) -> Result<Listing, CatalogueError> {
    let found =
        find(config, stores, now).await.and_then(|found| told_apart(&config.catalogue, found));
    let found = found.map_err(|fault| CatalogueError { set: config.name.clone(), fault })?;
    Ok(found.into_listing(config.lead, now))
}

/// What a catalogue has, as it says so.
struct Found {
    backups: Vec<Backup>,
    logs: Vec<LogRange>,
    purge: Purge,
}

impl Found {
    /// Backups whose data goes with them, and no archived log.
    fn at_once(backups: Vec<Backup>) -> Found {
        Found { backups, logs: Vec::new(), purge: Purge::AtOnce }
    }

    /// The listing: what is in a backup may be older than its start by the lead.
    fn into_listing(mut self, lead: Duration, at: Timestamp) -> Listing {
        let earlier = |at: Timestamp| at.checked_sub(lead).unwrap_or(Timestamp::MIN);
        for backup in &mut self.backups {
            backup.started_at = earlier(backup.started_at);
        }
        for log in &mut self.logs {
            log.from = log.from.map(earlier);
        }
        self.backups.sort_by(|a, b| (a.started_at, &a.id).cmp(&(b.started_at, &b.id)));
        Listing { at, backups: self.backups, logs: self.logs, purge: self.purge }
    }
}

/// Makes sure that each backup has a name of its own: by it they are known from one listing to the next.
fn told_apart(catalogue: &Catalogue, found: Found) -> Result<Found, Fault> {
    let mut ids: Vec<&str> = found.backups.iter().map(|backup| backup.id.as_str()).collect();
    ids.sort_unstable();
    let twice = ids.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
    let why = match (ids.first(), twice) {
        (Some(&""), _) => "a backup has no id".to_owned(),
        (_, Some(twice)) => format!("it lists `{}` twice", short(twice)),
        _ => return Ok(found),
    };
    Err(Fault::NotUnderstood { of: catalogue.as_str(), why })
}

async fn find(config: &BackupConfig, stores: &Stores, now: Timestamp) -> Result<Found, Fault> {
    let ask = Ask { limit: config.timeout, since: Stopwatch::start() };
    match &config.catalogue {
        Catalogue::Restic(restic) => restic::find(restic, &ask).await,
        Catalogue::PgBackRest(pgbackrest) => pgbackrest::find(pgbackrest, &ask).await,
        Catalogue::Borg(borg) => borg::find(borg, &ask, config.terms.skew, now).await,
        Catalogue::Barman(barman) => barman::find(barman, &ask).await,
        Catalogue::Paths(paths) => {
            let found = tokio::time::timeout(config.timeout, paths::find(paths, stores));
            found.await.unwrap_or(Err(Fault::TimedOut(config.timeout)))
        }
        Catalogue::Command(command) => command::find(command, &ask).await,
        Catalogue::Declared => Err(Fault::Declared),
    }
}

/// Asks programs, all of them together within one length of time.
struct Ask {
    limit: Duration,
    since: Stopwatch,
}

impl Ask {
    /// Runs a program to its end, whatever its exit code. `set` is what it sees besides what is configured.
    async fn run(
        &self,
        program: &config::Program,
        args: Vec<String>,
        set: Vec<(&str, SecretString)>,
    ) -> Result<Ended, Fault> {
        let left = self.limit.saturating_sub(self.since.elapsed());
        let mut environment = Vec::new();
        for (name, value) in &program.environment {
            environment.push((name.clone(), value.read()?));
        }
        environment.extend(set.into_iter().map(|(name, value)| (name.to_owned(), value)));
        let path = &program.path;
        let program =
            Program { path: path.clone(), args, environment, input: Vec::new(), most: MOST };
        match program.run(left).await {
            Ok(ended) if !ended.is_whole => Err(Fault::TooMuch(path.clone())),
            Ok(ended) => Ok(ended),
            Err(ProgramError::Missing) => Err(Fault::Missing(path.clone())),
            Err(ProgramError::NotStarted(why) | ProgramError::Lost(why)) => {
                Err(Fault::NotExecutable { program: path.clone(), why })
            }
            Err(ProgramError::TimedOut(_)) => Err(Fault::TimedOut(self.limit)),
        }
    }
}

/// How a program failed, where nothing better is known of it.
fn failed(program: &config::Program, ended: &Ended, says: String) -> Fault {
    let how = match ended.status.code() {
        Some(code) => format!("ended with {code}"),
        None => "was ended by a signal".to_owned(),
    };
    let says = if says.is_empty() { "it said nothing".to_owned() } else { says };
    Fault::Failed { program: program.path.clone(), ended: how, says }
}

/// The last line of a program's complaints, or of those lines among them that matter, where there are any.
fn last_line(complaints: &str, matters: impl Fn(&str) -> bool) -> String {
    let lines = || complaints.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let last = lines().find(|line| matters(line)).or_else(|| lines().next());
    short(last.unwrap_or_default())
}

/// A text on one line, and not longer than people read.
fn short(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default().trim();
    let mut short: String = line.chars().take(QUOTED).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    short.replace(char::is_control, " ")
}

/// Reads JSON to its end.
fn json<T: DeserializeOwned>(of: &'static str, text: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(text).map_err(|error| {
        let why = if error.is_eof() {
            format!("it broke off in line {}, column {}", error.line(), error.column())
        } else {
            short(&error.to_string())
        };
        Fault::NotUnderstood { of, why }
    })
}

#[cfg(test)]
mod tests;
