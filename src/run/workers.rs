//! Several windows of a walk at once: while one batch is intended and committed, others are being taken.
//!
//! What takes long is the deleting statement, so that alone is done side by side, by workers that each have a
//! window and a transaction of their own. Intents and commits stay one after the other: nothing that holds of a
//! run with one batch at a time is otherwise here. Outcomes are written meanwhile, several by one durable
//! write.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::task::{Id, JoinSet};

use super::attachments::Taking;
use super::execution::{Ended, Execution, GATE_WITHIN, MOST_ATTEMPTS, Next, new_value};
use super::{Prepared, RunError};
use crate::anonymize::Strategy;
use crate::clock::Stopwatch;
use crate::ledger::{Gate, Ledger, LedgerError};
use crate::store::sql::catalogue::Column;
use crate::store::sql::{self, Bounds, Pace, Window};
use crate::store::{Batch, Store, StoreError, Target};

/// Batches that took effect and may wait for their outcomes before no other is begun: each is kept in memory.
const MOST_UNSETTLED: usize = 4;

/// What each worker needs to know.
struct Order {
    store: Store,
    target: Target,
    bounds: Bounds,
    ledger: Ledger,
    scope: String,
}

impl Order {
    async fn take(&self, window: Window) -> Result<Batch, StoreError> {
        let replace = |strategy: &Strategy, column: &Column, old: Option<&str>| {
            new_value(self.ledger.keys(), &self.scope, strategy, column, old)
        };
        self.store.take_window(&self.target, self.bounds, window, &replace).await
    }
}

/// A window to be taken, and how often it was tried in vain.
#[derive(Clone)]
struct Job {
    window: Window,
    failures: u32,
}

/// What a worker brings.
struct Brought {
    taken: Result<Batch, StoreError>,
    watch: Stopwatch,
}

/// Windows in the hands of workers, and those that are to be taken again.
struct Workers {
    order: Arc<Order>,
    most: usize,
    tasks: JoinSet<Brought>,
    jobs: HashMap<Id, Job>,
    again: Vec<Job>,
}

impl Workers {
    fn has_room(&self) -> bool {
        self.jobs.len() < self.most
    }

    fn begin(&mut self, job: Job) {
        let (order, window) = (self.order.clone(), job.window.clone());
        let watch = Stopwatch::start();
        let task = async move { Brought { taken: order.take(window).await, watch } };
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
        pace: &mut Pace,
    ) -> Result<Ended, RunError> {
        let mut workers = self.workers(Vec::new());
        let ended = self.work(&mut workers, walk, pace).await;
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
        let (tasks, jobs) = (JoinSet::new(), HashMap::new());
        Workers { order: Arc::new(order), most: store.workers(), tasks, jobs, again }
    }

    async fn work(
        &mut self,
        workers: &mut Workers,
        walk: &mut sql::Walk,
        pace: &mut Pace,
    ) -> Result<Ended, RunError> {
        let writes_alone = self.prepared.store.has_one_writer();
        self.hand_out(workers, walk, pace).await?;
        // What is taken and not intended yet is undone when somebody asks to stop.
        while !self.stop.is_cancelled() {
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
            // Before this one is intended and committed, so that the store is not idle meanwhile.
            if !writes_alone {
                self.hand_out(workers, walk, pace).await?;
            }
            self.accept(workers, walk, pace, job, brought).await?;
            self.keep_to_what_was_due()?;
            self.hand_out(workers, walk, pace).await?;
        }
        Ok(if self.stop.is_cancelled() { Ended::Stopped } else { Ended::Complete })
    }

