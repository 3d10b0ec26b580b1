//! `expunged apply`.

use std::fs;
use std::path::PathBuf;

use crate::clock;
use crate::config::Config;
use crate::ledger::{Ledger, Loaded};
use crate::lifecycle;
use crate::run::{self, Progress};

use super::output;
use super::{CliError, Common, Exit, open_ledger, runner};

/// Carry out a saved plan, exactly as it is or not at all
///
/// Before the first record all of it is held against what is there: nothing is touched when the plan
/// is too old, a rule or a table has changed since, or the number due has moved by more than the plan's
/// margin. Then each record's predicate is checked again as it is taken; a record that changed or is
/// held stays, and one that the plan does not name is never touched. A plan that was interrupted can
/// be applied again. Exit code 0 when every rule was carried out, otherwise 1.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The file that `expunged plan --out FILE` wrote.
    plan: PathBuf,
    /// Also outside the rules' maintenance windows.
    #[arg(long)]
    anyway: bool,
}

impl Args {
    /// Of this plan.
    pub(super) fn of(plan: PathBuf) -> Args {
        Args { plan, anyway: false }
    }
}

pub(crate) async fn main(common: &Common, args: Args) -> Result<Exit, CliError> {
    let config = common.load()?;
    let note = fs::read_to_string(&args.plan).map_err(|source| CliError::Io {
        doing: format!("read {}", args.plan.display()),
        source,
    })?;
    let stop = lifecycle::stop_on_signals()
        .map_err(|source| CliError::Io { doing: "listen for signals".to_owned(), source })?;
    let ledger = open_ledger(&config).await?;
    let plan = run::open(&note, ledger.keys()).map_err(run::ApplyError::from)?;
    if !common.json {
        let records = plan.rules.iter().map(|part| part.due).sum();
        println!(
            "Plan {} of {}: {} by {} rule{}.\n",
            short(&plan.digest()),
            output::moment(plan.made_at, &jiff::tz::TimeZone::UTC),
            output::records(records),
            plan.rules.len(),
            if plan.rules.len() == 1 { "" } else { "s" },
        );
    }
    load_rules(&config, &ledger).await?;
    let runner = runner(&config, &ledger);
    let runner = if args.anyway { runner.at_any_time() } else { runner };
    let bar = output::bar(!common.json, String::new(), "records");
    let report = |rule: &crate::types::Name, progress: Progress| {
        bar.set_message(rule.to_string());
        bar.set_length(progress.due.max(progress.records));
        bar.set_position(progress.records);
    };
    let applied = runner.apply(&plan, &config.rules, clock::now(), &stop, &report).await;
    bar.finish_and_clear();
    runner.stores.close().await;
    ledger.close().await;
    let results = applied?;
    if common.json {
        output::json(&results);
    } else {
        super::run::print(&results);
    }
    Ok(super::run::exit(&results))
}

/// Has the ledger take note of the configuration.
pub(crate) async fn load_rules(config: &Config, ledger: &Ledger) -> Result<(), CliError> {
    let loaded = Loaded {
        rules: &config.rules,
        stores: config.stores.len(),
        digest: &config.digest(),
        now: clock::now(),
    };
    ledger.load_rules(loaded).await?;
    ledger.load_backup_sets(&config.backups, clock::now()).await?;
    Ok(())
}

fn short(digest: &str) -> &str {
    digest.get(..8).unwrap_or(digest)
}
