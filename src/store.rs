//! Stores: what expunged looks at and deletes from.
//!
//! A [`Store`] offers the few steps that every kind of store can take: look at a place and a rule
//! together, survey it, walk through it in bounded batches that are taken but not yet committed, and
//! say later what became of one. A database takes rows in an open transaction; of files and objects a
//! batch is only a list until it is committed, and then each is judged again as it is deleted.

mod batch;
mod error;
pub mod files;
pub mod objects;
mod paths;
mod readback;
mod registry;
pub mod search;
mod sight;
pub mod sql;
mod tables;

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::hold::{Holds, Records as HeldRecords};
use crate::plan::Survey;
use crate::rule::{Rule, Selection};
use crate::types::{Key, Name, TableName};

use files::{Files, Surveyed};
use objects::Objects;
use sql::catalogue::Table;
use sql::{Bounds, Pace, Replace, SurveyDepth, Window};

pub use batch::{Batch, Committed, Effected, Left, LockedBatch, Walk, make_last};
pub use error::{StoreError, explain};
pub use paths::{PathTarget, kept_by, path_of};
pub use registry::Stores;
pub use sight::PathsAgain;
pub use sql::{Access, Explained, Fate};
pub use tables::{Dropping, Removed, Tables};

/// So many files are taken at once.
const FILES_AT_ONCE: usize = 8_000;
/// So many objects are taken at once: a few requests of a thousand each. Whoever deletes early has less to list: for a
/// server that looks at all that is there for each page, such as one over a file system, that is most of the time.
const OBJECTS_AT_ONCE: usize = 3_000;

/// A registered store, opened for reading or for acting.
#[derive(Clone, Debug)]
pub enum Store {
    /// A database of tables.
    Tables(Tables),
    /// A tree of files.
    Files(Files),
    /// A bucket of objects.
    Objects(Objects),
}

/// A rule and the place it fits.
#[derive(Clone, Debug)]
pub enum Target {
    /// Rows of a table.
    Rows(Box<sql::Target>),
    /// Files or objects.
    Paths(PathTarget),
}

impl Target {
    /// The table, where there is one.
    pub fn rows(&self) -> Option<&sql::Target> {
        match self {
            Target::Rows(target) => Some(target),
            Target::Paths(_) => None,
        }
    }

    /// What a rule's effect depends on besides the rule: a table's columns, key, references, triggers.
    pub fn schema_digest(&self) -> String {
        match self {
            Target::Rows(target) => target.table.digest(),
            Target::Paths(_) => "paths".to_owned(),
        }
    }

    /// What the key is called: its columns.
    pub fn key_names(&self) -> Vec<&str> {
        match self {
            Target::Rows(target) => {
                target.table.key.iter().map(|column| column.name.as_str()).collect()
            }
            Target::Paths(_) => vec!["path"],
        }
    }

    /// The keys that a text may stand for.
    pub fn keys_from_text(&self, text: &str) -> Vec<Key> {
        match self {
            Target::Rows(target) => target.keys_from_text(text),
            Target::Paths(_) => paths::keys_from_text(text),
        }
    }

    /// Has it mean its records as events name them, whatever their age, or as their age does.
    pub fn set_by_event(&mut self, by_event: bool) {
        if let Target::Rows(target) = self {
            target.set_by_event(by_event);
        }
    }
}

impl Store {
    /// Its name in the configuration.
    pub fn name(&self) -> &Name {
        match self {
            Store::Tables(tables) => tables.name(),
            Store::Files(files) => files.name(),
            Store::Objects(objects) => objects.name(),
        }
    }

    /// What stands for the table of its records, where it has none.
    pub fn table(&self) -> TableName {
        match self {
            Store::Objects(_) => TableName::objects(),
            Store::Files(_) | Store::Tables(_) => TableName::files(),
        }
    }

    /// A target that another kind of store made.
    fn foreign(&self) -> StoreError {
        StoreError::NoTables { store: self.name().clone() }
    }

    /// The database, where it is one.
    ///
    /// # Errors
    /// When it holds files or objects.
    pub fn tables(&self) -> Result<&Tables, StoreError> {
        match self {
            Store::Tables(tables) => Ok(tables),
            Store::Files(_) | Store::Objects(_) => Err(self.foreign()),
        }
    }

    /// Reads what the catalogue knows about a rule's table.
    ///
    /// # Errors
    /// When the store cannot be reached, or has no such table.
    pub async fn inspect(&self, rule: &Rule) -> Result<Table, StoreError> {
        self.tables()?.inspect(rule).await
    }

