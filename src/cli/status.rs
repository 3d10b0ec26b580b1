//! `expunged status`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::audit::Event;
use crate::clock;
use crate::ledger::audit::AuditFilter;
use crate::ledger::{Approval, Backlog, Frozen, LastRun, Ledger, RuleState};
use crate::rule::{Mode, Rule};
use crate::schedule::Schedule;
use crate::types::Name;

use super::output::{self, DIM, RED, RESET, YELLOW};
use super::{CliError, Common, Exit, approve, backups, read_ledger, recipients, select};

/// Show the rules, their last and next runs, and what is overdue
///
/// A rule is overdue from the first slot that no complete run has answered, a continuous one from its
/// first failure. Without rules it also says which recipients have not done yet what they were told, and
/// which fail, and which sets of backups may still hold what was deleted, and cannot be listed or have outstayed
/// their rotation; `expunged recipients list` and `expunged backups` show all of them.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only these rules; all of them when none is named.
    rules: Vec<Name>,
}

#[derive(Serialize)]
pub(super) struct RuleStatus {
    rule: Name,
    mode: Mode,
    schedule: String,
    last_state: Option<String>,
    last_started_at: Option<Timestamp>,
    last_records: Option<u64>,
    pub(super) last_remaining: Option<u64>,
    last_error: Option<String>,
    /// How its last run reached the due rows, and why that way.
    last_access: Option<String>,
    /// When the rule was last not let to run, if that was after its last run.
    refused_at: Option<Timestamp>,
    refused_because: Option<String>,
    next_slot: Option<Timestamp>,
    /// When it begins next by its schedule, as far as that is known: a slot waits for the rule's maintenance window.
    next_run: Option<Timestamp>,
    /// When its maintenance window opens, where something waits for that.
    waits_for_window_until: Option<Timestamp>,
    overdue_since: Option<Timestamp>,
    pub(super) overdue_seconds: Option<i64>,
    /// The configuration was changed and the daemon has not loaded it yet.
    not_loaded: bool,
    /// Its run waits for somebody's approval, or has it and has not begun.
    waits_for_approval: Option<Approval>,
    /// Events that wait to be worked off.
    pending_events: u64,
    oldest_event_at: Option<Timestamp>,
    /// Events that cannot be opened with the keys that are there.
    unreadable_events: u64,
}

/// What there is to see.
#[derive(Serialize)]
struct Report {
    rules: Vec<RuleStatus>,
    /// What is not of one rule, where none is named.
    #[serde(flatten)]
    rest: Option<Rest>,
}

#[derive(Serialize)]
struct Rest {
    recipients: Vec<recipients::Listed>,
    backups: Vec<backups::Listed>,
    /// Stores that seem to have been restored: their rules do not run.
    frozen_stores: Vec<Frozen>,
}

pub(crate) async fn main(common: &Common, args: Args) -> Result<Exit, CliError> {
    let config = common.load()?;
    let rules = select(&config, &args.rules)?;
    let ledger = read_ledger(&config).await?;
    let now = clock::now();
    let states = ledger.rule_states().await?;
    let mut all = Vec::new();
    for rule in rules {
        all.push(status(&ledger, rule, states.get(&rule.name), now).await?);
    }
    let waiting = ledger.approvals().await?;
    let backlogs = ledger.count_events().await?;
    for status in &mut all {
        let backlog = backlogs.get(&status.rule).copied().unwrap_or_default();
        status.pending_events = backlog.pending;
        status.oldest_event_at = backlog.oldest;
        status.unreadable_events = backlog.unreadable;
        status.waits_for_approval =
            waiting.iter().find(|approval| approval.rule == status.rule).cloned();
    }
    let rest = if args.rules.is_empty() {
        Some(Rest {
            recipients: recipients::listed(&config, ledger.recipient_states().await?),
            backups: backups::listed(&config, &ledger, now).await?,
            frozen_stores: ledger.frozen_stores().await?,
        })
    } else {
        None
    };
    if common.json {
        output::json(&Report { rules: all, rest });
    } else {
        print(&config.rules, &all);
        print_events(&config.rules, &backlogs);
        if let Some(Rest { recipients, backups, frozen_stores }) = &rest {
            recipients::print_open(recipients);
            backups::print_open(frozen_stores, backups);
        }
        let waiting: Vec<_> =
            all.iter().filter_map(|status| status.waits_for_approval.clone()).collect();
        if !waiting.is_empty() {
            println!();
            approve::print(&waiting);
        }
    }
    ledger.close().await;
    Ok(Exit::Fine)
}

