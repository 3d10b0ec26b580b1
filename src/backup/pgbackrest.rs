//! pgBackRest: the backups of a stanza, and how far its archived log reaches back.
//!
//! It says itself whether something is wrong, with an exit code of 0: [`Status`]. Expired backups are removed at once;
//! so is the log that none of the others needs.

use jiff::Timestamp;
use serde::Deserialize;

use super::{Ask, Fault, Found, failed, json, last_line, short};
use crate::config::PgBackRestCatalogue;
use crate::residue::{Backup, LogRange, Purge};

const INFO: &str = "`pgbackrest info --output=json`";

/// As pgBackRest from 2.32 on prints it: with several repositories.
#[derive(Deserialize)]
struct Stanza {
    name: String,
    status: Status,
    #[serde(default)]
    repo: Vec<Repository>,
    archive: Vec<Archive>,
    backup: Vec<Listed>,
}

/// 0 is well. 1: no such stanza. 2: no backup. 3: the stanza has lost its data. 4, 5: repositories differ. 99: the
/// message says it.
#[derive(Deserialize)]
struct Status {
    code: i64,
    message: String,
}

#[derive(Deserialize)]
struct Repository {
    key: u64,
    status: Status,
}

/// Which database, of those that a stanza has had, in which repository.
#[derive(Deserialize, PartialEq, Eq)]
struct Database {
    id: u64,
    #[serde(rename = "repo-key")]
    repository: u64,
}

/// The log of one database.
#[derive(Deserialize)]
struct Archive {
    id: String,
    database: Database,
    min: Option<String>,
    max: Option<String>,
}

#[derive(Deserialize)]
struct Listed {
    label: String,
    database: Database,
    timestamp: Moments,
    /// What it is an increment to.
    prior: Option<String>,
    /// All that it has files of.
    reference: Option<Vec<String>>,
    archive: Option<Needed>,
}

#[derive(Deserialize)]
struct Moments {
    /// In seconds, from before the database was told that a backup begins.
    start: i64,
}

#[derive(Deserialize)]
struct Needed {
    start: Option<String>,
}

/// Lists the backups of a stanza.
pub(super) async fn find(pgbackrest: &PgBackRestCatalogue, ask: &Ask) -> Result<Found, Fault> {
    let mut args: Vec<String> = ["info", "--output=json", "--log-level-console=off"]
        .into_iter()
        .chain(["--log-level-stderr=error", "--log-level-file=off"])
        .map(str::to_owned)
        .collect();
    args.push(format!("--stanza={}", pgbackrest.stanza));
    args.extend(pgbackrest.config.iter().map(|file| format!("--config={}", file.display())));
    let ended = ask.run(&pgbackrest.program, args, Vec::new()).await?;
    if !ended.status.success() {
        let says = last_line(&ended.complaints, |line| line.contains("ERROR:"));
        return Err(failed(&pgbackrest.program, &ended, says));
    }
    let stanzas: Vec<Stanza> = json(INFO, &ended.output)?;
    let stanza = stanzas.into_iter().find(|stanza| stanza.name == pgbackrest.stanza);
    let stanza =
        stanza.ok_or_else(|| Fault::Absent { says: "it has no such stanza".to_owned() })?;
    read(&stanza)
}

fn read(stanza: &Stanza) -> Result<Found, Fault> {
    let is_wrong = |status: &&Status| status.code != 0;
    // That of a repository says more.
    let of_repositories = || stanza.repo.iter().map(|repository| &repository.status);
    if let Some(status) = of_repositories().chain([&stanza.status]).find(is_wrong) {
        let says = short(&status.message);
        return Err(match status.code {
            1 | 3 => Fault::Absent { says },
            _ if status.message.contains("CryptoError") => Fault::WrongPassword { says },
            _ => Fault::Reported { says },
        });
    }
    let has_several = stanza.repo.iter().any(|repository| repository.key != 1);
    let id = |label: &str, database: &Database| match database.repository {
        1 => label.to_owned(),
        key if has_several => format!("{label} in repository {key}"),
        _ => label.to_owned(),
    };
    let mut backups = Vec::new();
    for listed in &stanza.backup {
        let mut parents: Vec<String> = listed
            .prior
            .iter()
            .chain(listed.reference.iter().flatten())
            .filter(|label| **label != listed.label)
            .map(|label| id(label, &listed.database))
            .collect();
        parents.sort_unstable();
        parents.dedup();
        backups.push(Backup {
            id: id(&listed.label, &listed.database),
            started_at: started_at(listed)?,
            parents,
            permanent: None,
        });
    }
    let mut logs = Vec::new();
    for archive in &stanza.archive {
        logs.extend(log(archive, &stanza.backup)?);
    }
    Ok(Found { backups, logs, purge: Purge::AtOnce })
}

fn started_at(listed: &Listed) -> Result<Timestamp, Fault> {
    Timestamp::from_second(listed.timestamp.start).map_err(|_| Fault::NotUnderstood {
        of: INFO,
        why: format!("{} is no moment", listed.timestamp.start),
    })
}

/// How far a log reaches back, by the backups that began at or before its first segment: from then on it was written.
/// PostgreSQL begins a new segment when a backup begins.
///
/// Where it has several timelines, the later one begins with a copy of what an earlier one had at that point, and
/// where that was is not told: then nobody knows until the earlier timeline has expired.
fn log(archive: &Archive, backups: &[Listed]) -> Result<Option<LogRange>, Fault> {
    let (min, max) = match (&archive.min, &archive.max) {
        (Some(min), Some(max)) => (min.as_str(), max.as_str()),
        // Nothing is archived.
        (None, None) => return Ok(None),
        _ => {
            let why = format!("the archive {} has one end", short(&archive.id));
            return Err(Fault::NotUnderstood { of: INFO, why });
        }
    };
    let id = match archive.database.repository {
        1 => archive.id.clone(),
        key => format!("{} in repository {key}", archive.id),
    };
    let timeline = |segment: &str| segment.get(..8).map(str::to_owned);
    let mut from = None;
    if timeline(min).is_some() && timeline(min) == timeline(max) {
        let is_own = |listed: &&Listed| {
            let start = listed.archive.as_ref().and_then(|needed| needed.start.as_deref());
            listed.database == archive.database
                && start.is_some_and(|start| timeline(start) == timeline(min) && start <= min)
        };
        // Of those that qualify the latest would do; the earliest is never too late.
        for listed in backups.iter().filter(is_own) {
            let started = started_at(listed)?;
            from = Some(from.map_or(started, |known: Timestamp| known.min(started)));
        }
    }
    Ok(Some(LogRange { id, from }))
}

#[cfg(test)]
mod tests;
