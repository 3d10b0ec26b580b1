//! Runs and their batches. Each step that matters is one transaction together with its audit entry.
//!
//! A batch is *intended* before it is committed in the store, and then settled as done or undone,
//! exactly once: whoever comes second changes nothing and records nothing. Each step is taken through
//! [`crate::transition::next`], with the run's row locked.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

use super::error::Doing;
use super::events::forget_in;
use super::notices::Drafts;
use super::row::{Columns, to_integer};
use super::steps::{Standing, standing, step};
use super::together::Writing;
use super::tombstones::{self, Tombs};
use super::{
    Intended, Ledger, LedgerError, Request, Transaction, approvals, audit, commit, requests,
    to_text, verifications,
};
use crate::audit::entry::{ActionKind, Cause, Reason, RunEnd};
use crate::audit::{Commitments, Entry, Event, Hash};
use crate::clock;
use crate::fault;
use crate::notice;
use crate::notice::Telling;
use crate::plan::{DependentRows, Plan, Verification};
use crate::rule::Rule;
use crate::transition::{BatchEnd, State, Step};
use crate::types::Name;

/// A run that has begun.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its id.
    pub id: Uuid,
    /// The request that it works off.
    pub request: Uuid,
    /// Its rule.
    pub rule: Name,
    /// Which version of the rule ([`Rule::digest`]).
    pub rule_digest: String,
    /// Its store.
    pub store: Name,
    /// Its table.
    pub table: String,
    /// What it does to records.
    pub action: ActionKind,
    /// Columns that it only pseudonymizes.
    pub pseudonymized: Vec<String>,
    /// Records whose starting point lies before it are due.
    pub cutoff: Timestamp,
    /// The moment of its decision.
    pub started_at: Timestamp,
    /// The stores that sets of backups cover: what it takes from them may come back.
    pub covered: Arc<BTreeSet<Name>>,
    /// The columns of its table's key, where whoever runs it knows them: its intents keep them.
    pub key: Vec<String>,
}

impl Run {
    /// Whether what became of a batch of this run can be seen by looking where, and for what, the
    /// rule looks now. A deletion is seen by its keys alone; what an anonymized record looks like,
    /// only the version of the rule tells that made it. Whom that version told, the intent says.
    pub fn can_be_resolved_by(&self, rule: &Rule, tellings: &[Telling]) -> bool {
        let same_place = self.store == rule.store && self.table == rule.table.to_string();
        let same_action = self.action == ActionKind::from(&rule.action);
        let same_change =
            self.action == ActionKind::Delete || self.rule_digest == rule.digest_if_told(tellings);
        same_place && same_action && same_change
    }
}

/// By which right a run begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Start {
    /// No circuit breaker objects.
    Unasked,
    /// Somebody approved it, under this id.
    Approved(Uuid),
    /// It carries out a saved plan.
    Planned {
        /// The plan's digest.
        digest: String,
        /// The plan's cutoff.
        cutoff: Timestamp,
    },
}

/// What became of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was carried out.
    Done,
    /// It was not, for a reason.
    Undone(&'static str),
}

/// What became of a batch, to be written down.
#[derive(Clone, Copy, Debug)]
pub struct Settlement<'a> {
    /// The batch.
    pub batch: Uuid,
    /// What of it was taken.
    pub taken: &'a Intended,
    /// What became of it.
    pub outcome: Outcome,
    /// Received events that are worked off with it: they are forgotten in the same transaction.
    pub events: &'a [String],
    /// When that was known.
    pub at: Timestamp,
}

/// A settlement as it is written, with all that is computed before the transaction in which others wait.
pub(super) struct Prepared {
    batch: Uuid,
    outcome: Outcome,
    records: u64,
    attachments: u64,
    dependents: Vec<DependentRows>,
    commitments: Option<Vec<u8>>,
    /// The root of their tree.
    root: Hash,
    partition: Option<String>,
    events: Vec<String>,
    notices: Drafts,
    tombs: Tombs,
    at: Timestamp,
}

