//! Residue: deleted records that live on in backups, and when a set of backups is free of them.
//!
//! A deletion is *clear* of a set when every backup, and every stretch of archived log, that started at or before it
//! (plus clock skew) is gone from two successive listings, what these depend on included, and the tool has removed
//! the data as well. Because what started earlier is gone earlier or is kept by name, one moment says all of it:
//! whatever was deleted before [`Standing::clear_before`] is clear.
//!
//! Everything here is pure: a listing comes in, a decision comes out. A listing that cannot be believed changes nothing
//! ([`Doubt`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::rule::Retention;

/// So many backups may vanish between two listings without anybody being asked.
const FEW: usize = 4;

/// A backup, as its catalogue lists it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Backup {
    /// What the catalogue calls it.
    pub id: String,
    /// The earliest moment at which it may have begun to read the store.
    pub started_at: Timestamp,
    /// The backups that it cannot be restored without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<String>,
    /// Why it does not rotate, where it does not: kept for good, locked until a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permanent: Option<String>,
}

/// A stretch of archived log (WAL), which brings deleted records back as backups do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogRange {
    /// What the catalogue calls it.
    pub id: String,
    /// The earliest moment that it may reach back to; `None` where the catalogue does not tell.
    pub from: Option<Timestamp>,
}

/// What is known of the data of backups that are no longer listed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purge {
    /// It goes with the backup.
    AtOnce,
    /// The repository was looked at: nothing is in it that no listed backup needs.
    Seen,
    /// The repository was looked at: something is. In words, with what to do.
    Owed(String),
    /// Nobody can look; but when this was the last time that removing it began, and succeeded. `None`: never.
    Stamped(Option<Timestamp>),
}

/// All that a catalogue lists at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Listing {
    /// The moment.
    pub at: Timestamp,
    /// The backups, the oldest first.
    pub backups: Vec<Backup>,
    /// The archived log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<LogRange>,
    /// What is left of backups that are not listed.
    pub purge: Purge,
}

/// Why a listing proves nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Doubt {
    /// It has no backup at all.
    #[error("it lists no backup at all")]
    Empty,
    /// More than half of the backups vanished at once.
    #[error(
        "{missing} of {before} backups vanished since the listing before: if that is right, `expunged backups confirm`"
    )]
    Shrunken {
        /// How many are missing.
        missing: usize,
        /// How many there were.
        before: usize,
    },
    /// The newest backup is missing, and there is none that is newer.
    #[error("the newest backup of the listing before is missing, and none has taken its place")]
    WentBack,
    /// It is not later than the one before.
    #[error("this machine's clock was set back: the listing before is from {0}")]
    ClockSetBack(Timestamp),
    /// A backup is from the future.
    #[error("backup {0} started in the future: the clocks disagree")]
    Future(String),
}

impl Doubt {
    /// The same in words that name nothing, for the audit log.
    pub fn in_log_words(&self) -> &'static str {
        match self {
            Doubt::Empty => "it lists no backup",
            Doubt::Shrunken { .. } => "more than half of the backups vanished at once",
            Doubt::WentBack => "the newest backup vanished",
            Doubt::ClockSetBack(_) => "the clock was set back",
            Doubt::Future(_) => "a backup is from the future",
        }
    }
}

/// What a listing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Nothing.
    Nothing,
    /// Deletions before this moment are clear now, too.
    Cleared(Timestamp),
    /// A backup has come to light that is older than what was known: what was deleted from this moment on is not clear
    /// any more.
    Reopened(Timestamp),
}

/// How far a set has come: what its listings have proven. It is kept in the ledger.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Standing {
    /// The last listing that was believed.
    pub listing: Option<Listing>,
    /// What was deleted before it is in no backup of the set.
    pub clear_before: Option<Timestamp>,
    /// What the last listing by itself has shown, where nothing came between it and the next.
    once: Option<Timestamp>,
    /// What listings have shown whose backups' data may not be removed yet: when, and how far.
    #[serde(default)]
    unpurged: Vec<(Timestamp, Timestamp)>,
    /// Whether somebody has said that the next listing may be much shorter.
    #[serde(default)]
    pub confirmed: bool,
}

