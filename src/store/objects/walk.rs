//! A walk through what is due: a task lists ahead while the caller deletes.
//!
//! A server that keeps objects as files may fail at a listing because something that it lists is deleted
//! meanwhile. Where one does, both take turns for a while: each failure would cost a listing, and a wait.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc::{self, error::TryRecvError};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::super::search::{Search, Verdict};
use super::listing::Reading;
use super::{Entry, Objects, ObjectsError};

/// So many answers are listed ahead: enough for a batch that keeps eight requests busy, and no more
/// however many objects there are.
const AHEAD: usize = 8;
/// So many answers after one at which the server failed are listed while nothing is deleted.
const BY_TURNS: usize = 100;

/// A walk through what is due. Dropped, it stops listing.
pub struct ObjectWalk {
    pages: mpsc::Receiver<Vec<Entry>>,
    ready: VecDeque<Entry>,
    turn: watch::Sender<Turn>,
    /// Ends with the walk.
    listing: JoinSet<Result<(), ObjectsError>>,
    /// What came of it: who asks again is told again.
    failure: Option<ObjectsError>,
}

/// Whose turn it is.
#[derive(Clone, Copy, Default)]
struct Turn {
    /// Whether the caller waits for entries, and so deletes none.
    is_awaited: bool,
    /// Whether nothing is listed unless it does.
    by_turns: bool,
}

impl ObjectWalk {
    pub(super) fn new(objects: Objects, search: Arc<Search>) -> ObjectWalk {
        let (sender, pages) = mpsc::channel(AHEAD);
        let turn = watch::Sender::new(Turn::default());
        let mut listing = JoinSet::new();
        let taken = turn.clone();
        listing.spawn(async move { list(&objects, &search, &sender, &taken).await });
        ObjectWalk { pages, ready: VecDeque::new(), turn, listing, failure: None }
    }

    /// The next entries, at most so many; none at the end. What is listed already is not kept waiting for more:
    /// to delete it while the next answer is on its way takes less time than to do one after the other. The
    /// entries of a path come together, its markers last: whoever deletes batch by batch, in order, deletes in
    /// the order in which they must go.
    ///
    /// # Errors
    /// When the store cannot be listed, and each time after: what was not listed is not known.
    pub async fn next(&mut self, most: usize) -> Result<Option<Vec<Entry>>, ObjectsError> {
        while self.ready.len() < most.max(1) {
            let page = match self.pages.try_recv() {
                Ok(page) => Some(page),
                Err(TryRecvError::Disconnected) => None,
                Err(TryRecvError::Empty)
                    if !self.ready.is_empty() && !self.turn.borrow().by_turns =>
                {
                    break;
                }
                Err(TryRecvError::Empty) => {
                    self.turn.send_modify(|turn| turn.is_awaited = true);
                    self.pages.recv().await
                }
            };
            let Some(page) = page else {
                self.listed().await;
                break;
            };
            self.ready.extend(page);
        }
        let entries: Vec<Entry> = self.ready.drain(..most.max(1).min(self.ready.len())).collect();
        match &self.failure {
            Some(failure) if entries.is_empty() => Err(failure.clone()),
            _ => Ok(Some(entries).filter(|entries| !entries.is_empty())),
        }
    }

    /// Finds out why nothing more comes.
    async fn listed(&mut self) {
        match self.listing.join_next().await {
            Some(Ok(ending)) => self.failure = ending.err(),
            // What panicked there goes on here.
            Some(Err(died)) => std::panic::resume_unwind(died.into_panic()),
            None => {}
        }
    }
}

async fn list(
    objects: &Objects,
    search: &Arc<Search>,
    pages: &mpsc::Sender<Vec<Entry>>,
    turn: &watch::Sender<Turn>,
) -> Result<(), ObjectsError> {
    let mut reading = Reading::new(objects, search, None).await?;
    let mut awaited = turn.subscribe();
    let mut by_turns = 0;
    loop {
        if by_turns > 0 {
            let is_awaited = awaited.wait_for(|turn| turn.is_awaited);
            // Its sender is here.
            is_awaited.await.ok();
        }
        let Some(judged) = reading.next().await? else { return Ok(()) };
        by_turns = if reading.had_failed { BY_TURNS } else { by_turns.saturating_sub(1) };
        let due = judged.into_iter().filter_map(|(item, verdict)| match verdict {
            Verdict::Due(start) => Some(objects.entry(item, start)),
            _ => None,
        });
        let due: Vec<Entry> = due.collect();
        // Before it is sent: then the caller may have no need for more, and delete.
        turn.send_modify(|turn| {
            *turn = Turn { is_awaited: turn.is_awaited && due.is_empty(), by_turns: by_turns > 0 };
        });
        if !due.is_empty() && pages.send(due).await.is_err() {
            return Ok(());
        }
    }
}
