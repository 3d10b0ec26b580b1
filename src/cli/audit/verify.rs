//! `expunged audit verify`.

use std::path::PathBuf;

use serde::Serialize;

use crate::archive;
use crate::audit::review::{Gap, Verification, split_notes};

use super::super::output::{self, BOLD, DIM, GREEN, RED, RESET, YELLOW};
use super::super::{CliError, Common, Exit, read_ledger};
use super::{read_keys, read_text};

/// Recompute the whole log and compare it with what was signed
///
/// Exit code 0 when the log is as it was written, 1 when it was changed, 2 when it could not be checked.
/// Times at which the daemon was down, and clocks that cannot be believed, are told as gaps.
#[derive(clap::Args, Debug, Default)]
pub(crate) struct VerifyArgs {
    /// An exported folder instead of the ledger: neither configuration nor ledger is needed then.
    #[arg(long, value_name = "DIR", requires = "key")]
    from: Option<PathBuf>,
    /// The verifier key, or a file that holds it (several, one per line, after it was changed); with `--from`.
    #[arg(long, value_name = "KEY|FILE", requires = "from")]
    key: Vec<String>,
    /// A file of signed checkpoints that was kept elsewhere: the log must go on where they ended.
    #[arg(long, value_name = "FILE")]
    since: Vec<PathBuf>,
}

pub(super) async fn main(common: &Common, args: VerifyArgs) -> Result<Exit, CliError> {
    let kept = read_kept(&args.since)?;
    let verification = if let Some(folder) = &args.from {
        archive::verify(folder, read_keys(&args.key)?, kept)?
    } else {
        read_ledger(&common.load()?).await?.verify_audit_since(kept).await?
    };
    if common.json {
        output::json(&Report::of(&verification));
    } else {
        print(&verification);
    }
    Ok(if !verification.is_valid() {
        Exit::Failed
    } else if !verification.unchecked.is_empty() {
        Exit::Two
    } else {
        Exit::Fine
    })
}

/// The checkpoints of files that hold one or several.
fn read_kept(files: &[PathBuf]) -> Result<Vec<String>, CliError> {
    let mut kept = Vec::new();
    for file in files {
        let notes = split_notes(&read_text(file)?);
        if notes.is_empty() {
            return Err(CliError::Usage(format!("{} holds no checkpoint", file.display())));
        }
        kept.extend(notes);
    }
    Ok(kept)
}

#[derive(Serialize)]
struct Report<'a> {
    valid: bool,
    entries: u64,
    root: String,
    keys: &'a [String],
    held_against: u64,
    problems: Vec<String>,
    omitted_problems: u64,
    unchecked: &'a [String],
    gaps: &'a [Gap],
    omitted_gaps: u64,
}

impl Report<'_> {
    fn of(verification: &Verification) -> Report<'_> {
        Report {
            valid: verification.is_valid(),
            entries: verification.entries,
            root: verification.root.to_string(),
            keys: &verification.keys,
            held_against: verification.held_against,
            problems: verification.problems.iter().map(ToString::to_string).collect(),
            omitted_problems: verification.omitted,
            unchecked: &verification.unchecked,
            gaps: &verification.gaps,
            omitted_gaps: verification.omitted_gaps,
        }
    }
}

/// Prints what was verified.
fn print(verification: &Verification) {
    if verification.is_valid() {
        // The key's name is the log's.
        let origin = verification.keys.last().and_then(|key| key.split_once('+'));
        let text = format!(
            "{} entries are as they were written: their root is the one in the checkpoint signed by {}",
            output::number(verification.entries),
            origin.map_or("its key", |(name, _)| name),
        );
        anstream::println!("{GREEN}{BOLD}valid{RESET}  {}", output::hanging(&text, 7));
        println!("root   {}", verification.root);
        if verification.held_against > 0 {
            let text = format!(
                "the log goes on where {} kept elsewhere ended",
                counted(verification.held_against, "checkpoint")
            );
            println!("since  {}", output::hanging(&text, 7));
        }
        if verification.keys.len() > 1 {
            let changes = verification.keys.len() as u64 - 1;
            println!(
                "keys   {} of the signing key, each vouched for by the old key",
                counted(changes, "change")
            );
        }
    } else {
        anstream::println!("{RED}the audit log was changed{RESET}");
        for problem in &verification.problems {
            println!("  {}", output::hanging(&problem.to_string(), 2));
        }
        more(verification.omitted);
    }
    for unchecked in &verification.unchecked {
        anstream::println!("{YELLOW}not checked{RESET}  {}", output::hanging(unchecked, 13));
    }
    if !verification.gaps.is_empty() {
        let count = verification.gaps.len() as u64 + verification.omitted_gaps;
        anstream::println!("{DIM}{}{RESET}", counted(count, "gap"));
        for gap in &verification.gaps {
            println!("  {}", output::hanging(&gap.to_string(), 2));
        }
        more(verification.omitted_gaps);
    }
}

fn more(omitted: u64) {
    if omitted > 0 {
        println!("  and {} more", output::number(omitted));
    }
}

fn counted(count: u64, what: &str) -> String {
    format!("{} {what}{}", output::number(count), if count == 1 { "" } else { "s" })
}
