//! A look through a tree that hands out what is due while it goes on.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::types::Name;

use super::super::search::Search;
use super::ordered::{Span, in_order};
use super::root::Root;
use super::scan::{Found, scan};
use super::{Entry, FilesError, StopOnDrop, Unread};

/// So many are handed from thread to thread at once.
pub(super) const HANDFUL: usize = 256;

/// So many handfuls wait to be fetched; then the look itself waits.
const WAITING: usize = 64;

/// Nobody waits longer for more when there are some.
const PATIENCE: Duration = Duration::from_millis(250);

/// A look through a tree that hands out due files. Dropped, it ends.
#[derive(Debug)]
pub struct FileWalk {
    store: Name,
    coming: mpsc::Receiver<Message>,
    fetched: Vec<Entry>,
    ending: Option<Result<Unread, FilesError>>,
    _stop: StopOnDrop,
}

#[derive(Debug)]
enum Message {
    Found(Vec<Entry>),
    Ended(Result<Unread, FilesError>),
}

/// What one thread has found and not yet handed over.
#[derive(Default)]
struct Hand {
    entries: Vec<Entry>,
}

impl Hand {
    fn add(&mut self, entry: Entry, to: &mpsc::Sender<Message>) -> ControlFlow<()> {
        self.entries.push(entry);
        if self.entries.len() < HANDFUL {
            return ControlFlow::Continue(());
        }
        self.give(to)
    }

    /// Breaks off where nobody takes it any more.
    fn give(&mut self, to: &mpsc::Sender<Message>) -> ControlFlow<()> {
        let entries = std::mem::replace(&mut self.entries, Vec::with_capacity(HANDFUL));
        match to.blocking_send(Message::Found(entries)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

impl FileWalk {
    pub(super) fn in_any_order(root: Arc<Root>, search: Arc<Search>) -> FileWalk {
        FileWalk::start(root, move |root, stop, to| {
            let see = |hand: &mut Hand, found: Found<'_>| match found.due() {
                Some(entry) => hand.add(entry, to),
                None => ControlFlow::Continue(()),
            };
            let (hands, unread) = scan(root, &search, stop, see);
            for mut hand in hands {
                let _ = hand.give(to);
            }
            unread
        })
    }

    pub(super) fn in_order(root: Arc<Root>, search: Arc<Search>, span: Span) -> FileWalk {
        FileWalk::start(root, move |root, stop, to| {
            let mut hand = Hand::default();
            let unread = in_order(root, &search, &span, stop, &mut |entry| hand.add(entry, to));
            let _ = hand.give(to);
            unread
        })
    }

    fn start(
        root: Arc<Root>,
        look: impl FnOnce(&Root, &AtomicBool, &mpsc::Sender<Message>) -> Unread + Send + 'static,
    ) -> FileWalk {
        let (to, coming) = mpsc::channel(WAITING);
        let store = root.store.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let stop_on_drop = StopOnDrop(stop.clone());
        tokio::task::spawn_blocking(move || {
            let ending = root.check().map(|()| look(&root, &stop, &to));
            // Nobody to tell is no failure: the walk was dropped.
            let _ = to.blocking_send(Message::Ended(ending));
        });
        FileWalk { store, coming, fetched: Vec::new(), ending: None, _stop: stop_on_drop }
    }

    /// The next due files, at most so many; `None` at the end. Fewer come where finding more takes long.
    /// Nothing is lost where it is not waited for to the end.
    ///
    /// # Errors
    /// When the root is gone.
    pub async fn next(&mut self, most: usize) -> Result<Option<Vec<Entry>>, FilesError> {
        let mut patience = std::pin::pin!(sleep(PATIENCE));
        while self.fetched.len() < most && self.ending.is_none() {
            let message = tokio::select! {
                biased;
                message = self.coming.recv() => message,
                () = &mut patience, if !self.fetched.is_empty() => break,
            };
            match message {
                Some(Message::Found(entries)) => self.fetched.extend(entries),
                Some(Message::Ended(ending)) => self.ending = Some(ending),
                None => self.ending = Some(Err(FilesError::Ended { store: self.store.clone() })),
            }
        }
        if self.fetched.is_empty() {
            return match &self.ending {
                Some(Err(error)) => Err(error.clone()),
                _ => Ok(None),
            };
        }
        let taken = self.fetched.len().min(most);
        let rest = self.fetched.split_off(taken);
        Ok(Some(std::mem::replace(&mut self.fetched, rest)))
    }

    /// What could not be read, once it has come to its end.
    pub fn unread(&self) -> Unread {
        match &self.ending {
            Some(Ok(unread)) => *unread,
            _ => Unread::default(),
        }
    }
}