/// What a set has promised of its backups.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Terms {
    /// How long after its start a backup is gone.
    pub rotation: Retention,
    /// The zone of its calendar.
    pub zone: TimeZone,
    /// By how much the clocks may differ of the store, of this machine and of whoever makes the backups.
    pub skew: Duration,
    /// How long a backup may outstay its rotation before that is an alert.
    pub grace: Duration,
    /// Whether there is no catalogue, so that all is assumed.
    pub is_declared: bool,
}

/// What a set still has of a deletion.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Residue {
    /// Nothing.
    Clear {
        /// Whether that is only assumed, because the set has no catalogue.
        assumed: bool,
    },
    /// Backups that will rotate.
    Pending {
        /// When the last of them is gone, as far as can be said.
        until: Option<Timestamp>,
        /// What it waits for, where no listed backup holds it.
        #[serde(skip_serializing_if = "Option::is_none")]
        awaits: Option<String>,
        /// How many hold it.
        backups: u64,
        /// Whether that is only assumed.
        assumed: bool,
    },
    /// Backups that never rotate, by name, with the reason.
    Unbounded {
        /// They, or those that need them.
        kept: BTreeMap<String, String>,
    },
}

impl Residue {
    /// Whether nothing is left.
    pub fn is_clear(&self) -> bool {
        matches!(self, Residue::Clear { .. })
    }

    /// The same for people.
    pub fn in_words(&self) -> String {
        let day = |at: &Timestamp| at.strftime("%Y-%m-%d").to_string();
        match self {
            Residue::Clear { assumed: false } => "no backup holds it".to_owned(),
            Residue::Clear { assumed: true } => {
                "gone by the declared rotation, which is an assumption".to_owned()
            }
            Residue::Pending { until: Some(until), assumed: true, .. } => format!(
                "gone by {} if the declared rotation holds, which is an assumption",
                day(until)
            ),
            Residue::Pending { awaits: Some(awaits), .. } => {
                format!("no listed backup holds it, but that is not proven: {awaits}")
            }
            Residue::Pending { until: Some(until), backups, .. } => format!(
                "{backups} backup{} it, the last copy is gone by {}",
                if *backups == 1 { " holds" } else { "s hold" },
                day(until)
            ),
            Residue::Pending { .. } => "not known".to_owned(),
            Residue::Unbounded { kept } => {
                let kept: Vec<_> = kept.iter().map(|(id, why)| format!("{id} ({why})")).collect();
                format!("kept without an end in {}", kept.join(", "))
            }
        }
    }
}

/// A rotation that has not done what it promised.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Stalled {
    /// The backup that should have been gone for the longest time.
    pub backup: String,
    /// Since when.
    pub since: Timestamp,
}

impl Standing {
    /// Takes note of a listing.
    ///
    /// # Errors
    /// When it cannot be believed: then nothing has changed, and the next one starts afresh.
    pub fn note(&mut self, listing: Listing, skew: Duration) -> Result<Change, Doubt> {
        if let Some(doubt) = self.doubt(&listing, skew) {
            self.interrupt();
            return Err(doubt);
        }
        let shown = self.shown(&listing, skew);
        let before = self.clear_before;
        let proven = match (self.once, shown) {
            (Some(once), Some(shown)) => Some(once.min(shown)),
            _ => None,
        };
        self.once = shown;
        self.listing = Some(listing);
        self.confirmed = false;
        match (before, proven, shown) {
            // One look is enough to see that something is there.
            (Some(before), _, Some(shown)) if shown < before => {
                self.clear_before = Some(shown);
                Ok(Change::Reopened(shown))
            }
            (before, Some(proven), _) if before.is_none_or(|before| proven > before) => {
                self.clear_before = Some(proven);
                Ok(Change::Cleared(proven))
            }
            _ => Ok(Change::Nothing),
        }
    }

