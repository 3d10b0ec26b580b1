//! What runs left behind when their process died: each batch without an outcome is resolved by asking its store.

use std::time::Duration;

use jiff::Timestamp;

use super::{RunError, Runner, attachments};
use crate::audit::entry::{Cause, RunEnd};
use crate::clock::Stopwatch;
use crate::fault;
use crate::ledger::{Finish, Intended, OpenBatch, Outcome, Request, Run};
use crate::rule::Rule;
use crate::store::sql::{Access, Interrupted, Resolution};

/// How long a store may take to end the transaction of a process that died.
const RESOLVE_WITHIN: Duration = Duration::from_mins(1);

/// What was found and settled of runs whose process died.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Recovered {
    /// Runs that had not ended.
    pub runs: u64,
    /// Batches that had been carried out.
    pub done: u64,
    /// Batches that had not.
    pub undone: u64,
}

impl Runner {
    /// Resolves what runs of a rule left behind when their process died, if nobody is running it.
    ///
    /// # Errors
    /// When the ledger or the store cannot be asked; what is open stays open.
    pub async fn recover(&self, rule: &Rule, now: Timestamp) -> Result<Recovered, RunError> {
        let Some(lock) = self.ledger.lock_rule(&rule.name).await? else {
            return Ok(Recovered::default());
        };
        let recovered = self.recover_locked(rule, now).await;
        lock.release().await.ok();
        recovered
    }

    /// Resolves what was left behind, closes its requests, and leaves one of its own to run the rule
    /// again. `None` when nothing was left, or somebody is running the rule.
    ///
    /// # Errors
    /// As for [`Runner::recover`].
    pub async fn take_over(
        &self,
        rule: &Rule,
        now: Timestamp,
    ) -> Result<Option<Request>, RunError> {
        let Some(lock) = self.ledger.lock_rule(&rule.name).await? else { return Ok(None) };
        let taken = self.take_over_locked(rule, now).await;
        lock.release().await.ok();
        taken
    }

    /// The new request comes first: whoever dies in what follows leaves it to the next.
    async fn take_over_locked(
        &self,
        rule: &Rule,
        now: Timestamp,
    ) -> Result<Option<Request>, RunError> {
        let left = self.ledger.open_requests().await?;
        let left: Vec<_> = left.into_iter().filter(|request| request.rule == rule.name).collect();
        if left.is_empty() && self.ledger.open_runs(&rule.name).await?.is_empty() {
            return Ok(None);
        }
        if !left.is_empty() && left.iter().all(|request| request.planned) {
            // Whoever applied the plan applies it again; nobody goes on with whatever is due.
            self.recover_locked(rule, now).await?;
            for old in &left {
                self.ledger.abandon_request(old, "its saved plan was interrupted", now).await?;
            }
            return Ok(None);
        }
        let request = self.ledger.request(&rule.name, Cause::Restart, now).await?;
        fault::point("recovery.requested");
        if let Err(error) = self.recover_locked(rule, now).await {
            // The open run has it tried again; the requests of many tries would only pile up.
            let why = "what was left behind could not be resolved";
            self.ledger.abandon_request(&request, why, now).await.ok();
            return Err(error);
        }
        for old in &left {
            self.ledger.abandon_request(old, "another request took its place", now).await?;
        }
        fault::point("recovery.closed");
        Ok(Some(request))
    }

    /// The caller holds the rule's lock, so an open run is nobody's.
    pub(super) async fn recover_locked(
        &self,
        rule: &Rule,
        now: Timestamp,
    ) -> Result<Recovered, RunError> {
        let mut recovered = Recovered::default();
        for mut run in self.ledger.open_runs(&rule.name).await? {
            recovered.runs += 1;
            run.pseudonymized = rule.action.pseudonymized_columns();
            // What cannot have happened is damage: nothing is concluded from it.
            self.ledger.replay(&run).await?;
            for id in self.ledger.open_batches(&run).await? {
                let Some(batch) = self.ledger.open_batch(&run, id).await? else { continue };
                if !run.can_be_resolved_by(rule, &batch.intended.tellings) {
                    return Err(RunError::RuleChanged { rule: rule.name.clone() });
                }
                let (outcome, taken) = self.resolve(rule, &run, batch).await?;
                fault::point("recovery.resolved");
                self.ledger.settle(&run, id, &taken, outcome, now).await?;
                fault::point("recovery.settled");
                match outcome {
                    Outcome::Done => recovered.done += 1,
                    Outcome::Undone(_) => recovered.undone += 1,
                }
            }
            let finish = Finish {
                state: RunEnd::Failed,
                remaining: None,
                reason: Some("its process ended before it did"),
                error: Some("interrupted: its process ended before it did".to_owned()),
                verification: None,
                now,
            };
            self.ledger.finish_run(&run, finish).await?;
            fault::point("recovery.finished");
            tracing::warn!(rule = %rule.name, run = %run.id, ?recovered, "resolved an interrupted run");
        }
        Ok(recovered)
    }

    /// Asks the store what became of a batch, and waits while it does not know itself; says what of it was
    /// taken.
    pub(super) async fn resolve(
        &self,
        rule: &Rule,
        run: &Run,
        batch: OpenBatch,
    ) -> Result<(Outcome, Intended), RunError> {
        let OpenBatch { key, intended, transaction_id, .. } = batch;
        // Nothing but what belonged to records that are gone: their store is not asked.
        if intended.keys.is_empty() {
            return self.undone(intended).await;
        }
        let store = self.stores.get(&run.store, Access::ReadWrite)?;
        // Who is told stands in the intent; whom the rule tells by now is nothing to this batch.
        let rule = &Rule { tellings: Vec::new(), ..rule.clone() };
        let target = store.target(rule).await?;
        // By other columns nothing of it would be found, and that would look as if it were gone.
        let is_keyed_so = target.rows().is_none_or(|rows| {
            rows.fits_keys(&intended.keys) && (key.is_empty() || key == target.key_names())
        });
        if !is_keyed_so {
            return Err(RunError::RuleChanged { rule: rule.name.clone() });
        }
        let interrupted = Interrupted {
            keys: intended.keys.clone(),
            identities: intended.identities.clone(),
            transaction_id,
        };
        let watch = Stopwatch::start();
        loop {
            match store.resolve(&target, &interrupted).await {
                Ok(Resolution::Done) => return Ok((Outcome::Done, intended)),
                Ok(Resolution::Undone) => return self.undone(intended).await,
                Ok(Resolution::Partly(gone)) if gone.is_empty() => {
                    return Ok((Outcome::Undone("none of it was deleted"), intended));
                }
                // What is left of it is due, and the next run's.
                Ok(Resolution::Partly(gone)) => return Ok((Outcome::Done, intended.only(&gone))),
                Ok(Resolution::InProgress) => {}
                Err(error) if error.is_transient() => {}
                Err(error) => return Err(error.into()),
            }
            if watch.elapsed() > RESOLVE_WITHIN {
                return Err(RunError::Unresolved { rule: rule.name.clone() });
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The records of a batch are there. What belonged to them may be gone nevertheless.
    async fn undone(&self, intended: Intended) -> Result<(Outcome, Intended), RunError> {
        let gone = attachments::gone(&self.stores, &intended.attached).await?;
        if gone.is_empty() {
            return Ok((Outcome::Undone("the store rolled it back"), intended));
        }
        let by_event = intended.by_event;
        Ok((Outcome::Done, Intended { attached: gone, by_event, ..Intended::default() }))
    }
}