    /// Holds a rule against its live place.
    ///
    /// # Errors
    /// When the store cannot be reached, or the rule does not fit.
    pub async fn target(&self, rule: &Rule) -> Result<Target, StoreError> {
        match (self, &rule.select) {
            (Store::Tables(tables), _) => {
                tables.target(rule).await.map(|target| Target::Rows(Box::new(target)))
            }
            (_, Selection::Paths(paths)) => Ok(Target::Paths(PathTarget::new(rule, paths))),
            (_, Selection::Rows(_)) => Err(self.foreign()),
        }
    }

    /// Keeps what legal holds claim, by themselves or because held rows point at it, out of what is due.
    ///
    /// # Errors
    /// When it cannot be found out what they claim: then nothing may be taken.
    pub async fn hold_back(
        &self,
        target: &mut Target,
        rule: &Rule,
        holds: &Holds,
    ) -> Result<(), StoreError> {
        match (self, target) {
            (Store::Tables(tables), Target::Rows(target)) => {
                tables.hold_back(target, rule, holds).await
            }
            (_, Target::Paths(target)) => {
                target.hold_back(rule, holds);
                Ok(())
            }
            (_, Target::Rows(_)) => Err(self.foreign()),
        }
    }

    /// Asks whether the predicate of a hold, if it has one, can be heeded by every rule whose deletions
    /// reach its table. Cannot write.
    ///
    /// # Errors
    /// When it cannot: see [`StoreError::is_misunderstanding`]. When the store cannot be reached.
    pub async fn try_held(&self, records: &HeldRecords) -> Result<(), StoreError> {
        match self {
            Store::Tables(tables) => tables.try_held(records).await,
            Store::Files(_) | Store::Objects(_) if records.predicate.is_some() => {
                Err(self.foreign())
            }
            Store::Files(_) | Store::Objects(_) => Ok(()),
        }
    }

    /// How many records of a rule's place legal holds keep, due or not, and how many it has. Cannot
    /// write.
    ///
    /// # Errors
    /// When the store cannot be reached or the rule does not fit its table.
    pub async fn count_held(&self, rule: &Rule, holds: &Holds) -> Result<(u64, u64), StoreError> {
        if let Store::Tables(tables) = self {
            return tables.count_held(rule, holds).await;
        }
        let mut target = self.target(rule).await?;
        self.hold_back(&mut target, rule, holds).await?;
        let Target::Paths(target) = target else { return Err(self.foreign()) };
        // Old enough is all of it; but a hold may mean what was modified in a range of dates.
        let bounds = Bounds { cutoff: Timestamp::MAX, now: Timestamp::MAX };
        let survey = self.survey_paths(&target.due(bounds)).await?;
        Ok((survey.held, survey.total))
    }

    /// The same of a table that is named by a hold alone. A range of dates does not count there.
    ///
    /// # Errors
    /// When the store cannot be reached, has no such table or does not understand the predicate.
    pub async fn count_held_records(
        &self,
        records: &HeldRecords,
        holds: &Holds,
    ) -> Result<(u64, u64), StoreError> {
        self.tables()?.count_held_records(records, holds).await
    }

    /// Counts what is due and what is kept. Cannot write.
    ///
    /// # Errors
    /// When the store cannot be reached or refuses, for example a condition that names no column.
    pub async fn survey(
        &self,
        target: &Target,
        bounds: Bounds,
        depth: SurveyDepth,
    ) -> Result<Survey, StoreError> {
        match (self, target) {
            (Store::Tables(tables), Target::Rows(target)) => {
                tables.survey(target, bounds, depth).await
            }
            (_, Target::Paths(target)) => self.survey_paths(&target.due(bounds)).await,
            (_, Target::Rows(_)) => Err(self.foreign()),
        }
    }

    async fn survey_paths(
        &self,
        search: &std::sync::Arc<search::Search>,
    ) -> Result<Survey, StoreError> {
        match self {
            Store::Files(files) => {
                let Surveyed { survey, unread } = files.survey(search).await?;
                Ok(Survey { unread: unread.folders, ..survey })
            }
            Store::Objects(objects) => Ok(objects.survey(search).await?),
            Store::Tables(_) => Err(self.foreign()),
        }
    }

