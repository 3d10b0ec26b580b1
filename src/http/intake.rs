//! The intake: what many requests bring at the same time goes to the ledger in one transaction.
//!
//! A durable commit waits for the disk, and one for each event would have a burst wait thousands of
//! times. So one task gathers what has come while the last commit was under way, and answers everybody
//! when the next is durable.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use crate::clock::{self, Stopwatch};
use crate::event::Occurrence;
use crate::ledger::{Ledger, Received};
use crate::types::Name;

/// How long the ledger may take from when an event was handed in: less than its sender waits, so that
/// nobody's events are taken who was told that they were not.
const LEDGER_WITHIN: Duration = Duration::from_secs(7);
/// What it is given in any case.
const AT_LEAST: Duration = Duration::from_secs(1);
/// Events in one transaction, beyond which no further request is gathered.
const AT_ONCE: usize = 2_000;
/// Requests that wait to be gathered; further ones wait to wait.
const QUEUE: usize = 128;

/// Events, each with the rules that listen to it.
pub(super) type Heard = Vec<(Occurrence, Vec<Name>)>;

/// The ledger did not answer: whether the events were taken in is unknown.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotTaken;

struct Delivery {
    events: Heard,
    since: Stopwatch,
    answer: oneshot::Sender<Result<Received, NotTaken>>,
}

/// Takes events in.
pub(super) struct Intake(mpsc::Sender<Delivery>);

impl Intake {
    /// Starts the task, which ends when this is dropped.
    pub(super) fn start(ledger: Ledger, wake: Arc<Notify>) -> Intake {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(serve(ledger, wake, receiver));
        Intake(sender)
    }

    /// Returns when the events are durable.
    pub(super) async fn take(&self, events: Heard) -> Result<Received, NotTaken> {
        let (answer, answered) = oneshot::channel();
        let since = Stopwatch::start();
        self.0.send(Delivery { events, since, answer }).await.map_err(|_| NotTaken)?;
        answered.await.unwrap_or(Err(NotTaken))
    }
}

async fn serve(ledger: Ledger, wake: Arc<Notify>, mut deliveries: mpsc::Receiver<Delivery>) {
    while let Some(first) = deliveries.recv().await {
        let mut events = Vec::new();
        let mut answers = Vec::new();
        let waited = first.since.elapsed();
        let mut next = Some(first);
        while let Some(Delivery { events: more, answer, .. }) = next.take() {
            // Whoever does not wait any more has been told that nothing was taken.
            if !answer.is_closed() {
                answers.push((more.len(), answer));
                events.extend(more);
            }
            if events.len() < AT_ONCE {
                next = deliveries.try_recv().ok();
            }
        }
        if answers.is_empty() {
            continue;
        }
        let within = LEDGER_WITHIN.saturating_sub(waited).max(AT_LEAST);
        let is_new = match timeout(within, ledger.receive_each(&events, clock::now())).await {
            Ok(Ok(is_new)) => Some(is_new),
            Ok(Err(error)) => {
                tracing::error!(%error, "events could not be taken in");
                None
            }
            Err(_) => {
                tracing::error!("events could not be taken in: the ledger does not answer in time");
                None
            }
        };
        let requests = answers.len();
        let mut rest = is_new.as_deref();
        for (count, answer) in answers {
            let received = rest.map(|is_new| {
                let (mine, others) = is_new.split_at(count);
                rest = Some(others);
                let new = mine.iter().filter(|is_new| **is_new).count() as u64;
                Received { new, known: count as u64 - new }
            });
            answer.send(received.ok_or(NotTaken)).ok();
        }
        if let Some(is_new) = is_new {
            tracing::debug!(events = is_new.len(), requests, "events came in");
            if is_new.contains(&true) {
                wake.notify_one();
            }
        }
    }
}
