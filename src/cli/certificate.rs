//! `expunged certificate`.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use uuid::Uuid;

use crate::certificate::{Certificate, InBackups, Told, issue};
use crate::clock;
use crate::ledger::Ledger;
use crate::types::Name;

use super::output::{self, BOLD, RESET};
use super::{CliError, Common, Exit, open_ledger};

/// Print the deletion certificate of a run, with the proof that the audit log says so
///
/// None is issued for a run that is not complete and verified, or while a recipient has neither completed
/// what it was told of the run nor is exempt from it. Of backups it says which sets still have copies and until
/// when; `complete` in its JSON is true once none has, and another certificate says so then. As text, or with `--json`; `--out` writes
/// both and the proof into files. `expunged audit verify-proof` checks the proof with nothing but the
/// public key. Exit code 0 when it was issued, otherwise 1.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The run's id, as `expunged audit log --json` shows it, or a rule's name for its latest run.
    run: String,
    /// Without the proof.
    #[arg(long, short)]
    brief: bool,
    /// Also write RUN.txt, RUN.json and RUN.tlog-proof into this folder.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

impl Args {
    /// Of a rule's latest run.
    pub(super) fn brief(rule: &str) -> Args {
        Args { run: rule.to_owned(), brief: true, out: None }
    }
}

pub(crate) async fn main(common: &Common, args: Args) -> Result<Exit, CliError> {
    let config = common.load()?;
    let ledger = open_ledger(&config).await?;
    let run = find(&ledger, &args.run).await?;
    let report = ledger.run_report(run).await?;
    let rule = report.and_then(|report| config.rules.get(&report.rule));
    let certificate = issue(&ledger, run, rule, &config.backups, clock::now()).await;
    ledger.close().await;
    let certificate = certificate?;
    let mut text = text(&certificate);
    if !args.brief {
        text.push_str("\nThe proof, for `expunged audit verify-proof`:\n\n");
        text.push_str(&certificate.log.proof);
    }
    if let Some(folder) = &args.out {
        let json = serde_json::to_string_pretty(&certificate).unwrap_or_default();
        let files = [("txt", &text), ("json", &json), ("tlog-proof", &certificate.log.proof)];
        for (extension, content) in files {
            let path = folder.join(format!("{run}.{extension}"));
            fs::write(&path, content).map_err(|source| CliError::Io {
                doing: format!("write {}", path.display()),
                source,
            })?;
        }
    }
    if common.json {
        output::json(&certificate);
    } else {
        let (title, rest) = text.split_once('\n').unwrap_or((&text, ""));
        anstream::println!("{BOLD}{title}{RESET}");
        print!("{rest}");
    }
    Ok(Exit::Fine)
}

/// The run of an id, or the latest of a rule.
async fn find(ledger: &Ledger, run: &str) -> Result<Uuid, CliError> {
    if let Ok(id) = run.parse() {
        return Ok(id);
    }
    let unknown = || CliError::Usage(format!("there is no run and no rule `{run}` that has run"));
    let rule: Name = run.parse().map_err(|_| unknown())?;
    Ok(ledger.last_run(&rule).await?.ok_or_else(unknown)?.id)
}

/// What became of what a recipient was told.
fn told(told: &Told) -> String {
    let Told { recipient, completed, exempt, entry, .. } = told;
    let exempt = match exempt {
        0 => String::new(),
        exempt => format!(", {} exempt", output::number(*exempt)),
    };
    let completed = output::number(*completed);
    format!("{recipient}: {completed} completed{exempt}, by entry {entry}")
}

/// What a set of backups still has.
fn set(set: &InBackups) -> String {
    let entry = set.entry.map(|entry| format!(", by entry {entry}"));
    format!("{}: {}{}", set.backup, set.residue.in_words(), entry.unwrap_or_default())
}

/// The certificate as people read it.
fn text(certificate: &Certificate) -> String {
    let moment =
        |at: Timestamp| at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    let seen = &certificate.verification.seen;
    let checked =
        if seen.checked == seen.of { "all".to_owned() } else { output::number(seen.checked) };
    let replica = seen.present_on_replica.map(|present| format!(", {present} on the replica"));
    let lines = [
        ("certificate", certificate.id.to_string()),
        ("issued", format!("{} by {}", moment(certificate.issued_at), certificate.issuer)),
        ("with", certificate.tool.clone()),
        ("rule", format!("{}, version {}", certificate.rule, certificate.rule_digest)),
        (
            "class",
            certificate
                .deletion_class
                .clone()
                .unwrap_or_else(|| "the rule is another by now".to_owned()),
        ),
        ("basis", certificate.basis.clone().unwrap_or_else(|| "not stated".to_owned())),
        ("run", format!("{}, {}", certificate.run, certificate.authority)),
        ("object", format!("{}.{}", certificate.store, certificate.object)),
        (
            "records",
            format!(
                "{} in {} batches",
                output::number(certificate.records),
                output::number(certificate.batches)
            ),
        ),
        ("method", certificate.method.clone()),
        ("pseudonymized", certificate.pseudonymized.join(", ")),
        ("cutoff", moment(certificate.cutoff)),
        (
            "from, to",
            format!("{}, {}", moment(certificate.started_at), moment(certificate.finished_at)),
        ),
        ("verified by", certificate.verification.query.clone()),
        (
            "result",
            format!(
                "looked for {checked} of {}: {} there{}",
                output::number(seen.of),
                output::number(seen.present),
                replica.unwrap_or_default()
            ),
        ),
        ("residuals", format!("{}: {}", certificate.residuals.store, certificate.residuals.detail)),
        ("recipients", certificate.residuals.recipients.to_owned()),
        ("told", certificate.recipients.iter().map(told).collect::<Vec<_>>().join("; ")),
        ("backups", certificate.residuals.backups.to_owned()),
        ("sets", certificate.residuals.backup_sets.iter().map(set).collect::<Vec<_>>().join("; ")),
        ("log", format!("entry {} of {}", certificate.log.entry, certificate.issuer)),
    ];
    let mut text = "Deletion certificate\n\n".to_owned();
    for (topic, content) in lines.into_iter().filter(|(_, content)| !content.is_empty()) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{topic:<14} {}", output::hanging(&content, 15));
    }
    text
}
