//! Restores: by what a store is known to be the one that it was, and what a look at it tells.
//!
//! Pure. A look shows the server, its timeline and the marker; [`judge`] holds them against what the ledger knows. The
//! marker is a number that only grows, and is written in two phases: the ledger says first what is about to be written,
//! and then that it was. So a crash between the two looks like neither.

use std::time::Duration;

use jiff::Timestamp;

/// By so much the marker's moment may be before what it speaks of: clocks are set.
const SKEW: Duration = Duration::from_mins(5);

/// What the ledger knows of a store.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Known {
    /// Its server.
    pub server: Option<String>,
    /// The server's timeline.
    pub timeline: Option<i64>,
    /// The marker that was last written into it.
    pub marker: Option<i64>,
    /// The marker that is about to be written, or may have been.
    pub pending: Option<i64>,
    /// Since when it is released: that what was deleted before is there is no news.
    pub released_at: Option<Timestamp>,
}

impl Known {
    /// The same after a restore that was seen to: the store is known by what is seen there, and the marker that is written
    /// next is one that never was, also not in what the restore has undone.
    #[must_use]
    pub fn released(&self, seen: &Sight, released_at: Option<Timestamp>) -> Known {
        let there = match seen.mark {
            Mark::There { number, .. } => Some(number),
            _ => None,
        };
        let last = self.marker.max(self.pending).max(there);
        Known {
            server: seen.server.clone().or_else(|| self.server.clone()),
            timeline: seen.timeline.or(self.timeline),
            marker: there,
            pending: last.map(|last| last.saturating_add(1)),
            released_at: released_at.or(self.released_at),
        }
    }

    /// The marker that comes next.
    pub fn next_marker(&self) -> i64 {
        self.pending.unwrap_or_else(|| self.marker.unwrap_or(0).saturating_add(1))
    }
}

/// What a look at a store shows.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Sight {
    /// Its server, where it has a name.
    pub server: Option<String>,
    /// The server's timeline, where it has any.
    pub timeline: Option<i64>,
    /// The marker.
    pub mark: Mark,
}

/// What a look shows of the marker.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum Mark {
    /// It was not looked for: none is configured.
    #[default]
    NotLooked,
    /// There is no table for it.
    NoTable,
    /// The table has no row.
    NoRow,
    /// It is there.
    There {
        /// The number.
        number: i64,
        /// When it was written, where that can be read.
        written_at: Option<Timestamp>,
    },
}

/// What a look comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is as it was, as far as can be seen.
    Same,
    /// It is the same with another server or timeline: a failover, or it was moved.
    Moved,
    /// Its marker is newer than the ledger knows: then the ledger is the one that was restored, or another ledger writes
    /// the same marker.
    Ahead,
    /// It seems to have been restored.
    Restored(Evidence),
}

/// What speaks for a restore.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Evidence {
    /// In the words of the audit log.
    pub words: &'static str,
    /// The moment that the store was restored to, or an earlier one; `None` where it is not known.
    pub restored_to: Option<Timestamp>,
}

impl Evidence {
    /// Records that were deleted are there again.
    pub fn records() -> Evidence {
        Evidence { words: "records that were deleted are there again", restored_to: None }
    }

    fn of(words: &'static str) -> Evidence {
        Evidence { words, restored_to: None }
    }
}

/// Holds what is seen against what is known.
pub fn judge(known: &Known, seen: &Sight, now: Timestamp) -> Verdict {
    let is_other_server = differ(known.server.as_ref(), seen.server.as_ref());
    let is_other_timeline = differ(known.timeline.as_ref(), seen.timeline.as_ref());
    match (&seen.mark, known.marker, known.pending) {
        (Mark::NoTable | Mark::NoRow, Some(_), _) => {
            return Verdict::Restored(Evidence::of("its marker is gone"));
        }
        (Mark::There { number, .. }, marker, pending)
            if marker == Some(*number) || pending == Some(*number) =>
        {
            let is_moved = is_other_server || is_other_timeline;
            return if is_moved { Verdict::Moved } else { Verdict::Same };
        }
        (Mark::There { number, written_at }, Some(marker), _) if *number < marker => {
            let words = "its marker is older than the one that was written last";
            let restored_to = written_at.filter(|at| *at <= now);
            let restored_to = restored_to.and_then(|at| at.checked_sub(SKEW).ok());
            return Verdict::Restored(Evidence { words, restored_to });
        }
        (Mark::There { .. }, Some(_), _) => return Verdict::Ahead,
        // At first sight the marker is whatever it is, and the server decides.
        _ => {}
    }
    if is_other_server {
        return Verdict::Restored(Evidence::of("it is on another server"));
    }
    if is_other_timeline {
        return Verdict::Restored(Evidence::of("its server is on another timeline"));
    }
    match seen.mark {
        Mark::There { .. } if known.marker.is_none() => Verdict::Ahead,
        _ => Verdict::Same,
    }
}

