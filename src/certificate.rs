//! Deletion certificates: what was deleted, by which rule, how that was verified, what is left, and
//! the proof that the log says so.
//!
//! None is issued for a run that is not complete and verified, or while a recipient of its has not done what it
//! was told. It says what the audit log says, and where the ledger's own columns say otherwise there is none
//! either. It speaks of what expunged knows: of copies in backups and at recipients it says what is registered,
//! and that it knows of no others. Backups rotate long after, so a certificate says of each set what it still has, and
//! until when; whether all of it is over is [`Certificate::complete`], and another can be issued then.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::audit::entry::{ActionKind, Reason, RunEnd};
use crate::audit::record::show;
use crate::audit::{Entry, Event};
use crate::clock;
use crate::config::BackupConfig;
use crate::keys::Hand;
use crate::ledger::audit::AuditFilter;
use crate::ledger::{Ledger, LedgerError, RunReport};
use crate::notice::State;
use crate::plan::{Replica, Verification};
use crate::residue::Residue;
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
    /// Who was told of the records, and that each is done with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<Told>,
    /// What is left, as far as is known.
    pub residuals: Residuals,
    /// Whether nothing is left in any registered set of backups, none of which is only assumed to be free of it.
    pub complete: bool,
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

/// What a recipient was told, and what became of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Told {
    /// The recipient.
    pub recipient: Name,
    /// How many notices it was sent.
    pub notices: u64,
    /// How many of them it has carried out.
    pub completed: u64,
    /// How many of them it need not carry out.
    pub exempt: u64,
    /// The position of the entry by which the last of them was over.
    pub entry: u64,
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
    /// When the last copy in a backup is gone, as far as that can be said.
    pub backup_clearance: Option<Timestamp>,
    /// What each set of backups still has that covers the store, or one of what belongs to its records.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backup_sets: Vec<InBackups>,
}

