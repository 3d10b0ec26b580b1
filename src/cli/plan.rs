//! `expunged plan`.

use anstyle::Style;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::audit::Event;
use crate::clock;
use crate::config::Config;
use crate::hold::Holds;
use crate::ledger::Ledger;
use crate::plan::{Plan, ratio};
use crate::run::plan;
use crate::types::Name;

use super::output::{self, BOLD, DIM, RED, RESET, YELLOW};
use super::{CliError, Common, Exit, has_ledger, open_ledger, parse_time, select, stores};

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
}

impl Args {
    /// Of all rules, now.
    pub(super) fn all(brief: bool) -> Args {
        Args { rules: Vec::new(), at: "now".to_owned(), sample: 0, brief }
    }
}

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
    let rules = select(&config, &args.rules)?;
    let ledger = if has_ledger(&config) { Some(open_ledger(&config).await?) } else { None };
    let stores = stores(&config);
    let holds = match &ledger {
        Some(ledger) => ledger.held().await?.1,
        None => Vec::new(),
    };
    let in_force = holds.into_iter().filter(|hold| hold.is_in_force(at)).collect();
    let holds = Holds::new(&config.rules, in_force);
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
    stores.close().await;
    if let Some(ledger) = &ledger {
        record(ledger, &plans).await?;
    }
    if common.json {
        output::json(&plans);
    } else {
        print(&config, &plans, args.brief);
        println!();
        summarize(&plans);
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

/// Writes to the audit log that plans were made.
async fn record(ledger: &Ledger, plans: &[Planned]) -> Result<(), CliError> {
    for planned in plans {
        let Planned::Plan(plan) = planned else { continue };
        let event = Event::PlanMade {
            rule: plan.rule.clone(),
            rule_digest: plan.rule_digest.clone(),
            cutoff: plan.cutoff,
            due: plan.due,
            digest: None,
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
    for dependents in &plan.dependents {
        let effect = dependents.on_delete.effect();
        let text = format!("rows of {} that point at them: {effect}", dependents.table);
        line("and", YELLOW, &output::number(dependents.rows), &text);
    }
    for kept in &plan.kept {
        line("kept", Style::new(), &output::number(kept.records), kept.reason.in_words());
    }
    if !plan.pseudonymized.is_empty() {
        let columns = plan.pseudonymized.join(", ");
        line("note", YELLOW, "", &format!("{columns} only pseudonymized (GDPR Art. 4(5))"));
    }
    for sample in &plan.sample {
        let from = format!("from {}", output::day(sample.starting_point));
        line("sample", Style::new(), &sample.key.to_string(), &from);
    }
}

/// A line of an explanation: what it is about, a number, and the words.
fn line(topic: &str, style: Style, number: &str, text: &str) {
    let text = output::hanging(text, 23);
    anstream::println!("  {style}{topic:<6}{RESET}  {number:>10}   {text}");
}

fn summarize(plans: &[Planned]) {
    let due = |mode| {
        plans
            .iter()
            .filter_map(|planned| match planned {
                Planned::Plan(plan) if plan.mode == mode => Some(plan.due),
                _ => None,
            })
            .sum::<u64>()
    };
    let (enforced, observed) = (due(crate::rule::Mode::Enforce), due(crate::rule::Mode::Observe));
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
                "{YELLOW}{}{RESET} would take {} of its table: make sure that this is meant.",
                plan.rule,
                output::percent(plan.share)
            );
        }
    }
}
