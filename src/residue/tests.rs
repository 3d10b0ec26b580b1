use jiff::{SignedDuration, ToSpan};
use proptest::prelude::*;

use super::*;

const SKEW: Duration = Duration::from_mins(10);

fn day(day: i64) -> Timestamp {
    "2026-11-01T01:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_hours(24 * day)
}

fn hours(hours: i64) -> SignedDuration {
    SignedDuration::from_hours(hours)
}

fn backup(id: &str, started_at: Timestamp) -> Backup {
    Backup { id: id.to_owned(), started_at, parents: Vec::new(), permanent: None }
}

/// A listing at noon of a day, with a backup of each of these nights.
fn listing(at: i64, nights: impl IntoIterator<Item = i64>) -> Listing {
    Listing {
        at: day(at) + hours(11),
        backups: nights.into_iter().map(|night| backup(&format!("n{night}"), day(night))).collect(),
        logs: Vec::new(),
        purge: Purge::AtOnce,
    }
}

fn terms() -> Terms {
    Terms {
        rotation: "3 days".parse().unwrap(),
        zone: TimeZone::UTC,
        skew: SKEW,
        grace: Duration::from_hours(6),
        is_declared: false,
    }
}

fn clear_before(standing: &Standing) -> Option<Timestamp> {
    standing.clear_before
}

#[test]
fn a_deletion_is_clear_once_two_listings_show_nothing_that_started_before_it() {
    let mut standing = Standing::default();
    let deleted = day(2) + hours(12);
    standing.note(listing(2, 0..=2), SKEW).unwrap();
    standing.note(listing(3, 1..=3), SKEW).unwrap();
    let last_copy =
        Residue::Pending { until: Some(day(5)), awaits: None, backups: 2, assumed: false };
    assert_eq!(standing.residue(&terms(), deleted, day(4)), last_copy);
    standing.note(listing(4, 2..=4), SKEW).unwrap();
    assert!(
        !standing.residue(&terms(), deleted, day(4)).is_clear(),
        "the backup of day 2 is there"
    );
    assert_eq!(standing.note(listing(5, 3..=5), SKEW).unwrap(), Change::Cleared(day(2) - SKEW));
    let once = standing.residue(&terms(), deleted, day(5));
    let Residue::Pending { backups: 0, awaits: Some(why), .. } = &once else { panic!("{once:?}") };
    assert!(why.contains("one more listing"), "{why}");
    let mut again = listing(5, 3..=5);
    again.at += hours(1);
    assert_eq!(standing.note(again, SKEW).unwrap(), Change::Cleared(day(3) - SKEW));
    assert_eq!(standing.residue(&terms(), deleted, day(5)), Residue::Clear { assumed: false });
    // The clocks may differ by the skew, so what is nearer to the backup of day 3 may be in it.
    assert!(
        standing.residue(&terms(), day(3) - SKEW - hours(0), day(5))
            != Residue::Clear { assumed: false }
    );
    let just_before = day(3) - SKEW - SignedDuration::from_micros(1);
    assert!(standing.residue(&terms(), just_before, day(5)).is_clear());
}

#[test]
fn what_cannot_be_believed_changes_nothing_and_breaks_the_succession() {
    let mut standing = Standing::default();
    standing.note(listing(10, 0..=10), SKEW).unwrap();
    let known = standing.listing.clone();
    assert_eq!(standing.note(listing(11, []), SKEW), Err(Doubt::Empty));
    assert_eq!(standing.note(listing(11, 8..=9), SKEW), Err(Doubt::WentBack));
    let shrunken = Doubt::Shrunken { missing: 10, before: 11 };
    assert_eq!(standing.note(listing(11, 10..=11), SKEW), Err(shrunken));
    assert_eq!(
        standing.note(listing(10, 0..=10), SKEW),
        Err(Doubt::ClockSetBack(day(10) + hours(11)))
    );
    assert_eq!(standing.note(listing(11, 0..=13), SKEW), Err(Doubt::Future("n12".into())));
    assert_eq!((&standing.listing, standing.clear_before), (&known, None));
    // The one before does not count as the listing before this one any more.
    standing.note(listing(11, 1..=11), SKEW).unwrap();
    assert_eq!(clear_before(&standing), None);
    standing.note(listing(12, 2..=12), SKEW).unwrap();
    assert_eq!(clear_before(&standing), Some(day(1) - SKEW));
    // Somebody says that it is right: then once.
    standing.confirmed = true;
    standing.note(listing(13, 12..=13), SKEW).unwrap();
    assert!(!standing.confirmed);
    standing.note(listing(14, 13..=14), SKEW).unwrap();
    assert_eq!(clear_before(&standing), Some(day(12) - SKEW));
}

