//! Batches that took effect and have no outcome yet.
//!
//! An outcome need not be on the way of what comes next. It waits a moment for others, and one sync of what
//! was unlinked and one durable write serve all of them, in a task of their own: right after something took
//! effect, when the next is likely to be furthest away, or when nothing comes. Until its outcome is written a
//! batch is open, and whoever finds it so asks the store; no event is forgotten before.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::sleep;
use uuid::Uuid;

use super::events::Waiting;
use super::execution::Execution;
use super::sources::News;
use super::{Progress, RunError};
use crate::clock::{self, Stopwatch};
use crate::fault;
use crate::ledger::{Intended, Ledger, LedgerError, OpenBatch, Outcome, Run, Settlement};
use crate::pace::Tempo;
use crate::plan::DependentRows;
use crate::store::{Committed, Effected, Left, StoreError, make_last};
use crate::transition::MOST_OPEN;

/// How long what took effect waits for more.
const LINGER: Duration = Duration::from_millis(25);
/// How long it waits while more keeps coming.
const AT_MOST: Duration = Duration::from_millis(100);
/// When less than that is left to wait, it is rather done at once than in the way of what comes next.
const SOON: Duration = Duration::from_millis(20);
/// So many batches are settled at once; each may hold some folders open.
const TOGETHER: usize = MOST_OPEN / 4;
/// So many records are worth a sync of their own.
const MANY: usize = 256;
/// The same where as little as possible is to be felt of a run: its batches are small, and each write keeps the disk from
/// others.
const MANY_AT_EASE: usize = 2_000;

/// The events that are worked off with a batch.
type Events = Arc<Vec<Waiting>>;

/// A batch that is intended.
pub(super) struct Begun {
    pub(super) id: Uuid,
    pub(super) intended: Intended,
    pub(super) transaction_id: Option<String>,
    pub(super) events: Events,
}

/// A batch whose outcome is known.
pub(super) struct Known {
    id: Uuid,
    taken: Intended,
    outcome: Outcome,
    left: Left,
    events: Events,
    /// Those of the events that wait in the ledger.
    received: Vec<String>,
    at: Timestamp,
}

impl Known {
    /// Of a batch that its store has carried out.
    fn of(begun: Begun, Committed { gone, left }: Committed) -> Known {
        let Begun { id, intended, events, .. } = begun;
        let taken = match gone {
            Some(gone) => intended.only(&gone),
            None => intended,
        };
        let outcome = if taken.keys.is_empty() && taken.attached.is_empty() {
            Outcome::Undone("the store kept all of it")
        } else {
            Outcome::Done
        };
        let received = events.iter().filter_map(Waiting::received).map(str::to_owned).collect();
        Known { id, taken, outcome, left, events, received, at: clock::now() }
    }

    fn settlement(&self) -> Settlement<'_> {
        Settlement {
            batch: self.id,
            taken: &self.taken,
            outcome: self.outcome,
            events: &self.received,
            at: self.at,
        }
    }
}

/// What came of settling some batches.
pub(super) enum Settled {
    /// Their outcomes are written.
    Written(Vec<Known>),
    /// What became of them in their store is not known.
    Unknown(Vec<Begun>, StoreError),
    /// Their outcomes could not be written.
    Unwritten(LedgerError),
}

/// Has what took effect last, and writes the outcomes.
async fn settle(ledger: Ledger, run: Run, batches: Vec<(Begun, Effected)>) -> Settled {
    let (begun, effects): (Vec<_>, Vec<_>) = batches.into_iter().unzip();
    let committed = match make_last(effects).await {
        Ok(committed) => committed,
        Err(error) => return Settled::Unknown(begun, error),
    };
    let known = begun.into_iter().zip(committed);
    let known: Vec<_> = known.map(|(begun, committed)| Known::of(begun, committed)).collect();
    let settlements: Vec<_> = known.iter().map(Known::settlement).collect();
    match ledger.settle_all(&run, &settlements).await {
        Ok(()) => {
            fault::point("batch.settled");
            Settled::Written(known)
        }
        Err(error) => Settled::Unwritten(error),
    }
}

/// The batches of a run that took effect and have no outcome yet.
pub(super) struct Underway {
    in_effect: Vec<(Begun, Effected)>,
    /// Whether as little as possible is to be felt of the run.
    is_at_ease: bool,
    /// Since when the first and the last of them are.
    since: Option<(Stopwatch, Stopwatch)>,
    /// Those that are being settled, by their events.
    settling: Option<(Vec<Events>, JoinHandle<Settled>)>,
    /// How the rows are reached, while it is written down.
    noting: Option<JoinHandle<Result<(), LedgerError>>>,
    /// What the run ends with once all outcomes are written.
    failed: Option<StoreError>,
}

/// What is to be done about them.
pub(super) enum Turn {
    /// They have waited enough.
    Settle,
    /// This came of it.
    Settled(Settled),
}

impl Underway {
    pub(super) fn of(tempo: Tempo) -> Underway {
        Underway {
            in_effect: Vec::new(),
            is_at_ease: tempo == Tempo::Gentle,
            since: None,
            settling: None,
            noting: None,
            failed: None,
        }
    }

