//! Deletion certificates: what was deleted, by which rule, how that was verified, what is left, and
//! the proof that the log says so.
//!
//! None is issued for a run that is not complete and verified. It speaks of what expunged knows: of
//! copies in backups and at recipients it says what is registered, and that it knows of no others.

use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::audit::Event;
use crate::audit::entry::ActionKind;
use crate::clock;
use crate::ledger::audit::AuditFilter;
use crate::ledger::{Ledger, LedgerError, RunReport};
use crate::plan::Verification;
use crate::rule::{Action, Rule};
use crate::types::Name;

/// A deletion certificate.
#[derive(Clone, Debug, Serialize)]
pub struct Certificate {
    /// Its id.
    pub id: Uuid,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// The audit log that vouches for it, by name.
    pub issuer: String,
    /// What carried the deletion out.
    pub tool: String,
    /// The rule.
    pub rule: Name,
    /// SHA-256 over what the rule takes and does.
    pub rule_digest: String,
    /// Retention period and starting point; `None` where the rule is another by now.
    pub deletion_class: Option<String>,
    /// The policy or law behind the rule.
    pub basis: Option<String>,
    /// The run.
    pub run: Uuid,
    /// The store.
    pub store: Name,
    /// The table.
    pub object: String,
    /// How many records.
    pub records: u64,
    /// In how many atomic batches.
    pub batches: u64,
    /// What was done to them.
    pub action: ActionKind,
    /// How.
    pub method: String,
    /// Columns whose new value still tells persons apart (GDPR Art. 4(5)).
    pub pseudonymized: Vec<String>,
    /// Records whose starting point lay before it were taken.
    pub cutoff: Timestamp,
    /// When the run began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// Who let it begin: a person, a saved plan, or the rule's limits.
    pub authority: String,
    /// How it was verified, and with what result.
    pub verification: Verified,
    /// What is left, as far as is known.
    pub residuals: Residuals,
    /// Where the log says so.
    pub log: Logged,
}

/// How a deletion was verified.
#[derive(Clone, Debug, Serialize)]
pub struct Verified {
    /// What was asked of the store afterwards.
    pub query: String,
    /// What came back.
    #[serde(flatten)]
    pub seen: Verification,
    /// Records still due under the rule at that moment.
    pub still_due: Option<u64>,
}

/// What is left of deleted records.
#[derive(Clone, Debug, Serialize)]
pub struct Residuals {
    /// In the store's own files, in a word.
    pub store: &'static str,
    /// How that is known.
    pub detail: String,
    /// At recipients.
    pub recipients: &'static str,
    /// In backups.
    pub backups: &'static str,
    /// When the last copy in a backup is gone; `None` where no backups are registered.
    pub backup_clearance: Option<Timestamp>,
}

/// Where the audit log vouches for a certificate.
#[derive(Clone, Debug, Serialize)]
pub struct Logged {
    /// The position of the entry that records the verification.
    pub entry: u64,
    /// The signed checkpoint that covers it.
    pub checkpoint: String,
    /// The proof (C2SP tlog-proof), for `expunged audit verify-proof`.
    pub proof: String,
}

/// Why no certificate is issued.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// There is no such run.
    #[error("there is no run {0}: `expunged audit log --kind run_finished` lists those that ended")]
    NoRun(Uuid),
    /// The run is not complete.
    #[error("no certificate for run {run}: {why}")]
    Incomplete {
        /// The run.
        run: Uuid,
        /// What is missing.
        why: String,
    },
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Issues a certificate for a run that is complete and verified, and records that.
///
/// # Errors
/// When the run is not, or the ledger does not answer.
pub async fn issue(
    ledger: &Ledger,
    run: Uuid,
    rule: Option<&Rule>,
    now: Timestamp,
) -> Result<Certificate, CertificateError> {
    let report = ledger.run_report(run).await?.ok_or(CertificateError::NoRun(run))?;
    let (finished_at, seen) = match completion(&report) {
        Ok(complete) => complete,
        Err(why) => return Err(CertificateError::Incomplete { run, why }),
    };
    let logged = logged(ledger, &report).await?;
    let rule = rule.filter(|rule| rule.digest() == report.rule_digest);
    let certificate = Certificate {
        id: clock::new_id(),
        issued_at: now,
        issuer: ledger.keys().origin().to_owned(),
        tool: concat!("expunged ", env!("CARGO_PKG_VERSION")).to_owned(),
        rule: report.rule.clone(),
        rule_digest: report.rule_digest.clone(),
        deletion_class: rule.map(deletion_class),
        basis: rule.and_then(|rule| rule.basis.clone()),
        run,
        store: report.store.clone(),
        object: report.table.clone(),
        records: report.records,
        batches: report.batches,
        action: report.action,
        method: method(report.action, rule),
        pseudonymized: rule.map(|rule| rule.action.pseudonymized_columns()).unwrap_or_default(),
        cutoff: report.cutoff,
        started_at: report.started_at,
        finished_at,
        authority: authority(&report),
        verification: Verified {
            query: query(&report),
            seen: seen.clone(),
            still_due: report.remaining,
        },
        residuals: Residuals {
            store: seen.residue.as_str(),
            detail: seen.detail,
            recipients: "none are registered",
            backups: "none are registered: copies in backups are not known, and not covered",
            backup_clearance: None,
        },
        log: logged,
    };
    let event = Event::CertificateIssued {
        run,
        rule: report.rule,
        store: report.store,
        digest: certificate.digest(),
    };
    ledger.record(now, event).await?;
    Ok(certificate)
}

