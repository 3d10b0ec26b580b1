//! A walk through what is due: a task lists ahead while the caller deletes.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::search::{Search, Verdict};
use super::listing::Reading;
use super::{Entry, Objects, ObjectsError};

/// So many answers are listed ahead: enough for a batch that keeps eight requests busy, and no more
/// however many objects there are.
const AHEAD: usize = 8;

/// A walk through what is due. Dropped, it stops listing.
pub struct ObjectWalk {
    pages: mpsc::Receiver<Result<Vec<Entry>, ObjectsError>>,
    ready: VecDeque<Entry>,
    /// Ends with the walk.
    _listing: JoinSet<()>,
}

impl ObjectWalk {
    pub(super) fn new(objects: Objects, search: Arc<Search>) -> ObjectWalk {
        let (sender, pages) = mpsc::channel(AHEAD);
        let mut listing = JoinSet::new();
        listing.spawn(async move {
            if let Err(error) = list(&objects, &search, &sender).await {
                // Nobody may be left to be told.
                let _ = sender.send(Err(error)).await;
            }
        });
        ObjectWalk { pages, ready: VecDeque::new(), _listing: listing }
    }

    /// The next entries, at most so many; none at the end. The entries of a path come together, its markers
    /// last: whoever deletes batch by batch, in order, deletes in the order in which they must go.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn next(&mut self, most: usize) -> Result<Option<Vec<Entry>>, ObjectsError> {
        while self.ready.len() < most.max(1) {
            match self.pages.recv().await {
                Some(page) => self.ready.extend(page?),
                None => break,
            }
        }
        let entries: Vec<Entry> = self.ready.drain(..most.max(1).min(self.ready.len())).collect();
        Ok(Some(entries).filter(|entries| !entries.is_empty()))
    }
}

async fn list(
    objects: &Objects,
    search: &Arc<Search>,
    pages: &mpsc::Sender<Result<Vec<Entry>, ObjectsError>>,
) -> Result<(), ObjectsError> {
    let mut reading = Reading::new(objects, search, None).await?;
    while let Some(judged) = reading.next().await? {
        let due = judged.into_iter().filter_map(|(item, verdict)| match verdict {
            Verdict::Due(start) => Some(objects.entry(item, start)),
            _ => None,
        });
        let due: Vec<Entry> = due.collect();
        if !due.is_empty() && pages.send(Ok(due)).await.is_err() {
            break;
        }
    }
    Ok(())
}
