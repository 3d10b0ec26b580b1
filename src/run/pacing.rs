//! How a run paces itself: it rests between two batches, waits for a replica that lags behind, passes over what others hold
//! locked, and ends when its maintenance window does.
//!
//! Nothing here waits while a transaction is open, or while holds cannot be placed. What is decided is decided by the
//! [`Throttle`].

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::execution::Execution;
use super::{Errand, Runner};
use crate::clock::{self, Stopwatch};
use crate::pace::{Measured, Pace, ReplicaNews, Throttle};
use crate::rule::Rule;
use crate::store::{Store, StoreError};

/// How often a replica is asked how far it lags behind.
const LOOK_AT_REPLICA: Duration = Duration::from_secs(1);
/// How long it may take to answer.
const REPLICA_WITHIN: Duration = Duration::from_secs(5);
/// So often a run that rests looks whether it is to end.
const LOOK_UP: Duration = Duration::from_secs(1);
/// How long others are given to let go of what was passed over, before another walk.
const LET_GO: Duration = Duration::from_secs(1);
/// So many windows in a row may be passed over: after that it is the table that is locked, not some of its rows.
const MOST_IN_A_ROW: u32 = 10;
/// So many windows may be passed over in one walk.
const MOST_PASSED: u32 = 1_000;

/// What paces a run.
pub(super) struct Pacer {
    pub(super) throttle: Throttle,
    since: Stopwatch,
    following: Option<Following>,
    /// The batch that is under way.
    batch: Batch,
    /// Windows that were passed over in this walk.
    passed: u32,
    in_a_row: u32,
}

/// How a batch goes.
#[derive(Clone, Copy)]
struct Batch {
    begun: Stopwatch,
    /// What it was begun at.
    pace: Pace,
    /// How long it took to take.
    taken: Duration,
    /// How long it held its locks.
    held: Option<Duration>,
    commit: Option<Duration>,
}

impl Batch {
    fn begin(pace: Pace) -> Batch {
        Batch { begun: Stopwatch::start(), pace, taken: Duration::ZERO, held: None, commit: None }
    }
}

/// Looks at a replica every now and then, for as long as this is kept.
struct Following {
    lag: watch::Receiver<Option<Duration>>,
    _until: DropGuard,
}

impl Pacer {
    /// For a run of a rule. What events name waits for no replica, and neither does a replay, after which those of the store
    /// follow something else.
    pub(super) fn new(runner: &Runner, rule: &Rule, errand: &Errand<'_>) -> Pacer {
        let waits = !matches!(errand, Errand::Events | Errand::Replay(_));
        let config = runner.stores.configuration(&rule.store).ok();
        let tables = config.and_then(|config| config.tables());
        let tables = tables.filter(|tables| waits && tables.replica_url.is_some());
        let replica = tables.and_then(|_| runner.stores.replica(&rule.store).ok().flatten());
        Pacer {
            throttle: Throttle::new(rule.pacing, tables.map(|tables| tables.max_replica_lag)),
            since: Stopwatch::start(),
            following: replica.map(|replica| Following::start(rule, replica)),
            batch: Batch::begin(Pace::of(rule.pacing, false)),
            passed: 0,
            in_a_row: 0,
        }
    }

    /// A new walk begins.
    pub(super) fn set_out(&mut self, steps_are_pages: bool) {
        self.throttle.set_out(steps_are_pages);
        self.passed = 0;
        self.in_a_row = 0;
    }

    /// A batch is about to be taken.
    pub(super) fn begin(&mut self) {
        self.batch = Batch::begin(self.throttle.pace);
    }

    /// It is taken.
    pub(super) fn taken(&mut self) {
        self.batch.taken = self.batch.begun.elapsed();
    }

    /// Turns to a batch that was begun then, at this pace, and took so long to take.
    pub(super) fn turn_to(&mut self, begun: Stopwatch, pace: Pace, taken: Duration) {
        self.batch = Batch { begun, pace, taken, held: None, commit: None };
    }

    /// It is committed, which took so long.
    pub(super) fn committed(&mut self, commit: Duration) {
        self.batch.held = Some(self.batch.begun.elapsed());
        self.batch.commit = Some(commit);
    }

    /// It is over.
    pub(super) fn note(&mut self, rows: u64) {
        let Batch { begun, pace, taken, held, commit } = self.batch;
        let measured = Measured {
            at: self.since.elapsed(),
            took: begun.elapsed(),
            held: held.unwrap_or(taken),
            worked: taken + commit.unwrap_or_default(),
            commit,
            rows,
            pace,
        };
        self.throttle.note(measured);
        self.in_a_row = 0;
    }

    /// How long the rest may be that is due before the next batch: nobody knows when a replica has caught up.
    pub(super) fn longest_rest(&self) -> Duration {
        if self.following.is_some() { Duration::MAX } else { self.throttle.pause() }
    }

    /// Whether a rest is due before the next batch.
    pub(super) fn is_to_rest(&self) -> bool {
        self.following.is_some() || !self.throttle.pause().is_zero()
    }

