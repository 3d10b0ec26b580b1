//! barman: the backups of a server.
//!
//! Its list has when each ended, and no more; when it began is asked of each. A backup that failed or was not finished
//! has data as well, and says nothing of when: then its id does, the local time of whoever made it, taken for the
//! earliest moment that this can be.
//!
//! That a backup is kept for good stands beside it where the server has a retention policy, and only there; of the others
//! it is asked.
//!
//! barman removes archived log up to the beginning of the oldest backup that is left, so that no log reaches farther
//! back than the backups do. It shows nothing by which that could be looked at.

use std::collections::BTreeMap;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Ask, Fault, Found, failed, json, last_line, short};
use crate::config::BarmanCatalogue;
use crate::residue::Backup;

const LIST: &str = "`barman -f json list-backup`";
const SHOW: &str = "`barman -f json show-backup`";
const KEEP: &str = "`barman -f json keep --status`";
/// What the list says of a backup where the server has no retention policy.
const NO_POLICY: &str = "-";
/// No clock on earth is so far ahead of UTC.
const FARTHEST_EAST: SignedDuration = SignedDuration::from_hours(14);

/// A backup in the list.
#[derive(Deserialize)]
struct Listed {
    backup_id: String,
    retention_status: Option<String>,
}

/// A backup by itself.
#[derive(Deserialize)]
struct Shown {
    backup_id: String,
    /// Only of one that was copied to its end.
    base_backup_information: Option<Base>,
    catalog_information: Option<Place>,
}

#[derive(Deserialize)]
struct Base {
    /// "2026-11-28 19:12:56.971739+00:00". The number of seconds beside it is wrong wherever the zone of the database
    /// and that of barman differ.
    begin_time: String,
    /// From 3.11 on: `incremental` has a parent.
    backup_type: Option<String>,
}

/// Its place among the others.
#[derive(Default, Deserialize)]
struct Place {
    retention_policy: Option<String>,
    parent_backup_id: Option<String>,
    root_backup_id: Option<String>,
}

/// Whether a backup is kept.
#[derive(Deserialize)]
struct Kept {
    keep_status: Message,
}

#[derive(Deserialize)]
struct Message {
    /// `nokeep`, or what it is kept for.
    message: String,
}

/// Lists the backups of a server.
pub(super) async fn find(barman: &BarmanCatalogue, ask: &Ask) -> Result<Found, Fault> {
    let listed: Vec<Listed> = asked(barman, ask, LIST, &["list-backup", &barman.server]).await?;
    let mut backups = Vec::new();
    for Listed { backup_id, retention_status } in listed {
        let shown: Shown =
            asked(barman, ask, SHOW, &["show-backup", &barman.server, &backup_id]).await?;
        if shown.backup_id != backup_id {
            let why = format!("it showed another backup than `{}`", short(&backup_id));
            return Err(Fault::NotUnderstood { of: SHOW, why });
        }
        // Only what was copied to its end can be kept.
        let is_whole = shown.base_backup_information.is_some();
        let is_told = retention_status.as_deref().is_some_and(|status| status != NO_POLICY);
        let mut backup = read(shown, retention_status)?;
        if is_whole && !is_told && backup.permanent.is_none() {
            let command = ["keep", &barman.server, &backup_id, "--status"];
            let kept: Kept = asked(barman, ask, KEEP, &command).await?;
            let kept = Some(kept.keep_status.message).filter(|kept| kept != "nokeep");
            backup.permanent = kept.map(|kept| permanent(&format!("KEEP:{}", kept.to_uppercase())));
        }
        backups.push(backup);
    }
    Ok(Found::at_once(backups))
}

