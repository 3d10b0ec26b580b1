//! Intents and outcomes of runs that write at the same moment, by one durable write.
//!
//! SQLite has one writer at a time, and each waits for the disk: whatever comes meanwhile is written
//! together, each run's part for itself, so that one which must not be written keeps none from theirs.
//! PostgreSQL does so by itself. An intent that comes while nobody writes is a single statement, because
//! what an event names waits for it.

use std::mem::take;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sqlx::Executor;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::error::Doing;
use super::intent::{Intent, insert_alone, insert_intent};
use super::place::Place;
use super::runs::{Prepared, Run};
use super::steps::standing;
use super::{Ledger, LedgerError, Transaction, commit, holds};

const WRITING: &str = "writing together";

/// What one run writes: outcomes of earlier batches, and then the intent of the next.
pub(super) struct Writing {
    pub(super) run: Run,
    pub(super) settled: Vec<Prepared>,
    pub(super) intent: Option<Intent>,
}

struct Waiting {
    writing: Writing,
    told: oneshot::Sender<Result<(), LedgerError>>,
}

/// What waits to be written.
#[derive(Default)]
pub(super) struct Queue(Mutex<Line>);

#[derive(Default)]
struct Line {
    waiting: Vec<Waiting>,
    /// Whether somebody writes what waits.
    is_led: bool,
}

impl Queue {
    /// Whether nobody writes, and whoever asked is to.
    fn is_to_lead(&self) -> bool {
        !std::mem::replace(&mut self.lock().is_led, true)
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes what waits. Dropped before its end, nobody waits in vain.
struct Leader<'a>(&'a Queue);

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        let mut line = self.0.lock();
        line.is_led = false;
        line.waiting.clear();
    }
}

/// Writes for itself alone. However it ends, somebody writes for those who came meanwhile.
struct Lone<'a>(&'a Ledger);

impl Drop for Lone<'_> {
    fn drop(&mut self) {
        let mut line = self.0.queue.lock();
        match Handle::try_current() {
            Ok(runtime) if !line.waiting.is_empty() => {
                let ledger = self.0.clone();
                runtime.spawn(async move { ledger.lead().await });
            }
            // Without a runtime there is nobody who could wait.
            _ => line.is_led = false,
        }
    }
}

impl Ledger {
    /// Writes all of it, durably, or nothing.
    pub(super) async fn write(&self, writing: Writing) -> Result<(), LedgerError> {
        if !matches!(*self.place, Place::Sqlite { .. }) {
            let mut tx = self.begin().await?;
            self.write_in(&mut tx, &writing).await?;
            return commit(tx).await;
        }
        if let Writing { run, settled, intent: Some(intent) } = &writing
            && settled.is_empty()
            && self.queue.is_to_lead()
        {
            let _lone = Lone(self);
            let _turn = self.turn().await;
            if insert_alone(&self.pool, run, intent).await? {
                return Ok(());
            }
        }
        // Where it must not be written, this finds out why.
        let (told, answer) = oneshot::channel();
        self.queue.lock().waiting.push(Waiting { writing, told });
        if self.queue.is_to_lead() {
            // In a task of its own: whoever asked may be dropped, and others wait for theirs.
            let ledger = self.clone();
            tokio::spawn(async move { ledger.lead().await });
        }
        answer.await.unwrap_or(Err(LedgerError::Unwritten))
    }

    async fn lead(&self) {
        let leader = Leader(&self.queue);
        loop {
            {
                let mut line = self.queue.lock();
                if line.waiting.is_empty() {
                    line.is_led = false;
                    std::mem::forget(leader);
                    return;
                }
            }
            let begun = self.begin().await;
            // Also what came while others wrote.
            let waiting = take(&mut self.queue.lock().waiting);
            match begun {
                Ok(tx) => self.write_all(tx, waiting).await,
                Err(error) => tell(waiting.into_iter().map(|one| one.told), Err(error)),
            }
        }
    }

    async fn write_all(&self, mut tx: Transaction<'static>, waiting: Vec<Waiting>) {
        let is_one = waiting.len() == 1;
        let mut written = Vec::with_capacity(waiting.len());
        for Waiting { writing, told } in waiting {
            // Whoever does not wait any more does not carry out what it would announce.
            if told.is_closed() {
                continue;
            }
            match self.write_part(&mut tx, &writing, is_one).await {
                Ok(()) => written.push(told),
                Err(error) => {
                    told.send(Err(error)).ok();
                }
            }
        }
        if !written.is_empty() {
            let committed = commit(tx).await;
            tell(written.into_iter(), committed);
        }
    }

    async fn write_part(
        &self,
        tx: &mut Transaction<'_>,
        writing: &Writing,
        is_one: bool,
    ) -> Result<(), LedgerError> {
        if is_one {
            return self.write_in(tx, writing).await;
        }
        (&mut **tx).execute("SAVEPOINT part").await.doing(WRITING)?;
        let written = self.write_in(tx, writing).await;
        let end = match written {
            Ok(()) => "RELEASE part",
            Err(_) => "ROLLBACK TO part; RELEASE part",
        };
        (&mut **tx).execute(end).await.doing(WRITING)?;
        written
    }

    async fn write_in(
        &self,
        tx: &mut Transaction<'_>,
        Writing { run, settled, intent }: &Writing,
    ) -> Result<(), LedgerError> {
        // On SQLite the transaction is the one writer, so the epoch is read with the rest.
        let is_shared = tx.backend_name() == "PostgreSQL";
        if let Some(intent) = intent
            && is_shared
            && holds::epoch(tx, holds::Lock::Share).await? != intent.epoch
        {
            return Err(LedgerError::HoldsChanged);
        }
        let mut at = standing(tx, run.id).await?;
        if let Some(intent) = intent
            && at.epoch != Some(intent.epoch)
        {
            return Err(LedgerError::HoldsChanged);
        }
        if !settled.is_empty() {
            let settled_here = self.settle_in(tx, run, &mut at, settled).await?;
            if settled_here < settled.len() {
                let batches = settled.len() - settled_here;
                tracing::error!(
                    rule = %run.rule, run = %run.id, batches,
                    "another process resolved batches that this one still carried out, as its lock was lost with its connection to the ledger: records that went since are not in the audit log"
                );
            }
        }
        match intent {
            Some(intent) => insert_intent(tx, run, at.state, intent).await,
            None => Ok(()),
        }
    }
}

/// Tells everybody; an error goes to the first, because there is one of it.
fn tell(
    waiting: impl Iterator<Item = oneshot::Sender<Result<(), LedgerError>>>,
    result: Result<(), LedgerError>,
) {
    let is_written = result.is_ok();
    let mut first = Some(result);
    for told in waiting {
        let rest = || if is_written { Ok(()) } else { Err(LedgerError::Unwritten) };
        told.send(first.take().unwrap_or_else(rest)).ok();
    }
}