impl Prepared {
    /// What the audit log says of it.
    fn event(&self, run: &Run) -> Event {
        let (rule, store, batch) = (run.rule.clone(), run.store.clone(), self.batch);
        match self.outcome {
            Outcome::Undone(reason) => {
                Event::BatchUndone { run: run.id, batch, rule, store, reason: reason.into() }
            }
            Outcome::Done => Event::BatchDone {
                run: run.id,
                batch,
                rule,
                store,
                table: run.table.clone(),
                action: run.action,
                records: self.records,
                attachments: self.attachments,
                dependents: self.dependents.clone(),
                commitments: self.root,
                pseudonymized: run.pseudonymized.clone(),
                notices: self.notices.notices(),
                partition: self.partition.clone(),
            },
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Finish {
    /// In which state.
    pub state: RunEnd,
    /// Records still due when expunged looked again, where it could.
    pub remaining: Option<u64>,
    /// Why, in expunged's own words, for the audit log.
    pub reason: Option<&'static str>,
    /// Why, in words that may name tables and hosts but quote no data, for `status`.
    pub error: Option<String>,
    /// What was seen when expunged looked again for what it took, where it did.
    pub verification: Option<Verification>,
    /// When.
    pub now: Timestamp,
}

impl Ledger {
    /// Begins a run; a wait for approval of its rule is over with that.
    ///
    /// # Errors
    /// When the database does not answer; there is no run then.
    pub async fn start_run(
        &self,
        request: &Request,
        rule: &Rule,
        start: &Start,
        now: Timestamp,
    ) -> Result<Run, LedgerError> {
        let mut run = new_run(request.id, rule, now);
        match start {
            Start::Unasked => {}
            Start::Approved(id) => run.id = *id,
            Start::Planned { cutoff, .. } => run.cutoff = *cutoff,
        }
        let plan = match start {
            Start::Planned { digest, .. } => Some(digest.clone()),
            _ => None,
        };
        let mut tx = self.begin().await?;
        run.covered = Arc::new(tombstones::covered(&mut tx).await?);
        insert_run(&mut tx, &run, rule, Step::Start).await?;
        sqlx::query("UPDATE run SET plan = $1 WHERE id = $2")
            .bind(&plan)
            .bind(run.id.to_string())
            .execute(&mut *tx)
            .await
            .doing("beginning a run")?;
        let is_for_events = request.cause == Cause::Event;
        // A replay answers nothing that anybody was asked.
        if request.cause != Cause::Replay {
            approvals::end_wait(&mut tx, &rule.name, run.id, is_for_events).await?;
        }
        let event = Event::RunStarted {
            run: run.id,
            rule: run.rule.clone(),
            rule_digest: rule.digest(),
            store: run.store.clone(),
            table: run.table.clone(),
            action: run.action,
            cutoff: run.cutoff,
            cause: request.cause,
            mode: rule.mode.into(),
            plan,
        };
        audit::append(&mut tx, &self.keys, &Entry { at: now, event }).await?;
        commit(tx).await?;
        Ok(run)
    }

    /// Records what a rule that only observes would have done, and closes the request.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn record_observation(
        &self,
        request: &Request,
        rule: &Rule,
        plan: &Plan,
    ) -> Result<Run, LedgerError> {
        let run = new_run(request.id, rule, plan.at);
        let mut tx = self.begin().await?;
        insert_run(&mut tx, &run, rule, Step::Observe).await?;
        sqlx::query("UPDATE run SET remaining = $1, finished_at = $2 WHERE id = $3")
            .bind(to_integer(plan.due))
            .bind(to_text(plan.at))
            .bind(run.id.to_string())
            .execute(&mut *tx)
            .await
            .doing("recording an observation")?;
        requests::close(&mut tx, request.id, "done", None, plan.at).await?;
        let event = Event::RunObserved {
            run: run.id,
            rule: run.rule.clone(),
            rule_digest: rule.digest(),
            store: run.store.clone(),
            table: run.table.clone(),
            cutoff: run.cutoff,
            due: plan.due,
            undecided: plan.undecided(),
        };
        audit::append(&mut tx, &self.keys, &Entry { at: plan.at, event }).await?;
        commit(tx).await?;
        Ok(run)
    }

    /// Records that a rule was not let to run, and closes the request.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn refuse_run(
        &self,
        request: &Request,
        reason: &'static str,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let mut tx = self.begin().await?;
        requests::close(&mut tx, request.id, "abandoned", Some(reason), now).await?;
        let event = Event::RunRefused { rule: request.rule.clone(), reason: reason.into() };
        audit::append(&mut tx, &self.keys, &Entry { at: now, event }).await?;
        commit(tx).await
    }

    /// Records what became of a batch, once: the batch, the run's count and the audit entry in one
    /// transaction. Returns whether this call was the one that did.
    ///
    /// # Errors
    /// When the database does not answer; the batch stays open then and is resolved later.
    pub async fn settle(
        &self,
        run: &Run,
        batch: Uuid,
        taken: &Intended,
        outcome: Outcome,
        now: Timestamp,
    ) -> Result<bool, LedgerError> {
        let settlement = Settlement { batch, taken, outcome, events: &[], at: now };
        let prepared = self.prepare_settlement(run, settlement);
        let has_notices = !prepared.notices.is_empty();
        let mut tx = self.begin().await?;
        let mut at = standing(&mut tx, run.id).await?;
        let is_settled = self.settle_in(&mut tx, run, &mut at, &[prepared]).await? > 0;
        if is_settled {
            commit(tx).await?;
            self.tell_couriers(has_notices);
        }
        Ok(is_settled)
    }

    /// Records what became of several batches of a run, by one durable write; as for [`Ledger::settle`].
    ///
    /// # Errors
    /// When the database does not answer: all of them stay open then.
    pub async fn settle_all(
        &self,
        run: &Run,
        settlements: &[Settlement<'_>],
    ) -> Result<(), LedgerError> {
        let settled: Vec<_> =
            settlements.iter().map(|one| self.prepare_settlement(run, *one)).collect();
        let has_notices = settled.iter().any(|one| !one.notices.is_empty());
        self.write(Writing { run: run.clone(), settled, intent: None }).await?;
        self.tell_couriers(has_notices);
        Ok(())
    }

    fn tell_couriers(&self, has_notices: bool) {
        if has_notices {
            self.notices_written.notify_waiters();
        }
    }

    pub(super) fn prepare_settlement(&self, run: &Run, settlement: Settlement<'_>) -> Prepared {
        let Settlement { batch, taken, outcome, events, at } = settlement;
        // All that takes long is computed here: while it is written, others wait.
        let (attachments, commitments) = match outcome {
            Outcome::Done => {
                (taken.attached.len() as u64, Some(taken.commitments(&self.keys, run)))
            }
            Outcome::Undone(_) => (0, None),
        };
        let root = commitments.as_ref().map_or_else(Hash::empty_root, Commitments::root);
        let notices = match outcome {
            Outcome::Done => Drafts::of(&self.keys, taken),
            Outcome::Undone(_) => Drafts::default(),
        };
        let tombs = match outcome {
            Outcome::Done => Tombs::of(&self.keys, run, batch, taken),
            Outcome::Undone(_) => Tombs::default(),
        };
        let (records, events) = (taken.keys.len() as u64, events.to_vec());
        let (dependents, partition) = (taken.dependents.clone(), taken.partition.clone());
        Prepared {
            batch,
            outcome,
            records,
            attachments,
            dependents,
            commitments: commitments.map(Commitments::into_bytes),
            root,
            partition,
            events,
            notices,
            tombs,
            at,
        }
    }

    /// Writes outcomes of a run that stands so, each once: the one function that does. Gives how many of
    /// them this call was the one to write.
    pub(super) async fn settle_in(
        &self,
        tx: &mut Transaction<'_>,
        run: &Run,
        at: &mut Standing,
        settled: &[Prepared],
    ) -> Result<usize, LedgerError> {
        let mut entries = Vec::with_capacity(settled.len());
        let (mut taken, mut settled_here) = (0, 0);
        for one in settled {
            // Whoever comes second changes nothing and records nothing.
            let Some(sequence) = at.open.remove(&one.batch) else { continue };
            let end = match one.outcome {
                Outcome::Done => BatchEnd::Done,
                Outcome::Undone(_) => BatchEnd::Undone,
            };
            at.state = step(run.id, at.state.clone(), Step::Settle { sequence, end })?;
            sqlx::query(
                "UPDATE batch SET state = $1, settled_at = $2, intent = NULL, commitments = $3, \
                 attachments = $4 WHERE id = $5",
            )
            .bind(end.as_str())
            .bind(to_text(one.at))
            .bind(one.commitments.as_deref())
            .bind(to_integer(one.attachments))
            .bind(one.batch.to_string())
            .execute(&mut **tx)
            .await
            .doing("settling a batch")?;
            forget_in(tx, &run.rule, &one.events).await?;
            taken += if end == BatchEnd::Done { one.records } else { 0 };
            one.notices.write(tx, run, one.batch, one.at).await?;
            one.tombs.write(tx, run, one.batch, one.at).await?;
            settled_here += 1;
            entries.push(Entry { at: one.at, event: one.event(run) });
            for (recipient, notices) in one.notices.exempt() {
                let (run, rule, state) = (run.id, run.rule.clone(), notice::State::Exempt);
                let event = Event::NoticesSettled { run, rule, recipient, state, notices };
                entries.push(Entry { at: one.at, event });
            }
        }
        if taken > 0 {
            count_records(tx, run, taken).await?;
        }
        audit::append_all(tx, &self.keys, &entries).await?;
        fault::point("batch.settling");
        Ok(settled_here)
    }

    /// Notes how a run reaches the due rows, and why that way, beside what it noted before.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn note_access(&self, run: &Run, access: &str) -> Result<(), LedgerError> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "UPDATE run SET access = CASE WHEN access IS NULL THEN $1 ELSE access || '; ' || $1 END \
             WHERE id = $2 AND (access IS NULL OR access NOT LIKE '%' || $1 || '%')",
        )
        .bind(access)
        .bind(run.id.to_string())
        .execute(&mut *tx)
        .await
        .doing("noting an access path")?;
        commit(tx).await
    }

