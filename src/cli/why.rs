//! `expunged why`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::audit::Event;
use crate::clock;
use crate::config::BackupConfig;
use crate::ledger::{BackupSet, Ledger, RunReport};
use crate::notice::State;
use crate::plan::{DependentRows, KeptReason};
use crate::residue::Residue;
use crate::rule::{Mode, Rule};
use crate::store::sql::{Access, Bounds, Explained};
use crate::store::{Store, Target};
use crate::types::{Key, Name};

use super::audit::prove;
use super::notices::in_states;
use super::output::{self, BOLD, RESET};
use super::{CliError, Common, Exit, has_ledger, holds, read_ledger, select, stores};

/// Explain one record: what a rule makes of it, until when it is kept, and what happened to it
///
/// It looks into the store, read-only, and into the ledger, which knows records by their commitments. Of
/// recipients it says which were told of the batch that took the record, and how far they are with it; of backups,
/// which sets still hold it, and until when.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The rule.
    rule: Name,
    /// The record's key; the values of a key of several columns with commas between them.
    key: String,
}

#[derive(Serialize)]
struct Answer {
    rule: Name,
    store: Name,
    table: String,
    key: String,
    #[serde(skip)]
    is_path: bool,
    /// What the store says now.
    record: Record,
    /// What the ledger says happened, the newest first.
    happened: Vec<Happened>,
    /// What can be said where the ledger knows of nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_found: Option<String>,
    /// What is known of copies.
    copies: Vec<String>,
    /// What each set of backups still has of it.
    backups: BTreeMap<Name, Residue>,
}

#[derive(Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum Record {
    /// It is not there.
    Absent,
    /// It is there.
    Present {
        verdict: String,
        starting_point: Option<Timestamp>,
        due_at: Option<Timestamp>,
        is_due: bool,
        kept: Option<KeptReason>,
    },
}

#[derive(Serialize)]
struct Happened {
    at: Timestamp,
    what: String,
    batch: String,
    entry: u64,
    /// Where the notices of the batch stand, by recipient.
    told: BTreeMap<Name, BTreeMap<State, u64>>,
    #[serde(skip)]
    run: Option<RunReport>,
}

pub(crate) async fn main(common: &Common, args: Args) -> Result<Exit, CliError> {
    let config = common.load()?;
    let rule = select(&config, std::slice::from_ref(&args.rule))?[0];
    let stores = stores(&config);
    let store = stores.get(&rule.store, Access::ReadOnly)?;
    let mut target = store.target(rule).await?;
    let ledger = if has_ledger(&config) { Some(read_ledger(&config).await?) } else { None };
    let holds = holds(&config, ledger.as_ref(), clock::now()).await?;
    store.hold_back(&mut target, rule, &holds).await?;
    let keys = target.keys_from_text(&args.key);
    if keys.is_empty() {
        let text = format!(
            "`{}` cannot be a key of {}: its key is ({})",
            args.key,
            rule.table,
            target.key_names().join(", ")
        );
        return Err(CliError::Usage(text));
    }
    let record = look(rule, &store, &target, &keys).await?;
    stores.close().await;
    let happened = match &ledger {
        Some(ledger) => happened(ledger, rule, &keys).await?,
        None => Vec::new(),
    };
    let not_found = match &ledger {
        Some(ledger) if happened.is_empty() => {
            Some(prove::not_found(ledger, &rule.store, &rule.table.to_string()).await?)
        }
        Some(_) => None,
        None => Some("there is no ledger yet, so nothing was taken".to_owned()),
    };
    let in_backups = match &ledger {
        Some(ledger) => in_backups(ledger, &config.backups, rule, &happened).await?,
        None => BTreeMap::new(),
    };
    let copies = copies(&happened, &in_backups);
    let answer = Answer {
        rule: rule.name.clone(),
        store: rule.store.clone(),
        table: rule.table.to_string(),
        key: args.key,
        is_path: !matches!(store, Store::Tables(_)),
        record,
        happened,
        not_found,
        copies,
        backups: in_backups,
    };
    if common.json {
        output::json(&answer);
    } else {
        print(&answer);
    }
    Ok(Exit::Fine)
}

/// What the store says of the record now.
async fn look(
    rule: &Rule,
    store: &Store,
    target: &Target,
    keys: &[Key],
) -> Result<Record, CliError> {
    let now = clock::now();
    let bounds = Bounds { cutoff: rule.cutoff(now), now };
    let Some(found) = store.explain(target, bounds, keys).await? else { return Ok(Record::Absent) };
    let due_at = found.starting_point.map(|start| rule.retention.due_at(start, &rule.time_zone));
    Ok(Record::Present {
        verdict: verdict(rule, &found, due_at),
        starting_point: found.starting_point,
        due_at,
        is_due: found.is_due,
        kept: found.kept,
    })
}