    /// Whether the last walk left anything that others held.
    pub(super) fn has_passed(&self) -> bool {
        self.passed > 0
    }
}

impl Following {
    fn start(rule: &Rule, replica: Store) -> Following {
        let (sender, lag) = watch::channel(None);
        let until = CancellationToken::new();
        let task = until.clone().run_until_cancelled_owned(follow(rule.clone(), replica, sender));
        tokio::spawn(task);
        Following { lag, _until: until.drop_guard() }
    }
}

/// Asks a replica again and again. One that does not answer, or does not follow, is not waited for: that is said once.
async fn follow(rule: Rule, replica: Store, lag: watch::Sender<Option<Duration>>) {
    let mut was_known = true;
    loop {
        let asked = timeout(REPLICA_WITHIN, replica.lag()).await;
        let known = match asked {
            Ok(Ok(known)) => known,
            Ok(Err(error)) => {
                if was_known {
                    tracing::warn!(rule = %rule.name, %error, "how far the replica lags behind is not known, and it is not waited for");
                }
                None
            }
            Err(_) => None,
        };
        if known.is_none() && was_known {
            tracing::info!(rule = %rule.name, "the replica tells no lag, so it is not waited for");
        }
        was_known = known.is_some();
        if lag.send(known).is_err() {
            return;
        }
        sleep(LOOK_AT_REPLICA).await;
    }
}

impl Execution<'_> {
    /// Whether it is to end between two batches: because it was asked to stop, or its window closed.
    pub(super) fn is_to_end(&self) -> bool {
        self.stop.is_cancelled() || self.is_closed()
    }

    fn is_closed(&self) -> bool {
        let heeds_windows = self.runner.heeds_windows && !self.replays;
        heeds_windows && !self.rule.is_open(clock::now())
    }

    /// How many records are left because others held them, where there are any.
    pub(super) fn in_use(&self, remaining: Option<u64>) -> Option<u64> {
        remaining.filter(|due| *due > 0 && self.pacer.has_passed())
    }

    /// Why it ends between two batches.
    pub(super) fn why_stopped(&self) -> &'static str {
        if self.stop.is_cancelled() || !self.is_closed() {
            "it was asked to stop"
        } else {
            tracing::info!(rule = %self.rule.name, "its window closed: it goes on in the next");
            "its window closed"
        }
    }

    /// Rests after a batch, as long as its pace asks for, and while the replica lags behind.
    pub(super) async fn rest(&mut self) {
        let pause = self.pacer.throttle.pause();
        self.pause(pause).await;
        while self.waits_for_replica() && !self.is_to_end() {
            self.pause(LOOK_AT_REPLICA).await;
        }
    }

    /// Gives others time to let go of what was passed over.
    pub(super) async fn let_others_finish(&mut self) {
        if self.pacer.has_passed() {
            self.pause(LET_GO).await;
        }
    }

    /// Does nothing for a while, or until it is to end.
    async fn pause(&mut self, time: Duration) {
        let watch = Stopwatch::start();
        loop {
            let left = time.saturating_sub(watch.elapsed());
            if left.is_zero() || self.is_to_end() {
                return;
            }
            tokio::select! {
                () = sleep(left.min(LOOK_UP)) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    fn waits_for_replica(&mut self) -> bool {
        let Pacer { throttle, following, .. } = &mut self.pacer;
        let Some(Following { lag, .. }) = following else { return false };
        let lag = match lag.has_changed() {
            Ok(false) => return throttle.waits_for_replica(),
            Ok(true) => *lag.borrow_and_update(),
            // Nobody looks any more.
            Err(_) => None,
        };
        let (rule, store) = (&self.rule.name, &self.rule.store);
        let seconds = lag.map(|lag| lag.as_secs());
        match throttle.note_lag(lag) {
            Some(ReplicaNews::FellBehind) => {
                tracing::warn!(%rule, %store, seconds, "the replica lags behind: waiting until it has caught up");
            }
            Some(ReplicaNews::CaughtUp) => {
                tracing::info!(%rule, %store, seconds, "the replica is no longer waited for");
            }
            None => {}
        }
        throttle.waits_for_replica()
    }

    /// Leaves a window to another walk, because others hold what is due there. Says whether that can be done: where nothing
    /// can be had at all, or far too often, the run is rather to end. `leave` moves the walk on.
    pub(super) fn pass_over(&mut self, error: &StoreError, leave: impl FnOnce() -> bool) -> bool {
        let pacer = &mut self.pacer;
        if !error.is_transient()
            || self.stop.is_cancelled()
            || pacer.in_a_row >= MOST_IN_A_ROW
            || pacer.passed >= MOST_PASSED
            || !leave()
        {
            return false;
        }
        pacer.passed += 1;
        pacer.in_a_row += 1;
        tracing::debug!(rule = %self.rule.name, %error, passed = pacer.passed, "passing over what others hold");
        true
    }
}

/// Records that others held whenever it was their turn.
pub(super) fn in_use(left: u64) -> String {
    format!(
        "{left} due records are left, because others held locks on them or beside them each time; the next run takes them"
    )
}
