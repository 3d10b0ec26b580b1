//! Deletes: looks again, deletes what is still due, markers last, and says what became of each.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::clock;

use super::super::search::{Search, Verdict};
use super::super::sql::Access;
use super::listing::PAGE;
use super::pace::{ATTEMPTS, WIDEST, back_off};
use super::{Backend, Deleted, Entry, Item, Left, Objects, ObjectsError, Outcome, is_unique};

/// After so many refusals in a row that no lock explains, no more are asked about.
const ASK_IN_VAIN: usize = 3;

/// One entry that is to go.
struct Wanted {
    index: usize,
    key: String,
    entry: Entry,
}

impl Wanted {
    fn is(&self, item: &Item) -> bool {
        self.entry.version == item.version
    }

    /// Whether it was put there anew since it was found. What is not known of both is no difference.
    fn was_replaced(&self, by: &Item) -> bool {
        fn differ<T: PartialEq>(one: Option<&T>, other: Option<&T>) -> bool {
            one.zip(other).is_some_and(|(one, other)| one != other)
        }
        !self.is_unique()
            && (differ(self.entry.modified.as_ref(), by.modified.as_ref())
                || differ(self.entry.tag.as_ref(), by.tag.as_ref()))
    }

    /// As a listing would show it that knew nothing more.
    fn item(&self) -> Item {
        let (version, is_marker) = (self.entry.version.clone(), self.entry.is_marker);
        Item { key: self.key.clone(), version, is_marker, modified: None, tag: None }
    }

    fn is_unique(&self) -> bool {
        is_unique(self.entry.version.as_deref())
    }
}

/// What became of a portion, and the failure that ended it early.
#[derive(Default)]
struct Done {
    deleted: Deleted,
    failure: Option<ObjectsError>,
}

impl Objects {
    /// Deletes entries that a search found, by requests of up to 1,000 keys, eight at a time: hand over
    /// 8,000 to keep them all busy. Each is looked at and judged again right before. What is not there any
    /// more counts as gone.
    ///
    /// # Errors
    /// When the store is open for reading, or nothing could be deleted. Where something was, the rest is
    /// among what is kept.
    pub async fn delete(
        &self,
        search: &Arc<Search>,
        entries: Vec<Entry>,
    ) -> Result<Deleted, ObjectsError> {
        if self.inner.access != Access::ReadWrite {
            return Err(ObjectsError::ReadOnly { store: self.inner.store.clone() });
        }
        let versions =
            self.is_versioned().await? || entries.iter().any(|entry| entry.version.is_some());
        let mut all = Done::default();
        let mut wanted = Vec::with_capacity(entries.len());
        for (index, entry) in entries.into_iter().enumerate() {
            match self.key(&entry.path) {
                Some(key) => wanted.push(Wanted { index, key, entry }),
                None => all.deleted.kept.push((index, refused("its path can be no key"))),
            }
        }
        let mut portions = portions(wanted).into_iter();
        let mut tasks: JoinSet<Done> = JoinSet::new();
        loop {
            while tasks.len() < WIDEST
                && let Some(portion) = portions.next()
            {
                let (objects, search) = (self.clone(), search.clone());
                tasks
                    .spawn(async move { objects.delete_portion(&search, portion, versions).await });
            }
            match tasks.join_next().await {
                None => break,
                Some(Ok(done)) => {
                    all.deleted.gone.extend(done.deleted.gone);
                    all.deleted.kept.extend(done.deleted.kept);
                    all.failure = all.failure.or(done.failure);
                }
                Some(Err(died)) => std::panic::resume_unwind(died.into_panic()),
            }
        }
        match all.failure {
            Some(failure) if all.deleted.gone.is_empty() => Err(failure),
            _ => {
                all.deleted.gone.sort_unstable();
                all.deleted.kept.sort_unstable_by_key(|(index, _)| *index);
                Ok(all.deleted)
            }
        }
    }