/// What a set of backups still has of deleted records.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct InBackups {
    /// The set.
    pub backup: Name,
    /// What it has.
    #[serde(flatten)]
    pub residue: Residue,
    /// The position of the entry that says that it has nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<u64>,
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
    backups: &BTreeMap<Name, BackupConfig>,
    now: Timestamp,
) -> Result<Certificate, CertificateError> {
    let report = ledger.run_report(run).await?.ok_or(CertificateError::NoRun(run))?;
    let incomplete = |why: String| CertificateError::Incomplete { run, why };
    let seen = completion(&report).map_err(incomplete)?;
    let account = Account::read(ledger.run_log(run).await?, run).map_err(incomplete)?;
    if let Some(what) = account.difference(&report, &seen) {
        return Err(incomplete(differ(what)));
    }
    let recipients = told(ledger, &account, run).await?;
    let logged = logged(ledger, &account).await?;
    let authority = authority(ledger, &account).await?;
    let rule = rule.filter(|rule| rule.digest() == account.rule_digest);
    let attached = rule.iter().flat_map(|rule| rule.attachments());
    let stores: BTreeSet<&Name> =
        attached.map(|attached| &attached.store).chain([&account.store]).collect();
    let sets = in_backups(ledger, backups, &stores, account.finished_at, now).await?;
    let is_over = |set: &InBackups| set.residue == Residue::Clear { assumed: false };
    let certificate = Certificate {
        id: clock::new_id(),
        issued_at: now,
        issuer: ledger.keys().origin().to_owned(),
        tool: concat!("expunged ", env!("CARGO_PKG_VERSION")).to_owned(),
        rule: account.rule.clone(),
        rule_digest: account.rule_digest,
        deletion_class: rule.map(deletion_class),
        basis: rule.and_then(|rule| rule.basis.clone()),
        run,
        store: account.store.clone(),
        verification: Verified {
            query: query(account.action, &account.table),
            seen: seen.clone(),
            still_due: account.remaining,
        },
        object: account.table,
        records: account.records,
        batches: account.batches,
        action: account.action,
        method: method(account.action, rule),
        pseudonymized: account.pseudonymized,
        cutoff: account.cutoff,
        started_at: account.started_at,
        finished_at: account.finished_at,
        authority,
        residuals: Residuals {
            store: seen.residue.as_str(),
            detail: seen.detail,
            recipients: if recipients.is_empty() {
                "none are registered"
            } else {
                "each that was told has completed or is exempt"
            },
            backups: backups_in_words(&sets),
            backup_clearance: clearance(&sets),
            backup_sets: sets.clone(),
        },
        complete: sets.iter().all(is_over),
        recipients,
        log: logged,
    };
    let event = Event::CertificateIssued {
        run,
        rule: account.rule,
        store: account.store,
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

/// What was seen after the run, if the ledger has it as complete and verified; otherwise what it lacks.
fn completion(report: &RunReport) -> Result<Verification, String> {
    match &*report.state {
        "done" => {}
        "observed" => return Err("it only observed".to_owned()),
        state => return Err(format!("it is {state}, and not done")),
    }
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
    Ok(seen)
}

/// Where the ledger and the log should agree, and do not.
fn differ(what: &str) -> String {
    format!(
        "the ledger and the audit log differ in {what}: something was changed, verify the log with \
         `expunged audit verify`"
    )
}

/// Who was told of the records of a run, where each is done with it; otherwise who is awaited.
async fn told(
    ledger: &Ledger,
    account: &Account,
    run: Uuid,
) -> Result<Vec<Told>, CertificateError> {
    let incomplete = |why: String| CertificateError::Incomplete { run, why };
    if account.told.is_empty() {
        return Ok(Vec::new());
    }
    // Read after the log: what is over there is over here, too.
    let stand = ledger.notices_of_run(run).await?;
    if account.told.values().any(Owed::is_open) {
        return Err(incomplete(awaited(account, &stand, run)));
    }
    let mut told = Vec::new();
    for (recipient, owed) in &account.told {
        let states = [(State::Completed, owed.completed), (State::Exempt, owed.exempt)];
        let states = states.into_iter().filter(|(_, notices)| *notices > 0);
        if stand.get(recipient) != Some(&states.collect()) {
            return Err(incomplete(differ("where its notices stand")));
        }
        told.push(Told {
            recipient: recipient.clone(),
            notices: owed.notices,
            completed: owed.completed,
            exempt: owed.exempt,
            entry: owed.entry,
        });
    }
    Ok(told)
}

/// What each set of backups still has of what was deleted from these stores up to a moment.
async fn in_backups(
    ledger: &Ledger,
    configured: &BTreeMap<Name, BackupConfig>,
    stores: &BTreeSet<&Name>,
    deleted_at: Timestamp,
    now: Timestamp,
) -> Result<Vec<InBackups>, CertificateError> {
    let mut found = Vec::new();
    for set in ledger.backup_sets().await? {
        if !set.stores.iter().any(|store| stores.contains(store)) {
            continue;
        }
        let terms = configured.get(&set.name).map(|config| &config.terms);
        let mut residue = set.residue(terms, deleted_at, now);
        let mut entry = None;
        if residue == (Residue::Clear { assumed: false }) {
            // The ledger's own columns can be changed without a trace.
            entry = ledger.cleared_by(&set.name, deleted_at).await?;
            if entry.is_none() {
                let awaits = "the ledger says that it is clear, and the audit log does not";
                residue = Residue::Pending {
                    until: None,
                    awaits: Some(awaits.to_owned()),
                    backups: 0,
                    assumed: false,
                };
            }
        }
        found.push(InBackups { backup: set.name, residue, entry });
    }
    Ok(found)
}

fn backups_in_words(sets: &[InBackups]) -> &'static str {
    if sets.is_empty() {
        return "none are registered: copies in backups are not known, and not covered";
    }
    let is_proven = |set: &InBackups| set.residue == Residue::Clear { assumed: false };
    if sets.iter().all(is_proven) {
        "none of the registered sets has a copy"
    } else if sets.iter().all(|set| set.residue.is_clear()) {
        "none of the registered sets has a copy, of some of which that is assumed"
    } else if sets.iter().any(|set| matches!(set.residue, Residue::Unbounded { .. })) {
        "copies are kept without an end"
    } else {
        "copies remain, put beyond use, until the backups have rotated"
    }
}

/// When the last copy is gone; `None` where there is none, or nobody can say.
fn clearance(sets: &[InBackups]) -> Option<Timestamp> {
    let open = sets.iter().filter(|set| !set.residue.is_clear());
    let ends = open.map(|set| match set.residue {
        Residue::Pending { until, .. } => until,
        _ => None,
    });
    ends.collect::<Option<Vec<_>>>()?.into_iter().max()
}

/// Says which recipients are awaited, and where that can be seen.
fn awaited(account: &Account, stand: &BTreeMap<Name, BTreeMap<State, u64>>, run: Uuid) -> String {
    let mut why = "recipients have not done yet what they were told".to_owned();
    for (recipient, owed) in account.told.iter().filter(|(_, owed)| owed.is_open()) {
        let states = stand.get(recipient).into_iter().flatten();
        let open = states.filter(|(state, _)| !state.is_over());
        let open: Vec<_> = open.map(|(state, notices)| format!("{notices} {state}")).collect();
        // Writing to a string cannot fail.
        let _ = write!(
            why,
            "; {recipient}: {} of {} notices open ({})",
            owed.notices.saturating_sub(owed.over()),
            owed.notices,
            if open.is_empty() {
                "the ledger has none of them".to_owned()
            } else {
                open.join(", ")
            }
        );
    }
    let _ = write!(why, "; `expunged notices list --run {run}` shows them");
    why
}

/// What the log says that a recipient owes.
#[derive(Default)]
struct Owed {
    notices: u64,
    completed: u64,
    exempt: u64,
    /// The last entry that says so.
    entry: u64,
}

impl Owed {
    fn over(&self) -> u64 {
        self.completed.saturating_add(self.exempt)
    }

    fn is_open(&self) -> bool {
        self.over() != self.notices
    }

    fn note(&mut self, position: u64, state: State, notices: u64) {
        let count = match state {
            State::Completed => &mut self.completed,
            State::Exempt => &mut self.exempt,
            // It goes on from there.
            _ => return,
        };
        *count = count.saturating_add(notices);
        self.entry = position;
    }
}

/// What the audit log says of a run: the ledger's own columns can be changed without a trace.
struct Account {
    rule: Name,
    rule_digest: String,
    store: Name,
    table: String,
    action: ActionKind,
    cutoff: Timestamp,
    plan: Option<String>,
    approved_by: Option<String>,
    started_at: Timestamp,
    /// Of all batches together.
    records: u64,
    batches: u64,
    pseudonymized: Vec<String>,
    /// What each recipient was told.
    told: BTreeMap<Name, Owed>,
    finished_at: Timestamp,
    finished: (RunEnd, u64, u64),
    remaining: Option<u64>,
    /// The entry of the verification, and where it is.
    verified: (u64, Entry),
}

impl Account {
    /// Puts together what the entries of a run say.
    fn read(entries: Vec<(u64, Entry)>, run: Uuid) -> Result<Account, String> {
        let (mut records, mut batches, mut pseudonymized) = (0, 0, Vec::new());
        let (mut started, mut finished, mut verified, mut approved_by) = (None, None, None, None);
        let mut told: BTreeMap<Name, Owed> = BTreeMap::new();
        for (position, entry) in entries {
            if entry.event.run() != Some(run) {
                continue;
            }
            match &entry.event {
                Event::RunApproved { by, .. } => approved_by = Some(by.clone()),
                Event::RunStarted { .. } => started = Some(entry),
                Event::BatchDone { records: taken, pseudonymized: columns, notices, .. } => {
                    records += taken;
                    batches += 1;
                    for (recipient, notices) in notices {
                        told.entry(recipient.clone()).or_default().notices += notices;
                    }
                    for column in columns {
                        if !pseudonymized.contains(column) {
                            pseudonymized.push(column.clone());
                        }
                    }
                }
                Event::NoticesSettled { recipient, state, notices, .. } => {
                    told.entry(recipient.clone()).or_default().note(position, *state, *notices);
                }
                Event::NoticeExempted { recipient, .. } => {
                    told.entry(recipient.clone()).or_default().note(position, State::Exempt, 1);
                }
                Event::RunFinished { .. } => finished = Some(entry),
                Event::RunVerified { .. } => verified = Some((position, entry)),
                _ => {}
            }
        }
        let missing = |what: &str| format!("the audit log has no entry of its {what}");
        let Some(Entry {
            at: started_at,
            event: Event::RunStarted { rule, rule_digest, store, table, action, cutoff, plan, .. },
        }) = started
        else {
            return Err(missing("start"));
        };
        let Some(Entry {
            at: finished_at,
            event: Event::RunFinished { state, records: all, batches: of, remaining, .. },
        }) = finished
        else {
            return Err(missing("end"));
        };
        Ok(Account {
            rule,
            rule_digest,
            store,
            table,
            action,
            cutoff,
            plan,
            approved_by,
            started_at,
            records,
            batches,
            pseudonymized,
            told,
            finished_at,
            finished: (state, all, of),
            remaining,
            verified: verified.ok_or_else(|| missing("verification"))?,
        })
    }

    /// In what the log differs from what the ledger says, or from itself.
    fn difference(&self, report: &RunReport, seen: &Verification) -> Option<&'static str> {
        let Event::RunVerified { checked, of, present, replica, present_on_replica, state, .. } =
            &self.verified.1.event
        else {
            return Some("its verification");
        };
        let replica = replica.as_ref().map(Reason::as_str);
        let same = [
            (
                "its rule",
                self.rule == report.rule
                    && self.rule_digest == report.rule_digest
                    && self.plan == report.plan,
            ),
            (
                "what it acted on",
                self.store == report.store
                    && self.table == report.table
                    && self.action == report.action,
            ),
            ("its cutoff", self.cutoff == report.cutoff),
            (
                "when it ran",
                self.started_at == report.started_at
                    && Some(self.finished_at) == report.finished_at,
            ),
            ("how it ended", self.finished.0.as_str() == report.state),
            (
                "how many records it took",
                [self.finished.1, *of, report.records, seen.of] == [self.records; 4],
            ),
            ("how many batches there were", [self.finished.2, report.batches] == [self.batches; 2]),
            ("how many records are still due", self.remaining == report.remaining),
            (
                "what was seen afterwards",
                (*checked, *present, *present_on_replica)
                    == (seen.checked, seen.present, seen.present_on_replica)
                    && replica == seen.replica.map(Replica::as_str)
                    && state.as_str() == seen.residue.as_str(),
            ),
        ];
        same.into_iter().find_map(|(what, same)| (!same).then_some(what))
    }
}