pub(super) async fn status(
    ledger: &Ledger,
    rule: &Rule,
    state: Option<&RuleState>,
    now: Timestamp,
) -> Result<RuleStatus, CliError> {
    let last = ledger.last_run(&rule.name).await?;
    let complete = ledger.last_complete_run(&rule.name).await?;
    let since = last.as_ref().map(|run| run.started_at);
    let refused = refusal(ledger, &rule.name, since, Which::Last).await?;
    let overdue_since = match rule.schedule {
        // Not before the maintenance window opened that it waited for.
        Schedule::Cron(_) => unanswered_slot(rule, state, complete)
            .map(|slot| rule.opens_at(slot))
            .filter(|begins| *begins <= now),
        Schedule::Continuous => {
            let refused = refusal(ledger, &rule.name, complete, Which::First).await?;
            first_failure(last.as_ref(), refused.map(|(at, _)| at))
        }
    };
    let (refused_at, refused_because) = refused.unzip();
    let next_slot = rule.schedule.next_slot(&rule.time_zone, now);
    let waits_for_window_until = waits_until(rule, state, complete, now);
    Ok(RuleStatus {
        rule: rule.name.clone(),
        mode: rule.mode,
        schedule: rule.schedule.to_string(),
        last_state: last.as_ref().map(|run| run.state.clone()),
        last_started_at: last.as_ref().map(|run| run.started_at),
        last_records: last.as_ref().map(|run| run.records),
        last_remaining: last.as_ref().and_then(|run| run.remaining),
        last_access: last.as_ref().and_then(|run| run.access.clone()),
        last_error: last.and_then(|run| run.error),
        refused_at,
        refused_because,
        next_slot,
        next_run: waits_for_window_until.or(next_slot.map(|slot| rule.opens_at(slot))),
        waits_for_window_until,
        overdue_since,
        overdue_seconds: overdue_since.map(|since| now.duration_since(since).as_secs()),
        not_loaded: state
            .is_none_or(|state| state.digest != rule.digest() || state.mode != rule.mode),
        waits_for_approval: None,
        pending_events: 0,
        oldest_event_at: None,
        unreadable_events: 0,
    })
}

/// Which of several.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    First,
    Last,
}

/// When and why a rule was not let to run, after a moment.
async fn refusal(
    ledger: &Ledger,
    rule: &Name,
    since: Option<Timestamp>,
    which: Which,
) -> Result<Option<(Timestamp, String)>, CliError> {
    let filter = AuditFilter {
        rule: Some(rule.clone()),
        kind: Some("run_refused".to_owned()),
        since,
        limit: Some(1),
        newest_first: which == Which::Last,
        ..AuditFilter::default()
    };
    let found = ledger.audit_log(&filter).await?.into_iter().next();
    Ok(found.and_then(|(_, entry)| match entry.event {
        Event::RunRefused { reason, .. } => Some((entry.at, reason.to_string())),
        _ => None,
    }))
}

/// The first slot that no complete run has answered.
fn unanswered_slot(
    rule: &Rule,
    state: Option<&RuleState>,
    complete: Option<Timestamp>,
) -> Option<Timestamp> {
    let first_seen = state?.first_seen;
    let answered = complete.map_or(first_seen, |complete| complete.max(first_seen));
    rule.schedule.next_slot(&rule.time_zone, answered)
}

/// When the maintenance window opens that a rule waits for: with a slot that is over, or with whatever falls due.
fn waits_until(
    rule: &Rule,
    state: Option<&RuleState>,
    complete: Option<Timestamp>,
    now: Timestamp,
) -> Option<Timestamp> {
    let is_due = match rule.schedule {
        Schedule::Continuous => true,
        Schedule::Cron(_) => unanswered_slot(rule, state, complete).is_some_and(|slot| slot <= now),
    };
    (is_due && !rule.is_open(now)).then(|| rule.opens_at(now))
}

