//! The access path: how a run reaches the due rows of a table, and why that way.
//!
//! Only a choice: whatever statistics say, a run looks again at its end and takes what it missed.

use std::fmt;

use serde::{Serialize, Serializer};

/// How a run reaches the due rows of a table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum AccessPath {
    /// Partitions of which every row is due are dropped whole; the other rows are reached as without them.
    Partitions,
    /// Windows in the order in which rows lie.
    Ranges,
    /// The index on the starting point, a bounded window at a time, each in the order in which its rows lie.
    Index,
}

impl AccessPath {
    /// All of them.
    pub const ALL: [AccessPath; 3] =
        [AccessPath::Partitions, AccessPath::Ranges, AccessPath::Index];

    /// The word for it in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            AccessPath::Partitions => "partitions",
            AccessPath::Ranges => "ranges",
            AccessPath::Index => "index",
        }
    }
}

impl fmt::Display for AccessPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for AccessPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// What is known of a table and of what is due in it.
#[derive(Clone, Copy, Default, Debug)]
pub struct Facts {
    /// Records that are due.
    pub due: u64,
    /// Records of the table.
    pub total: u64,
    /// Pages that they lie in.
    pub pages: u64,
    /// Whether an index serves the starting point.
    pub is_indexed: bool,
    /// How well the order of the starting points is that in which the rows lie, from -1 to 1; `None` where
    /// the store does not tell.
    pub correlation: Option<f64>,
    /// Partitions of which every row is due.
    pub whole_partitions: u64,
    /// The path that the rule pins.
    pub pinned: Option<AccessPath>,
}

/// Why a path was chosen.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Why {
    /// The rule pins it.
    Pinned,
    /// So many partitions hold nothing but due rows.
    WholePartitions(u64),
    /// No index serves the starting point.
    NoIndex,
    /// Due rows lie in so many of so many pages.
    Few(u64, u64),
    /// Due rows lie in so many of so many pages.
    Many(u64, u64),
    /// A walk met so many due rows in so many pages.
    Sparse(u64, u64),
}

impl Why {
    /// The reason, as the end of a sentence that begins with the path.
    pub fn in_words(self) -> String {
        match self {
            Why::Pinned => "the rule pins it".to_owned(),
            Why::WholePartitions(1) => "one partition holds nothing but due rows".to_owned(),
            Why::WholePartitions(count) => {
                format!("{count} partitions hold nothing but due rows")
            }
            Why::NoIndex => "no index serves the starting point".to_owned(),
            Why::Few(touched, pages) => {
                format!("due rows lie in about {touched} of {pages} pages")
            }
            Why::Many(touched, pages) => {
                format!("due rows lie in about {touched} of {pages} pages, a fair share")
            }
            Why::Sparse(rows, pages) => {
                format!("a stretch of {pages} pages held {rows} due rows")
            }
        }
    }
}

/// A page that is sought costs as much as so many that are read in order: PostgreSQL's own
/// `random_page_cost`.
const SOUGHT: f64 = 4.0;

impl Facts {
    /// About how many pages the due rows lie in: as many as they fill where they lie together, and where
    /// they are scattered, as many as so many random rows meet (Cardenas, 1975). In between by the square
    /// of the correlation, as PostgreSQL's planner does.
    #[expect(clippy::cast_precision_loss, reason = "an estimate needs no more")]
    fn touched(&self) -> f64 {
        let (due, pages) = (self.due.min(self.total) as f64, self.pages as f64);
        if self.total == 0 || self.pages == 0 {
            return 0.0;
        }
        let share = due / self.total as f64;
        let together = (pages * share).max(1.0_f64.min(due));
        let scattered = pages * (1.0 - (1.0 - share).powf(self.total as f64 / pages));
        let correlation = self.correlation.filter(|value| value.is_finite()).unwrap_or(0.0);
        let squared = (correlation * correlation).min(1.0);
        (squared * together + (1.0 - squared) * scattered).min(due).clamp(0.0, pages)
    }
}