/// Where the log records that the run was verified, with a proof that was checked as its reader will check
/// it.
async fn logged(ledger: &Ledger, account: &Account) -> Result<Logged, CertificateError> {
    let (position, entry) = &account.verified;
    let run = entry.event.run().unwrap_or_default();
    let incomplete = |why: String| CertificateError::Incomplete { run, why };
    let proof = ledger.prove(*position, None).await?;
    let proof =
        proof.ok_or_else(|| incomplete("the audit log ends before its verification".to_owned()))?;
    let verify = "verify the log with `expunged audit verify`";
    let shown = show(&proof, &ledger.keys().verifiers(Hand::Next), None);
    let shown = shown.map_err(|error| incomplete(format!("{error}; {verify}")))?;
    if shown.entry != *entry {
        return Err(incomplete(format!("the proof is one of another entry; {verify}")));
    }
    Ok(Logged { entry: *position, checkpoint: proof.checkpoint.clone(), proof: proof.to_text() })
}

fn deletion_class(rule: &Rule) -> String {
    format!("{} from {}", rule.retention, rule.starts_from())
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

async fn authority(ledger: &Ledger, account: &Account) -> Result<String, LedgerError> {
    Ok(match (&account.approved_by, &account.plan) {
        (Some(by), _) => format!("approved by {by}"),
        (None, Some(plan)) => format!("saved plan {plan}"),
        (None, None) => match unfinished(ledger, account).await? {
            Some((run, by)) => format!(
                "within the limits of the rule, or going on with what {by} approved as run {run}"
            ),
            None => "within the limits of the rule".to_owned(),
        },
    })
}

/// The latest approval of the rule as it was then, while no run had gone to its end since.
async fn unfinished(
    ledger: &Ledger,
    account: &Account,
) -> Result<Option<(Uuid, String)>, LedgerError> {
    let before = AuditFilter {
        rule: Some(account.rule.clone()),
        until: Some(account.started_at),
        newest_first: true,
        ..AuditFilter::default()
    };
    let approved =
        AuditFilter { kind: Some("run_approved".to_owned()), limit: Some(1), ..before.clone() };
    let approved = ledger.audit_log(&approved).await?.into_iter().next();
    let Some((_, Entry { at, event: Event::RunApproved { run, .. } })) = approved else {
        return Ok(None);
    };
    let since = AuditFilter { kind: Some("run_finished".to_owned()), since: Some(at), ..before };
    let is_done = |(_, entry): &(u64, Entry)| {
        matches!(entry.event, Event::RunFinished { state: RunEnd::Done, .. })
    };
    if ledger.audit_log(&since).await?.iter().any(is_done) {
        return Ok(None);
    }
    let (mut by, mut same_rule) = (None, false);
    for (_, entry) in ledger.run_log(run).await? {
        match entry.event {
            Event::RunApproved { by: who, .. } => by = Some(who),
            Event::RunStarted { rule_digest, .. } => same_rule = rule_digest == account.rule_digest,
            _ => {}
        }
    }
    Ok(by.filter(|_| same_rule).map(|by| (run, by)))
}

fn query(action: ActionKind, table: &str) -> String {
    let seen = match action {
        ActionKind::Delete => "with a starting point from before the cutoff",
        ActionKind::Anonymize => "that are not anonymized",
    };
    format!("SELECT from {table} by the keys of the records that were taken, {seen}")
}