    fn open(&self) -> usize {
        self.in_effect.len() + self.settling.as_ref().map_or(0, |(batches, _)| batches.len())
    }

    fn events(&self) -> impl Iterator<Item = &Waiting> {
        let in_effect = self.in_effect.iter().map(|(begun, _)| &begun.events);
        let settling = self.settling.iter().flat_map(|(events, _)| events);
        in_effect.chain(settling).flat_map(|events| events.iter())
    }

    /// Whether a row that tells of an event was worked off with one of them.
    pub(super) fn has_news(&self, news: &News) -> bool {
        let mut known = self.events().filter_map(Waiting::news);
        known.any(|known| known.source == news.source && known.row == news.row)
    }

    /// The received events that were worked off with one of them.
    pub(super) fn received(&self) -> impl Iterator<Item = &str> {
        self.events().filter_map(Waiting::received)
    }

    /// How long those that are in effect still wait for more.
    fn patience(&self) -> Duration {
        let records: usize = self.in_effect.iter().map(|(one, _)| one.intended.keys.len()).sum();
        let many = if self.is_at_ease { MANY_AT_EASE } else { MANY };
        match self.since {
            Some((first, last)) if self.in_effect.len() < TOGETHER && records < many => {
                let linger = LINGER.saturating_sub(last.elapsed());
                linger.min(AT_MOST.saturating_sub(first.elapsed()))
            }
            _ => Duration::ZERO,
        }
    }

    /// Waits until something is to be done. Nothing is lost where it is not waited for to the end.
    pub(super) async fn turn(&mut self) -> Turn {
        if let Some((_, task)) = &mut self.settling {
            return Turn::Settled(ended(task).await);
        }
        if self.in_effect.is_empty() {
            return pending().await;
        }
        sleep(self.patience()).await;
        Turn::Settle
    }
}

/// What panicked there goes on here.
pub(super) async fn ended<T>(task: &mut (impl Future<Output = Result<T, JoinError>> + Unpin)) -> T {
    match task.await {
        Ok(ended) => ended,
        Err(died) => std::panic::resume_unwind(died.into_panic()),
    }
}

