//! What is looked for among files and objects: which are due, and why others stay.
//!
//! Pure. The stores of paths list what they have and act on what [`Search::judge`] says of each; a file
//! or object is judged when it is found, and again at the moment it is deleted.

use std::collections::BTreeSet;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::hold::Range;
use crate::path::Template;
use crate::plan::{KeptReason, Survey};

use super::sql::Bounds;

/// What is looked for.
#[derive(Clone, Debug)]
pub struct Search {
    /// What is meant.
    pub templates: Vec<Template>,
    /// From when age counts.
    pub age: Age,
    /// What legal holds keep.
    pub kept: Vec<Kept>,
}

/// From when the age of a file or object counts, and which is old enough.
#[derive(Clone, Debug)]
pub enum Age {
    /// Since it was last modified.
    Modified(Limits),
    /// Since it came: since it was made or last modified, whichever was first. Of an object, only the latter
    /// is known.
    Uploaded(Limits),
    /// Since the beginning of the day that its path names, in this zone. The day is over before it
    /// counts: retention begins with the first moment after it.
    Day(Limits, TimeZone),
    /// It does not count: an event, or the row it belongs to, says that it goes.
    Any,
}

/// Which starting points are due.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The moments that decide.
    pub bounds: Bounds,
    /// What starts before this day is a placeholder.
    pub earliest: Date,
}

impl Age {
    /// The starting point of a file that was last modified at one moment and made at another.
    ///
    /// An upload is not put off by whoever writes a file again, or gives it a date of their own.
    pub fn start(&self, modified: Option<Timestamp>, made: Option<Timestamp>) -> Option<Timestamp> {
        let Age::Uploaded(Limits { bounds, earliest }) = self else { return modified };
        let credible = first_credible(self, *earliest)..=bounds.now;
        let known = [modified, made].into_iter().flatten().filter(|at| credible.contains(at));
        // Where neither is credible, it stays for what is wrong with the first.
        known.min().or(modified)
    }
}

/// What a legal hold keeps.
#[derive(Clone)]
pub struct Kept {
    /// What it covers.
    pub what: Covered,
    /// What may have started in this range.
    pub range: Range,
}

/// What a legal hold covers of a store.
#[derive(Clone)]
pub enum Covered {
    /// All of it.
    Everything,
    /// What these templates mean.
    Paths(Vec<Template>),
    /// What is about persons.
    Persons {
        /// The templates by which a rule reads them from a path; not only those of the rule at work.
        templates: Vec<Template>,
        /// The placeholder that names them.
        placeholder: String,
        /// The persons.
        values: BTreeSet<Vec<u8>>,
    },
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<kept>")
    }
}

/// What becomes of a file or object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The rule does not mean it.
    Other,
    /// The rule means it, and it is not old enough.
    Young(Timestamp),
    /// It stays, for a reason.
    Kept(KeptReason),
    /// It goes; from when its retention counted, where that matters.
    Due(Option<Timestamp>),
}

impl Search {
    /// Looks for what these templates mean, whatever its age.
    pub fn named(templates: Vec<Template>) -> Search {
        Search { templates, age: Age::Any, kept: Vec::new() }
    }

    /// Looks for what these templates mean, and finds of each when it was last modified: none is due.
    pub fn dated(templates: Vec<Template>) -> Search {
        let bounds = Bounds { cutoff: Timestamp::MIN, now: Timestamp::MAX };
        let age = Age::Modified(Limits { bounds, earliest: Date::MIN });
        Search { templates, age, kept: Vec::new() }
    }

    /// Looks for what these templates mean and was last modified before the cutoff, however long before.
    pub fn modified_before(templates: Vec<Template>, bounds: Bounds) -> Search {
        let age = Age::Modified(Limits { bounds, earliest: Date::MIN });
        Search { templates, age, kept: Vec::new() }
    }

    /// What the paths that are looked for begin with; each path begins with one of these.
    pub fn prefixes(&self) -> Vec<&[u8]> {
        let mut all: Vec<&[u8]> = self.templates.iter().map(Template::prefix).collect();
        all.sort_unstable();
        // One that begins with another is looked through with it.
        let mut apart: Vec<&[u8]> = Vec::new();
        for prefix in all {
            if !apart.last().is_some_and(|before| prefix.starts_with(before)) {
                apart.push(prefix);
            }
        }
        apart
    }

    /// Whether anything below a folder can be meant; the root is an empty name.
    pub fn enters(&self, folder: &[u8]) -> bool {
        self.templates.iter().any(|template| template.enters(folder))
    }

    /// Whether a path is meant, whatever its age.
    pub fn means(&self, path: &[u8]) -> bool {
        self.templates.iter().any(|template| template.means(path))
    }

    /// Judges one file or object by its path and its starting point by [`Age::start`]: of an object, the
    /// moment it was last modified. `None` where that cannot be read.
    pub fn judge(&self, path: &[u8], start: Option<Timestamp>) -> Verdict {
        self.judge_by(path, || start)
    }