    /// Something went wrong: the last listing and the next are not successive.
    pub fn interrupt(&mut self) {
        self.once = None;
    }

    fn doubt(&self, listing: &Listing, skew: Duration) -> Option<Doubt> {
        let newest = |listing: &Listing| listing.backups.iter().map(|one| one.started_at).max();
        let Some(new) = newest(listing) else { return Some(Doubt::Empty) };
        let last = self.listing.as_ref();
        if let Some(last) = last.filter(|last| listing.at <= last.at && !self.confirmed) {
            return Some(Doubt::ClockSetBack(last.at));
        }
        let latest = later(listing.at, skew);
        if let Some(future) = listing.backups.iter().find(|one| one.started_at > latest) {
            return Some(Doubt::Future(future.id.clone()));
        }
        let last = last?;
        if newest(last).is_some_and(|old| new < old) && !self.confirmed {
            return Some(Doubt::WentBack);
        }
        let there: BTreeSet<&str> = listing.backups.iter().map(|one| one.id.as_str()).collect();
        let before = last.backups.len();
        let missing = last.backups.iter().filter(|one| !there.contains(one.id.as_str())).count();
        let is_much = missing > FEW && missing * 2 > before;
        (is_much && !self.confirmed).then_some(Doubt::Shrunken { missing, before })
    }

    /// The moment before which a listing by itself shows everything to be clear; `None` where it shows nothing of
    /// the kind.
    fn shown(&mut self, listing: &Listing, skew: Duration) -> Option<Timestamp> {
        let reach = earlier(reach(listing)?, skew);
        match &listing.purge {
            Purge::AtOnce | Purge::Seen => Some(reach),
            // What is left may be of any age; what was clear before is not in question.
            Purge::Owed(_) => self.clear_before.map(|before| before.min(reach)),
            Purge::Stamped(stamp) => {
                self.unpurged.retain(|(_, shown)| *shown <= reach);
                if self.unpurged.last().is_none_or(|(_, shown)| *shown < reach) {
                    self.unpurged.push((listing.at, reach));
                }
                let is_purged = |at: Timestamp| stamp.is_some_and(|stamp| at <= stamp);
                let purged = self.unpurged.iter().rev().find(|(at, _)| is_purged(*at)).copied();
                if let Some((at, _)) = purged {
                    self.unpurged.retain(|(other, _)| *other >= at);
                }
                let purged = purged.map(|(_, shown)| shown).max(self.clear_before);
                purged.map(|purged| purged.min(reach))
            }
        }
    }

    /// What the set still has of what was deleted at a moment.
    pub fn residue(&self, terms: &Terms, deleted_at: Timestamp, now: Timestamp) -> Residue {
        let latest = later(deleted_at, terms.skew);
        let gone_at_last = terms.rotation.due_at(latest, &terms.zone);
        if terms.is_declared {
            let until = Some(gone_at_last);
            return if now >= gone_at_last {
                Residue::Clear { assumed: true }
            } else {
                Residue::Pending { until, awaits: None, backups: 0, assumed: true }
            };
        }
        if self.clear_before.is_some_and(|before| deleted_at < before) {
            return Residue::Clear { assumed: false };
        }
        let pending = |until, backups, awaits: Option<&str>| Residue::Pending {
            until,
            awaits: awaits.map(str::to_owned),
            backups,
            assumed: false,
        };
        let Some(listing) = &self.listing else {
            return pending(None, 0, Some("the set was not listed yet"));
        };
        let ends = ends(&listing.backups, terms);
        let holding = listing.backups.iter().filter(|one| one.started_at <= latest);
        let holding: Vec<&End> = holding.filter_map(|one| ends.get(one.id.as_str())).collect();
        let kept: BTreeMap<String, String> =
            holding.iter().filter_map(|end| end.kept_by.clone()).collect();
        if !kept.is_empty() {
            return Residue::Unbounded { kept };
        }
        if let Some(until) = holding.iter().map(|end| end.gone_at).max() {
            return pending(Some(until), holding.len() as u64, None);
        }
        let why = match &listing.purge {
            Purge::Owed(words) => words.as_str(),
            _ if listing.logs.iter().any(|log| log.from.is_none_or(|from| from <= latest)) => {
                "archived log reaches back to it"
            }
            _ if has_strangers(listing) => "a backup depends on one that is not listed",
            Purge::Stamped(stamp) if stamp.is_none_or(|stamp| stamp < listing.at) => {
                "the data of removed backups was not compacted since"
            }
            _ => "one more listing has to confirm it",
        };
        pending(None, 0, Some(why))
    }

