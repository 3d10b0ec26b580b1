//! A batch, and the way to the next, whatever kind of store they are of.

use std::sync::Arc;

use jiff::Timestamp;

use super::error::StoreError;
use super::files::{self, FileWalk, Files};
use super::objects::{self, ObjectWalk, Objects};
use super::paths::{PathTarget, key_of};
use super::search::{Age, Kept, Search, Verdict};
use super::sql::{self, Bounds, Locked, Pace, Replace, WalkKind, Window};
use super::tables::{LockedRows, TakenRows};
use super::{Store, Target};
use crate::path::Template;
use crate::plan::{DependentRows, KeptReason};
use crate::rule::Why;
use crate::types::{Key, TableName};

/// The way through what is due.
pub enum Walk {
    /// Through a table.
    Rows(sql::Walk),
    /// Through a tree of files, some of which are taken and not yet done with.
    Files {
        /// The scan that goes on meanwhile.
        ahead: FileWalk,
        /// What was found last.
        taken: Vec<files::Entry>,
    },
    /// Through a bucket.
    Objects {
        /// The listing that goes on meanwhile.
        ahead: ObjectWalk,
        /// What was found last.
        taken: Vec<objects::Entry>,
    },
}

impl Walk {
    /// The pace that suits its steps, where nothing else is said.
    pub fn pace(&self) -> Pace {
        Pace::new(self.steps_are_pages())
    }

    /// Whether its steps are pages of a heap, not rows.
    pub fn steps_are_pages(&self) -> bool {
        matches!(self, Walk::Rows(walk) if walk.steps_are_pages())
    }

    /// Moves on past a window that could not be taken, and leaves what is due there to another walk. Says whether that can
    /// be done: files and objects have no locks.
    pub fn pass_over(&mut self) -> bool {
        match self {
            Walk::Rows(walk) => walk.pass_over(),
            Walk::Files { .. } | Walk::Objects { .. } => false,
        }
    }

    /// Which way it goes through a table, and why.
    pub fn path(&self) -> Option<(WalkKind, Why)> {
        match self {
            Walk::Rows(walk) => Some((walk.kind, walk.why)),
            Walk::Files { .. } | Walk::Objects { .. } => None,
        }
    }

    /// Moves on past what was taken last.
    pub fn advance(&mut self, window: Option<&Window>, records: u64) {
        match (self, window) {
            (Walk::Rows(walk), Some(window)) => walk.advance(window, records),
            (Walk::Rows(_), None) => {}
            (Walk::Files { taken, .. }, _) => taken.clear(),
            (Walk::Objects { taken, .. }, _) => taken.clear(),
        }
    }
}

/// A batch that is taken and not yet committed. Dropped, it is undone.
pub struct Batch {
    /// The keys of its records.
    pub keys: Vec<Key>,
    /// What tells each from another of the same key; nothing where the key is enough.
    pub identities: Vec<String>,
    /// Of each, the values that recipients are told, in the order of [`notice::told`], as they were before it
    /// was taken; nothing where nobody is told.
    ///
    /// [`notice::told`]: crate::notice::told
    pub told: Vec<Vec<Option<String>>>,
    /// The transaction's own name in the store, where its fate can be asked later.
    pub transaction_id: Option<String>,
    /// The window it was taken from, in a table.
    pub window: Option<Window>,
    /// Whether more is due in the window than one batch takes: the walk does not move on then.
    pub is_part: bool,
    /// What goes or changes along with its records in other tables.
    pub dependents: Vec<DependentRows>,
    effect: Effect,
}

/// What committing does.
enum Effect {
    Nothing,
    Rows(Box<TakenRows>),
    Files { files: Files, search: Arc<Search>, entries: Vec<files::Entry> },
    Objects { objects: Objects, search: Arc<Search>, entries: Vec<objects::Entry> },
}

/// What a committed batch came to.
#[derive(Debug, Default)]
pub struct Committed {
    /// Which of its records are gone, by their place in it; all of them where there is `None`.
    pub gone: Option<Vec<usize>>,
    /// What was left, and what lives on.
    pub left: Left,
}

/// A batch that was carried out.
#[derive(Debug)]
pub enum Effected {
    /// What it did lasts.
    ForGood(Committed),
    /// Files were unlinked, and a power failure may bring them back.
    Unlinked(Files, files::Unlinked),
}