    /// Counts the records of the place, due or not; of rows no further than to `most`, where that is given. Cannot write.
    ///
    /// # Errors
    /// As for [`Store::survey`].
    pub async fn count(&self, target: &Target, most: Option<u64>) -> Result<u64, StoreError> {
        match (self, target) {
            (Store::Tables(tables), Target::Rows(target)) => tables.count(target, most).await,
            (_, Target::Paths(target)) => Ok(self.survey_paths(&target.all()).await?.total),
            (_, Target::Rows(_)) => Err(self.foreign()),
        }
    }

    /// Reads the keys of some due records, the oldest first. Cannot write.
    ///
    /// # Errors
    /// As for [`Store::survey`].
    pub async fn sample(
        &self,
        target: &Target,
        bounds: Bounds,
        limit: u32,
    ) -> Result<Vec<(Key, Option<Timestamp>)>, StoreError> {
        let most = limit as usize;
        match (self, target) {
            (Store::Tables(tables), Target::Rows(target)) => {
                tables.sample(target, bounds, limit).await
            }
            (Store::Files(files), Target::Paths(target)) => {
                let found = files.sample(&target.due(bounds), most).await?;
                Ok(found
                    .iter()
                    .map(|entry| (paths::key_of(&entry.path, None), entry.start))
                    .collect())
            }
            (Store::Objects(objects), Target::Paths(target)) => {
                let found = objects.sample(&target.due(bounds), most).await?;
                let key = |entry: &objects::Entry| {
                    (paths::key_of(&entry.path, entry.version.as_deref()), entry.start)
                };
                Ok(found.iter().map(key).collect())
            }
            _ => Err(self.foreign()),
        }
    }

    /// Hands over the keys of all due records, in the order of the key. Cannot write.
    ///
    /// # Errors
    /// As for [`Store::survey`].
    pub async fn each_key(
        &self,
        target: &Target,
        bounds: Bounds,
        each: &mut (dyn FnMut(Key) + Send),
    ) -> Result<(), StoreError> {
        match (self, target) {
            (Store::Tables(tables), Target::Rows(target)) => {
                tables.each_key(target, bounds, each).await
            }
            (Store::Files(files), Target::Paths(target)) => {
                let mut each = |entry: files::Entry| each(paths::key_of(&entry.path, None));
                files
                    .in_order(&target.due(bounds), None, None, &mut each)
                    .await?
                    .none(files.name())?;
                Ok(())
            }
            (Store::Objects(objects), Target::Paths(target)) => {
                let mut each = |entry: objects::Entry| {
                    each(paths::key_of(&entry.path, entry.version.as_deref()));
                };
                Ok(objects.in_order(&target.due(bounds), None, None, &mut each).await?)
            }
            _ => Err(self.foreign()),
        }
    }

    /// Counts the records that are due in the first sense and not in the second; both are of one
    /// place. Cannot write.
    ///
    /// # Errors
    /// As for [`Store::survey`].
    pub async fn count_only_in(
        &self,
        first: (&Target, Bounds),
        second: (&Target, Bounds),
    ) -> Result<u64, StoreError> {
        match (self, first.0, second.0) {
            (Store::Tables(tables), Target::Rows(one), Target::Rows(other)) => {
                tables.count_only_in((one, first.1), (other, second.1)).await
            }
            (_, Target::Paths(one), Target::Paths(other)) => {
                let (one, other) = (one.due(first.1), other.due(second.1));
                let mut only = 0;
                let mut judge = |path: &[u8], start| {
                    let due = matches!(other.judge(path, start), search::Verdict::Due(_));
                    only += u64::from(!due);
                };
                match self {
                    Store::Files(files) => {
                        let mut each = |entry: files::Entry| {
                            let start = other.age.start(entry.modified, entry.identity.since);
                            judge(&entry.path, start);
                        };
                        files.in_order(&one, None, None, &mut each).await?.none(files.name())?;
                    }
                    Store::Objects(objects) => {
                        let mut each = |entry: objects::Entry| judge(&entry.path, entry.start);
                        objects.in_order(&one, None, None, &mut each).await?;
                    }
                    Store::Tables(_) => return Err(self.foreign()),
                }
                Ok(only)
            }
            _ => Err(self.foreign()),
        }
    }

    /// The starting point of the record that falls due next. Cannot write.
    ///
    /// # Errors
    /// As for [`Store::survey`].
    pub async fn next_start(
        &self,
        target: &Target,
        bounds: Bounds,
    ) -> Result<Option<Timestamp>, StoreError> {
        match (self, target) {
            (Store::Tables(tables), Target::Rows(target)) => {
                tables.next_start(target, bounds).await
            }
            (Store::Files(files), Target::Paths(target)) => {
                Ok(files.starts(&target.due(bounds)).await?.next)
            }
            (Store::Objects(objects), Target::Paths(target)) => {
                Ok(objects.starts(&target.due(bounds)).await?.next)
            }
            _ => Err(self.foreign()),
        }
    }

