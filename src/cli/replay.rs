//! `expunged replay`.

use std::io::{IsTerminal, Write};

use serde::Serialize;

use crate::clock;
use crate::config::Config;
use crate::ledger::Ledger;
use crate::lifecycle;
use crate::run::{Progress, ReplayPlan, Replayed, RuleReplay, Runner};
use crate::types::Name;

use super::output::{self, BOLD, GREEN, RED, RESET, YELLOW};
use super::{CliError, Common, Exit, account, has_ledger, open_ledger, parse_time, runner};

/// Delete again what a restored backup brought back
///
/// The keys of what was deleted are kept until no backup can bring it back. Of a store that was restored, those that were
/// deleted after the moment it was restored to are looked for, and what is there again goes: by the rules that took it
/// before, whatever the circuit breakers say, with legal holds heeded, and without telling recipients once more. Records that
/// were made since under the same key stay. Then the store's rules run again, and at once. An interrupted replay can be run
/// again. Exit code 0 when all of it is done or nothing is there, 2 with --dry-run when something would go, otherwise 1.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The store that was restored.
    store: Name,
    /// The moment that it was restored to; by default the one that its marker tells, or all that is known.
    #[arg(long, value_name = "TIME")]
    restored_to: Option<String>,
    /// Only show what would go.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// It was no restore: let its rules run again, and delete nothing.
    #[arg(long, conflicts_with_all = ["restored_to", "dry_run", "yes"], requires = "why")]
    dismiss: bool,
    /// Why it was none; kept in the ledger with your account and the time.
    #[arg(long, value_name = "TEXT", requires = "dismiss")]
    why: Option<String>,
}

impl Args {
    /// Of all that is known of a store, without a question.
    pub(super) fn of(store: Name) -> Args {
        Args { store, restored_to: None, dry_run: false, yes: true, dismiss: false, why: None }
    }
}

#[derive(Serialize)]
struct Dismissed<'a> {
    store: &'a Name,
    released: bool,
}

pub(crate) async fn main(common: &Common, args: Args) -> Result<Exit, CliError> {
    let config = common.load()?;
    let now = clock::now();
    let restored_to = args.restored_to.as_deref().map(|text| parse_time(text, now)).transpose()?;
    if restored_to.is_some_and(|at| at > now) {
        let text = "`--restored-to` lies in the future: write the moment that the backup was made, or an earlier one";
        return Err(CliError::Usage(text.to_owned()));
    }
    if !has_ledger(&config) {
        let text = "there is nothing to replay: there is no ledger yet, and so nothing was deleted";
        return Err(CliError::Usage(text.to_owned()));
    }
    let ledger = open_ledger(&config).await?;
    let runner = runner(&config, &ledger);
    let done = if args.dismiss {
        dismiss(common, &args, &runner).await
    } else {
        replay(common, &args, (&config, &ledger, &runner), restored_to).await
    };
    runner.stores.close().await;
    ledger.close().await;
    done
}

async fn dismiss(common: &Common, args: &Args, runner: &Runner) -> Result<Exit, CliError> {
    let why = account::reason(args.why.as_deref())?;
    let (store, by) = (&args.store, account::name());
    runner.dismiss_restore(store, &by, why, clock::now()).await?;
    if common.json {
        output::json(&Dismissed { store, released: true });
        return Ok(Exit::Fine);
    }
    let text = format!(
        "the rules of {store} run again; recorded with your account ({by}) and your reason"
    );
    anstream::println!("{GREEN}{BOLD}released{RESET}  {}", output::hanging(&text, 10));
    Ok(Exit::Fine)
}

async fn replay(
    common: &Common,
    args: &Args,
    (config, ledger, runner): (&Config, &Ledger, &Runner),
    restored_to: Option<jiff::Timestamp>,
) -> Result<Exit, CliError> {
    let plan = runner.plan_replay(&args.store, restored_to, clock::now()).await?;
    if args.dry_run {
        if common.json {
            output::json(&plan);
        } else {
            show(&plan);
        }
        return Ok(if plan.due() > 0 { Exit::Two } else { Exit::Fine });
    }
    if !args.yes {
        if common.json || !std::io::stdin().is_terminal() {
            let text = "a replay deletes: look with `--dry-run`, then add `--yes`";
            return Err(CliError::Usage(text.to_owned()));
        }
        show(&plan);
        if !asked(&plan)? {
            println!("Nothing was done.");
            return Ok(Exit::Failed);
        }
    }
    let stop = lifecycle::stop_on_signals()
        .map_err(|source| CliError::Io { doing: "listen for signals".to_owned(), source })?;
    super::apply::load_rules(config, ledger).await?;
    let bar = output::bar(!common.json, String::new(), "records");
    let report = |rule: &Name, progress: Progress| {
        bar.set_message(rule.to_string());
        bar.set_length(progress.due.max(progress.records));
        bar.set_position(progress.records);
    };
    let replayed = runner.replay(plan, &account::name(), &stop, &report).await;
    bar.finish_and_clear();
    let replayed = replayed?;
    if common.json {
        output::json(&replayed);
    } else {
        print(&replayed);
    }
    let fine = matches!(super::run::exit(&replayed.ordinary), Exit::Fine);
    Ok(if replayed.released && fine { Exit::Fine } else { Exit::Failed })
}