impl Effected {
    /// Whether any of its records is still there.
    pub fn left_some(&self) -> bool {
        match self {
            Effected::ForGood(Committed { left, .. }) => {
                left.blocked + left.refused + left.changed > 0
            }
            Effected::Unlinked(_, unlinked) => unlinked.left_some(),
        }
    }
}

/// Has batches of one store that were carried out outlast a power failure, all at once; says what each
/// came to.
///
/// # Errors
/// When it is not known of any that it does.
pub async fn make_last(batches: Vec<Effected>) -> Result<Vec<Committed>, StoreError> {
    let (mut all, mut places, mut unlinked) = (Vec::with_capacity(batches.len()), vec![], vec![]);
    let mut tree = None;
    for (place, batch) in batches.into_iter().enumerate() {
        match batch {
            Effected::ForGood(committed) => all.push(committed),
            Effected::Unlinked(files, more) => {
                all.push(Committed::default());
                places.push(place);
                unlinked.push(more);
                tree = Some(files);
            }
        }
    }
    let Some(files) = tree else { return Ok(all) };
    for (place, deleted) in places.into_iter().zip(files.make_last(unlinked).await?) {
        let mut left = Left {
            other_links: deleted.other_links,
            open_elsewhere: deleted.open_elsewhere,
            ..Left::default()
        };
        for (_, why) in &deleted.kept {
            match why {
                files::Left::Changed => left.changed += 1,
                files::Left::Refused(_) => left.refused += 1,
            }
        }
        all[place] = Committed { gone: Some(deleted.gone), left };
    }
    Ok(all)
}

/// What a deletion left, and what lives on of what it took.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Left {
    /// Records that the store refuses to delete until a date: Object Lock, retention.
    pub blocked: u64,
    /// The last of these dates, where they are known.
    pub blocked_until: Option<Timestamp>,
    /// Records that could not be deleted for another reason.
    pub refused: u64,
    /// Records that changed since they were found.
    pub changed: u64,
    /// Files whose data goes by other names as well.
    pub other_links: u64,
    /// Files that some process has open, at least.
    pub open_elsewhere: u64,
}

impl Left {
    /// Adds what another batch left.
    pub fn add(&mut self, other: Left) {
        self.blocked += other.blocked;
        self.blocked_until = self.blocked_until.max(other.blocked_until);
        self.refused += other.refused;
        self.changed += other.changed;
        self.other_links += other.other_links;
        self.open_elsewhere += other.open_elsewhere;
    }
}

impl Left {
    /// The same, but what stayed is what it was before: it is met again, and is no more for that.
    #[must_use]
    pub fn but_stays_as(self, before: Left) -> Left {
        let Left { other_links, open_elsewhere, .. } = self;
        Left { other_links, open_elsewhere, ..before }
    }

    /// Whether more stayed than before.
    pub fn is_more_than(&self, before: Left) -> bool {
        (self.blocked, self.refused, self.changed)
            != (before.blocked, before.refused, before.changed)
    }

    /// What of it anybody should know; nothing where there is nothing.
    pub fn in_words(&self) -> Option<String> {
        let until =
            self.blocked_until.map(|until| until.strftime("%Y-%m-%d %H:%M UTC").to_string());
        let until = until
            .map_or_else(|| "without a known end".to_owned(), |until| format!("until {until}"));
        let parts = [
            (self.blocked, format!("blocked by the store, {until}")),
            (self.refused, "not deleted, because the store refuses it".to_owned()),
            (self.other_links, "gone by name, with data that other hard links keep".to_owned()),
            (self.open_elsewhere, "gone by name, and open in some process at least".to_owned()),
        ];
        let said = parts.iter().filter(|(records, _)| *records > 0);
        let said: Vec<_> = said.map(|(records, what)| format!("{records} {what}")).collect();
        (!said.is_empty()).then(|| said.join("; "))
    }
}

/// What a search still finds due, now that it may heed more.
fn still_due<T>(
    search: &Search,
    entries: Vec<T>,
    of: impl Fn(&T) -> (&[u8], Option<Timestamp>),
) -> Vec<T> {
    let is_due = |entry: &T| {
        let (path, start) = of(entry);
        matches!(search.judge(path, start), Verdict::Due(_))
    };
    entries.into_iter().filter(is_due).collect()
}

impl Batch {
    /// How many rows go or change: its records and all that does along with them.
    pub fn rows(&self) -> u64 {
        let along = self.dependents.iter().map(|rows| rows.records + rows.changed);
        self.keys.len() as u64 + along.sum::<u64>()
    }