    /// The earliest starting point of all records that the rule means, due or not. Cannot write.
    ///
    /// # Errors
    /// As for [`Store::survey`].
    pub async fn oldest_start(
        &self,
        target: &Target,
        bounds: Bounds,
    ) -> Result<Option<Timestamp>, StoreError> {
        match (self, target) {
            (Store::Tables(tables), Target::Rows(target)) => {
                let due = tables.sample(target, bounds, 1).await?;
                match due.first().and_then(|(_, start)| *start) {
                    Some(start) => Ok(Some(start)),
                    None => tables.next_start(target, bounds).await,
                }
            }
            (Store::Files(files), Target::Paths(target)) => {
                Ok(files.starts(&target.due(bounds)).await?.oldest)
            }
            (Store::Objects(objects), Target::Paths(target)) => {
                Ok(objects.starts(&target.due(bounds)).await?.oldest)
            }
            _ => Err(self.foreign()),
        }
    }

    /// Begins a walk through the due records, of which there are about so many of so many in all.
    ///
    /// # Errors
    /// Never for a target of this store.
    pub fn walk(
        &self,
        target: &Target,
        bounds: Bounds,
        due: u64,
        total: u64,
    ) -> Result<Walk, StoreError> {
        match (self, target) {
            (Store::Tables(_), Target::Rows(target)) => {
                Ok(Walk::Rows(sql::Walk::new(target, due, total)))
            }
            (Store::Files(files), Target::Paths(target)) => {
                Ok(Walk::Files { ahead: files.walk(target.due(bounds)), taken: Vec::new() })
            }
            (Store::Objects(objects), Target::Paths(target)) => {
                Ok(Walk::Objects { ahead: objects.walk(target.due(bounds)), taken: Vec::new() })
            }
            _ => Err(self.foreign()),
        }
    }

    /// The next window of a walk through a table, which nobody has locked; `None` at the end of the walk. The walk
    /// does not move until [`sql::Walk::pass`] is called.
    ///
    /// # Errors
    /// As for [`Store::take`]; when it holds no rows.
    pub async fn next_window(
        &self,
        target: &Target,
        bounds: Bounds,
        walk: &mut sql::Walk,
        pace: &mut Pace,
    ) -> Result<Option<Window>, StoreError> {
        match (self, target) {
            (Store::Tables(tables), Target::Rows(target)) => {
                tables.next_window(target, bounds, walk, pace).await
            }
            _ => Err(self.foreign()),
        }
    }

    /// Two halves of a window of a table, in order; itself where it has none.
    ///
    /// # Errors
    /// As for [`Store::survey`]; when it holds no rows.
    pub async fn halves(&self, target: &Target, window: Window) -> Result<Vec<Window>, StoreError> {
        match (self, target) {
            (Store::Tables(tables), Target::Rows(target)) => tables.halves(target, window).await,
            _ => Err(self.foreign()),
        }
    }

    /// Takes due rows of a window, without committing: so many that no more than `most` go or change with what goes
    /// along in other tables, and one at least. The batch says whether that is a part.
    ///
    /// # Errors
    /// As for [`Store::take`]; when it holds no rows.
    pub async fn take_at_most(
        &self,
        target: &Target,
        bounds: Bounds,
        window: Window,
        most: u64,
        replace: Replace<'_>,
    ) -> Result<Batch, StoreError> {
        match (self, target) {
            (Store::Tables(tables), Target::Rows(target)) => {
                let taken = tables.take_at_most(target, bounds, window, most, replace).await?;
                Ok(Batch::of_rows(taken))
            }
            _ => Err(self.foreign()),
        }
    }

    /// Whether one transaction at a time may write.
    pub fn has_one_writer(&self) -> bool {
        matches!(self, Store::Tables(tables) if tables.has_one_writer())
    }