    /// Ends a run and closes its request; that of a run that was stopped stays open, so that another
    /// goes on with it, unless it came from a command. A run that was ended already stays as it is.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn finish_run(&self, run: &Run, finish: Finish) -> Result<(), LedgerError> {
        let mut tx = self.begin().await?;
        let Standing { state, .. } = standing(&mut tx, run.id).await?;
        if matches!(state, State::Ended(_)) {
            return Ok(());
        }
        let state = step(run.id, state, Step::Finish(finish.state))?;
        sqlx::query(
            "UPDATE run SET state = $1, remaining = $2, finished_at = $3, error = $4 WHERE id = $5",
        )
        .bind(state.as_str())
        .bind(finish.remaining.map(to_integer))
        .bind(to_text(finish.now))
        .bind(finish.error)
        .bind(run.id.to_string())
        .execute(&mut *tx)
        .await
        .doing("finishing a run")?;
        match finish.state {
            RunEnd::Stopped => requests::close_stopped(&mut tx, run.request, finish.now).await?,
            RunEnd::Done | RunEnd::Failed => {
                requests::close(&mut tx, run.request, "done", None, finish.now).await?;
            }
        }
        let (records, batches) = totals(&mut tx, run.id).await?;
        let event = Event::RunFinished {
            run: run.id,
            rule: run.rule.clone(),
            store: run.store.clone(),
            state: finish.state,
            records,
            remaining: finish.remaining,
            batches,
            reason: finish.reason.map(Reason::from),
        };
        let mut entries = vec![Entry { at: finish.now, event }];
        if let Some(seen) = &finish.verification {
            let event = verifications::record(&mut tx, run, seen).await?;
            entries.push(Entry { at: finish.now, event });
        }
        audit::append_all(&mut tx, &self.keys, &entries).await?;
        fault::point("run.finishing");
        commit(tx).await
    }

    /// The runs of a rule that were never ended: their process is gone, if the caller holds the
    /// rule's lock.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn open_runs(&self, rule: &Name) -> Result<Vec<Run>, LedgerError> {
        let mut tx = self.snapshot().await?;
        let rows = sqlx::query(
            "SELECT id, request_id, rule, rule_digest, store, table_name, action, cutoff, started_at \
             FROM run WHERE rule = $1 AND state = 'running' ORDER BY started_at",
        )
        .bind(rule.as_str())
        .fetch_all(&mut *tx)
        .await
        .doing("reading open runs")?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let covered = Arc::new(tombstones::covered(&mut tx).await?);
        rows.iter()
            .map(|row| {
                Ok(Run {
                    id: row.id("id")?,
                    request: row.id("request_id")?,
                    rule: row.name("rule")?,
                    rule_digest: row.text("rule_digest")?,
                    store: row.name("store")?,
                    table: row.text("table_name")?,
                    action: row.word("action", ActionKind::from_word)?,
                    pseudonymized: Vec::new(),
                    cutoff: row.moment("cutoff")?,
                    started_at: row.moment("started_at")?,
                    covered: covered.clone(),
                    key: Vec::new(),
                })
            })
            .collect()
    }
}

