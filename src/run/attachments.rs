//! What belongs to a row and goes with it: files and objects in other stores.
//!
//! The due rows are locked first, so that what they name is certain. What they name is found, and goes
//! into the batch's intent with them; then it is deleted, looked for again, and only then is the
//! deletion of the rows committed. A row that names something in vain (an empty value, a name that
//! would lead elsewhere, something that a legal hold keeps) is let go and stays whole.

use std::collections::{BTreeMap, BTreeSet};

use super::execution::Next;
use super::{Prepared, RunError};
use crate::hold::Holds;
use crate::ledger::Attached;
use crate::path::Template;
use crate::rule::{Attachment, Rule};
use crate::store::sql::{Access, Locked, Pace, Replace};
use crate::store::{Batch, LockedBatch, StoreError, Stores, kept_by, path_of};
use crate::types::{Key, Name};

/// A batch, and what belongs to its records.
pub(super) struct Taking {
    pub(super) batch: Batch,
    pub(super) attached: Attachments,
    /// Rows that were let go, because what they name will not do.
    pub(super) unfit: u64,
    /// Rows that were let go, because what belongs to them could not be deleted before.
    pub(super) stuck: u64,
}

impl Taking {
    /// A batch to whose records nothing belongs.
    pub(super) fn alone(batch: Batch) -> Taking {
        Taking { batch, attached: Attachments::default(), unfit: 0, stuck: 0 }
    }
}

/// Files and objects that were found and are not deleted yet.
#[derive(Default)]
pub(super) struct Attachments {
    groups: Vec<Group>,
    /// Each row with what it names.
    owners: Vec<(Key, Vec<(Name, Template)>)>,
}

/// What was found in one store.
struct Group {
    store: Name,
    templates: Vec<Template>,
    batch: Batch,
}

impl Group {
    fn named(&self) -> Vec<Attached> {
        named(&self.store, &self.batch)
    }
}

fn named(store: &Name, batch: &Batch) -> Vec<Attached> {
    let table = batch.table().to_string();
    let attached =
        |key: &Key| Attached { store: store.clone(), table: table.clone(), key: key.clone() };
    batch.keys.iter().map(attached).collect()
}

/// Not all of it could be deleted.
pub(super) struct Stays {
    /// What is gone nevertheless.
    pub(super) gone: Vec<Attached>,
    /// The rows to which belongs what is not; none where that is not known.
    pub(super) rows: Vec<Key>,
    pub(super) error: RunError,
}

impl Attachments {
    /// By name, for the intent.
    pub(super) fn named(&self) -> Vec<Attached> {
        self.groups.iter().flat_map(Group::named).collect()
    }

    /// Deletes all of it, and looks again.
    ///
    /// # Errors
    /// When anything is left.
    pub(super) async fn delete(self, stores: &Stores) -> Result<(), Stays> {
        let mut gone = Vec::new();
        for Group { store, templates, batch } in self.groups {
            let names = named(&store, &batch);
            let deleted = match batch.commit().await {
                Ok(deleted) => deleted,
                Err(error) => {
                    if let Ok(there) = look(stores, &names).await {
                        gone.extend(without(names, &there));
                    }
                    return Err(Stays { gone, rows: Vec::new(), error: error.into() });
                }
            };
            let places = deleted.gone.unwrap_or_else(|| (0..names.len()).collect());
            gone.extend(places.iter().filter_map(|place| names.get(*place).cloned()));
            let again = async {
                stores.get(&store, Access::ReadWrite)?.take_attached(&templates, &[]).await
            };
            match again.await {
                Ok((left, _)) if left.keys.is_empty() => {}
                Ok((left, _)) => {
                    let rows = owners(&self.owners, &store, &left.keys);
                    let (left, until) = (left.keys.len() as u64, deleted.left.blocked_until);
                    let error = RunError::AttachmentsStay { store, left, until };
                    return Err(Stays { gone, rows, error });
                }
                Err(error) => return Err(Stays { gone, rows: Vec::new(), error: error.into() }),
            }
        }
        Ok(())
    }
}

/// The rows that name any of these files or objects.
fn owners(all: &[(Key, Vec<(Name, Template)>)], store: &Name, left: &[Key]) -> Vec<Key> {
    let left: Vec<_> = left.iter().filter_map(path_of).map(|(path, _)| path).collect();
    let names_one = |named: &[(Name, Template)]| {
        let here = named.iter().filter(|(name, _)| name == store);
        here.into_iter().any(|(_, template)| left.iter().any(|path| template.means(path)))
    };
    all.iter().filter(|(_, named)| names_one(named)).map(|(key, _)| key.clone()).collect()
}

fn without(names: Vec<Attached>, there: &[bool]) -> impl Iterator<Item = Attached> {
    let is_gone =
        |(place, name): (usize, Attached)| (there.get(place) == Some(&false)).then_some(name);
    names.into_iter().enumerate().filter_map(is_gone)
}

