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
use crate::store::{Batch, LockedBatch, PathsAgain, Store, StoreError, Stores, kept_by, path_of};
use crate::types::{Key, Name};

/// Files and objects, with their stores, that could not be deleted: the rows that name them stay.
pub(super) type Stuck = BTreeSet<(Name, Key)>;

/// A batch, and what belongs to its records.
pub(super) struct Taking {
    pub(super) batch: Batch,
    pub(super) attached: Attachments,
    /// Rows that were let go, because what they name will not do.
    pub(super) unfit: u64,
}

impl Taking {
    /// A batch to whose records nothing belongs.
    pub(super) fn alone(batch: Batch) -> Taking {
        Taking { batch, attached: Attachments::default(), unfit: 0 }
    }
}

/// Files and objects that were found and are not deleted yet, store by store.
#[derive(Default)]
pub(super) struct Attachments(Vec<Group>);

struct Group {
    store: Name,
    by: By,
    batch: Batch,
}

/// How what belongs to records is looked for again.
#[derive(Clone)]
enum By {
    /// By what the records name.
    Templates(Vec<Template>),
    /// By its own keys: the records are gone.
    Keys(PathsAgain, Vec<Key>),
}

impl By {
    /// What is there still.
    async fn still(&self, store: &Store) -> Result<Batch, StoreError> {
        match self {
            By::Templates(templates) => {
                store.take_attached(templates, &[]).await.map(|(left, _)| left)
            }
            By::Keys(again, keys) => store.take_paths(again, keys).await,
        }
    }
}

impl Group {
    fn named(&self) -> Vec<Attached> {
        let (store, table) = (&self.store, self.batch.table());
        let identities = &self.batch.identities;
        let attached = |(place, key): (usize, &Key)| Attached {
            store: store.clone(),
            table: table.to_string(),
            key: key.clone(),
            identity: identities.get(place).cloned().unwrap_or_default(),
        };
        self.batch.keys.iter().enumerate().map(attached).collect()
    }
}

impl Attachments {
    /// What belonged to records that are gone, and is there again.
    pub(super) fn again(
        store: Name,
        again: PathsAgain,
        keys: Vec<Key>,
        batch: Batch,
    ) -> Attachments {
        Attachments(vec![Group { store, by: By::Keys(again, keys), batch }])
    }

    /// By name, for the intent.
    pub(super) fn named(&self) -> Vec<Attached> {
        self.0.iter().flat_map(Group::named).collect()
    }

    /// Deletes all of it, and looks again.
    ///
    /// # Errors
    /// With what is gone nevertheless, when anything is left.
    pub(super) async fn delete(
        self,
        rule: &Name,
        stores: &Stores,
        stuck: &mut Stuck,
    ) -> Result<(), (Vec<Attached>, RunError)> {
        let mut gone = Vec::new();
        for group in self.0 {
            let Group { store: name, by, batch } = &group;
            let (name, by, names) = (name.clone(), by.clone(), group.named());
            let all = batch.keys.len();
            let deleted = match group.batch.commit().await {
                Ok(committed) => committed,
                Err(error) => {
                    let Ok(there) = look(stores, &names).await else {
                        tracing::warn!(store = %name, %error, "what became of attachments is not known");
                        return Err((gone, RunError::Unresolved { rule: rule.clone() }));
                    };
                    gone.extend(without(names, &there));
                    return Err((gone, error.into()));
                }
            };
            // What belonged to records that are gone is known by its keys alone: all of it has to be, or it is not said.
            let stays = matches!(by, By::Keys(..))
                && deleted.gone.as_ref().is_some_and(|gone| gone.len() < all);
            let places = deleted.gone.unwrap_or_else(|| (0..all).collect());
            gone.extend(places.iter().filter_map(|place| names.get(*place).cloned()));
            let again = async { by.still(&stores.get(&name, Access::ReadWrite)?).await };
            match again.await {
                Ok(left) if left.keys.is_empty() && !stays => {}
                Ok(left) => {
                    stuck.extend(left.keys.iter().map(|key| (name.clone(), key.clone())));
                    let left = left.keys.len().max(1) as u64;
                    let until = deleted.left.blocked_until;
                    return Err((gone, RunError::AttachmentsStay { store: name, left, until }));
                }
                Err(error) => return Err((gone, error.into())),
            }
        }
        Ok(())
    }
}

fn without(names: Vec<Attached>, there: &[bool]) -> impl Iterator<Item = Attached> {
    let there = there.to_vec();
    names
        .into_iter()
        .enumerate()
        .filter(move |(place, _)| there.get(*place) == Some(&false))
        .map(|(_, name)| name)
}

/// Which of these are there; another of the same name is not. That the others are gone lasts.
pub(super) async fn look(stores: &Stores, attached: &[Attached]) -> Result<Vec<bool>, StoreError> {
    let mut there = vec![false; attached.len()];
    let names: BTreeSet<&Name> = attached.iter().map(|other| &other.store).collect();
    for name in names {
        let here = attached.iter().enumerate().filter(|(_, other)| other.store == *name);
        let (places, (keys, identities)): (Vec<_>, (Vec<_>, Vec<_>)) =
            here.map(|(place, other)| (place, (other.key.clone(), other.identity.clone()))).unzip();
        let store = stores.get(name, Access::ReadOnly)?;
        let found = store.look_for_good(&keys, &identities).await?;
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

/// Takes the next window with what belongs to its rows.
pub(super) async fn take(
    (stores, rule, prepared): (&Stores, &Rule, &Prepared),
    next: &mut Next<'_>,
    pace: &mut Pace,
    stuck: &Stuck,
    replace: Replace<'_>,
) -> Result<Option<Taking>, StoreError> {
    let Prepared { store, target, bounds, held, .. } = prepared;
    let locked = match next {
        Next::OfWalk(walk) => store.lock(target, *bounds, walk, pace).await?,
        Next::In(window) => Some(store.lock_window(target, *bounds, window.clone()).await?),
        // What belongs to rows is taken with them, and never rows by a path.
        Next::Again { .. } => None,
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
    let attached = find((stores, rule), &held.holds, stuck, &columns, &mut locked).await?;
    let unfit = (before - locked.rows().len()) as u64;
    let batch = store.take_locked(target, *bounds, locked, replace).await?;
    Ok(Some(Taking { batch, attached, unfit }))
}

/// What belongs to locked rows. Rows whose values do not do, or name something that is held, are let go.
async fn find(
    (stores, rule): (&Stores, &Rule),
    holds: &Holds,
    stuck: &Stuck,
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
    for (store, key) in stuck {
        let (Some(named), Some(path)) = (by_store.get(store), path_of(key)) else { continue };
        for (place, _) in named.iter().filter(|(_, template)| template.means(&path)) {
            fits[*place] = false;
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
            groups.push(Group { store: (*name).clone(), by: By::Templates(templates), batch });
        }
        if is_settled {
            break;
        }
    }
    locked.retain(|place| fits[place]);
    Ok(Attachments(groups))
}

/// The templates with a row's values in them; `None` where a value will not do.
fn fill(attachments: &[Attachment], columns: &[&str], row: &Locked) -> Option<Vec<Template>> {
    let value = |name: &str| {
        let place = columns.iter().position(|column| column.eq_ignore_ascii_case(name))?;
        row.carried.get(place)?.as_deref().map(str::as_bytes)
    };
    attachments.iter().map(|attachment| attachment.path.fill(value).ok()).collect()
}
