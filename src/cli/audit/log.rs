//! `expunged audit log`.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;

use crate::audit::{Entry, Event};
use crate::clock;
use crate::ledger::audit::AuditFilter;
use crate::types::Name;

use super::super::output::{self, DIM, RESET};
use super::super::{CliError, Common, Exit, parse_time, read_ledger};

/// Show entries, the newest last
#[derive(clap::Args, Debug, Default)]
pub(crate) struct LogArgs {
    /// Only about this rule.
    #[arg(long, value_name = "RULE")]
    rule: Option<Name>,
    /// Only in this store.
    #[arg(long, value_name = "STORE")]
    store: Option<Name>,
    /// Only of this kind, such as `batch_done`.
    #[arg(long, value_name = "KIND", value_parser = clap::builder::PossibleValuesParser::new(Event::KINDS))]
    kind: Option<String>,
    /// From this moment on: a date or an RFC 3339 timestamp.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before this moment.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// At most so many, the newest; 0 for all.
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
}

impl LogArgs {
    /// The newest entries of all kinds.
    pub(crate) fn newest(limit: u32) -> LogArgs {
        LogArgs { limit, ..LogArgs::default() }
    }
}

#[derive(Serialize)]
struct Positioned<'a> {
    position: u64,
    #[serde(flatten)]
    entry: &'a Entry,
}

pub(super) async fn main(common: &Common, args: LogArgs) -> Result<Exit, CliError> {
    let config = common.load()?;
    let now = clock::now();
    let moment = |text: Option<String>| -> Result<Option<Timestamp>, CliError> {
        text.map(|text| parse_time(&text, now)).transpose()
    };
    let filter = AuditFilter {
        rule: args.rule,
        store: args.store,
        kind: args.kind,
        since: moment(args.since)?,
        until: moment(args.until)?,
        limit: (args.limit > 0).then_some(args.limit),
        newest_first: true,
    };
    let ledger = read_ledger(&config).await?;
    let mut entries = ledger.audit_log(&filter).await?;
    entries.reverse();
    if common.json {
        let positioned: Vec<_> = entries
            .iter()
            .map(|(position, entry)| Positioned { position: *position, entry })
            .collect();
        output::json(&positioned);
    } else {
        print(&entries);
        if args.limit > 0 && entries.len() >= args.limit as usize {
            anstream::println!(
                "{DIM}Only the newest {} are shown; --limit 0 shows all.{RESET}",
                args.limit
            );
        }
    }
    Ok(Exit::Fine)
}

/// Prints entries as a table.
fn print(entries: &[(u64, Entry)]) {
    let days: BTreeSet<_> = entries.iter().map(|(_, entry)| day(entry)).collect();
    // Where all is of one day, the day is said once.
    let (heading, form) = match (days.first(), days.len()) {
        (Some(day), 1) => (day.as_str(), "%H:%M:%S UTC"),
        _ => ("when (UTC)", "%Y-%m-%d %H:%M:%S"),
    };
    let mut table = output::table(&["#", heading, "kind", "rule", "what"]);
    for (position, entry) in entries {
        table.add_row(vec![
            output::right(position),
            entry.at.strftime(form).to_string().into(),
            entry.event.kind().into(),
            entry.event.rule().map(ToString::to_string).unwrap_or_default().into(),
            describe(&entry.event).into(),
        ]);
    }
    // The words say the kind as well; they are not worth breaking for it.
    output::print_table(table, if output::is_narrow() { &[2] } else { &[] });
}

fn day(entry: &Entry) -> String {
    entry.at.strftime("%Y-%m-%d").to_string()
}

fn with_partition(records: u64, partition: Option<&str>) -> String {
    let records = output::records(records);
    match partition {
        Some(name) => format!("{records} with partition {name}"),
        None => records,
    }
}