fn asked(plan: &ReplayPlan) -> Result<bool, CliError> {
    let io = |source| CliError::Io { doing: "ask".to_owned(), source };
    print!(
        "Delete {} again in store {}, and let its rules run? Type the store's name: ",
        output::records(plan.due()),
        plan.store
    );
    std::io::stdout().flush().map_err(io)?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(io)?;
    Ok(answer.trim() == plan.store.as_str())
}

/// Shows what would go, rule by rule.
fn show(plan: &ReplayPlan) {
    let utc = &jiff::tz::TimeZone::UTC;
    let noticed = plan.evidence.as_ref().map_or_else(
        || "nothing was noticed of a restore".to_owned(),
        |evidence| format!("it is frozen, because {evidence}"),
    );
    let since = plan.restored_to.map_or_else(
        || "all that is known by its key".to_owned(),
        |at| format!("what was deleted since {}", output::moment(at, utc)),
    );
    println!(
        "{}\n",
        output::hanging(&format!("Store {}: {noticed}. Looked for {since}.", plan.store), 0)
    );
    if plan.rules.is_empty() {
        println!("No keys of deleted records are kept of it.");
        return;
    }
    let titles = ["rule", "known", "there again", "would go", "held", "changed", "newer"];
    let mut table = output::table(&titles);
    for rule in &plan.rules {
        let counts = [rule.known, rule.there, rule.due, rule.held, rule.changed, rule.newer];
        let counts = counts.into_iter().map(|count| output::right(output::number(count)));
        table.add_row(std::iter::once(rule.rule.clone().into()).chain(counts));
    }
    output::print_table(table, &[]);
    println!();
    for rule in &plan.rules {
        if let (Some(why), 1..) = (rule.left, rule.there) {
            let text = format!(
                "{}: {why}, so its {} stay and the store stays frozen; put the rule back as it was until the replay is done",
                rule.rule,
                output::records(rule.there)
            );
            anstream::println!("{YELLOW}left{RESET}    {}", output::hanging(&text, 8));
        }
    }
}

fn print(replayed: &Replayed) {
    if !replayed.runs.is_empty() {
        super::run::print(&replayed.runs);
        println!();
    }
    let after = &replayed.after;
    anstream::println!(
        "{BOLD}{}{RESET} gone again from {}",
        output::records(replayed.records),
        after.store
    );
    let held: u64 = after.rules.iter().map(|rule| rule.held).sum();
    let changed: u64 = after.rules.iter().map(|rule| rule.changed).sum();
    let newer: u64 = after.rules.iter().map(|rule| rule.newer).sum();
    for (count, why) in [
        (held, "stay, because legal holds keep them"),
        (changed, "stay, because the rule does not mean them as they are now"),
        (newer, "stay, because they were made after what was deleted"),
    ] {
        if count > 0 {
            let text = format!("{} {why}", output::records(count));
            anstream::println!("{YELLOW}kept{RESET}    {}", output::hanging(&text, 8));
        }
    }
    if replayed.released {
        println!("\nIts rules run again.\n");
        super::run::print(&replayed.ordinary);
        return;
    }
    let why = |rule: &RuleReplay| rule.left.map(|why| format!("{}: {why}", rule.rule));
    let left = after.rules.iter().filter(|rule| rule.there > 0).filter_map(why);
    let left: Vec<_> = left.collect();
    let text = if left.is_empty() {
        format!("{} are still there; run it again", output::records(after.due()))
    } else {
        left.join("; ")
    };
    let text = format!("store {} stays frozen: {text}", after.store);
    anstream::println!("{RED}failed{RESET}  {}", output::hanging(&text, 8));
}