fn new_run(request: Uuid, rule: &Rule, now: Timestamp) -> Run {
    Run {
        id: clock::new_id(),
        request,
        rule: rule.name.clone(),
        rule_digest: rule.digest(),
        store: rule.store.clone(),
        table: rule.table.to_string(),
        action: ActionKind::from(&rule.action),
        pseudonymized: rule.action.pseudonymized_columns(),
        cutoff: rule.cutoff(now),
        started_at: now,
        covered: Arc::default(),
        key: Vec::new(),
    }
}

async fn insert_run(
    tx: &mut Transaction<'_>,
    run: &Run,
    rule: &Rule,
    begin: Step,
) -> Result<(), LedgerError> {
    let state = step(run.id, State::New, begin)?;
    sqlx::query(
        "INSERT INTO run (id, request_id, rule, rule_digest, store, table_name, action, mode, cutoff, \
                          state, records, started_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 0, $11)",
    )
    .bind(run.id.to_string())
    .bind(run.request.to_string())
    .bind(run.rule.as_str())
    .bind(rule.digest())
    .bind(run.store.as_str())
    .bind(&run.table)
    .bind(run.action.as_str())
    .bind(rule.mode.to_string())
    .bind(to_text(run.cutoff))
    .bind(state.as_str())
    .bind(to_text(run.started_at))
    .execute(&mut **tx)
    .await
    .doing("beginning a run")?;
    Ok(())
}

async fn count_records(
    tx: &mut Transaction<'_>,
    run: &Run,
    records: u64,
) -> Result<(), LedgerError> {
    sqlx::query("UPDATE run SET records = records + $1 WHERE id = $2")
        .bind(to_integer(records))
        .bind(run.id.to_string())
        .execute(&mut **tx)
        .await
        .doing("counting records")?;
    Ok(())
}

/// Records and batches that a run has carried out.
async fn totals(tx: &mut Transaction<'_>, run: Uuid) -> Result<(u64, u64), LedgerError> {
    let row = sqlx::query(
        "SELECT records, (SELECT count(*) FROM batch WHERE run_id = run.id AND state = 'done') AS batches \
         FROM run WHERE id = $1",
    )
    .bind(run.to_string())
    .fetch_one(&mut **tx)
    .await
    .doing("counting a run")?;
    Ok((row.count("records")?, row.count("batches")?))
}
