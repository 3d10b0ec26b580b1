//! `expunged plan`.

mod compare;

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anstyle::Style;
use jiff::SignedDuration;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::audit::Event;
use crate::breaker::{Share, ratio};
use crate::clock;
use crate::config::Config;
use crate::hold::Holds;
use crate::ledger::Ledger;
use crate::plan::saved::SavedPlan;
use crate::plan::{Access, Plan};
use crate::rule::{Mode, Selection};
use crate::run::{self, Terms, plan};
use crate::store::Stores;
use crate::types::Name;

use super::output::{self, BOLD, DIM, RED, RESET, YELLOW};
use super::{CliError, Common, Exit, has_ledger, open_ledger, parse_time, select, stores};

/// The terms of a plan that is saved without others.
const TERMS: (Share, SignedDuration) = (Share::TENTH, SignedDuration::from_hours(24));

/// Show what would be deleted or anonymized now, and why the rest is kept; touches nothing
///
/// Databases are opened read-only. Exit code 0 when nothing is due, 2 when something is, 1 on errors.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only these rules; all of them when none is named.
    rules: Vec<Name>,
    /// Decide as if it were this moment: a date or an RFC 3339 timestamp.
    #[arg(long, value_name = "TIME", default_value = "now")]
    at: String,
    /// Show the keys of up to so many due records per rule.
    #[arg(long, value_name = "N", default_value_t = 0)]
    sample: u32,
    /// Only the table, without the reasons.
    #[arg(long)]
    brief: bool,
    /// Save what rules in enforce mode would take to a new file, signed, for `expunged apply`.
    #[arg(long, value_name = "FILE", conflicts_with = "at")]
    out: Option<PathBuf>,
    /// By how much the number due may have moved when the saved plan is applied.
    #[arg(long, value_name = "SHARE", default_value = "10 %", requires = "out")]
    margin: Share,
    /// How long the saved plan is good.
    #[arg(long, value_name = "TIME", default_value = "24 hours", requires = "out")]
    valid: SignedDuration,
    /// Show in records what differs from another configuration or a saved plan: what is newly due here,
    /// and what is spared.
    #[arg(long, value_name = "OTHER", conflicts_with_all = ["out", "rules", "sample"])]
    compare: Option<PathBuf>,
}

impl Args {
    /// Of all rules, now.
    pub(super) fn all(brief: bool) -> Args {
        Args {
            rules: Vec::new(),
            at: "now".to_owned(),
            sample: 0,
            brief,
            out: None,
            margin: TERMS.0,
            valid: TERMS.1,
            compare: None,
        }
    }

    /// The same, saved.
    pub(super) fn saved(out: PathBuf) -> Args {
        Args { out: Some(out), ..Args::all(false) }
    }
}

/// So many partitions that are not dropped whole are named.
const MOST_SPARED: usize = 6;

/// A plan, or why there is none.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Planned {
    Plan(Box<Plan>),
    Failed { rule: Name, error: String },
}

pub(crate) async fn main(common: &Common, args: Args) -> Result<Exit, CliError> {
    let config = common.load()?;
    let now = clock::now();
    let at = parse_time(&args.at, now)?;
    if let Some(other) = &args.compare {
        return compare::main(common, &config, other, at).await;
    }
    let rules = select(&config, &args.rules)?;
    // What is saved is signed, and so needs the keys.
    let ledger = if has_ledger(&config) || args.out.is_some() {
        Some(open_ledger(&config).await?)
    } else {
        None
    };
    let stores = stores(&config);
    let holds = super::holds(&config, ledger.as_ref(), at).await?;
    let mut plans = Vec::new();
    for rule in rules {
        let pace = match &ledger {
            Some(ledger) => ledger.pace(&rule.name).await?,
            None => None,
        };
        plans.push(match plan(rule, &stores, &holds, at, args.sample, pace).await {
            Ok(plan) => Planned::Plan(Box::new(plan)),
            Err(error) => Planned::Failed { rule: rule.name.clone(), error: error.to_string() },
        });
    }
    let saved = match (&ledger, &args.out) {
        (Some(ledger), Some(out)) => {
            let terms = Terms { margin: args.margin, valid_for: args.valid };
            Some(save(&config, &plans, (&stores, &holds), ledger, terms, out).await?)
        }
        _ => None,
    };
    stores.close().await;
    if let Some(ledger) = &ledger {
        record(ledger, &plans, saved.as_ref()).await?;
    }
    if common.json {
        output::json(&plans);
    } else {
        print(&config, &plans, args.brief);
        println!();
        summarize(&config, &plans);
        if let (Some(saved), Some(out)) = (&saved, &args.out) {
            tell_saved(saved, out);
        }
        if ledger.is_none() {
            anstream::println!(
                "{DIM}There is no ledger yet, so this plan is not in the audit log.{RESET}"
            );
        }
    }
    Ok(exit(&plans))
}

