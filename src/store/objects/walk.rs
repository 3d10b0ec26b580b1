//! A walk through what is due: a task lists ahead while the caller deletes.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc::{self, error::TryRecvError};
use tokio::task::JoinSet;

use super::super::search::{Search, Verdict};
use super::listing::Reading;
use super::{Entry, Objects, ObjectsError};

/// So many answers are listed ahead: enough for a batch that keeps eight requests busy, and no more
/// however many objects there are.
const AHEAD: usize = 8;

/// A walk through what is due. Dropped, it stops listing.
pub struct ObjectWalk {
    pages: mpsc::Receiver<Vec<Entry>>,
    ready: VecDeque<Entry>,
    /// Ends with the walk.
    listing: JoinSet<Result<(), ObjectsError>>,
    /// What came of it: who asks again is told again.
    failure: Option<ObjectsError>,
}

impl ObjectWalk {
    pub(super) fn new(objects: Objects, search: Arc<Search>) -> ObjectWalk {
        let (sender, pages) = mpsc::channel(AHEAD);
        let mut listing = JoinSet::new();
        listing.spawn(async move { list(&objects, &search, &sender).await });
        ObjectWalk { pages, ready: VecDeque::new(), listing, failure: None }
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
            let page = if self.ready.is_empty() {
                self.pages.recv().await
            } else {
                match self.pages.try_recv() {
                    Ok(page) => Some(page),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => None,
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
) -> Result<(), ObjectsError> {
    let mut reading = Reading::new(objects, search, None).await?;
    while let Some(judged) = reading.next().await? {
        let due = judged.into_iter().filter_map(|(item, verdict)| match verdict {
            Verdict::Due(start) => Some(objects.entry(item, start)),
            _ => None,
        });
        let due: Vec<Entry> = due.collect();
        if !due.is_empty() && pages.send(due).await.is_err() {
            break;
        }
    }
    Ok(())
}