fn verdict(rule: &Rule, found: &Explained, due_at: Option<Timestamp>) -> String {
    let moment = |at: Timestamp| output::moment(at, &rule.time_zone);
    match (found.is_due, found.kept, due_at) {
        (true, _, due) => {
            let since = due.map(|at| format!(" since {}", moment(at))).unwrap_or_default();
            let next = match rule.mode {
                Mode::Enforce => "the next run takes it",
                Mode::Observe => "the rule only observes, so it stays",
            };
            format!("it is due{since}: {next}")
        }
        (false, Some(kept), _) => format!("it is kept: {}", kept.in_words()),
        (false, None, Some(at)) => format!("it is kept until {}", moment(at)),
        (false, None, None) => "it is kept".to_owned(),
    }
}

/// What the ledger says happened to it.
async fn happened(ledger: &Ledger, rule: &Rule, keys: &[Key]) -> Result<Vec<Happened>, CliError> {
    let mut happened = Vec::new();
    for taken in ledger.find_record(&rule.store, &rule.table.to_string(), keys).await? {
        let Some(entry) = ledger.audit_entry(taken.position).await? else { continue };
        let Event::BatchDone { run, rule, action, dependents, .. } = &entry.event else { continue };
        let along = match dependents.as_slice() {
            [] => String::new(),
            some => {
                let all: Vec<_> = some.iter().map(DependentRows::in_words).collect();
                format!("; of its batch, {}", all.join("; "))
            }
        };
        happened.push(Happened {
            at: entry.at,
            what: format!("{action} under rule {rule}, in run {run}{along}"),
            batch: taken.batch.to_string(),
            entry: taken.position,
            told: ledger.notices_of_batch(*run, taken.batch).await?,
            run: ledger.run_report(*run).await?,
        });
    }
    Ok(happened)
}

/// What each set of backups still has of the record, as it was when it was last taken.
async fn in_backups(
    ledger: &Ledger,
    configured: &BTreeMap<Name, BackupConfig>,
    rule: &Rule,
    happened: &[Happened],
) -> Result<BTreeMap<Name, Residue>, CliError> {
    let Some(last) = happened.first() else { return Ok(BTreeMap::new()) };
    let now = clock::now();
    let covers = |set: &BackupSet| set.stores.contains(&rule.store);
    let sets = ledger.backup_sets().await?.into_iter().filter(covers);
    let residue = |set: BackupSet| {
        let terms = configured.get(&set.name).map(|config| &config.terms);
        let residue = set.residue(terms, last.at, now);
        (set.name, residue)
    };
    Ok(sets.map(residue).collect())
}

/// Where copies may remain, as far as is known.
fn copies(happened: &[Happened], in_backups: &BTreeMap<Name, Residue>) -> Vec<String> {
    if happened.is_empty() {
        return Vec::new();
    }
    let newest = happened.first().and_then(|taken| taken.run.as_ref()?.verification.as_ref());
    let in_store = match newest {
        Some(seen) => format!("in the store: {}: {}", seen.residue.as_str(), seen.detail),
        None => "in the store: unknown, it was not looked at again".to_owned(),
    };
    let told: Vec<_> = happened.iter().flat_map(|taken| &taken.told).collect();
    if told.is_empty() && in_backups.is_empty() {
        let elsewhere = "in backups and at recipients: none are registered, so nothing is known";
        return vec![in_store, elsewhere.to_owned()];
    }
    let at_recipients = told.iter().map(|(recipient, states)| {
        let all = output::notices(states.values().sum());
        format!("at {recipient}: {all} for its batch, {}", in_states(states))
    });
    let none = |what: &str| format!("{what}: none are registered, so nothing is known");
    let mut copies = vec![in_store];
    copies.extend(at_recipients);
    if told.is_empty() {
        copies.push(none("at recipients"));
    }
    copies.extend(
        in_backups
            .iter()
            .map(|(set, residue)| format!("in backup set {set}: {}", residue.in_words())),
    );
    if in_backups.is_empty() {
        copies.push(none("in backups"));
    }
    copies
}

fn print(answer: &Answer) {
    let Answer { rule, store, table, key, .. } = answer;
    anstream::println!("{BOLD}{rule}{RESET}  {store}.{table}, key {key}");
    let line = |topic: &str, text: &str| println!("  {topic:<9} {}", output::hanging(text, 12));
    match &answer.record {
        Record::Absent if answer.is_path => {
            line("now", "there is no such file or object, or the rule does not mean it");
        }
        Record::Absent => line("now", "it is not in the table"),
        Record::Present { verdict, starting_point, due_at, .. } => {
            line("now", verdict);
            let zone = jiff::tz::TimeZone::UTC;
            if let Some(start) = starting_point {
                line("counts", &format!("from {}", output::moment(*start, &zone)));
            }
            if let Some(at) = due_at {
                line("due", &output::moment(*at, &zone));
            }
        }
    }
    if let Some(not_found) = &answer.not_found {
        line("before", not_found);
    }
    for happened in &answer.happened {
        let at = happened.at.strftime("%Y-%m-%d %H:%M:%S UTC");
        line("before", &format!("{at}: {}; entry {} of the log", happened.what, happened.entry));
    }
    for copy in &answer.copies {
        line("copies", copy);
    }
}