#[test]
fn parents_last_as_long_as_what_needs_them_and_strangers_leave_everything_open() {
    let mut list = listing(9, []);
    let incremental = |id: &str, parent: &str, night| Backup {
        parents: vec![parent.to_owned()],
        ..backup(id, day(night))
    };
    list.backups =
        vec![backup("full", day(1)), incremental("i1", "full", 7), incremental("i2", "i1", 8)];
    let mut standing = Standing::default();
    standing.note(list.clone(), SKEW).unwrap();
    let until = Residue::Pending { until: Some(day(11)), awaits: None, backups: 1, assumed: false };
    assert_eq!(standing.residue(&terms(), day(2), day(9)), until);
    assert_eq!(standing.stalled(&terms(), day(9)), None, "it is needed");
    list.at += hours(1);
    list.backups.remove(0);
    standing.note(list.clone(), SKEW).unwrap();
    list.at += hours(1);
    standing.note(list, SKEW).unwrap();
    assert_eq!(standing.clear_before, None, "nobody knows how old the full one is");
    let Residue::Pending { awaits: Some(why), .. } = standing.residue(&terms(), day(2), day(9))
    else {
        panic!("it is open")
    };
    assert!(why.contains("not listed"), "{why}");
}

#[test]
fn permanent_backups_make_it_unbounded_by_name() {
    let mut list = listing(9, 7..=9);
    let kept = Some("kept by somebody".to_owned());
    list.backups.insert(0, Backup { permanent: kept, ..backup("yearly", day(0)) });
    let mut standing = Standing::default();
    standing.note(list, SKEW).unwrap();
    let kept = BTreeMap::from([("yearly".to_owned(), "kept by somebody".to_owned())]);
    assert_eq!(standing.residue(&terms(), day(1), day(9)), Residue::Unbounded { kept });
    assert_eq!(standing.stalled(&terms(), day(30)).unwrap().backup, "n7");
}

#[test]
fn archived_log_counts_and_an_unknown_stretch_leaves_everything_open() {
    let mut standing = Standing::default();
    let with_log = |at, from| {
        let mut list = listing(at, at - 2..=at);
        list.logs = vec![LogRange { id: "16-1".into(), from }];
        list
    };
    standing.note(with_log(5, Some(day(1))), SKEW).unwrap();
    standing.note(with_log(6, Some(day(1))), SKEW).unwrap();
    assert_eq!(standing.clear_before, Some(day(1) - SKEW));
    standing.note(with_log(7, None), SKEW).unwrap();
    standing.note(with_log(8, Some(day(6))), SKEW).unwrap();
    assert_eq!(standing.clear_before, Some(day(1) - SKEW), "the unknown one breaks the succession");
    standing.note(with_log(9, Some(day(7))), SKEW).unwrap();
    assert_eq!(standing.clear_before, Some(day(6) - SKEW));
}

#[test]
fn data_that_is_left_behind_keeps_everything_open_until_it_is_removed() {
    let with = |at, purge: Purge| Listing { purge, ..listing(at, at - 2..=at) };
    let mut standing = Standing::default();
    let owed = || Purge::Owed("12 MiB: `restic prune --max-unused 0` removes it".into());
    standing.note(with(5, owed()), SKEW).unwrap();
    standing.note(with(6, owed()), SKEW).unwrap();
    assert_eq!(standing.clear_before, None);
    standing.note(with(7, Purge::Seen), SKEW).unwrap();
    assert_eq!(standing.clear_before, None, "one listing is not enough");
    standing.note(with(8, Purge::Seen), SKEW).unwrap();
    assert_eq!(standing.clear_before, Some(day(5) - SKEW));

    let mut standing = Standing::default();
    let stamped = |at, stamp: Option<i64>| {
        with(at, Purge::Stamped(stamp.map(|stamp| day(stamp) + hours(20))))
    };
    standing.note(stamped(5, None), SKEW).unwrap();
    standing.note(stamped(6, Some(4)), SKEW).unwrap();
    assert_eq!(standing.clear_before, None);
    standing.note(stamped(7, Some(6)), SKEW).unwrap();
    standing.note(stamped(8, Some(6)), SKEW).unwrap();
    assert_eq!(standing.clear_before, Some(day(4) - SKEW), "what was gone when compacting began");
    standing.note(stamped(9, Some(6)), SKEW).unwrap();
    assert_eq!(standing.clear_before, Some(day(4) - SKEW));
    standing.note(stamped(10, Some(9)), SKEW).unwrap();
    standing.note(stamped(11, Some(9)), SKEW).unwrap();
    assert_eq!(standing.clear_before, Some(day(7) - SKEW));
}