/// The first failure that no complete run has made good; `refused` is the first refusal of those.
fn first_failure(last: Option<&LastRun>, refused: Option<Timestamp>) -> Option<Timestamp> {
    let failed = last.filter(|run| run.state == "failed").and_then(|run| run.finished_at);
    [failed, refused].into_iter().flatten().min()
}

fn print(rules: &BTreeMap<Name, Rule>, all: &[RuleStatus]) {
    let mut table =
        output::table(&["rule", "mode", "schedule", "last run", "records", "next run", "overdue"]);
    for status in all {
        let Some(rule) = rules.get(&status.rule) else { continue };
        let moment = |at: Option<Timestamp>| {
            at.map_or_else(|| "-".to_owned(), |at| output::moment(at, &rule.time_zone))
        };
        let last = match (&status.last_state, status.refused_at) {
            (_, Some(at)) => format!("refused {}", moment(Some(at))),
            (Some(state), None) => format!("{state} {}", moment(status.last_started_at)),
            (None, None) => "never".to_owned(),
        };
        #[expect(clippy::cast_precision_loss, reason = "an age for people")]
        let overdue = status.overdue_seconds.map(|seconds| output::duration(seconds as f64));
        table.add_row(vec![
            status.rule.to_string().into(),
            status.mode.to_string().into(),
            status.schedule.clone().into(),
            last.into(),
            output::right(status.last_records.map_or_else(|| "-".to_owned(), output::number)),
            moment(status.next_run).into(),
            overdue.unwrap_or_else(|| "-".to_owned()).into(),
        ]);
    }
    output::print_table(table, &[2, 4, 1]);
    for status in all {
        if let Some(error) = status.refused_because.as_ref().or(status.last_error.as_ref()) {
            let word = match (&status.refused_because, status.last_state.as_deref()) {
                (Some(_), _) => "refused",
                (None, Some("done")) => "kept",
                (None, _) => "failed",
            };
            let text = format!("{}: {error}", status.rule);
            anstream::println!("{RED}{word:7}{RESET} {}", output::hanging(&text, 8));
        }
        let zone = rules.get(&status.rule).map(|rule| &rule.time_zone);
        if let (Some(opens), Some(zone)) = (status.waits_for_window_until, zone) {
            let text = format!("{}: its window opens {}", status.rule, output::moment(opens, zone));
            anstream::println!("{YELLOW}waits{RESET}   {}", output::hanging(&text, 8));
        }
        if let Some(access) = &status.last_access {
            let text = format!("{}, last run: by {access}", status.rule);
            anstream::println!("{DIM}path   {RESET} {}", output::hanging(&text, 8));
        }
        if status.not_loaded {
            anstream::println!(
                "{DIM}{}: the daemon has not loaded this version of the rule yet; reload it{RESET}",
                status.rule
            );
        }
    }
}

/// Says for which rules events wait, those that are not configured any more included.
fn print_events(rules: &BTreeMap<Name, Rule>, backlogs: &BTreeMap<Name, Backlog>) {
    for (name, backlog) in backlogs {
        let rule = rules.get(name);
        let zone = rule.map_or(TimeZone::UTC, |rule| rule.time_zone.clone());
        if let Some(oldest) = backlog.oldest {
            let gone = if rule.is_some() { "" } else { ", for a rule that is not configured" };
            let text = format!(
                "{name}: {} to be worked off, the oldest since {}{gone}",
                output::events(backlog.pending),
                output::moment(oldest, &zone)
            );
            anstream::println!("{YELLOW}events {RESET} {}", output::hanging(&text, 8));
        }
        if backlog.unreadable > 0 {
            let text = format!(
                "{name}: {} cannot be opened; if `intent.key` was exchanged, put it back and restart the daemon",
                output::events(backlog.unreadable)
            );
            anstream::println!("{RED}events {RESET} {}", output::hanging(&text, 8));
        }
    }
}
