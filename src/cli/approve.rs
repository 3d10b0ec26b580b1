//! `expunged approve`.

use serde::Serialize;
use uuid::Uuid;

use crate::clock;
use crate::ledger::{Approval, Approved};

use super::output::{self, BOLD, GREEN, RED, RESET};
use super::{CliError, Common, Exit, account, has_ledger, open_ledger};

/// Let a run go on that waits for approval, or list those that wait
///
/// A run waits before its first record when a circuit breaker objects: it would take more than
/// `max_share` of its table, files or objects, more than `max_rows`, far more than the rule usually takes, or it
/// is the first run of this version of the rule. Look at `expunged plan RULE` before you approve. The daemon
/// carries an approved run out within a minute; `expunged run RULE` does at once. If the rule changes or
/// clearly more is due by then, approval is asked for again.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The run's id, or its rule's name; without one, the runs that wait are listed.
    run: Option<String>,
    /// Why it may go on; kept in the ledger with your account and the time.
    #[arg(long, value_name = "TEXT", requires = "run")]
    why: Option<String>,
}

#[derive(Serialize)]
struct Report {
    approved: bool,
    approval: Approval,
}

pub(crate) async fn main(common: &Common, args: Args) -> Result<Exit, CliError> {
    let config = common.load()?;
    if !has_ledger(&config) {
        return Err(CliError::Usage("nothing waits: there is no ledger yet".to_owned()));
    }
    let ledger = open_ledger(&config).await?;
    let waiting = ledger.approvals().await?;
    let Some(run) = args.run else {
        ledger.close().await;
        list(common, &waiting);
        return Ok(Exit::Fine);
    };
    let id = run.parse::<Uuid>().ok();
    let found = waiting.iter().find(|approval| match id {
        Some(id) => approval.run == id,
        None => approval.rule.as_str() == run,
    });
    let Some(found) = found else {
        let text =
            "it has run, is outdated, or never asked; `expunged approve` lists those that wait";
        return Err(CliError::Usage(format!("no run `{run}` waits for approval: {text}")));
    };
    let why = account::reason(args.why.as_deref())
        .inspect_err(|_| list(common, std::slice::from_ref(found)))?;
    let approved = ledger.approve(found.run, &account::name(), why, clock::now()).await?;
    ledger.close().await;
    let (approval, now) = match approved {
        Approved::Now(approval) => (approval, true),
        Approved::Before(approval) => (approval, false),
        Approved::Unknown => {
            let text =
                format!("run {} does not wait any more: it was withdrawn just now", found.run);
            return Err(CliError::Usage(text));
        }
    };
    if common.json {
        output::json(&Report { approved: now, approval });
        return Ok(Exit::Fine);
    }
    let by = approval.approved_by.as_deref().unwrap_or_default();
    let text = if now {
        format!(
            "run {} of {} may take {} of {}; recorded with your account ({by}) and your reason",
            approval.run,
            approval.rule,
            output::number(approval.due),
            output::records(approval.total),
        )
    } else {
        format!("run {} of {} was approved before, by {by}", approval.run, approval.rule)
    };
    anstream::println!("{GREEN}{BOLD}approved{RESET}  {}", output::hanging(&text, 10));
    let text = format!(
        "The daemon carries it out within a minute. Without one: expunged run {}",
        approval.rule
    );
    println!("{}", output::hanging(&text, 0));
    Ok(Exit::Fine)
}

fn list(common: &Common, waiting: &[Approval]) {
    if common.json {
        output::json(&waiting);
        return;
    }
    if waiting.is_empty() {
        println!("No run waits for approval.");
        return;
    }
    print(waiting);
}

/// Prints runs that wait, each with what to do about it.
pub(crate) fn print(waiting: &[Approval]) {
    for approval in waiting {
        let state = match &approval.approved_by {
            Some(by) => format!("approved by {by}, and not begun"),
            None => format!("waits for approval: {}", approval.reason),
        };
        anstream::println!("{RED}{BOLD}{}{RESET}  {state}", approval.rule);
        println!(
            "  would take {} of {} in {}.{}, since {}",
            output::number(approval.due),
            output::records(approval.total),
            approval.store,
            approval.table,
            output::moment(approval.asked_at, &jiff::tz::TimeZone::UTC),
        );
        if approval.approved_by.is_none() {
            println!("  look:     expunged plan {} --sample 5", approval.rule);
            println!("  approve:  expunged approve {} --why \"…\"", approval.run);
        }
    }
}
