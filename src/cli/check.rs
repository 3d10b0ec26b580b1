//! `expunged check`.

use crate::check::{Finding, Report, Severity, check};
use crate::clock;
use crate::types::Name;

use super::output::{self, BOLD, GREEN, RED, RESET, YELLOW};
use super::{CliError, Common, Exit, select, stores};

/// Verify the configuration and each rule against the live databases
///
/// Looks at tables, columns, types, keys, privileges, indexes, foreign keys and triggers, and changes
/// nothing. Exit code 1 when a rule cannot run, otherwise 0.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only these rules; all of them when none is named.
    rules: Vec<Name>,
    /// Only what deserves a look or is wrong.
    #[arg(long)]
    quiet: bool,
}

impl Args {
    /// `--quiet`.
    pub(super) fn quiet() -> Args {
        Args { rules: Vec::new(), quiet: true }
    }
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

fn print_finding(finding: &Finding) {
    let (style, sign) = match finding.severity {
        Severity::Fine => (GREEN, "fine   "),
        Severity::Warning => (YELLOW, "warning"),
        Severity::Error => (RED, "error  "),
    };
    let topic = finding.topic;
    let message = output::hanging(&finding.message, 27);
    anstream::println!("  {style}{sign}{RESET}  {topic:<14}  {message}");
    match &finding.help {
        // A statement is copied: nothing but the terminal may break it.
        Some(statement) if statement.ends_with(';') => println!("  {statement}"),
        Some(help) => println!("      {}", output::hanging(help, 6)),
        None => {}
    }
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
        let shown = |finding: &&Finding| !quiet || finding.severity != Severity::Fine;
        for finding in report.findings.iter().filter(shown) {
            print_finding(finding);
        }
        errors += report.count(Severity::Error);
        warnings += report.count(Severity::Warning);
        if !quiet || report.severity() != Severity::Fine {
            println!();
        }
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