fn exit(plans: &[Planned]) -> Exit {
    let failed = plans.iter().any(|planned| matches!(planned, Planned::Failed { .. }));
    let due = plans.iter().any(|planned| matches!(planned, Planned::Plan(plan) if plan.due > 0));
    match (failed, due) {
        (true, _) => Exit::Failed,
        (false, true) => Exit::Two,
        (false, false) => Exit::Fine,
    }
}

/// Saves the plans of the rules that act.
async fn save(
    config: &Config,
    plans: &[Planned],
    (stores, holds): (&Stores, &Holds),
    ledger: &Ledger,
    terms: Terms,
    out: &Path,
) -> Result<SavedPlan, CliError> {
    let mut act = Vec::new();
    for planned in plans {
        match planned {
            Planned::Failed { rule, error } => {
                let text = format!("nothing was saved: there is no plan of rule `{rule}`: {error}");
                return Err(CliError::Usage(text));
            }
            Planned::Plan(plan) => {
                let rule = config.rules.get(&plan.rule);
                act.extend(
                    rule.filter(|rule| rule.mode == Mode::Enforce).map(|rule| (rule, &**plan)),
                );
            }
        }
    }
    if act.is_empty() {
        let text = "nothing was saved: all of these rules only observe; write mode = \"enforce\" in those \
                    that are to act";
        return Err(CliError::Usage(text.to_owned()));
    }
    let failed = |source| CliError::Io { doing: format!("write {}", out.display()), source };
    // Before the work: a file that is there is never overwritten.
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(out).map_err(failed)?;
    let saved = run::save(&act, stores, holds, ledger.keys(), terms, clock::now()).await;
    let written = saved.map_err(CliError::from).and_then(|saved| {
        let note = ledger.keys().sign(&saved.to_text());
        file.write_all(note.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        Ok(saved)
    });
    if written.is_err() {
        // Half a plan is none, and would only be in the way.
        std::fs::remove_file(out).ok();
    }
    written
}

fn tell_saved(saved: &SavedPlan, out: &Path) {
    let digest = saved.digest();
    let records = saved.rules.iter().map(|part| part.due).sum();
    let text = format!(
        "saved as {}: plan {} takes {}, and is good until {}",
        out.display(),
        digest.get(..8).unwrap_or(&digest),
        output::records(records),
        output::moment(saved.valid_until, &TimeZone::UTC),
    );
    anstream::println!("{}", output::hanging(&text, 0));
    println!("To carry out exactly that: expunged apply {}", out.display());
}

/// Writes to the audit log that plans were made.
async fn record(
    ledger: &Ledger,
    plans: &[Planned],
    saved: Option<&SavedPlan>,
) -> Result<(), CliError> {
    for planned in plans {
        let Planned::Plan(plan) = planned else { continue };
        let event = Event::PlanMade {
            rule: plan.rule.clone(),
            rule_digest: plan.rule_digest.clone(),
            cutoff: plan.cutoff,
            due: plan.due,
            digest: saved.filter(|saved| saved.names(&plan.rule)).map(SavedPlan::digest),
        };
        ledger.record(clock::now(), event).await?;
    }
    Ok(())
}

/// Prints the plans as one table and, below it, what deserves words.
pub(crate) fn print(config: &Config, plans: &[Planned], brief: bool) {
    let mut table = output::table(&[
        "rule",
        "action",
        "mode",
        "due",
        "of",
        "share",
        "subjects",
        "oldest due",
        "takes",
    ]);
    for planned in plans {
        let Planned::Plan(plan) = planned else { continue };
        let about = if plan.total_is_estimate { "~" } else { "" };
        table.add_row(vec![
            plan.rule.to_string().into(),
            plan.action.into(),
            plan.mode.to_string().into(),
            output::right(output::number(plan.due)),
            output::right(format!("{about}{}", output::number(plan.total))),
            output::right(output::percent(plan.share)),
            output::right(plan.subjects.map_or_else(|| "-".to_owned(), output::number)),
            output::day(plan.oldest).into(),
            output::right(forecast(plan)),
        ]);
    }
    if plans.iter().any(|planned| matches!(planned, Planned::Plan(_))) {
        output::print_table(table, &[8, 6, 5]);
    }
    if brief {
        return;
    }
    for planned in plans {
        match planned {
            Planned::Plan(plan) => explain(config, plan),
            Planned::Failed { rule, error } => {
                anstream::println!("\n{BOLD}{rule}{RESET}  {RED}no plan:{RESET} {error}");
            }
        }
    }
}

fn forecast(plan: &Plan) -> String {
    let guessed = if plan.forecast_from_history { "" } else { "~" };
    match plan.due {
        0 => "-".to_owned(),
        _ => format!("{guessed}{}", output::duration(plan.forecast_seconds)),
    }
}

fn explain(config: &Config, plan: &Plan) {
    let rule = config.rules.get(&plan.rule);
    let zone = rule.map_or(TimeZone::UTC, |rule| rule.time_zone.clone());
    let what = format!(
        "{} older than {}: from before {}",
        plan.table,
        plan.retention,
        output::moment(plan.cutoff, &zone)
    );
    let what = output::hanging(&what, plan.rule.as_str().len() + 2);
    anstream::println!("\n{BOLD}{}{RESET}  {what}", plan.rule);
    if let Some(basis) = rule.and_then(|rule| rule.basis.as_deref()) {
        for line in output::wrap(basis, 2) {
            anstream::println!("  {DIM}{line}{RESET}");
        }
    }
    if plan.due > 0 {
        let between = format!(
            "starting points from {} to {}",
            output::day(plan.oldest),
            output::day(plan.newest)
        );
        line("due", BOLD, &output::number(plan.due), &between);
    }
    if let Some(access) = &plan.access {
        explain_access(access);
    }
    for dependents in &plan.dependents {
        let effect = dependents.on_delete.effect();
        let text = format!("rows of {} that point at them: {effect}", dependents.table);
        line("and", YELLOW, &output::number(dependents.rows), &text);
    }
    for kept in &plan.kept {
        line("kept", Style::new(), &output::number(kept.records), kept.reason.in_words());
    }
    if plan.unread > 0 {
        let text = "folders that cannot be read: what is in them is not known, and stays";
        line("unseen", YELLOW, &output::number(plan.unread), text);
    }
    if !plan.pseudonymized.is_empty() {
        let columns = plan.pseudonymized.join(", ");
        line("note", YELLOW, "", &format!("{columns} only pseudonymized (GDPR Art. 4(5))"));
    }
    for told in &plan.recipients {
        let text = format!("{} is told {}", told.recipient, told.in_words());
        line("tells", Style::new(), "", &text);
    }
    for sample in &plan.sample {
        let from = format!("from {}", output::day(sample.starting_point));
        line("sample", Style::new(), &sample.key.to_string(), &from);
    }
}

/// How the due rows are reached, and which partitions go whole.
fn explain_access(access: &Access) {
    line("path", Style::new(), "", &format!("{}: {}", access.path, access.why));
    let (spared, whole): (Vec<_>, Vec<_>) =
        access.partitions.iter().partition(|partition| partition.spared.is_some());
    if !whole.is_empty() {
        let rows = whole.iter().map(|partition| partition.rows).sum();
        let names: Vec<_> = whole.iter().map(|partition| partition.name.as_str()).collect();
        let text = format!("with partitions that are dropped whole: {}", names.join(", "));
        line("drops", BOLD, &output::number(rows), &text);
    }
    for partition in spared.iter().take(MOST_SPARED) {
        let why = partition.spared.as_deref().unwrap_or_default();
        line(
            "spares",
            Style::new(),
            "",
            &format!("{}, whose due rows go one by one: {why}", partition.name),
        );
    }
    if spared.len() > MOST_SPARED {
        let more = spared.len() - MOST_SPARED;
        line("", Style::new(), "", &format!("and {more} partitions more; --json names all"));
    }
    if let Some(why) = access.keeps_partitions {
        line("", Style::new(), "", &format!("no partition is dropped whole: {why}"));
    }
}

/// A line of an explanation: what it is about, a number, and the words.
fn line(topic: &str, style: Style, number: &str, text: &str) {
    let text = output::hanging(text, 23);
    anstream::println!("  {style}{topic:<6}{RESET}  {number:>10}   {text}");
}

/// What a rule takes from, as people call it.
fn its_place<'a>(config: &Config, plan: &'a Plan) -> &'a str {
    match config.rules.get(&plan.rule).map(|rule| &rule.select) {
        Some(Selection::Paths(_)) => &plan.table,
        _ => "table",
    }
}