/// Whether both are known, and not the same.
fn differ<T: PartialEq>(one: Option<&T>, other: Option<&T>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one != other)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn moment(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    /// A ledger and a store that write the marker, and may be interrupted between any two steps.
    #[derive(Clone, Debug, Default)]
    struct World {
        known: Known,
        store: Option<i64>,
    }

    impl World {
        fn sight(&self) -> Sight {
            let there = |number| Mark::There { number, written_at: Some(moment(number)) };
            Sight { mark: self.store.map_or(Mark::NoRow, there), ..Sight::default() }
        }

        /// Steps of one writing of the marker; fewer than three are a crash between.
        fn write(&mut self, steps: u8) {
            // What a look does before: a write that was begun and took place counts.
            if self.known.pending.is_some() && self.known.pending == self.store {
                self.known.marker = self.known.pending.take();
            }
            let number = self.known.next_marker();
            if steps > 0 {
                self.known.pending = Some(number);
            }
            if steps > 1 {
                self.store = Some(number);
            }
            if steps > 2 {
                self.known.marker = Some(number);
                self.known.pending = None;
            }
        }
    }

    proptest! {
        /// However often the writing of the marker is interrupted, nothing looks like a restore; and a store that is put
        /// back behind a marker whose writing was finished always does.
        #[test]
        fn interrupted_markers_are_no_restores_and_every_restore_shows(
            before in prop::collection::vec(0..4_u8, 0..12),
            after in prop::collection::vec(0..4_u8, 0..12),
        ) {
            let mut world = World::default();
            for steps in before {
                world.write(steps);
                prop_assert_eq!(judge(&world.known, &world.sight(), moment(99)), Verdict::Same);
            }
            let backup = world.store;
            for steps in after {
                world.write(steps);
                prop_assert_eq!(judge(&world.known, &world.sight(), moment(99)), Verdict::Same);
            }
            let is_behind = world.known.marker > backup;
            world.store = backup;
            let verdict = judge(&world.known, &world.sight(), moment(99));
            prop_assert_eq!(matches!(verdict, Verdict::Restored(_)), is_behind, "{:?}", world);
        }

        #[test]
        fn another_timeline_with_the_marker_intact_is_a_failover(number in 1..9_i64, timeline in 2..9_i64) {
            let known = Known { timeline: Some(1), marker: Some(number), ..Known::default() };
            let mark = Mark::There { number, written_at: None };
            let seen = Sight { timeline: Some(timeline), mark, ..Sight::default() };
            prop_assert_eq!(judge(&known, &seen, moment(0)), Verdict::Moved);
            let unmarked = Sight { mark: Mark::NotLooked, ..seen };
            prop_assert!(matches!(judge(&known, &unmarked, moment(0)), Verdict::Restored(_)));
        }
    }

    #[test]
    fn after_a_release_the_store_is_known_again_and_no_number_comes_twice() {
        let known = Known { marker: Some(7), pending: Some(8), ..Known::default() };
        let mark = Mark::There { number: 5, written_at: None };
        let seen = Sight { mark, timeline: Some(2), ..Sight::default() };
        let released = known.released(&seen, None);
        assert_eq!(judge(&released, &seen, moment(0)), Verdict::Same);
        assert_eq!((released.next_marker(), released.timeline), (9, Some(2)));
        let gone = Sight { mark: Mark::NoRow, ..Sight::default() };
        let released = known.released(&gone, Some(moment(1)));
        assert_eq!(judge(&released, &gone, moment(0)), Verdict::Same);
        assert_eq!((released.next_marker(), released.released_at), (9, Some(moment(1))));
    }

    #[test]
    fn what_is_not_known_speaks_for_nothing() {
        let known = Known { server: Some("a".to_owned()), timeline: Some(1), ..Known::default() };
        assert_eq!(judge(&known, &Sight::default(), moment(0)), Verdict::Same);
        let seen = Sight { server: Some("a".to_owned()), timeline: Some(3), ..Sight::default() };
        assert_eq!(judge(&Known::default(), &seen, moment(0)), Verdict::Same);
    }

    #[test]
    fn the_marker_says_when_the_backup_was_made_and_not_in_the_future() {
        let known = Known { marker: Some(7), ..Known::default() };
        let at = |written_at| {
            let mark = Mark::There { number: 5, written_at };
            match judge(&known, &Sight { mark, ..Sight::default() }, moment(1_000)) {
                Verdict::Restored(evidence) => evidence.restored_to,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(at(Some(moment(1_000))), Some(moment(700)));
        assert_eq!((at(Some(moment(1_001))), at(None)), (None, None));
        let ahead = Sight { mark: Mark::There { number: 8, written_at: None }, ..Sight::default() };
        assert_eq!(judge(&known, &ahead, moment(0)), Verdict::Ahead);
    }
}