#[test]
fn a_set_that_stays_the_same_is_clear_once_it_was_compacted() {
    let mut standing = Standing::default();
    for (hour, stamp) in [(0, None), (1, None), (2, None), (3, Some(1)), (4, Some(1))] {
        let mut list = listing(9, 7..=9);
        list.at += hours(hour);
        list.purge = Purge::Stamped(stamp.map(|stamp| day(9) + hours(11 + stamp)));
        standing.note(list, SKEW).unwrap();
        assert_eq!(standing.clear_before.is_some(), hour == 4, "{hour}");
    }
}

#[test]
fn an_older_backup_that_comes_to_light_opens_it_again_at_once() {
    let mut standing = Standing::default();
    standing.note(listing(8, 6..=8), SKEW).unwrap();
    standing.note(listing(9, 6..=9), SKEW).unwrap();
    assert!(standing.residue(&terms(), day(5), day(9)).is_clear());
    assert_eq!(standing.note(listing(10, 4..=10), SKEW).unwrap(), Change::Reopened(day(4) - SKEW));
    assert!(!standing.residue(&terms(), day(5), day(10)).is_clear());
}

#[test]
fn without_a_catalogue_the_rotation_alone_speaks_and_says_so() {
    let terms = Terms { is_declared: true, ..terms() };
    let standing = Standing::default();
    let until = day(3) + SKEW;
    let pending = Residue::Pending { until: Some(until), awaits: None, backups: 0, assumed: true };
    assert_eq!(standing.residue(&terms, day(0), day(2)), pending);
    assert_eq!(standing.residue(&terms, day(0), until), Residue::Clear { assumed: true });
    assert_eq!(
        standing.clear_until(&terms, until),
        Some(day(0)),
        "the same seen from the other side"
    );
    // Calendar days of the set's zone.
    let zone = TimeZone::get("Europe/Berlin").unwrap();
    let terms = Terms { zone: zone.clone(), skew: Duration::ZERO, ..terms };
    let before = "2026-10-24T12:00:00+02:00".parse::<Timestamp>().unwrap();
    let Residue::Pending { until: Some(until), .. } = standing.residue(&terms, before, before)
    else {
        panic!()
    };
    assert_eq!(until, before.to_zoned(zone).checked_add(3.days()).unwrap().timestamp());
}

#[test]
fn a_rotation_that_has_stalled_says_since_when() {
    let mut standing = Standing::default();
    standing.note(listing(9, 2..=9), SKEW).unwrap();
    let stalled = Stalled { backup: "n2".into(), since: day(5) };
    assert_eq!(standing.stalled(&terms(), day(9)), Some(stalled));
    let mut standing = Standing::default();
    standing.note(listing(9, 6..=9), SKEW).unwrap();
    assert_eq!(standing.stalled(&terms(), day(9) + hours(5)), None, "within the grace");
}

/// A night's work of some tool: a backup is made, and others go.
fn night() -> impl Strategy<Value = (bool, Vec<prop::sample::Index>, u8)> {
    (prop::bool::weighted(0.9), prop::collection::vec(any::<prop::sample::Index>(), 0..3), 0..8_u8)
}

proptest! {
    /// Whatever a tool does and however listings fail: what is said to be clear is in no backup, nor in the data of
    /// one that was removed and not purged.
    #[test]
    fn nothing_is_said_to_be_clear_that_a_backup_holds(
        nights in prop::collection::vec(night(), 1..60),
        stamped in any::<bool>(),
    ) {
        let mut standing = Standing::default();
        let mut there: Vec<Backup> = Vec::new();
        // Data of backups that are removed and not purged yet, by when they started.
        let mut unpurged: Vec<Timestamp> = Vec::new();
        let mut stamp = None;
        for (night, (made, gone, luck)) in (0_i64..).zip(nights) {
            if made {
                there.push(backup(&format!("n{night}"), day(night)));
            }
            for place in gone {
                // The newest stays.
                if there.len() > 1 {
                    let removed = there.remove(place.index(there.len() - 1));
                    unpurged.push(removed.started_at);
                }
            }
            if luck == 7 {
                stamp = Some(day(night) + hours(5));
                unpurged.clear();
            }
            let list = Listing {
                at: day(night) + hours(11),
                backups: match luck {
                    0 => Vec::new(),
                    1 => there.iter().take(there.len() / 2).cloned().collect(),
                    _ => there.clone(),
                },
                logs: Vec::new(),
                purge: if stamped { Purge::Stamped(stamp) } else { Purge::AtOnce },
            };
            if standing.note(list, SKEW).is_err() {
                standing.interrupt();
            }
            let Some(before) = standing.clear_before else { continue };
            let holding = there.iter().map(|one| one.started_at);
            let unpurged = unpurged.iter().copied().filter(|_| stamped);
            for started in holding.chain(unpurged) {
                prop_assert!(started >= before + SKEW, "{started} holds what is clear before {before}");
            }
        }
    }
}
