//! Several windows of a walk at once: while one batch is intended and committed, others are being taken.
//!
//! What takes long is the deleting statement, so that alone is done side by side, by workers that each have a
//! window and a transaction of their own. Intents and commits stay one after the other: nothing that holds of a
//! run with one batch at a time is otherwise here. Outcomes are written meanwhile, several by one durable
//! write.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinSet};

use super::attachments::Taking;
use super::execution::{Ended, Execution, FEWER_ATTEMPTS, GATE_WITHIN, MOST_ATTEMPTS, new_value};
use super::{Prepared, RunError};
use crate::anonymize::Strategy;
use crate::clock::Stopwatch;
use crate::ledger::{Gate, Ledger, LedgerError};
use crate::pace::{Pace, Tempo};
use crate::store::sql::catalogue::Column;
use crate::store::sql::{self, Bounds, Window};
use crate::store::{Batch, Store, StoreError, Target};

/// What each worker needs to know.
struct Order {
    store: Store,
    target: Target,
    bounds: Bounds,
    ledger: Ledger,
    scope: String,
}

impl Order {
    async fn take(&self, window: Window, most: u64) -> Result<Batch, StoreError> {
        let replace = |strategy: &Strategy, column: &Column, old: Option<&str>| {
            new_value(self.ledger.keys(), &self.scope, strategy, column, old)
        };
        self.store.take_at_most(&self.target, self.bounds, window, most, &replace).await
    }
}

/// A window to be taken, and how often it was tried in vain.
struct Job {
    window: Window,
    failures: u32,
}

/// What a worker brings.
struct Brought {
    taken: Result<Batch, StoreError>,
    begun: Stopwatch,
    pace: Pace,
    took: Duration,
}

/// Windows in the hands of workers, and those that are to be taken again.
struct Workers {
    order: Arc<Order>,
    most: usize,
    tasks: JoinSet<Brought>,
    jobs: HashMap<Id, Job>,
    again: Vec<Job>,
    /// Whether nothing is to be waited for before the next is begun.
    are_rested: bool,
}

impl Workers {
    fn has_room(&self) -> bool {
        self.jobs.len() < self.most
    }

    fn begin(&mut self, job: Job, pace: Pace) {
        let (order, window) = (self.order.clone(), job.window.clone());
        let begun = Stopwatch::start();
        let task = async move {
            let taken = order.take(window, pace.most_rows()).await;
            Brought { taken, begun, pace, took: begun.elapsed() }
        };
        self.jobs.insert(self.tasks.spawn(task).id(), job);
    }

    /// What is brought next; `None` when nobody is at work.
    async fn next(&mut self) -> Option<(Job, Brought)> {
        let (id, brought) = match self.tasks.join_next_with_id().await? {
            Ok(joined) => joined,
            // What panicked there goes on here.
            Err(died) => std::panic::resume_unwind(died.into_panic()),
        };
        self.jobs.remove(&id).map(|job| (job, brought))
    }

    /// Has everybody drop what they took, which undoes it, and gives their windows back.
    async fn recall(&mut self) -> Vec<Job> {
        self.tasks.shutdown().await;
        let mut jobs: Vec<_> = self.jobs.drain().map(|(_, job)| job).collect();
        jobs.append(&mut self.again);
        jobs
    }
}