    /// What was deleted before this moment is in no backup of the set; of one without a catalogue, as far as its
    /// rotation can be believed. `None` where nothing is known.
    pub fn clear_until(&self, terms: &Terms, now: Timestamp) -> Option<Timestamp> {
        if terms.is_declared {
            return Some(earlier(terms.rotation.cutoff(now, &terms.zone), terms.skew));
        }
        self.clear_before
    }

    /// The backup that should have rotated away the longest time ago.
    pub fn stalled(&self, terms: &Terms, now: Timestamp) -> Option<Stalled> {
        let listing = self.listing.as_ref()?;
        let ends = ends(&listing.backups, terms);
        let late = ends
            .iter()
            .filter(|(_, end)| end.kept_by.is_none() && later(end.gone_at, terms.grace) < now);
        let (backup, end) = late.min_by_key(|(_, end)| end.gone_at)?;
        Some(Stalled { backup: (*backup).to_owned(), since: end.gone_at })
    }
}

/// When a backup is gone.
struct End {
    gone_at: Timestamp,
    /// Which backup that never rotates keeps it, and why that does not.
    kept_by: Option<(String, String)>,
}

/// When each backup is gone: it, and all that need it.
fn ends<'a>(backups: &'a [Backup], terms: &Terms) -> BTreeMap<&'a str, End> {
    let by_id: BTreeMap<&str, &Backup> = backups.iter().map(|one| (one.id.as_str(), one)).collect();
    let mut ends: BTreeMap<&str, End> = BTreeMap::new();
    for backup in backups {
        let gone_at = terms.rotation.due_at(backup.started_at, &terms.zone);
        // What it needs lasts as long as it does.
        let (mut open, mut seen) = (vec![backup], BTreeSet::new());
        while let Some(one) = open.pop() {
            if !seen.insert(one.id.as_str()) {
                continue;
            }
            let end = ends.entry(one.id.as_str()).or_insert(End { gone_at, kept_by: None });
            end.gone_at = end.gone_at.max(gone_at);
            if let Some(why) = &backup.permanent {
                end.kept_by.get_or_insert_with(|| (backup.id.clone(), why.clone()));
            }
            open.extend(one.parents.iter().filter_map(|id| by_id.get(id.as_str()).copied()));
        }
    }
    ends
}

/// Whether a backup depends on one that is not listed, so that nobody knows how old that is.
fn has_strangers(listing: &Listing) -> bool {
    let ids: BTreeSet<&str> = listing.backups.iter().map(|one| one.id.as_str()).collect();
    let mut parents = listing.backups.iter().flat_map(|one| &one.parents);
    parents.any(|parent| !ids.contains(parent.as_str()))
}

/// How far back a listing's backups and logs reach; `None` where that is not known.
fn reach(listing: &Listing) -> Option<Timestamp> {
    if has_strangers(listing) {
        return None;
    }
    let oldest = listing.backups.iter().map(|one| one.started_at).min()?;
    listing.logs.iter().try_fold(oldest, |oldest, log| Some(oldest.min(log.from?)))
}

/// So much later, or the end of time.
fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// So much earlier, or the beginning of time.
fn earlier(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_sub(by).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests;
