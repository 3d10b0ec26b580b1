//! A look at a store, and at what was taken from it: whether it is the one that it was, and what is there again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::error::StoreError;
use super::paths::{self, PathTarget, kept_by};
use super::search::{Age, Search, Verdict};
use super::sql::{Bounds, Fate};
use super::{Batch, Store, Target, files, objects};
use crate::hold::Holds;
use crate::path::Template;
use crate::plan::KeptReason;
use crate::restore::Sight;
use crate::rule::Rule;
use crate::types::{Key, TableName};

impl PathTarget {
    /// What was last modified before a moment; it may be any age.
    pub(super) fn modified_before(&self, bounds: Bounds) -> Arc<Search> {
        let (templates, kept) = (self.templates().to_vec(), self.kept().to_vec());
        Arc::new(Search { kept, ..Search::modified_before(templates, bounds) })
    }
}

/// Files or objects that were taken, and are looked for again.
#[derive(Clone, Debug)]
pub struct PathsAgain(Arc<Search>);

impl PathsAgain {
    /// Of the files or objects that a rule means.
    pub fn of(target: &PathTarget, bounds: Bounds, by_event: bool) -> PathsAgain {
        PathsAgain(if by_event { target.modified_before(bounds) } else { target.due(bounds) })
    }

    /// Of those in a store that belong to a rule's rows, modified before a moment.
    pub fn attached(store: &Store, rule: &Rule, holds: &Holds, bounds: Bounds) -> PathsAgain {
        let here = rule.attachments().iter().filter(|attachment| attachment.store == *store.name());
        let templates: Vec<Template> = here.map(|attachment| attachment.path.clone()).collect();
        let kept = if rule.holds.applies() {
            kept_by(store.name(), &store.table(), None, holds)
        } else {
            Vec::new()
        };
        PathsAgain(Arc::new(Search { kept, ..Search::modified_before(templates, bounds) }))
    }
}

/// Files or objects that are there under paths of before, each with its starting point.
enum There {
    Files(Vec<files::Entry>),
    Objects(Vec<objects::Entry>),
}

impl Store {
    /// Shows by what it is to be known, and its marker where one is configured. Cannot write.
    ///
    /// # Errors
    /// When it cannot be asked, or the marker's table is none.
    pub async fn sight(&self, marker: Option<&TableName>) -> Result<Sight, StoreError> {
        match self {
            Store::Tables(tables) => tables.sight(marker).await,
            Store::Files(_) | Store::Objects(_) => Ok(Sight::default()),
        }
    }

    /// How far a replica lags behind the server that it follows; `None` where it follows none, or that is not known.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn lag(&self) -> Result<Option<Duration>, StoreError> {
        match self {
            Store::Tables(tables) => tables.lag().await,
            Store::Files(_) | Store::Objects(_) => Ok(None),
        }
    }

    /// Writes the marker, unless a greater one is there.
    ///
    /// # Errors
    /// When it cannot be written; when it holds no tables.
    pub async fn write_marker(
        &self,
        marker: &TableName,
        number: i64,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.tables()?.write_marker(marker, number, now).await
    }

    /// Those of these rows that are there again, with what becomes of each. Cannot write.
    ///
    /// # Errors
    /// When the store cannot be asked; when it holds no rows.
    pub async fn rows_again(
        &self,
        target: &Target,
        bounds: Bounds,
        keys: &[Key],
    ) -> Result<Vec<(Key, Fate)>, StoreError> {
        match (self, target) {
            (Store::Tables(tables), Target::Rows(target)) => {
                tables.again(target, bounds, keys).await
            }
            _ => Err(self.foreign()),
        }
    }

    /// What is there again under the paths of files or objects that were taken, with what becomes of each. Of objects,
    /// whatever their version: a restored one has a new version.
    ///
    /// # Errors
    /// When the store cannot be asked; when it holds tables.
    pub async fn paths_again(
        &self,
        again: &PathsAgain,
        keys: &[Key],
    ) -> Result<Vec<(Key, Fate)>, StoreError> {
        let mut found = Vec::new();
        let mut judge = |path: &[u8], version: Option<&str>, start| {
            let fate = match again.0.judge(path, start) {
                Verdict::Due(_) => Fate::Goes,
                Verdict::Kept(KeptReason::Held) => Fate::Held,
                Verdict::Young(_) | Verdict::Kept(_) => Fate::Newer,
                Verdict::Other => Fate::Changed,
            };
            found.push((paths::key_of(path, version), fate));
        };
        match self.there(keys, &again.0.age).await? {
            There::Files(entries) => {
                for entry in &entries {
                    judge(&entry.path, None, entry.start);
                }
            }
            There::Objects(entries) => {
                for entry in &entries {
                    judge(&entry.path, entry.version.as_deref(), entry.start);
                }
            }
        }
        Ok(found)
    }

    /// How many records of these keys are there, whatever they are. Cannot write.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn present(&self, table: &str, keys: &[Key]) -> Result<u64, StoreError> {
        let Store::Tables(tables) = self else {
            return Ok(match self.there(keys, &Age::Any).await? {
                There::Files(entries) => entries.len() as u64,
                There::Objects(entries) => entries.len() as u64,
            });
        };
        match table.parse() {
            Ok(table) => tables.present(&table, keys).await,
            // A table of that name cannot be asked for: in doubt they are there.
            Err(_) => Ok(keys.len() as u64),
        }
    }

    /// Takes what is there again under such paths and goes, without touching it; those of the rule's own target are told
    /// to nobody.
    ///
    /// # Errors
    /// As for [`Store::paths_again`].
    pub async fn take_paths(&self, again: &PathsAgain, keys: &[Key]) -> Result<Batch, StoreError> {
        Ok(match (self, self.there(keys, &again.0.age).await?) {
            (Store::Files(files), There::Files(entries)) => {
                Batch::of_files(files, again.0.clone(), entries)
            }
            (Store::Objects(objects), There::Objects(entries)) => {
                Batch::of_objects(objects, again.0.clone(), entries)
            }
            _ => return Err(self.foreign()),
        })
    }

    async fn there(&self, keys: &[Key], age: &Age) -> Result<There, StoreError> {
        // Several versions of an object have one path.
        let paths: BTreeSet<Vec<u8>> = keys.iter().filter_map(paths::path_of).collect();
        let paths = paths.into_iter();
        match self {
            Store::Files(files) => {
                let found = files.look(paths.collect()).await?.into_iter().flatten();
                let dated = |mut entry: files::Entry| {
                    entry.start = age.start(entry.modified, entry.identity.since);
                    entry
                };
                Ok(There::Files(found.map(dated).collect()))
            }
            Store::Objects(objects) => {
                let paths: Vec<_> = paths.map(|path| (path, None)).collect();
                let found = objects.look(&paths).await?.into_iter().flatten();
                let dated = |mut entry: objects::Entry| {
                    entry.start = entry.modified;
                    entry
                };
                Ok(There::Objects(found.map(dated).collect()))
            }
            Store::Tables(_) => Err(self.foreign()),
        }
    }
}