/// What an entry says, in a line.
pub(super) fn describe(event: &Event) -> String {
    let short = |digest: &str| digest.chars().take(8).collect::<String>();
    match event {
        Event::DaemonStarted { version } => format!("version {version}"),
        Event::DaemonStopped { reason }
        | Event::ConfigurationRefused { reason }
        | Event::RunRefused { reason, .. }
        | Event::BatchUndone { reason, .. } => reason.to_string(),
        Event::ConfigurationLoaded { rules, stores, digest, .. } => {
            format!("{rules} rules, {stores} stores, digest {}", short(digest))
        }
        Event::RuleAdded { digest, .. } | Event::RuleRemoved { digest, .. } => {
            format!("version {}", short(digest))
        }
        Event::RuleChanged { digest, previous, .. } => {
            format!("from version {} to {}", short(previous), short(digest))
        }
        Event::RuleArmed { digest, .. } => format!("version {} may act", short(digest)),
        Event::RuleDisarmed { .. } => "only observes from now on".to_owned(),
        Event::PlanMade { due, cutoff, .. } => {
            format!("{} due before {}", output::records(*due), cutoff.strftime("%Y-%m-%d"))
        }
        Event::RunStarted { table, action, cause, cutoff, .. } => {
            format!("by {cause}: {action} in {table} before {}", cutoff.strftime("%Y-%m-%d"))
        }
        Event::BatchDone { records, action, commitments, notices, partition, .. } => {
            let root = commitments.to_string();
            let told = match notices.values().sum() {
                0 => String::new(),
                told => format!(", {}", output::notices(told)),
            };
            let records = with_partition(*records, partition.as_deref());
            format!("{action} of {records}, root {}{told}", short(&root))
        }
        Event::RunFinished { state, records, remaining, reason, .. } => {
            let still = remaining.map(|due| format!(", {} still due", output::number(due)));
            let why = reason.as_ref().map(|reason| format!(": {reason}"));
            format!(
                "{state}, {}{}{}",
                output::records(*records),
                still.unwrap_or_default(),
                why.unwrap_or_default()
            )
        }
        Event::RunObserved { due, undecided, .. } => {
            format!(
                "{} due and left alone, {} undecided",
                output::records(*due),
                output::number(*undecided)
            )
        }
        Event::PlanRefused { digest, reason, .. } => format!("plan {}: {reason}", short(digest)),
        Event::ApprovalAwaited { due, total, reason, .. } => {
            format!("{reason}: {} of {}", output::number(*due), output::records(*total))
        }
        Event::RunApproved { by, .. } => format!("approved by {by}"),
        Event::RunVerified { checked, of, present, state, .. } => format!(
            "looked for {} of {}: {} there, {state}",
            output::number(*checked),
            output::records(*of),
            output::number(*present)
        ),
        Event::CertificateIssued { digest, .. } => format!("digest {}", short(digest)),
        Event::ClockJumped { seconds } => format!("by {seconds} s: nothing runs"),
        Event::HoldPlaced { scope, until, .. } => {
            format!("on {scope}, until {}", until.strftime("%Y-%m-%d"))
        }
        Event::HoldExtended { until, .. } => format!("until {}", until.strftime("%Y-%m-%d")),
        Event::HoldReleased { .. } => "its records are free again".to_owned(),
        Event::HoldExpired { .. } => "its time is over".to_owned(),
        Event::NoticesSettled { recipient, state, notices, .. } => {
            format!("{} of {recipient} {state}", output::notices(*notices))
        }
        Event::NoticesOverdue { recipient, notices, .. } => {
            format!("{} of {recipient} overdue", output::notices(*notices))
        }
        Event::NoticeExempted { recipient, by, .. } => format!("{recipient} need not, says {by}"),
        Event::NoticesRetried { recipient, notices, by } => {
            format!("{} of {recipient} tried again by {by}", output::notices(*notices))
        }
        Event::ReceiptsRefused { recipient, reason, receipts } => {
            format!("{} as from {recipient}: {reason}", output::number(*receipts))
        }
        Event::BackupSetAdded { .. }
        | Event::BackupSetForgotten { .. }
        | Event::BackupsDoubted { .. }
        | Event::BackupsListed { .. }
        | Event::BackupsConfirmed { .. }
        | Event::BackupsCleared { .. }
        | Event::BackupsReopened { .. }
        | Event::RotationStalled { .. }
        | Event::TombstonesDestroyed { .. }
        | Event::RestoreNoticed { .. }
        | Event::ReplayStarted { .. }
        | Event::ReplayFinished { .. }
        | Event::StoreReleased { .. } => describe_backups(event),
        Event::KeyRotated { current, .. } => {
            format!("to {}", current.rsplit_once('+').map_or(&**current, |(name, _)| name))
        }
        Event::CommitmentKeyDestroyed {} => "no entry can be tied to a record any more".to_owned(),
    }
}

/// The same of what has to do with backups.
fn describe_backups(event: &Event) -> String {
    match event {
        Event::BackupSetAdded { backup, rotation, assumed, .. } => {
            let how = if *assumed { "by its declared rotation alone" } else { "by its catalogue" };
            format!("{backup}: rotates after {rotation}, known {how}")
        }
        Event::BackupSetForgotten { backup, by } => format!("{backup}, by {by}"),
        Event::BackupsDoubted { backup, reason } => format!("{backup}: {reason}"),
        Event::BackupsListed { backup, backups } => {
            format!("{backup}: {} backups", output::number(*backups))
        }
        Event::BackupsConfirmed { backup, by } => format!("{backup}: as it is now, says {by}"),
        Event::BackupsCleared { backup, before } => {
            format!("{backup} is free of what was deleted before {}", minute(*before))
        }
        Event::BackupsReopened { backup, before } => {
            format!("{backup} reaches back to {} again", minute(*before))
        }
        Event::RotationStalled { backup, since } => {
            format!("{backup} since {}", minute(*since))
        }
        Event::TombstonesDestroyed { before, records, .. } => format!(
            "keys of {} that were deleted before {}",
            output::records(*records),
            minute(*before)
        ),
        Event::RestoreNoticed { evidence, restored_to, .. } => {
            let to = restored_to.map(|to| format!(", to about {}", minute(to)));
            format!("{evidence}{}: its rules are frozen", to.unwrap_or_default())
        }
        Event::ReplayStarted { restored_to, records, by, .. } => {
            let since = restored_to.map_or_else(
                || "all that is known".to_owned(),
                |to| format!("since {}", minute(to)),
            );
            format!("{since}: {}, by {by}", output::records(*records))
        }
        Event::ReplayFinished { records, left, .. } => {
            format!("{} gone again, {} left", output::records(*records), output::number(*left))
        }
        Event::StoreReleased { reason, by, .. } => {
            let by = by.as_ref().map(|by| format!(", by {by}"));
            format!("{reason}{}", by.unwrap_or_default())
        }
        _ => String::new(),
    }
}

fn minute(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}