impl Certificate {
    /// SHA-256 of its JSON, by which the audit log names it.
    pub fn digest(&self) -> String {
        // Plain data with string keys: serializing it cannot fail.
        hex::encode(Sha256::digest(serde_json::to_vec(self).unwrap_or_default()))
    }
}

/// When the run ended and what was seen then, if it is complete and verified; otherwise what it lacks.
fn completion(report: &RunReport) -> Result<(Timestamp, Verification), String> {
    let unfinished = |state: &str| format!("it is {state}, and not done");
    let finished_at = match (&*report.state, report.finished_at) {
        ("done", Some(at)) => at,
        ("observed", _) => return Err("it only observed".to_owned()),
        (state, _) => return Err(unfinished(state)),
    };
    if report.open_batches > 0 {
        return Err("the outcome of a batch is not known yet".to_owned());
    }
    if report.records == 0 {
        return Err("it took no record".to_owned());
    }
    let Some(seen) = report.verification.clone() else {
        return Err("its records could not be looked for again, so it is not verified".to_owned());
    };
    if seen.came_back() {
        return Err("records that it took are there again".to_owned());
    }
    if let Some(open) = seen.replica_open() {
        return Err(open);
    }
    Ok((finished_at, seen))
}

/// Where the log records that the run was verified, with the proof.
async fn logged(ledger: &Ledger, report: &RunReport) -> Result<Logged, CertificateError> {
    let incomplete = || CertificateError::Incomplete {
        run: report.id,
        why: "the audit log has no entry of its verification".to_owned(),
    };
    let filter = AuditFilter {
        rule: Some(report.rule.clone()),
        kind: Some("run_verified".to_owned()),
        since: Some(report.started_at),
        ..AuditFilter::default()
    };
    let entries = ledger.audit_log(&filter).await?;
    let entry = entries.iter().find(|(_, entry)| entry.event.run() == Some(report.id));
    let (position, _) = entry.ok_or_else(incomplete)?;
    let proof = ledger.prove(*position, None).await?.ok_or_else(incomplete)?;
    Ok(Logged { entry: *position, checkpoint: proof.checkpoint.clone(), proof: proof.to_text() })
}

fn deletion_class(rule: &Rule) -> String {
    format!("{} from {}", rule.retention, rule.starting_point.column)
}

fn method(action: ActionKind, rule: Option<&Rule>) -> String {
    let what = match (action, rule.map(|rule| &rule.action)) {
        (ActionKind::Delete, _) => "DELETE".to_owned(),
        (ActionKind::Anonymize, Some(Action::Anonymize(change))) => {
            let columns: Vec<_> = change.columns.keys().map(String::as_str).collect();
            format!("UPDATE of {}", columns.join(", "))
        }
        (ActionKind::Anonymize, _) => "UPDATE".to_owned(),
    };
    format!("{what} in atomic batches, the rule's condition inside each statement")
}

fn authority(report: &RunReport) -> String {
    match (&report.approved_by, &report.plan) {
        (Some(by), _) => format!("approved by {by}"),
        (None, Some(plan)) => format!("saved plan {plan}"),
        (None, None) => "within the limits of the rule, which had been approved before".to_owned(),
    }
}

fn query(report: &RunReport) -> String {
    let seen = match report.action {
        ActionKind::Delete => "with a starting point from before the cutoff",
        ActionKind::Anonymize => "that are not anonymized",
    };
    format!("SELECT from {} by the keys of the records that were taken, {seen}", report.table)
}