/// Which of these are there.
pub(super) async fn look(stores: &Stores, attached: &[Attached]) -> Result<Vec<bool>, StoreError> {
    let mut there = vec![false; attached.len()];
    let names: BTreeSet<&Name> = attached.iter().map(|other| &other.store).collect();
    for name in names {
        let here = attached.iter().enumerate().filter(|(_, other)| other.store == *name);
        let (places, keys): (Vec<_>, Vec<_>) =
            here.map(|(place, other)| (place, other.key.clone())).unzip();
        let found = stores.get(name, Access::ReadOnly)?.look(&keys, &[]).await?;
        for (place, found) in places.into_iter().zip(found) {
            there[place] = found;
        }
    }
    Ok(there)
}

/// Those of these that are gone.
pub(super) async fn gone(
    stores: &Stores,
    attached: &[Attached],
) -> Result<Vec<Attached>, StoreError> {
    let there = look(stores, attached).await?;
    Ok(without(attached.to_vec(), &there).collect())
}

/// Takes the next window with what belongs to its rows, but for those that are `stuck`.
pub(super) async fn take(
    (stores, rule, prepared): (&Stores, &Rule, &Prepared),
    stuck: &BTreeSet<Key>,
    next: &mut Next<'_>,
    pace: &mut Pace,
    replace: Replace<'_>,
) -> Result<Option<Taking>, StoreError> {
    let Prepared { store, target, bounds, held, .. } = prepared;
    let locked = match next {
        Next::OfWalk(walk) => store.lock(target, *bounds, walk, pace).await?,
        Next::In(window) => Some(store.lock_window(target, *bounds, window.clone()).await?),
        Next::Named(events) => {
            let window = target.rows().map(|rows| rows.window_of(events.iter().copied()));
            match window {
                Some(window) => Some(store.lock_window(target, *bounds, window).await?),
                None => None,
            }
        }
    };
    let Some(mut locked) = locked else { return Ok(None) };
    let columns: Vec<&str> = target.rows().map(|rows| rows.carry().collect()).unwrap_or_default();
    let before = locked.rows().len();
    let is_stuck: Vec<bool> = locked.rows().iter().map(|row| stuck.contains(&row.key)).collect();
    locked.retain(|place| !is_stuck[place]);
    let free = locked.rows().len();
    let attached = find(stores, rule, &held.holds, &columns, &mut locked).await?;
    let (stuck, unfit) = ((before - free) as u64, (free - locked.rows().len()) as u64);
    let batch = store.take_locked(target, *bounds, locked, replace).await?;
    Ok(Some(Taking { batch, attached, unfit, stuck }))
}

/// What belongs to locked rows. Rows whose values do not do, or name something that is held, are let go.
async fn find(
    stores: &Stores,
    rule: &Rule,
    holds: &Holds,
    columns: &[&str],
    locked: &mut LockedBatch,
) -> Result<Attachments, StoreError> {
    let filled: Vec<_> =
        locked.rows().iter().map(|row| fill(rule.attachments(), columns, row)).collect();
    let mut fits: Vec<bool> = filled.iter().map(Option::is_some).collect();
    let mut by_store: BTreeMap<&Name, Vec<(usize, Template)>> = BTreeMap::new();
    for (place, templates) in filled.into_iter().enumerate() {
        for (attachment, template) in rule.attachments().iter().zip(templates.into_iter().flatten())
        {
            by_store.entry(&attachment.store).or_default().push((place, template));
        }
    }
    let mut groups = Vec::new();
    // What is held in one store lets a row go, and with it what it names in the others.
    loop {
        let mut is_settled = true;
        groups.clear();
        for (name, named) in &by_store {
            let named: Vec<_> = named.iter().filter(|(place, _)| fits[*place]).collect();
            let templates: Vec<Template> =
                named.iter().map(|(_, template)| template.clone()).collect();
            let store = stores.get(name, Access::ReadWrite)?;
            let kept = if rule.holds.applies() {
                kept_by(name, &store.table(), None, holds)
            } else {
                Vec::new()
            };
            let (batch, held) = store.take_attached(&templates, &kept).await?;
            for place in held {
                fits[named[place].0] = false;
                is_settled = false;
            }
            groups.push(Group { store: (*name).clone(), templates, batch });
        }
        if is_settled {
            break;
        }
    }
    let mut owners: Vec<_> =
        locked.rows().iter().map(|row| (row.key.clone(), Vec::new())).collect();
    for (name, named) in by_store {
        for (place, template) in named {
            owners[place].1.push((name.clone(), template));
        }
    }
    let mut place = 0;
    owners.retain(|_| {
        place += 1;
        fits[place - 1]
    });
    locked.retain(|place| fits[place]);
    Ok(Attachments { groups, owners })
}

/// The templates with a row's values in them; `None` where a value will not do.
fn fill(attachments: &[Attachment], columns: &[&str], row: &Locked) -> Option<Vec<Template>> {
    let value = |name: &str| {
        let place = columns.iter().position(|column| column.eq_ignore_ascii_case(name))?;
        row.carried.get(place)?.as_deref().map(str::as_bytes)
    };
    attachments.iter().map(|attachment| attachment.path.fill(value).ok()).collect()
}