impl Execution<'_> {
    /// Walks through a table with as many workers as its store allows.
    pub(super) async fn walk_with_workers(
        &mut self,
        walk: &mut sql::Walk,
    ) -> Result<Ended, RunError> {
        let mut workers = self.workers(Vec::new());
        let ended = self.work(&mut workers, walk).await;
        // Whatever ended it, nobody holds a lock any more when the run ends.
        workers.recall().await;
        ended
    }

    fn workers(&self, again: Vec<Job>) -> Workers {
        let Prepared { store, target, bounds, .. } = &self.prepared;
        let order = Order {
            store: store.clone(),
            target: target.clone(),
            bounds: *bounds,
            ledger: self.runner.ledger.clone(),
            scope: format!("{}/{}", self.run.store, self.run.table),
        };
        Workers {
            order: Arc::new(order),
            most: self.rule.pacing.workers.max(1),
            tasks: JoinSet::new(),
            jobs: HashMap::new(),
            again,
            are_rested: false,
        }
    }

    async fn work(
        &mut self,
        workers: &mut Workers,
        walk: &mut sql::Walk,
    ) -> Result<Ended, RunError> {
        let is_eager =
            self.rule.pacing.tempo == Tempo::Full && !self.prepared.store.has_one_writer();
        self.hand_out(workers, walk).await?;
        // What is taken and not intended yet is undone when the run is to end.
        while !self.is_to_end() {
            let (job, brought) = tokio::select! {
                turn = self.underway.turn() => {
                    self.take_turn(turn).await?;
                    continue;
                }
                brought = workers.next() => match brought {
                    Some(brought) => brought,
                    None => break,
                },
            };
            // Before this one is intended and committed, so that the store is not idle meanwhile; unless a rest is due, in
            // which it would hold its locks.
            if is_eager && !walk.looks_anew() && !self.pacer.is_to_rest() {
                self.hand_out(workers, walk).await?;
            }
            self.accept(workers, walk, job, brought).await?;
            self.keep_to_what_was_due()?;
            self.hand_out(workers, walk).await?;
        }
        Ok(if self.is_to_end() { Ended::Stopped } else { Ended::Complete })
    }

    /// Gives every idle worker a window. Before it rests, all that is under way comes to its end, so that nobody waits
    /// for a lock meanwhile.
    async fn hand_out(
        &mut self,
        workers: &mut Workers,
        walk: &mut sql::Walk,
    ) -> Result<(), RunError> {
        if !workers.are_rested && self.pacer.is_to_rest() {
            if !workers.jobs.is_empty() {
                return Ok(());
            }
            self.settle_before(self.pacer.longest_rest()).await?;
            self.rest().await;
        }
        workers.are_rested = true;
        while workers.has_room() && !self.is_to_end() {
            if let Some(job) = workers.again.pop() {
                workers.begin(job, self.pacer.throttle.pace);
                continue;
            }
            // Rows that are being taken would be found again.
            if walk.looks_anew() && !workers.jobs.is_empty() {
                break;
            }
            self.runner.clock.look()?;
            let Prepared { store, target, bounds, .. } = &self.prepared;
            let pace = &mut self.pacer.throttle.pace;
            let Some(window) = store.next_window(target, *bounds, walk, pace).await? else { break };
            walk.pass(&window);
            workers.begin(Job { window, failures: 0 }, *pace);
        }
        Ok(())
    }

    /// Sees what a worker brings through, or has its window taken again.
    async fn accept(
        &mut self,
        workers: &mut Workers,
        walk: &mut sql::Walk,
        job: Job,
        Brought { taken, begun, pace, took }: Brought,
    ) -> Result<(), RunError> {
        let batch = match taken {
            Ok(batch) => batch,
            Err(error) if error.is_transient() && !self.stop.is_cancelled() => {
                return self.take_later(workers, job, error).await;
            }
            Err(error) => return Err(error.into()),
        };
        self.pacer.turn_to(begun, pace, took);
        let (rows, is_part) = (batch.rows(), batch.is_part);
        match self.see_through(workers, batch, None).await {
            Err(RunError::Ledger(LedgerError::HoldsChanged)) => {
                workers.again.push(job);
                return self.take_at_gate_again(workers, walk).await;
            }
            seen => seen?,
        }
        self.is_through(workers, walk, job, rows, is_part);
        Ok(())
    }

    /// Takes note of a batch that is committed. What is left of its window is taken next.
    fn is_through(
        &mut self,
        workers: &mut Workers,
        walk: &mut sql::Walk,
        job: Job,
        rows: u64,
        is_part: bool,
    ) {
        self.pacer.note(rows);
        workers.are_rested = false;
        if is_part {
            self.pacer.throttle.pace.narrow();
            workers.again.push(job);
        } else {
            walk.note(&job.window, rows);
        }
    }

    /// Somebody else held a lock: smaller windows are tried, and in the end it is left to another walk.
    async fn take_later(
        &mut self,
        workers: &mut Workers,
        job: Job,
        error: StoreError,
    ) -> Result<(), RunError> {
        let failures = job.failures + 1;
        tracing::debug!(rule = %self.rule.name, %error, failures, "a batch met a lock");
        let is_one = failures < MOST_ATTEMPTS && !self.take_in_halves(workers, job).await?;
        if failures >= MOST_ATTEMPTS || is_one && failures >= FEWER_ATTEMPTS {
            if is_one {
                workers.again.pop();
            }
            return if self.pass_over(&error, || true) { Ok(()) } else { Err(error.into()) };
        }
        Ok(())
    }

    /// Has the halves of a window taken next. Says whether it has any.
    async fn take_in_halves(&mut self, workers: &mut Workers, job: Job) -> Result<bool, RunError> {
        self.pacer.throttle.back_off();
        let Prepared { store, target, .. } = &self.prepared;
        let windows = store.halves(target, job.window).await?;
        let are_halves = windows.len() > 1;
        let failures = job.failures + 1;
        workers.again.extend(windows.into_iter().rev().map(|window| Job { window, failures }));
        Ok(are_halves)
    }

    /// A hold was placed. What others have taken by now does not heed it either: all of it is undone, and one
    /// window is taken while no other hold can be placed, so that however fast they come the run goes on.
    async fn take_at_gate_again(
        &mut self,
        workers: &mut Workers,
        walk: &mut sql::Walk,
    ) -> Result<(), RunError> {
        let jobs = workers.recall().await;
        let gate = self.gate().await?;
        // They are told of it, too.
        *workers = self.workers(jobs);
        let Some(job) = workers.again.pop() else { return Ok(()) };
        self.pacer.begin();
        let most = self.pacer.throttle.pace.most_rows();
        let taking = workers.order.take(job.window.clone(), most);
        let batch = match tokio::time::timeout(GATE_WITHIN, taking).await {
            Ok(Ok(batch)) => batch,
            Ok(Err(error)) if error.is_transient() && !self.stop.is_cancelled() => {
                drop(gate);
                return self.take_later(workers, job, error).await;
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => {
                // Others wait meanwhile: rather a smaller window than a long wait.
                drop(gate);
                self.take_in_halves(workers, job).await?;
                return Ok(());
            }
        };
        self.pacer.taken();
        let (rows, is_part) = (batch.rows(), batch.is_part);
        self.see_through(workers, batch, Some(gate)).await?;
        self.is_through(workers, walk, job, rows, is_part);
        Ok(())
    }

    /// Intends and commits a batch. Its outcome follows.
    async fn see_through(
        &mut self,
        workers: &mut Workers,
        batch: Batch,
        gate: Option<Gate>,
    ) -> Result<(), RunError> {
        if batch.keys.is_empty() {
            return Ok(batch.rollback().await?);
        }
        let records = batch.keys.len() as u64;
        match self.begin(Taking::alone(batch), gate).await? {
            (begun, Ok(effect)) => {
                self.committed += records;
                self.let_wait(begun, effect);
                self.leave_few_unsettled().await
            }
            (begun, failed) => {
                // The store is asked what became of it, and waits for whoever is at it: after a crash of PostgreSQL,
                // a transaction that others here have begun since may go by the number of this one.
                workers.again = workers.recall().await;
                self.end(begun, failed).await.map(drop)
            }
        }
    }
}