fn summarize(config: &Config, plans: &[Planned]) {
    let due = |mode| {
        plans
            .iter()
            .filter_map(|planned| match planned {
                Planned::Plan(plan) if plan.mode == mode => Some(plan.due),
                _ => None,
            })
            .sum::<u64>()
    };
    let (enforced, observed) = (due(Mode::Enforce), due(Mode::Observe));
    let text = if enforced + observed == 0 {
        "Nothing is due.".to_owned()
    } else if observed == 0 {
        format!("A run now would take {}.", output::records(enforced))
    } else if enforced == 0 {
        format!(
            "A run now would take nothing; rules that observe would leave {} alone.",
            output::records(observed)
        )
    } else {
        format!(
            "A run now would take {}; rules that observe would leave {} alone.",
            output::records(enforced),
            output::number(observed)
        )
    };
    println!("{}", output::hanging(&text, 0));
    // Kept out of sight until it matters: a share this large is more often a mistake than a plan.
    for planned in plans {
        if let Planned::Plan(plan) = planned
            && ratio(plan.due, plan.total) > 0.5
        {
            anstream::println!(
                "{YELLOW}{}{RESET} would take {} of its {}: make sure that this is meant.",
                plan.rule,
                output::percent(plan.share),
                its_place(config, plan)
            );
        }
    }
}