    /// Gives every idle worker a window.
    async fn hand_out(
        &mut self,
        workers: &mut Workers,
        walk: &mut sql::Walk,
        pace: &mut Pace,
    ) -> Result<(), RunError> {
        let Prepared { store, target, bounds, .. } = &self.prepared;
        while workers.has_room() && !self.stop.is_cancelled() {
            if let Some(job) = workers.again.pop() {
                workers.begin(job);
                continue;
            }
            // Rows that are being taken would be found again.
            if walk.looks_anew() && !workers.jobs.is_empty() {
                break;
            }
            self.runner.clock.look()?;
            let Some(window) = store.next_window(target, *bounds, walk, pace).await? else { break };
            walk.pass(&window);
            workers.begin(Job { window, failures: 0 });
        }
        Ok(())
    }

    /// Sees what a worker brings through, or has its window taken again.
    async fn accept(
        &mut self,
        workers: &mut Workers,
        walk: &mut sql::Walk,
        pace: &mut Pace,
        job: Job,
        Brought { taken, watch }: Brought,
    ) -> Result<(), RunError> {
        let batch = match taken {
            Ok(batch) => batch,
            Err(error) if error.is_transient() && !self.stop.is_cancelled() => {
                return self.take_later(workers, pace, job, error);
            }
            Err(error) => return Err(error.into()),
        };
        let records = batch.keys.len() as u64;
        match self.see_through(batch, None).await {
            Err(RunError::Ledger(LedgerError::HoldsChanged)) => {
                workers.again.push(job);
                return self.take_at_gate_again(workers, walk, pace).await;
            }
            seen => seen?,
        }
        walk.note(records);
        pace.note(watch.elapsed(), records);
        Ok(())
    }

    /// Somebody else held a lock: smaller windows are tried, and others come first.
    fn take_later(
        &self,
        workers: &mut Workers,
        pace: &mut Pace,
        Job { window, failures }: Job,
        error: StoreError,
    ) -> Result<(), RunError> {
        let failures = failures + 1;
        if failures >= MOST_ATTEMPTS {
            return Err(error.into());
        }
        tracing::debug!(rule = %self.rule.name, %error, failures, "trying a batch again");
        pace.back_off();
        let jobs = window.halves().into_iter().map(|window| Job { window, failures });
        workers.again.splice(0..0, jobs);
        Ok(())
    }

    /// A hold was placed. What others have taken by now does not heed it either: all of it is undone, and one
    /// window is taken while no other hold can be placed, so that however fast they come the run goes on.
    async fn take_at_gate_again(
        &mut self,
        workers: &mut Workers,
        walk: &mut sql::Walk,
        pace: &mut Pace,
    ) -> Result<(), RunError> {
        let jobs = workers.recall().await;
        let gate = self.gate().await?;
        // They are told of it, too.
        *workers = self.workers(jobs);
        let Some(Job { window, failures }) = workers.again.pop() else { return Ok(()) };
        let watch = Stopwatch::start();
        let mut next = Next::In(window.clone());
        let taken = tokio::time::timeout(GATE_WITHIN, self.take(&mut next, pace)).await;
        let Ok(taken) = taken else {
            // Others wait meanwhile: rather a smaller window than a long wait.
            pace.back_off();
            let jobs = window.halves().into_iter().map(|window| Job { window, failures });
            workers.again.extend(jobs);
            return Ok(());
        };
        let Some(Taking { batch, .. }) = taken? else { return Ok(()) };
        let records = batch.keys.len() as u64;
        self.see_through(batch, Some(gate)).await?;
        walk.note(records);
        pace.note(watch.elapsed(), records);
        Ok(())
    }

    /// Intends and commits a batch. Its outcome follows.
    async fn see_through(&mut self, batch: Batch, gate: Option<Gate>) -> Result<(), RunError> {
        if batch.keys.is_empty() {
            return Ok(batch.rollback().await?);
        }
        match self.begin(Taking::alone(batch), gate).await? {
            (begun, Ok(effect)) => {
                self.let_wait(begun, effect);
                self.leave_unsettled(MOST_UNSETTLED).await
            }
            (begun, failed) => self.end(begun, failed).await.map(drop),
        }
    }
}