impl AccessPath {
    /// Chooses by what is known.
    ///
    /// A walk in physical order reads every page once, and one along the index seeks each page in which a
    /// due row lies. Without an index, finding due rows is a scan of the whole table for every window, so
    /// one walk over it is always better.
    pub fn choose(facts: &Facts) -> (AccessPath, Why) {
        match facts.pinned {
            Some(AccessPath::Index) if !facts.is_indexed => {
                return (AccessPath::Ranges, Why::NoIndex);
            }
            Some(pinned) => return (pinned, Why::Pinned),
            None => {}
        }
        if facts.whole_partitions > 0 {
            return (AccessPath::Partitions, Why::WholePartitions(facts.whole_partitions));
        }
        if !facts.is_indexed {
            return (AccessPath::Ranges, Why::NoIndex);
        }
        let touched = facts.touched();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and the number of pages"
        )]
        let shown = (touched.round() as u64).min(facts.pages);
        #[expect(clippy::cast_precision_loss, reason = "an estimate needs no more")]
        if touched * SOUGHT < facts.pages as f64 {
            (AccessPath::Index, Why::Few(shown, facts.pages))
        } else {
            (AccessPath::Ranges, Why::Many(shown, facts.pages))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn facts(due: u64, total: u64, pages: u64) -> Facts {
        Facts { due, total, pages, is_indexed: true, ..Facts::default() }
    }

    #[test]
    fn few_due_rows_are_found_by_the_index_and_many_by_walking_the_table() {
        let path = |facts: Facts| AccessPath::choose(&facts).0;
        assert_eq!(path(facts(100, 400_000, 10_000)), AccessPath::Index);
        assert_eq!(path(facts(400_000, 800_000, 20_000)), AccessPath::Ranges);
        let bare = Facts { is_indexed: false, ..facts(100, 400_000, 10_000) };
        assert_eq!(AccessPath::choose(&bare), (AccessPath::Ranges, Why::NoIndex));
        // A tenth of the rows, scattered, lies on nearly every page; together, on a tenth of them.
        assert_eq!(path(facts(40_000, 400_000, 10_000)), AccessPath::Ranges);
        let together = Facts { correlation: Some(0.999), ..facts(40_000, 400_000, 10_000) };
        assert_eq!(path(together), AccessPath::Index);
        let whole = Facts { whole_partitions: 2, ..facts(40_000, 400_000, 10_000) };
        assert_eq!(AccessPath::choose(&whole), (AccessPath::Partitions, Why::WholePartitions(2)));
    }

    #[test]
    fn what_the_rule_pins_is_taken_where_it_can_be() {
        for pinned in AccessPath::ALL {
            let facts = Facts { pinned: Some(pinned), ..facts(5, 10, 10) };
            assert_eq!(AccessPath::choose(&facts), (pinned, Why::Pinned));
        }
        let bare = Facts { pinned: Some(AccessPath::Index), ..Facts::default() };
        assert_eq!(AccessPath::choose(&bare), (AccessPath::Ranges, Why::NoIndex));
    }

    proptest! {
        #[test]
        fn more_due_never_leads_from_ranges_back_to_the_index(
            total in 1_u64..1_000_000_000,
            density in 1_u64..200,
            due in any::<(prop::sample::Index, prop::sample::Index)>(),
            correlation in prop::option::of(-1.5_f64..1.5),
        ) {
            let pages = total.div_ceil(density);
            let at = |index: &prop::sample::Index| index.index(usize::try_from(total).unwrap()) as u64;
            let (less, more) = (at(&due.0).min(at(&due.1)), at(&due.0).max(at(&due.1)));
            let path = |due| AccessPath::choose(&Facts { correlation, ..facts(due, total, pages) }).0;
            prop_assert!(path(less) == AccessPath::Index || path(more) == AccessPath::Ranges);
        }

        #[test]
        fn no_statistics_are_too_strange(
            due in any::<u64>(),
            total in any::<u64>(),
            pages in any::<u64>(),
            is_indexed in any::<bool>(),
            correlation in prop::option::of(prop::num::f64::ANY),
        ) {
            let facts = Facts { due, total, pages, is_indexed, correlation, ..Facts::default() };
            let (path, why) = AccessPath::choose(&facts);
            prop_assert!(is_indexed || path == AccessPath::Ranges);
            if let Why::Few(touched, of) | Why::Many(touched, of) = why {
                prop_assert!(touched <= of, "{}", why.in_words());
            }
        }
    }
}