    /// A batch without records: for what belonged to records that are gone.
    pub fn nothing() -> Batch {
        Batch {
            keys: Vec::new(),
            identities: Vec::new(),
            told: Vec::new(),
            transaction_id: None,
            window: None,
            is_part: false,
            dependents: Vec::new(),
            effect: Effect::Nothing,
        }
    }

    pub(super) fn of_rows(mut taken: TakenRows) -> Batch {
        Batch {
            keys: std::mem::take(&mut taken.records.keys),
            identities: Vec::new(),
            told: std::mem::take(&mut taken.records.told),
            transaction_id: taken.records.transaction_id.take(),
            window: Some(taken.window.clone()),
            is_part: taken.is_part,
            dependents: std::mem::take(&mut taken.records.dependents),
            effect: Effect::Rows(Box::new(taken)),
        }
    }

    pub(super) fn of_files(files: &Files, search: Arc<Search>, found: Vec<files::Entry>) -> Batch {
        let entries = still_due(&search, found, |entry| (&entry.path, entry.start));
        Batch {
            keys: entries.iter().map(|entry| key_of(&entry.path, None)).collect(),
            identities: entries.iter().map(files::Entry::mark).collect(),
            told: Vec::new(),
            transaction_id: None,
            window: None,
            is_part: false,
            dependents: Vec::new(),
            effect: Effect::Files { files: files.clone(), search, entries },
        }
    }

    pub(super) fn of_objects(
        objects: &Objects,
        search: Arc<Search>,
        found: Vec<objects::Entry>,
    ) -> Batch {
        let entries = still_due(&search, found, |entry| (&entry.path, entry.start));
        let key = |entry: &objects::Entry| key_of(&entry.path, entry.version.as_deref());
        Batch {
            keys: entries.iter().map(key).collect(),
            identities: entries.iter().map(objects::Entry::mark).collect(),
            told: Vec::new(),
            transaction_id: None,
            window: None,
            is_part: false,
            dependents: Vec::new(),
            effect: Effect::Objects { objects: objects.clone(), search, entries },
        }
    }

    /// With what recipients are told of its files or objects, which stands in their paths.
    pub(super) fn telling(mut self, target: &PathTarget) -> Batch {
        self.told = target.told(&self.keys);
        self
    }

    /// What stands for the table of its records, where they are no rows.
    pub fn table(&self) -> TableName {
        match self.effect {
            Effect::Objects { .. } => TableName::objects(),
            Effect::Files { .. } | Effect::Rows(_) | Effect::Nothing => TableName::files(),
        }
    }

    /// Makes the batch last. Files and objects are deleted only now, each judged once more.
    ///
    /// # Errors
    /// When it is not known whether it was committed: the intent stays open and is resolved later.
    pub async fn commit(self) -> Result<Committed, StoreError> {
        let committed = make_last(vec![self.take_effect().await?]).await?;
        Ok(committed.into_iter().next().unwrap_or_default())
    }

    /// Carries the batch out. What it did may not outlast a power failure yet: nobody may be told before
    /// [`make_last`] has returned.
    ///
    /// # Errors
    /// As for [`Batch::commit`].
    pub async fn take_effect(self) -> Result<Effected, StoreError> {
        let committed = match self.effect {
            Effect::Nothing => Committed::default(),
            Effect::Rows(taken) => taken.commit().await.map(|()| Committed::default())?,
            Effect::Files { files, search, entries } => {
                let unlinked = files.unlink(&search, entries).await?;
                return Ok(Effected::Unlinked(files, unlinked));
            }
            Effect::Objects { objects, search, entries } => {
                let deleted = objects.delete(&search, entries).await?;
                let mut left = Left::default();
                for (_, why) in &deleted.kept {
                    match why {
                        objects::Left::Blocked { until } => {
                            left.blocked += 1;
                            left.blocked_until = left.blocked_until.max(*until);
                        }
                        objects::Left::Changed => left.changed += 1,
                        objects::Left::Refused(_) => left.refused += 1,
                    }
                }
                Committed { gone: Some(deleted.gone), left }
            }
        };
        Ok(Effected::ForGood(committed))
    }

    /// Undoes the batch.
    ///
    /// # Errors
    /// When the connection is gone, in which case the server undoes it.
    pub async fn rollback(self) -> Result<(), StoreError> {
        match self.effect {
            Effect::Rows(taken) => taken.rollback().await,
            // Nothing was touched.
            Effect::Files { .. } | Effect::Objects { .. } | Effect::Nothing => Ok(()),
        }
    }
}

