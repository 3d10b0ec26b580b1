//! A program of the operator's, which prints what there is as JSON:
//!
//! ```json
//! {
//!   "backups": [
//!     {"id": "full-7", "started_at": "2026-11-28T01:00:00Z"},
//!     {"id": "incr-8", "started_at": "2026-11-29T01:00:00Z", "parents": ["full-7"], "permanent": "locked until 2030"}
//!   ],
//!   "logs": [{"id": "binlog", "from": "2026-11-28T01:00:00Z"}],
//!   "purged": "at_once",
//!   "complete": true
//! }
//! ```
//!
//! `purged` is what is known of the data of backups that are not listed any more: it is gone with them (`"at_once"`);
//! somebody has looked, and nothing is left (`"seen"`) or something is (`{"owed": "what, and what to do"}`); or removing
//! it began, and succeeded, at a moment for the last time (`{"stamped": "2026-11-28T03:00:00Z"}`, or null: never).
//! `from` is null where nobody knows how far a log reaches back. `complete` says that the list was read to its end:
//! without it, a list that broke off would look like one that is shorter.

use jiff::Timestamp;
use serde::Deserialize;

use super::{Ask, Fault, Found, failed, json, last_line};
use crate::config::CommandCatalogue;
use crate::residue::{Backup, LogRange, Purge};

const OUTPUT: &str = "its program";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Printed {
    backups: Vec<Listed>,
    #[serde(default)]
    logs: Vec<Log>,
    purged: Purge,
    complete: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    id: String,
    started_at: Timestamp,
    #[serde(default)]
    parents: Vec<String>,
    permanent: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Log {
    id: String,
    // Must be written, so that nobody leaves it out without a thought.
    #[serde(deserialize_with = "Option::deserialize")]
    from: Option<Timestamp>,
}

/// Lists what the program prints.
pub(super) async fn find(command: &CommandCatalogue, ask: &Ask) -> Result<Found, Fault> {
    let ended = ask.run(&command.program, command.args.clone(), Vec::new()).await?;
    if !ended.status.success() {
        return Err(failed(&command.program, &ended, last_line(&ended.complaints, |_| false)));
    }
    let Printed { backups, logs, purged, complete } = json(OUTPUT, &ended.output)?;
    if !complete {
        let says = "it says `\"complete\": false`, so that there may be more".to_owned();
        return Err(Fault::Reported { says });
    }
    let backups = backups.into_iter().map(|Listed { id, started_at, parents, permanent }| Backup {
        id,
        started_at,
        parents,
        permanent,
    });
    let logs = logs.into_iter().map(|Log { id, from }| LogRange { id, from });
    Ok(Found { backups: backups.collect(), logs: logs.collect(), purge: purged })
}