    /// Looks, judges, deletes, as often as answers leave something open. No request to delete is sent again
    /// without another look: by then a key may be another object's.
    async fn delete_portion(&self, search: &Search, mut open: Vec<Wanted>, versions: bool) -> Done {
        let mut done = Done::default();
        let mut attempt = 0;
        loop {
            let round = self.delete_round(search, &mut open, versions, &mut done.deleted).await;
            attempt += 1;
            match round {
                Ok(()) if open.is_empty() => return done,
                Err(error) if !error.is_transient() || attempt == ATTEMPTS => {
                    let why = match &error {
                        ObjectsError::Refused { code, .. } => code.as_str(),
                        ObjectsError::Busy { .. } => "the server asks for fewer requests",
                        ObjectsError::Unreachable { .. } => "the server cannot be reached",
                        _ => "the server's answer is not understood",
                    };
                    keep(&mut done.deleted, open, &refused(why));
                    done.failure = Some(error);
                    return done;
                }
                Ok(()) if attempt == ATTEMPTS => {
                    keep(
                        &mut done.deleted,
                        open,
                        &refused("the server does not say that it is gone"),
                    );
                    return done;
                }
                _ => back_off(attempt).await,
            }
        }
    }

    async fn delete_round(
        &self,
        search: &Search,
        open: &mut Vec<Wanted>,
        versions: bool,
        deleted: &mut Deleted,
    ) -> Result<(), ObjectsError> {
        let keys = open.iter().map(|wanted| wanted.key.clone()).collect();
        let seen = self.look_at(keys, versions).await?;
        let (mut objects, mut markers) = (Vec::new(), Vec::new());
        let mut unseen: Vec<Wanted> = Vec::new();
        for wanted in std::mem::take(open) {
            let same = seen.get(&wanted.key);
            let item = same.and_then(|items| items.iter().find(|item| wanted.is(item)));
            match item.map(|item| (item, search.judge(&wanted.entry.path, item.modified))) {
                Some((item, _)) if wanted.was_replaced(item) => {
                    deleted.kept.push((wanted.index, Left::Changed));
                }
                Some((item, Verdict::Due(_))) if item.is_marker => markers.push((wanted, item)),
                Some((item, Verdict::Due(_))) => objects.push((wanted, item)),
                Some(_) => deleted.kept.push((wanted.index, Left::Changed)),
                // Named without a version, and there are versions by now: something is still there.
                None if wanted.entry.version.is_none() && same.is_some() => {
                    deleted.kept.push((wanted.index, Left::Changed));
                }
                // The name of a version is never given again, so that to ask for its deletion is to ask
                // whether it is gone.
                None if wanted.is_unique() => unseen.push(wanted),
                None => deleted.gone.push(wanted.index),
            }
        }
        let items: Vec<Item> = unseen.iter().map(Wanted::item).collect();
        for (wanted, item) in unseen.into_iter().zip(&items) {
            let to = if item.is_marker { &mut markers } else { &mut objects };
            to.push((wanted, item));
        }
        // Which versions are not gone after this round, and why where that is known.
        let mut staying: HashMap<(&str, Option<&str>), Option<Left>> = HashMap::new();
        for items in seen.values() {
            for item in items.iter().filter(|item| !item.is_marker) {
                staying.insert((&item.key, item.version.as_deref()), None);
            }
        }
        let sent = self.send(objects, &mut staying, open, deleted).await;
        let mut free = Vec::new();
        for (wanted, marker) in markers {
            let mut hides = seen.get(&wanted.key).into_iter().flatten().filter(|item| {
                // In doubt, a version is the older one.
                !item.is_marker && (item.modified <= marker.modified || marker.modified.is_none())
            });
            let reason =
                hides.find_map(|item| staying.get(&(item.key.as_str(), item.version.as_deref())));
            let is_open = || open.iter().any(|other| other.key == wanted.key);
            match reason {
                None => free.push((wanted, marker)),
                Some(None) if sent.is_err() || is_open() => open.push(wanted),
                Some(None) => {
                    let why = refused("an older version of its key is still there");
                    deleted.kept.push((wanted.index, why));
                }
                Some(Some(why)) => deleted.kept.push((wanted.index, why.clone())),
            }
        }
        if sent.is_err() {
            open.extend(free.into_iter().map(|(wanted, _)| wanted));
            return sent;
        }
        self.send(free, &mut HashMap::new(), open, deleted).await
    }