    /// The same, where it costs something to find that out: asked once for each path that is meant, and
    /// for no other.
    pub fn judge_by(&self, path: &[u8], start: impl FnOnce() -> Option<Timestamp>) -> Verdict {
        let Some(first) = self.templates.iter().position(|template| template.means(path)) else {
            return Verdict::Other;
        };
        let meaning = &self.templates[first..];
        let start = start();
        let (limits, start) = match &self.age {
            Age::Any => (None, None),
            Age::Modified(limits) | Age::Uploaded(limits) => (Some(limits), start),
            Age::Day(limits, zone) => (Some(limits), latest_day_over(meaning, path, zone)),
        };
        if limits.is_some() && start.is_none() {
            return Verdict::Kept(KeptReason::UnreadableStartingPoint);
        }
        if let (Some(Limits { bounds, earliest }), Some(start)) = (limits, start) {
            if start < first_credible(&self.age, *earliest) {
                return Verdict::Kept(KeptReason::PlaceholderStartingPoint);
            }
            // A day that is not over yet is no mistake.
            if start > bounds.now && !matches!(self.age, Age::Day(..)) {
                return Verdict::Kept(KeptReason::FutureStartingPoint);
            }
            if start >= bounds.cutoff {
                return Verdict::Young(start);
            }
        }
        if self.kept.iter().any(|kept| kept.covers(path, start)) {
            return Verdict::Kept(KeptReason::Held);
        }
        Verdict::Due(start)
    }
}

/// What starts before this moment is a placeholder. A day in a path counts from its end, and is held
/// against the first day by what it is itself.
fn first_credible(age: &Age, earliest: Date) -> Timestamp {
    let first = match age {
        Age::Day(_, zone) => earliest.tomorrow().and_then(|day| day.to_zoned(zone.clone())),
        _ => earliest.to_zoned(TimeZone::UTC),
    };
    first.map_or(Timestamp::MIN, |day| day.timestamp())
}

/// When the day is over that a path names. Where several templates read days from it, the latest counts;
/// where one of them reads what is no day, none does.
fn latest_day_over(templates: &[Template], path: &[u8], zone: &TimeZone) -> Option<Timestamp> {
    let mut latest = None;
    for template in templates.iter().filter(|template| template.has_date()) {
        let Some(read) = template.read(path, None) else { continue };
        let over = read.day?.tomorrow().ok()?.to_zoned(zone.clone()).ok()?.timestamp();
        latest = latest.max(Some(over));
    }
    latest
}

impl Kept {
    fn covers(&self, path: &[u8], start: Option<Timestamp>) -> bool {
        if let Some(start) = start {
            let before = self.range.begins().is_some_and(|begin| start < begin);
            let after = self.range.ends().is_some_and(|end| start >= end);
            if before || after {
                return false;
            }
        }
        let (templates, placeholder, values) = match &self.what {
            Covered::Everything => return true,
            Covered::Paths(templates) => {
                return templates.iter().any(|template| template.means(path));
            }
            Covered::Persons { templates, placeholder, values } => (templates, placeholder, values),
        };
        // Whose it is, is not known where no path says so: a hold on somebody else cannot mean it. Where two
        // templates say different persons, it is kept for either.
        templates.iter().any(|template| {
            let read = template.read(path, Some(placeholder)).and_then(|read| read.value);
            read.is_some_and(|value| values.contains(&value))
        })
    }
}

/// Counts what was judged.
pub fn count(survey: &mut Survey, verdict: Verdict) {
    match verdict {
        Verdict::Other => return,
        Verdict::Young(_) => {}
        Verdict::Due(start) => {
            survey.due += 1;
            if let Some(start) = start {
                survey.oldest = Some(survey.oldest.map_or(start, |oldest| oldest.min(start)));
                survey.newest = Some(survey.newest.map_or(start, |newest| newest.max(start)));
            }
        }
        Verdict::Kept(reason) => match reason {
            KeptReason::NoStartingPoint => survey.no_start += 1,
            KeptReason::UnreadableStartingPoint => survey.unreadable_start += 1,
            KeptReason::PlaceholderStartingPoint => survey.placeholder_start += 1,
            KeptReason::FutureStartingPoint => survey.future_start += 1,
            KeptReason::Excluded => survey.excluded += 1,
            KeptReason::AlreadyAnonymized => survey.anonymized += 1,
            KeptReason::NoKey => survey.no_key += 1,
            KeptReason::Held => survey.held += 1,
        },
    }
    survey.total += 1;
}

/// Adds what another look at other paths has counted.
pub fn add(survey: &mut Survey, other: &Survey) {
    survey.due += other.due;
    survey.oldest = [survey.oldest, other.oldest].into_iter().flatten().min();
    survey.newest = survey.newest.max(other.newest);
    survey.total += other.total;
    survey.no_start += other.no_start;
    survey.unreadable_start += other.unreadable_start;
    survey.placeholder_start += other.placeholder_start;
    survey.future_start += other.future_start;
    survey.excluded += other.excluded;
    survey.anonymized += other.anonymized;
    survey.no_key += other.no_key;
    survey.held += other.held;
}

#[cfg(test)]
mod tests;