/// What barman answers about the server, without what it says besides.
async fn asked<T: DeserializeOwned>(
    barman: &BarmanCatalogue,
    ask: &Ask,
    of: &'static str,
    command: &[&str],
) -> Result<T, Fault> {
    let mut args: Vec<String> =
        barman.config.iter().map(|file| format!("--config={}", file.display())).collect();
    args.push("--format=json".to_owned());
    args.extend(command.iter().map(|&word| word.to_owned()));
    let ended = ask.run(&barman.program, args, Vec::new()).await?;
    let answer = json::<BTreeMap<String, Value>>(of, &ended.output);
    // Errors are in the answer, and barely ever among the complaints.
    let errors = answer.as_ref().ok().and_then(|answer| answer.get("_ERROR"));
    if let Some(errors) = errors {
        let first = errors.get(0).and_then(Value::as_str).unwrap_or("an error without words");
        let says = short(first);
        let is_gone = says.starts_with("Unknown server");
        return Err(if is_gone { Fault::Absent { says } } else { Fault::Reported { says } });
    }
    if !ended.status.success() {
        let says = last_line(&ended.complaints, |line| line.contains("ERROR"));
        return Err(failed(&barman.program, &ended, says));
    }
    let mut answer = answer?;
    let about = answer.remove(&barman.server).ok_or_else(|| Fault::NotUnderstood {
        of,
        why: "it says nothing of the server".to_owned(),
    })?;
    T::deserialize(about)
        .map_err(|error| Fault::NotUnderstood { of, why: short(&error.to_string()) })
}

fn read(shown: Shown, status: Option<String>) -> Result<Backup, Fault> {
    let Shown { backup_id: id, base_backup_information: base, catalog_information: place } = shown;
    let place = place.unwrap_or_default();
    let parents: Vec<String> =
        place.parent_backup_id.into_iter().chain(place.root_backup_id).collect();
    let is_incremental =
        base.as_ref().is_some_and(|base| base.backup_type.as_deref() == Some("incremental"));
    let vague = |why: String| Fault::NotUnderstood { of: SHOW, why };
    if is_incremental && parents.is_empty() {
        return Err(vague(format!("the parent of `{}` is not named", short(&id))));
    }
    let started_at = match base {
        Some(Base { begin_time, .. }) => begin_time
            .parse::<Timestamp>()
            .map_err(|_| vague(format!("`{}` is no moment", short(&begin_time))))?,
        None => by_id(&id).ok_or_else(|| vague(format!("`{}` is no moment", short(&id))))?,
    };
    let kept =
        place.retention_policy.into_iter().chain(status).find(|status| status.starts_with("KEEP"));
    Ok(Backup { id, started_at, parents, permanent: kept.as_deref().map(permanent) })
}

fn permanent(status: &str) -> String {
    format!("barman keeps it ({})", short(status))
}

/// The earliest moment that `20261128T191256` can be.
fn by_id(id: &str) -> Option<Timestamp> {
    let local = DateTime::strptime("%Y%m%dT%H%M%S", id).ok()?;
    let there = local.to_zoned(TimeZone::UTC).ok()?.timestamp();
    there.checked_sub(FARTHEST_EAST).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Result<Backup, Fault> {
        read(serde_json::from_str(text).unwrap(), None)
    }

    #[test]
    fn an_increment_needs_its_parent_and_the_full_backup_below() {
        let text = r#"{"backup_id": "20261103T010000", "base_backup_information":
            {"begin_time": "2026-11-03 03:00:00.5+02:00", "backup_type": "incremental"},
            "catalog_information": {"retention_policy": "KEEP:STANDALONE",
            "parent_backup_id": "20261102T010000", "root_backup_id": "20261101T010000"}}"#;
        let backup = shown(text).unwrap();
        assert_eq!(backup.started_at.to_string(), "2026-11-03T01:00:00.5Z");
        assert_eq!(backup.parents, ["20261102T010000", "20261101T010000"]);
        assert_eq!(backup.permanent.as_deref(), Some("barman keeps it (KEEP:STANDALONE)"));
        let orphan = text.replace("parent_backup_id", "x").replace("root_backup_id", "y");
        assert!(matches!(shown(&orphan), Err(Fault::NotUnderstood { .. })));
    }

    #[test]
    fn what_does_not_say_when_it_began_began_as_early_as_can_be() {
        let backup = shown(r#"{"backup_id": "20261103T010000", "status": "FAILED"}"#).unwrap();
        assert_eq!(backup.started_at.to_string(), "2026-11-02T11:00:00Z");
        for text in [
            r#"{"backup_id": "snapshot-7", "status": "FAILED"}"#,
            r#"{"backup_id": "a", "base_backup_information": {"begin_time": "2026-11-03 03:00:00"}}"#,
        ] {
            assert!(matches!(shown(text), Err(Fault::NotUnderstood { .. })), "{text}");
        }
    }
}