impl Execution<'_> {
    /// Writes down how the rows are reached while the first of them are taken: nothing rests on it.
    pub(super) async fn write_meanwhile(&mut self, access: String) -> Result<(), RunError> {
        self.finish_noting().await?;
        let (ledger, run) = (self.runner.ledger.clone(), self.run.clone());
        let noting = async move { ledger.note_access(&run, &access).await };
        self.underway.noting = Some(tokio::spawn(noting));
        Ok(())
    }

    async fn finish_noting(&mut self) -> Result<(), RunError> {
        let Some(mut noting) = self.underway.noting.take() else { return Ok(()) };
        Ok(ended(&mut noting).await?)
    }

    /// Has a batch that took effect wait for its outcome.
    pub(super) fn let_wait(&mut self, begun: Begun, effect: Effected) {
        let underway = &mut self.underway;
        underway.in_effect.push((begun, effect));
        let now = Stopwatch::start();
        underway.since = Some((underway.since.map_or(now, |(first, _)| first), now));
        if underway.patience().is_zero() {
            self.begin_to_settle();
        }
    }

    /// Settles what took effect, unless other batches are just being settled.
    pub(super) fn begin_to_settle(&mut self) {
        let underway = &mut self.underway;
        if underway.settling.is_some() || underway.in_effect.is_empty() {
            return;
        }
        underway.since = None;
        let batches = std::mem::take(&mut underway.in_effect);
        let events = batches.iter().map(|(begun, _)| begun.events.clone()).collect();
        let task = settle(self.runner.ledger.clone(), self.run.clone(), batches);
        underway.settling = Some((events, tokio::spawn(task)));
    }

    /// Makes room for one more batch.
    pub(super) async fn make_room(&mut self) -> Result<(), RunError> {
        if self.underway.open() >= MOST_OPEN { self.flush().await } else { Ok(()) }
    }

    /// Right after something took effect: does what would soon be in the way of what comes next.
    pub(super) fn use_the_moment(&mut self) {
        let since = self.underway.since;
        if since.is_some_and(|(first, _)| first.elapsed() + SOON >= AT_MOST) {
            self.begin_to_settle();
        }
    }

    /// Has the last batch that took effect settled while the next is taken; the one before is by then.
    pub(super) async fn keep_one(
        &mut self,
        begun: Begun,
        effect: Effected,
    ) -> Result<(), RunError> {
        let before = self.finish_settling().await;
        self.let_wait(begun, effect);
        self.begin_to_settle();
        before
    }

    /// Does what it is time for.
    pub(super) async fn take_turn(&mut self, turn: Turn) -> Result<(), RunError> {
        match turn {
            Turn::Settle => {
                self.begin_to_settle();
                Ok(())
            }
            Turn::Settled(settled) => self.note(settled).await,
        }
    }

    /// Before a rest: whoever places a hold waits for outcomes, so that they are written while it rests; of a short one they
    /// may see the end.
    pub(super) async fn settle_before(&mut self, rest: Duration) -> Result<(), RunError> {
        if rest >= self.underway.patience() {
            self.finish_settling().await?;
            self.begin_to_settle();
        }
        Ok(())
    }

    /// Waits until at most one batch has no outcome yet, because each is kept in memory; or a few that are small.
    pub(super) async fn leave_few_unsettled(&mut self) -> Result<(), RunError> {
        let most = if self.underway.is_at_ease { TOGETHER } else { 1 };
        while self.underway.open() > most {
            self.finish_settling().await?;
            self.begin_to_settle();
        }
        Ok(())
    }

    /// Waits for those that are being settled.
    async fn finish_settling(&mut self) -> Result<(), RunError> {
        let Some((_, task)) = &mut self.underway.settling else { return Ok(()) };
        let settled = ended(task).await;
        self.note(settled).await
    }

    /// Has all that took effect last, and its outcomes written.
    pub(super) async fn flush(&mut self) -> Result<(), RunError> {
        self.finish_settling().await?;
        self.begin_to_settle();
        self.finish_settling().await?;
        self.finish_noting().await?;
        self.underway.failed.take().map_or(Ok(()), |error| Err(error.into()))
    }

    /// Takes note of what came of settling.
    async fn note(&mut self, settled: Settled) -> Result<(), RunError> {
        self.underway.settling = None;
        match settled {
            Settled::Written(known) => {
                for one in known {
                    self.count(&one);
                }
                Ok(())
            }
            Settled::Unwritten(error) => Err(error.into()),
            Settled::Unknown(begun, error) => {
                let mut all_done = true;
                for begun in begun {
                    all_done &= self.find_out(begun, &error).await?.1;
                }
                if !all_done {
                    self.underway.failed.get_or_insert(error);
                }
                Ok(())
            }
        }
    }

    /// Sees a batch to its end at once. Gives how many records it took.
    pub(super) async fn end(
        &mut self,
        begun: Begun,
        effect: Result<Effected, StoreError>,
    ) -> Result<u64, RunError> {
        let settled = match effect {
            Ok(effect) => {
                let (ledger, run) = (self.runner.ledger.clone(), self.run.clone());
                settle(ledger, run, vec![(begun, effect)]).await
            }
            Err(error) => Settled::Unknown(vec![begun], error),
        };
        let mut taken = 0;
        match settled {
            Settled::Written(known) => {
                for one in known {
                    taken += one.taken.keys.len() as u64;
                    self.count(&one);
                }
            }
            Settled::Unwritten(error) => return Err(error.into()),
            Settled::Unknown(begun, error) => {
                for begun in begun {
                    let (records, is_done) = self.find_out(begun, &error).await?;
                    if !is_done {
                        return Err(error.into());
                    }
                    taken += records;
                }
            }
        }
        Ok(taken)
    }

    /// Asks the store what became of a batch of which the answer got lost, or whose commit failed, and
    /// writes it down. Gives how many records it took, and whether that is all of it.
    pub(super) async fn find_out(
        &mut self,
        begun: Begun,
        error: &StoreError,
    ) -> Result<(u64, bool), RunError> {
        tracing::warn!(rule = %self.rule.name, %error, "asking what became of a batch");
        let Begun { id, intended, transaction_id, .. } = begun;
        let all = intended.keys.len();
        let open = OpenBatch { id, key: self.run.key.clone(), intended, transaction_id };
        let resolved = self.runner.resolve(self.rule, &self.run, open).await;
        let (outcome, taken) =
            resolved.map_err(|_| RunError::Unresolved { rule: self.rule.name.clone() })?;
        // What belonged to the records may be gone, and they are not: that is no success.
        let is_done = outcome == Outcome::Done && taken.keys.len() == all;
        // Its events are found again, and name nothing then, or what is left.
        let (events, received) = (Events::default(), Vec::new());
        let (left, at) = (Left::default(), clock::now());
        let known = Known { id, taken, outcome, left, events, received, at };
        self.runner.ledger.settle_all(&self.run, &[known.settlement()]).await?;
        fault::point("batch.settled");
        let records = known.taken.keys.len() as u64;
        if is_done {
            self.count(&known);
        }
        Ok((records, is_done))
    }

    /// Counts a batch whose outcome is written.
    fn count(&mut self, known: &Known) {
        let news = known.events.iter().filter_map(Waiting::news);
        self.runner.sources.worked_off(&self.rule.name, news);
        let taken = known.taken.keys.len() as u64;
        self.lives_on.add(known.left);
        self.taken.extend(&known.taken.keys, known.taken.by_event.then_some(known.at));
        self.records += taken;
        DependentRows::add(&mut self.dependents, &known.taken.dependents);
        if taken == 0 {
            self.attachments += known.taken.attached.len() as u64;
        }
        self.batches += 1;
        tracing::debug!(rule = %self.rule.name, batch = self.batches, records = taken, "a batch is done");
        (self.report)(Progress { records: self.records, due: self.prepared.due });
    }
}
