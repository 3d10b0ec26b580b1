//! `expunged check`.

use crate::check::{Report, Severity, check};
use crate::clock;
use crate::types::Name;

use super::output::{self, BOLD, GREEN, RED, RESET, YELLOW};
use super::{CliError, Common, Exit, select, stores};

/// Verify the configuration and each rule against the live databases: tables, columns, types, keys,
/// privileges, indexes, foreign keys and triggers. Changes nothing. Exit code 1 when a rule cannot
/// run, otherwise 0.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only these rules; all of them when none is named.
    rules: Vec<Name>,
    /// Only what deserves a look or is wrong.
    #[arg(long)]
    quiet: bool,
}

pub(crate) async fn main(common: &Common, args: Args) -> Result<Exit, CliError> {
    let config = common.load()?;
    let rules = select(&config, &args.rules)?;
    let stores = stores(&config);
    let mut reports = Vec::new();
    for rule in rules {
        reports.push(check(rule, &stores, clock::now()).await);
    }
    stores.close().await;
    if common.json {
        output::json(&reports);
    } else {
        print(&reports, args.quiet);
    }
    let failed = reports.iter().any(|report| report.severity() == Severity::Error);
    Ok(if failed { Exit::Failed } else { Exit::Fine })
}

/// Prints one block per rule and a closing line.
pub(crate) fn print(reports: &[Report], quiet: bool) {
    let (mut errors, mut warnings) = (0, 0);
    for report in reports {
        anstream::println!(
            "{BOLD}{}{RESET}  {}.{}, {}",
            report.rule,
            report.store,
            report.table,
            report.mode
        );
        for finding in &report.findings {
            let (style, sign) = match finding.severity {
                Severity::Fine if quiet => continue,
                Severity::Fine => (GREEN, "fine   "),
                Severity::Warning => {
                    warnings += 1;
                    (YELLOW, "warning")
                }
                Severity::Error => {
                    errors += 1;
                    (RED, "error  ")
                }
            };
            let topic = finding.topic;
            anstream::println!("  {style}{sign}{RESET}  {topic:<14} {}", finding.message);
            if let Some(help) = &finding.help {
                anstream::println!("                           -> {help}");
            }
        }
        println!();
    }
    let plural =
        |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    println!(
        "{}, {}, {}",
        plural(reports.len(), "rule"),
        plural(errors, "error"),
        plural(warnings, "warning")
    );
}