    /// Deletes by requests of at most a thousand, one after the other.
    async fn send<'a>(
        &self,
        wanted: Vec<(Wanted, &'a Item)>,
        staying: &mut HashMap<(&'a str, Option<&'a str>), Option<Left>>,
        open: &mut Vec<Wanted>,
        deleted: &mut Deleted,
    ) -> Result<(), ObjectsError> {
        let mut rest = wanted;
        let mut in_vain = 0;
        while !rest.is_empty() {
            let later = rest.split_off(rest.len().min(PAGE));
            let now = std::mem::replace(&mut rest, later);
            let items: Vec<Item> = now.iter().map(|(_, item)| Item::clone(item)).collect();
            let mut outcomes = self.request(&items).await;
            if matches!(outcomes, Err(ObjectsError::Busy { .. })) {
                // It did nothing. A moment later it may, and what was seen is still fresh.
                back_off(0).await;
                outcomes = self.request(&items).await;
            }
            let outcomes = match outcomes {
                Ok(outcomes) => outcomes,
                Err(error) => {
                    open.extend(now.into_iter().chain(rest).map(|(wanted, _)| wanted));
                    return Err(error);
                }
            };
            for ((wanted, item), outcome) in now.into_iter().zip(outcomes) {
                let place = (item.key.as_str(), item.version.as_deref());
                let left = match outcome {
                    Outcome::Gone => {
                        staying.remove(&place);
                        deleted.gone.push(wanted.index);
                        continue;
                    }
                    Outcome::Unknown | Outcome::Vague => {
                        open.push(wanted);
                        continue;
                    }
                    Outcome::MarkerMade => refused("the bucket has versions by now"),
                    Outcome::Refused { code, is_denied, speaks_of_lock } => {
                        let ask = is_denied && (speaks_of_lock || in_vain < ASK_IN_VAIN);
                        let lock = if ask { self.lock(item).await } else { None };
                        in_vain = if lock.is_some() { 0 } else { in_vain + 1 };
                        match lock {
                            Some(lock) => lock,
                            None if speaks_of_lock => Left::Blocked { until: None },
                            None => Left::Refused(code),
                        }
                    }
                };
                staying.insert(place, Some(left.clone()));
                deleted.kept.push((wanted.index, left));
            }
        }
        Ok(())
    }

    async fn request(&self, items: &[Item]) -> Result<Vec<Outcome>, ObjectsError> {
        match self.inner.backend {
            #[cfg(feature = "s3")]
            Backend::S3(ref s3) => s3.delete(items).await,
            #[cfg(any(feature = "gcs", feature = "azure"))]
            Backend::Cloud(ref cloud) => cloud.delete(items).await,
        }
    }

    async fn lock(&self, item: &Item) -> Option<Left> {
        match self.inner.backend {
            #[cfg(feature = "s3")]
            Backend::S3(ref s3) => {
                let lock = s3.lock(item, clock::now()).await?;
                Some(Left::Blocked { until: lock.until })
            }
            #[cfg(any(feature = "gcs", feature = "azure"))]
            Backend::Cloud(_) => None,
        }
    }
}

fn refused(why: &str) -> Left {
    Left::Refused(why.to_owned())
}

fn keep(deleted: &mut Deleted, open: Vec<Wanted>, why: &Left) {
    deleted.kept.extend(open.into_iter().map(|wanted| (wanted.index, why.clone())));
}

/// Portions of a thousand, in the order of keys; the entries of one key stay together, because its markers
/// wait for its versions.
fn portions(wanted: Vec<Wanted>) -> Vec<Vec<Wanted>> {
    let mut by_key: BTreeMap<String, Vec<Wanted>> = BTreeMap::new();
    for wanted in wanted {
        by_key.entry(wanted.key.clone()).or_default().push(wanted);
    }
    let mut portions: Vec<Vec<Wanted>> = Vec::new();
    for same in by_key.into_values() {
        match portions.last_mut() {
            Some(last) if last.len() + same.len() <= PAGE => last.extend(same),
            _ => portions.push(same),
        }
    }
    portions
}