    /// Takes the due records of the walk's next window, without committing. `None` at the end of the
    /// walk. The walk does not move until [`Walk::advance`] is called.
    ///
    /// # Errors
    /// When the store fails; nothing was changed then. See [`StoreError::is_transient`].
    pub async fn take(
        &self,
        target: &Target,
        bounds: Bounds,
        walk: &mut Walk,
        pace: &mut Pace,
        replace: Replace<'_>,
    ) -> Result<Option<Batch>, StoreError> {
        match (self, target, walk) {
            (Store::Tables(tables), Target::Rows(target), Walk::Rows(walk)) => {
                let taken = tables.take(target, bounds, walk, pace, replace).await?;
                Ok(taken.map(Batch::of_rows))
            }
            (Store::Files(files), Target::Paths(target), Walk::Files { ahead, taken }) => {
                if taken.is_empty() {
                    let Some(next) = ahead.next(FILES_AT_ONCE).await? else { return Ok(None) };
                    *taken = next;
                }
                let batch = Batch::of_files(files, target.due(bounds), taken.clone());
                Ok(Some(batch.telling(target)))
            }
            (Store::Objects(objects), Target::Paths(target), Walk::Objects { ahead, taken }) => {
                if taken.is_empty() {
                    let Some(next) = ahead.next(OBJECTS_AT_ONCE).await? else { return Ok(None) };
                    *taken = next;
                }
                let batch = Batch::of_objects(objects, target.due(bounds), taken.clone());
                Ok(Some(batch.telling(target)))
            }
            _ => Err(self.foreign()),
        }
    }

    /// Takes the due records of a window of keys, without committing.
    ///
    /// # Errors
    /// As for [`Store::take`].
    pub async fn take_window(
        &self,
        target: &Target,
        bounds: Bounds,
        window: Window,
        replace: Replace<'_>,
    ) -> Result<Batch, StoreError> {
        if let (Store::Tables(tables), Target::Rows(target)) = (self, target) {
            return tables.take_window(target, bounds, window, replace).await.map(Batch::of_rows);
        }
        let (Target::Paths(target), Window::Keys { after, upto }) = (target, &window) else {
            return Err(self.foreign());
        };
        let path = |key: &Key| paths::version_of(key).map(|(path, _)| path);
        let (after_path, upto_path) = (after.as_ref().and_then(path), path(upto));
        let is_inside = |key: &Key| after.as_ref().is_none_or(|after| key > after) && key <= upto;
        let search = target.due(bounds);
        match self {
            Store::Files(files) => {
                let mut found = Vec::new();
                let mut each = |entry: files::Entry| found.push(entry);
                let (after, upto) = (after_path.as_deref(), upto_path.as_deref());
                files.in_order(&search, after, upto, &mut each).await?;
                Ok(Batch::of_files(files, search, found).telling(target))
            }
            Store::Objects(objects) => {
                let mut found = Vec::new();
                // Other versions of the first key may come after it.
                let mut each = |entry: objects::Entry| {
                    if is_inside(&paths::key_of(&entry.path, entry.version.as_deref())) {
                        found.push(entry);
                    }
                };
                let (after, upto) = (after_path.as_deref(), upto_path.as_deref());
                objects.in_order(&search, after, upto, &mut each).await?;
                Ok(Batch::of_objects(objects, search, found).telling(target))
            }
            Store::Tables(_) => Err(self.foreign()),
        }
    }

    /// Takes what the values of events name, whatever its age, without committing. The target is one of
    /// [`Target::set_by_event`].
    ///
    /// # Errors
    /// As for [`Store::take`].
    pub async fn take_named(
        &self,
        target: &Target,
        bounds: Bounds,
        events: &[&BTreeMap<String, String>],
        replace: Replace<'_>,
    ) -> Result<Batch, StoreError> {
        match (self, target) {
            (Store::Tables(tables), Target::Rows(target)) => {
                let window = target.window_of(events.iter().copied());
                tables.take_window(target, bounds, window, replace).await.map(Batch::of_rows)
            }
            (Store::Files(files), Target::Paths(target)) => {
                let search = target.named(events.iter().copied());
                let found = files.find(&search).await?;
                Ok(Batch::of_files(files, search, found).telling(target))
            }
            (Store::Objects(objects), Target::Paths(target)) => {
                let search = target.named(events.iter().copied());
                let found = objects.find(&search).await?;
                Ok(Batch::of_objects(objects, search, found).telling(target))
            }
            _ => Err(self.foreign()),
        }
    }

    /// What its own clock shows; `None` where it has none but this machine's.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        match self {
            Store::Tables(tables) => tables.clock().await,
            Store::Files(_) | Store::Objects(_) => Ok(None),
        }
    }

    /// Closes its connections.
    pub async fn close(&self) {
        if let Store::Tables(tables) = self {
            tables.close().await;
        }
    }
}
