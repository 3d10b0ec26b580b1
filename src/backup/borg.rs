//! Borg 1: the archives of a repository.
//!
//! `delete` and `prune` take an archive off the list and leave its data where it is until `compact`, and nothing tells
//! whether that has run: so a file does, whose modification time is when the last one that succeeded began. An archive
//! that was broken off is a *checkpoint*, which is listed on demand only and has data all the same.
//!
//! It is asked with a lock. Without one, Borg would repair what looks like a broken-off commit to it, and that may be
//! somebody's who is at work.
//!
//! Moments are printed in local time and without a zone, so that Borg is told to be in UTC.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::{Ask, Fault, Found, failed, json, short};
use crate::config::BorgCatalogue;
use crate::residue::{Backup, Purge};
use secrecy::ExposeSecret;

const LIST: &str = "`borg list --json`";

#[derive(Deserialize)]
struct Repository {
    archives: Vec<Archive>,
}

#[derive(Deserialize)]
struct Archive {
    id: String,
    name: String,
    /// When it began, unless `--timestamp` had it say something else.
    start: String,
}

/// A line of what Borg says under `--log-json`.
#[derive(Deserialize)]
struct Said {
    message: String,
    /// The kind of error, from a list that its documentation has.
    msgid: Option<String>,
}

/// Lists the archives.
pub(super) async fn find(
    borg: &BorgCatalogue,
    ask: &Ask,
    skew: Duration,
    now: Timestamp,
) -> Result<Found, Fault> {
    // Looked at before the list, which then is the later of the two.
    let stamp = borg.compacted.as_deref().map(|file| stamp(file, skew, now)).transpose()?.flatten();
    let args = ["--log-json", "list", "--json", "--consider-checkpoints"];
    let mut args: Vec<String> = args.map(str::to_owned).to_vec();
    args.push(borg.repository.clone());
    let passphrase = match &borg.passphrase {
        Some(passphrase) => passphrase.read()?.expose_secret().to_owned(),
        // An empty one is an answer, and nobody is asked.
        None => String::new(),
    };
    let mut set = vec![("TZ", "UTC".into()), ("BORG_PASSPHRASE", passphrase.into())];
    if borg.passphrase.is_none() {
        // That it is not encrypted is what the configuration says.
        set.push(("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes".into()));
    }
    let ended = ask.run(&borg.program, args, set).await?;
    // 1: it reached its end, with warnings.
    if !matches!(ended.status.code(), Some(0 | 1)) {
        return Err(match said(&ended.complaints) {
            (Some(Known::Locked), says) => Fault::Locked { says },
            (Some(Known::WrongPassword), says) => Fault::WrongPassword { says },
            (Some(Known::Absent), says) => Fault::Absent { says },
            (None, says) => failed(&borg.program, &ended, says),
        });
    }
    let repository: Repository = json(LIST, &ended.output)?;
    let is_meant = |archive: &&Archive| {
        borg.prefix.as_ref().is_none_or(|prefix| archive.name.starts_with(prefix.as_str()))
    };
    let backups = repository.archives.iter().filter(is_meant).map(|archive| {
        Ok(Backup {
            id: format!("{} {}", archive.name, archive.id),
            started_at: moment(&archive.start)?,
            parents: Vec::new(),
            permanent: None,
        })
    });
    let backups = backups.collect::<Result<_, Fault>>()?;
    Ok(Found { backups, logs: Vec::new(), purge: Purge::Stamped(stamp) })
}

/// What can be told apart of what Borg says.
enum Known {
    Locked,
    WrongPassword,
    Absent,
}

/// The last thing that Borg has complained of and has a name for, and what kind it is, where that is known.
fn said(complaints: &str) -> (Option<Known>, String) {
    let said = complaints.lines().filter_map(|line| serde_json::from_str::<Said>(line).ok());
    let (named, others): (Vec<Said>, Vec<Said>) = said.partition(|said| said.msgid.is_some());
    let Some(last) = named.last().or(others.last()) else {
        return (None, super::last_line(complaints, |_| false));
    };
    let known = match last.msgid.as_deref().unwrap_or_default() {
        "LockTimeout" => Some(Known::Locked),
        "PassphraseWrong" | "NoPassphraseFailure" | "PasswordRetriesExceeded" => {
            Some(Known::WrongPassword)
        }
        "Repository.DoesNotExist" | "Repository.InvalidRepository" => Some(Known::Absent),
        _ => None,
    };
    (known, short(&last.message))
}

/// A moment as Borg 1 prints it, in UTC because it was told to be there.
fn moment(text: &str) -> Result<Timestamp, Fault> {
    let civil = || text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok();
    let moment = text.parse::<Timestamp>().ok().or_else(|| civil().map(|zoned| zoned.timestamp()));
    moment.ok_or_else(|| Fault::NotUnderstood {
        of: LIST,
        why: format!("`{}` is no moment", short(text)),
    })
}

/// When compacting began the last time, by the file that is touched before and put in place after it. None: it never
/// did.
fn stamp(file: &Path, skew: Duration, now: Timestamp) -> Result<Option<Timestamp>, Fault> {
    let wrong = |why: String| Fault::Stamp(format!("{} {why}", file.display()));
    let metadata = match std::fs::metadata(file) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(format!("cannot be looked at: {}", error.kind()))),
    };
    let modified = metadata.modified().ok().and_then(|modified| Timestamp::try_from(modified).ok());
    let modified = modified.ok_or_else(|| wrong("has no modification time".to_owned()))?;
    // From a future that is taken at its word, everything would count as compacted for as long as it lasts.
    if now.checked_add(skew).is_ok_and(|latest| modified > latest) {
        return Err(wrong(format!("was modified in the future, at {modified}")));
    }
    Ok(Some(modified.min(now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_in_utc_unless_they_say_otherwise() {
        let at = |text: &str| moment(text).unwrap().to_string();
        assert_eq!(at("2026-11-28T19:11:12.000000"), "2026-11-28T19:11:12Z");
        assert_eq!(at("2026-11-28T19:11:12.500000+09:00"), "2026-11-28T10:11:12.5Z");
        assert!(matches!(moment("yesterday"), Err(Fault::NotUnderstood { .. })));
    }

    #[test]
    fn a_stamp_from_the_future_is_no_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("compacted");
        let now: Timestamp = "2026-11-28T19:00:00Z".parse().unwrap();
        let skew = Duration::from_mins(10);
        assert_eq!(stamp(&file, skew, now).unwrap(), None);
        let touched = |seconds: i64| {
            let at = now + jiff::SignedDuration::from_secs(seconds);
            std::fs::File::create(&file).unwrap().set_modified(at.into()).unwrap();
            stamp(&file, skew, now)
        };
        assert_eq!(touched(-60).unwrap(), Some(now - jiff::SignedDuration::from_secs(60)));
        assert_eq!(touched(60).unwrap(), Some(now), "the clocks may differ");
        assert!(matches!(touched(601), Err(Fault::Stamp(_))));
        assert!(matches!(stamp(&file.join("x"), skew, now), Err(Fault::Stamp(_))));
    }
}
