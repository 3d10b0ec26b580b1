//! `expunged run`.

use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config::Config;
use crate::ledger::Ledger;
use crate::lifecycle;
use crate::plan::Verification;
use crate::run::{Progress, RunResult, RunState, run_by_command};
use crate::types::Name;

use super::output::{self, BOLD, RED, RESET, YELLOW};
use super::{CliError, Common, Exit, open_ledger, runner, select};

/// Carry rules out now, each according to its mode
///
/// Rules in enforce mode delete or anonymize what is due, rules in observe mode record what they would
/// have done. A rule that would take more than its limits, or that has never acted as it is now, waits
/// for `expunged approve`. One whose maintenance window is closed is refused, and one whose window closes ends as on
/// Ctrl-C, unless you say `--anyway`. Ctrl-C sees through what is intended, and undoes what workers have taken and not
/// intended yet: that stays due. Exit code 0 when every rule was carried out, otherwise 1.
#[derive(clap::Args, Debug, Default)]
pub(crate) struct Args {
    /// Only these rules; all of them when none is named.
    rules: Vec<Name>,
    /// Also outside their maintenance windows.
    #[arg(long)]
    anyway: bool,
}

impl Args {
    /// One rule.
    pub(super) fn of(rule: Name) -> Args {
        Args { rules: vec![rule], anyway: false }
    }
}

pub(crate) async fn main(common: &Common, args: Args) -> Result<Exit, CliError> {
    let config = common.load()?;
    select(&config, &args.rules)?;
    let stop = lifecycle::stop_on_signals()
        .map_err(|source| CliError::Io { doing: "listen for signals".to_owned(), source })?;
    let ledger = open_ledger(&config).await?;
    let results = run(&config, &ledger, &args, &stop, !common.json).await?;
    ledger.close().await;
    if common.json {
        output::json(&results);
    } else {
        print(&results);
    }
    Ok(exit(&results))
}

pub(crate) fn exit(results: &[RunResult]) -> Exit {
    let well = |result: &RunResult| matches!(result.state, RunState::Done | RunState::Observed);
    if results.iter().all(well) { Exit::Fine } else { Exit::Failed }
}

/// Works the rules off one after the other.
pub(crate) async fn run(
    config: &Config,
    ledger: &Ledger,
    Args { rules, anyway }: &Args,
    stop: &CancellationToken,
    bars: bool,
) -> Result<Vec<RunResult>, CliError> {
    super::apply::load_rules(config, ledger).await?;
    let runner = runner(config, ledger);
    let runner = if *anyway { runner.at_any_time() } else { runner };
    let mut results = Vec::new();
    for rule in select(config, rules)? {
        if stop.is_cancelled() {
            break;
        }
        let bar = output::bar(bars, rule.name.to_string(), "records");
        let report = |progress: Progress| {
            bar.set_length(progress.due.max(progress.records));
            bar.set_position(progress.records);
        };
        let result = run_by_command(&runner, rule, clock::now(), stop, &report).await;
        bar.finish_and_clear();
        results.push(result?);
    }
    runner.stores.close().await;
    Ok(results)
}

/// Prints one line per rule.
pub(crate) fn print(results: &[RunResult]) {
    let mut table = output::table(&["rule", "outcome", "records", "batches", "still due", "took"]);
    for result in results {
        table.add_row(vec![
            result.rule.to_string().into(),
            result.state.as_str().into(),
            output::right(output::number(result.records)),
            output::right(output::number(result.batches)),
            output::right(result.remaining.map_or_else(|| "?".to_owned(), output::number)),
            output::right(output::duration(result.seconds)),
        ]);
    }
    output::print_table(table, &[3]);
    println!();
    for result in results {
        if let (Some(error), RunState::Waiting) = (&result.error, result.state) {
            let text = format!("{}: {error}", result.rule);
            anstream::println!("{YELLOW}waits{RESET}   {}", output::hanging(&text, 8));
        } else if let (Some(error), RunState::Done) = (&result.error, result.state) {
            let text = format!("{}: {error}", result.rule);
            anstream::println!("{YELLOW}kept{RESET}    {}", output::hanging(&text, 8));
        } else if let (Some(error), RunState::Refused) = (&result.error, result.state) {
            let text = format!("{}: {error}", result.rule);
            anstream::println!("{RED}refused{RESET} {}", output::hanging(&text, 8));
        } else if let Some(error) = &result.error {
            let text = format!("{}: {error}", result.rule);
            anstream::println!("{RED}failed{RESET}  {}", output::hanging(&text, 8));
        }
        for rows in &result.dependents {
            let text = format!("{}: {}", result.rule, rows.in_words());
            anstream::println!("{BOLD}also{RESET}    {}", output::hanging(&text, 8));
        }
        if let Some(lives_on) =
            result.lives_on.as_ref().filter(|_| result.state != RunState::Failed)
        {
            let text = format!("{}: {lives_on}", result.rule);
            anstream::println!("{YELLOW}note{RESET}    {}", output::hanging(&text, 8));
        }
    }
    for result in results {
        if let Some(left) = result.left.filter(|left| *left > 0) {
            let text = format!(
                "{}: {} of the plan were left, because they changed since or are held",
                result.rule,
                output::records(left)
            );
            anstream::println!("{YELLOW}left{RESET}    {}", output::hanging(&text, 8));
        }
        let open = result.verification.as_ref().and_then(Verification::replica_open);
        if let Some(open) = open {
            let text = format!("{}: {open}; the run gets no certificate", result.rule);
            anstream::println!("{YELLOW}replica{RESET} {}", output::hanging(&text, 8));
        }
    }
    for result in results.iter().filter(|result| result.state == RunState::Observed) {
        let due = result.remaining.map_or_else(|| "what is due".to_owned(), output::records);
        let text = format!("{} only observes: {due} noted and left alone", result.rule);
        anstream::println!("{}", output::hanging(&text, 0));
    }
    let taken: u64 = results.iter().map(|result| result.records).sum();
    anstream::println!("{BOLD}{}{RESET} deleted or anonymized", output::records(taken));
}