/// Rows that are locked and not touched yet, so that what belongs to them can be looked for. Dropped,
/// they are let go.
pub struct LockedBatch(LockedRows);

impl LockedBatch {
    /// Where they were found.
    pub fn window(&self) -> &Window {
        &self.0.window
    }

    /// The rows.
    pub fn rows(&self) -> &[Locked] {
        &self.0.rows
    }

    /// Lets rows go whose place is not told to be kept.
    pub fn retain(&mut self, mut keep: impl FnMut(usize) -> bool) {
        let mut place = 0;
        self.0.rows.retain(|_| {
            place += 1;
            keep(place - 1)
        });
    }
}

/// The places of templates that mean a path which is kept.
fn held_by<'a>(
    templates: &[Template],
    kept: &[Kept],
    found: impl Iterator<Item = (&'a [u8], Option<Timestamp>)>,
) -> Vec<usize> {
    if kept.is_empty() {
        return Vec::new();
    }
    let search = Search { templates: templates.to_vec(), age: Age::Any, kept: kept.to_vec() };
    let is_held = |path: &[u8], start| search.judge(path, start) == Verdict::Kept(KeptReason::Held);
    let held: Vec<&[u8]> =
        found.filter(|(path, start)| is_held(path, *start)).map(|(path, _)| path).collect();
    let means_held = |template: &Template| held.iter().any(|path| template.means(path));
    let places = templates.iter().enumerate().filter(|(_, template)| means_held(template));
    places.map(|(place, _)| place).collect()
}

impl Store {
    /// Takes what templates name, whatever its age, without touching it; and says, by their places, which
    /// of the templates name something that a legal hold keeps.
    ///
    /// # Errors
    /// When the store cannot be asked; when it holds tables.
    pub async fn take_attached(
        &self,
        templates: &[Template],
        kept: &[Kept],
    ) -> Result<(Batch, Vec<usize>), StoreError> {
        let search = Arc::new(Search::named(templates.to_vec()));
        match self {
            Store::Files(files) => {
                let found = files.find(&search).await?;
                let each = found.iter().map(|entry| (entry.path.as_slice(), entry.start));
                let held = held_by(templates, kept, each);
                Ok((Batch::of_files(files, search, found), held))
            }
            Store::Objects(objects) => {
                let found = objects.find(&search).await?;
                let each = found.iter().map(|entry| (entry.path.as_slice(), entry.start));
                let held = held_by(templates, kept, each);
                Ok((Batch::of_objects(objects, search, found), held))
            }
            Store::Tables(_) => Err(self.foreign()),
        }
    }

    /// Locks the due rows of the walk's next window. `None` at the end of the walk.
    ///
    /// # Errors
    /// As for [`Store::take`]; when it holds no rows.
    pub async fn lock(
        &self,
        target: &Target,
        bounds: Bounds,
        walk: &mut Walk,
        pace: &mut Pace,
    ) -> Result<Option<LockedBatch>, StoreError> {
        match (self, target, walk) {
            (Store::Tables(tables), Target::Rows(target), Walk::Rows(walk)) => {
                Ok(tables.lock(target, bounds, walk, pace).await?.map(LockedBatch))
            }
            _ => Err(self.foreign()),
        }
    }

    /// Locks the due rows of a window.
    ///
    /// # Errors
    /// As for [`Store::lock`].
    pub async fn lock_window(
        &self,
        target: &Target,
        bounds: Bounds,
        window: Window,
    ) -> Result<LockedBatch, StoreError> {
        match (self, target) {
            (Store::Tables(tables), Target::Rows(target)) => {
                tables.lock_window(target, bounds, window).await.map(LockedBatch)
            }
            _ => Err(self.foreign()),
        }
    }

    /// Takes rows that are locked, without committing.
    ///
    /// # Errors
    /// As for [`Store::take`].
    pub async fn take_locked(
        &self,
        target: &Target,
        bounds: Bounds,
        locked: LockedBatch,
        replace: Replace<'_>,
    ) -> Result<Batch, StoreError> {
        match (self, target) {
            (Store::Tables(tables), Target::Rows(target)) => {
                let taken = tables.take_locked(target, bounds, locked.0, replace).await?;
                Ok(Batch::of_rows(taken))
            }
            _ => Err(self.foreign()),
        }
    }
}
