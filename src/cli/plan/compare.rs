//! `expunged plan --compare`.

use std::fs;
use std::path::Path;

use jiff::Timestamp;

use crate::cli::output::{self, BOLD, DIM, GREEN, RESET, YELLOW};
use crate::cli::{CliError, Common, Exit, has_ledger, holds, open_ledger, stores};
use crate::config::{self, Config};
use crate::run::{self, Difference};

/// Compares with a saved plan or another configuration, whichever the file is.
pub(crate) async fn main(
    common: &Common,
    config: &Config,
    other: &Path,
    at: Timestamp,
) -> Result<Exit, CliError> {
    let doing = || format!("read {}", other.display());
    let text =
        fs::read_to_string(other).map_err(|source| CliError::Io { doing: doing(), source })?;
    let stores = stores(config);
    let differences = if text.starts_with("expunged plan ") {
        let ledger = open_ledger(config).await?;
        let plan = run::open(&text, ledger.keys()).map_err(run::ApplyError::from)?;
        let holds = holds(config, Some(&ledger), at).await?;
        let (rules, keys) = (&config.rules, ledger.keys());
        let compared = run::compare_with_plan(&plan, rules, (&stores, &holds), keys, at).await;
        ledger.close().await;
        compared.map_err(CliError::Usage)?
    } else {
        let before = Config::load(other, config::process_environment())?;
        let ledger = if has_ledger(config) { Some(open_ledger(config).await?) } else { None };
        let holds = holds(config, ledger.as_ref(), at).await?;
        run::compare(&before.rules, &config.rules, (&stores, &holds), at).await?
    };
    stores.close().await;
    if common.json {
        output::json(&differences);
    } else {
        print(&differences, other);
    }
    let changes = differences.iter().any(|rule| rule.newly_due + rule.spared > 0);
    Ok(if changes { Exit::Two } else { Exit::Fine })
}

fn print(differences: &[Difference], other: &Path) {
    let mut table = output::table(&["rule", "due there", "due here", "newly due", "spared"]);
    for difference in differences {
        let count = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), output::number);
        let about = if difference.at_least { ">=" } else { "" };
        table.add_row(vec![
            difference.rule.to_string().into(),
            output::right(count(difference.before)),
            output::right(count(difference.now)),
            output::right(format!("{about}{}", output::number(difference.newly_due))),
            output::right(format!("{about}{}", output::number(difference.spared))),
        ]);
    }
    output::print_table(table, &[]);
    println!();
    for difference in differences {
        let what = match (difference.before, difference.now) {
            (None, _) => Some("there is no such rule there"),
            (_, None) => Some("there is no such rule here"),
            _ => None,
        };
        for note in what.into_iter().chain(difference.notes.iter().map(String::as_str)) {
            anstream::println!("{DIM}{}: {note}{RESET}", difference.rule);
        }
    }
    let newly: u64 = differences.iter().map(|rule| rule.newly_due).sum();
    let spared: u64 = differences.iter().map(|rule| rule.spared).sum();
    let colour = if newly > 0 { YELLOW } else { GREEN };
    anstream::println!(
        "{colour}{BOLD}{}{RESET} due here and not by {}; {} spared",
        output::records(newly),
        other.display(),
        output::number(spared)
    );
}
