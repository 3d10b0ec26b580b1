//! Looking again: what became of a batch, what is still there, and what a rule makes of one record.

use super::error::StoreError;
use super::sql::{Bounds, Explained, Interrupted, Resolution};
use super::{Store, Target, files, objects, paths};
use crate::plan::Residue;
use crate::types::Key;

impl Store {
    /// Finds out what became of a batch whose process died.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn resolve(
        &self,
        target: &Target,
        interrupted: &Interrupted,
    ) -> Result<Resolution, StoreError> {
        match (self, target) {
            (Store::Tables(tables), Target::Rows(target)) => {
                tables.resolve(target, interrupted).await
            }
            (_, Target::Paths(_)) => {
                let Interrupted { keys, identities, .. } = interrupted;
                let there = self.look_for_good(keys, identities).await?;
                let gone = there.iter().enumerate().filter(|(_, there)| !**there);
                Ok(Resolution::Partly(gone.map(|(place, _)| place).collect()))
            }
            (_, Target::Rows(_)) => Err(self.foreign()),
        }
    }

    /// Which of these files or objects are there. With identities, another of the same name is not.
    ///
    /// # Errors
    /// When the store cannot be asked; when it holds tables.
    pub async fn look(&self, keys: &[Key], identities: &[String]) -> Result<Vec<bool>, StoreError> {
        self.look_with(keys, identities, false).await
    }

    /// As [`Store::look`]; that the others are gone outlasts a power failure from now on, whoever
    /// deleted them.
    ///
    /// # Errors
    /// As for [`Store::look`].
    pub async fn look_for_good(
        &self,
        keys: &[Key],
        identities: &[String],
    ) -> Result<Vec<bool>, StoreError> {
        self.look_with(keys, identities, true).await
    }

    async fn look_with(
        &self,
        keys: &[Key],
        identities: &[String],
        for_good: bool,
    ) -> Result<Vec<bool>, StoreError> {
        let paths: Vec<_> = keys.iter().filter_map(paths::version_of).collect();
        if paths.len() != keys.len() {
            return Err(self.foreign());
        }
        match self {
            Store::Files(files) => {
                let paths = paths.into_iter().map(|(path, _)| path).collect();
                let found = if for_good {
                    files.look_for_good(paths).await?
                } else {
                    files.look(paths).await?
                };
                let is_it = |(place, found): (usize, Option<files::Entry>)| {
                    let known = identities.get(place);
                    found.is_some_and(|entry| {
                        known.is_none_or(|known| known.is_empty() || entry.bears(known))
                    })
                };
                Ok(found.into_iter().enumerate().map(is_it).collect())
            }
            Store::Objects(objects) => {
                let found = objects.look(&paths).await?;
                let is_it = |(place, found): (usize, Vec<objects::Entry>)| {
                    let known = identities.get(place).filter(|known| !known.is_empty());
                    found.iter().any(|entry| known.is_none_or(|known| entry.bears(known)))
                };
                Ok(found.into_iter().enumerate().map(is_it).collect())
            }
            Store::Tables(_) => Err(self.foreign()),
        }
    }

    /// What a rule makes of one record; `None` where there is none of these keys. Cannot write.
    ///
    /// # Errors
    /// As for [`Store::survey`].
    pub async fn explain(
        &self,
        target: &Target,
        bounds: Bounds,
        keys: &[Key],
    ) -> Result<Option<Explained>, StoreError> {
        let target = match (self, target) {
            (Store::Tables(tables), Target::Rows(target)) => {
                return tables.explain(target, bounds, keys).await;
            }
            (_, Target::Paths(target)) => target,
            (_, Target::Rows(_)) => return Err(self.foreign()),
        };
        let search = target.due(bounds);
        for (path, version) in keys.iter().filter_map(paths::version_of) {
            let found = match self {
                // A file has no version, so this is no file's key.
                Store::Files(_) if version.is_some() => None,
                Store::Files(files) => {
                    let mut found = files.look(vec![path]).await?;
                    found.pop().flatten().map(|entry| {
                        let start = search.age.start(entry.modified, entry.identity.since);
                        (entry.path, None, start)
                    })
                }
                Store::Objects(objects) => {
                    let is_named = version.is_some();
                    let mut found = objects.look(&[(path, version)]).await?;
                    let found = found.pop().unwrap_or_default().into_iter();
                    // Who names a version means it, be it a marker.
                    let meant = found.filter(|entry| is_named || !entry.is_marker);
                    let newest = meant.max_by_key(|entry| entry.modified);
                    newest.map(|entry| (entry.path, entry.version, entry.modified))
                }
                Store::Tables(_) => None,
            };
            if let Some((path, version, start)) = found {
                return Ok(paths::explained(&search, &path, version.as_deref(), start));
            }
        }
        Ok(None)
    }

    /// How many of these records are still there as they were when they were taken. Cannot write.
    ///
    /// # Errors
    /// As for [`Store::survey`].
    pub async fn still_there(
        &self,
        target: &Target,
        bounds: Bounds,
        keys: &[Key],
    ) -> Result<u64, StoreError> {
        match (self, target) {
            (Store::Tables(tables), Target::Rows(target)) => {
                tables.still_there(target, bounds, keys).await
            }
            (_, Target::Paths(_)) => {
                let there = self.look(keys, &[]).await?;
                Ok(there.into_iter().filter(|there| *there).count() as u64)
            }
            (_, Target::Rows(_)) => Err(self.foreign()),
        }
    }

    /// What it still holds physically of the records that were taken, and how that is known. A SQLite
    /// database folds its log first, where it was opened for acting.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn residue(&self, target: &Target) -> Result<(Residue, String), StoreError> {
        match (self, target) {
            (Store::Tables(tables), Target::Rows(target)) => tables.residue(target).await,
            (Store::Files(_), _) => Ok((
                Residue::LogicallyDeleted,
                "the names are gone and their folders synced; blocks, snapshots and copies-on-write \
                 are not known"
                    .to_owned(),
            )),
            (Store::Objects(_), _) => Ok((
                Residue::LogicallyDeleted,
                "no version and no delete marker is listed; copies by replication are not known"
                    .to_owned(),
            )),
            (Store::Tables(_), Target::Paths(_)) => Err(self.foreign()),
        }
    }
}
