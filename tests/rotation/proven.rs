//! What the ledger keeps of listings, and what the audit log says of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use expunged::audit::Event;
use expunged::config::{BackupConfig, Catalogue};
use expunged::keys::Keys;
use expunged::ledger::audit::AuditFilter;
use expunged::ledger::{BackupSet, Ledger, Noted, Trouble};
use expunged::residue::{Backup, Change, Listing, Purge, Residue, Terms};
use expunged::types::Name;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::support::{TestDatabase, fresh_postgres};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn hour(hour: i64) -> Timestamp {
    "2026-11-01T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_hours(hour)
}

fn set(stores: &[&str]) -> BackupConfig {
    BackupConfig {
        name: name("nightly"),
        stores: stores.iter().map(|store| name(store)).collect(),
        terms: Terms {
            rotation: "2 days".parse().unwrap(),
            zone: TimeZone::UTC,
            skew: Duration::from_mins(10),
            grace: Duration::from_hours(1),
            is_declared: false,
        },
        lead: Duration::ZERO,
        every: Duration::from_hours(1),
        timeout: Duration::from_mins(1),
        catalogue: Catalogue::Declared,
    }
}

fn listing(at: i64, starts: impl IntoIterator<Item = i64>) -> Listing {
    let backup = |start| Backup {
        id: format!("h{start}"),
        started_at: hour(start),
        parents: Vec::new(),
        permanent: None,
    };
    Listing {
        at: hour(at),
        backups: starts.into_iter().map(backup).collect(),
        logs: Vec::new(),
        purge: Purge::AtOnce,
    }
}

struct House {
    ledger: Ledger,
    _folder: tempfile::TempDir,
    _database: Option<TestDatabase>,
}

impl House {
    async fn sqlite() -> House {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/ledger.db", folder.path().display());
        let ledger = Ledger::open(&url, Arc::new(Keys::generate())).await.unwrap();
        House { ledger, _folder: folder, _database: None }
    }

    async fn postgres() -> House {
        let database = fresh_postgres().await;
        let ledger = Ledger::open(&database.url, Arc::new(Keys::generate())).await.unwrap();
        House { ledger, _folder: tempfile::tempdir().unwrap(), _database: Some(database) }
    }

    async fn load(&self, sets: &[&BackupConfig], now: Timestamp) {
        let sets = sets.iter().map(|set| (set.name.clone(), (*set).clone()));
        self.ledger.load_backup_sets(&sets.collect::<BTreeMap<_, _>>(), now).await.unwrap();
    }

    async fn note(&self, set: &BackupConfig, listing: Listing) -> Noted {
        let now = listing.at;
        self.ledger.note_listing(set, listing, now).await.unwrap()
    }

    async fn nightly(&self) -> BackupSet {
        let sets = self.ledger.backup_sets().await.unwrap();
        sets.into_iter().find(|set| set.name == name("nightly")).unwrap()
    }

    async fn log(&self) -> Vec<String> {
        let entries = self.ledger.audit_log(&AuditFilter::default()).await.unwrap();
        let shown = |event: &Event| match event {
            Event::BackupsDoubted { reason, .. } => format!("doubted: {reason}"),
            Event::BackupsListed { backups, .. } => format!("listed: {backups}"),
            Event::BackupsCleared { before, .. } => format!("cleared: {before}"),
            Event::BackupsReopened { before, .. } => format!("reopened: {before}"),
            Event::RotationStalled { since, .. } => format!("stalled: {since}"),
            other => other.kind().to_owned(),
        };
        let entries: Vec<_> = entries.iter().map(|(_, entry)| shown(&entry.event)).collect();
        self.ledger.verify_audit().await.unwrap();
        entries
    }
}

/// Runs a test on both ledgers.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test] async fn $name() { super::$name(super::House::sqlite().await).await; })+
        }
        mod postgres {
            $(#[tokio::test] async fn $name() { super::$name(super::House::postgres().await).await; })+
        }
    };
}

on_both!(
    what_is_proven_is_kept_and_logged_once,
    trouble_is_said_once_and_breaks_the_succession,
    a_certificates_entry_is_the_one_that_still_holds,
    a_set_that_is_gone_is_owed_until_somebody_forgets_it,
    one_of_several_lists_a_set,
);

async fn what_is_proven_is_kept_and_logged_once(house: House) {
    let set = set(&["app"]);
    house.load(&[&set], hour(0)).await;
    house.load(&[&set], hour(0)).await;
    assert_eq!(house.note(&set, listing(30, [1, 25])).await, Noted::Changed(Change::Nothing));
    let before = hour(1) - set.terms.skew;
    assert_eq!(
        house.note(&set, listing(31, [1, 25])).await,
        Noted::Changed(Change::Cleared(before))
    );
    assert_eq!(house.note(&set, listing(32, [1, 25])).await, Noted::Changed(Change::Nothing));
    let known = house.nightly().await;
    assert_eq!((known.standing.clear_before, known.listed_at), (Some(before), Some(hour(32))));
    let until =
        Residue::Pending { until: Some(hour(49)), awaits: None, backups: 1, assumed: false };
    assert_eq!(known.residue(Some(&set.terms), hour(2), hour(33)), until);
    // A backup that should be gone is an alert once, with its age.
    house.note(&set, listing(51, [1, 25, 49])).await;
    house.note(&set, listing(52, [1, 25, 49])).await;
    assert_eq!(house.nightly().await.stalled_since, Some(hour(49)));
    house.note(&set, listing(53, [25, 49])).await;
    assert_eq!(house.nightly().await.stalled_since, None);
    let log = [
        "backup_set_added".to_owned(),
        "listed: 2".to_owned(),
        format!("cleared: {before}"),
        format!("stalled: {}", hour(49)),
    ];
    assert_eq!(house.log().await, log);
}

async fn trouble_is_said_once_and_breaks_the_succession(house: House) {
    let set = set(&["app"]);
    house.load(&[&set], hour(0)).await;
    house.note(&set, listing(30, [1, 25])).await;
    let locked =
        |words: &str| Trouble { words: words.to_owned(), in_log_words: "its repository is locked" };
    for (at, words) in [(31, "locked by PID 7"), (32, "locked by PID 8")] {
        house.ledger.note_trouble(&set.name, &locked(words), hour(at)).await.unwrap();
    }
    let known = house.nightly().await;
    assert_eq!(known.doubt.as_deref(), Some("locked by PID 8"));
    assert_eq!((known.doubted_since, known.listed_at), (Some(hour(31)), Some(hour(30))));
    let empty = house.note(&set, listing(33, [])).await;
    assert!(
        matches!(&empty, Noted::Doubted(trouble) if trouble.in_log_words == "it lists no backup")
    );
    assert_eq!(house.nightly().await.doubted_since, Some(hour(31)));
    // This one is the first again.
    assert_eq!(house.note(&set, listing(34, [1, 25])).await, Noted::Changed(Change::Nothing));
    assert_eq!(house.nightly().await.doubt, None);
    let back = house.note(&set, listing(20, [1, 25])).await;
    assert!(
        matches!(&back, Noted::Doubted(trouble) if trouble.in_log_words == "the clock was set back")
    );
    // Somebody says that it is right.
    assert!(house.ledger.confirm_backups(&set.name, "anna", hour(21)).await.unwrap());
    assert_eq!(house.note(&set, listing(21, [1])).await, Noted::Changed(Change::Nothing));
    let log = [
        "backup_set_added",
        "listed: 2",
        "doubted: its repository is locked",
        "doubted: it lists no backup",
        "listed: 2",
        "doubted: the clock was set back",
        "backups_confirmed",
        "listed: 1",
    ];
    assert_eq!(house.log().await, log);
}

async fn a_certificates_entry_is_the_one_that_still_holds(house: House) {
    let set = set(&["app"]);
    house.load(&[&set], hour(0)).await;
    for at in [30, 31] {
        house.note(&set, listing(at, [25, 26])).await;
    }
    let position = |deleted| {
        let ledger = house.ledger.clone();
        async move { ledger.cleared_by(&name("nightly"), hour(deleted)).await.unwrap() }
    };
    let first = position(20).await.unwrap();
    assert_eq!(position(25).await, None, "its skew is in the way");
    // An older backup comes to light, and goes again.
    assert_eq!(
        house.note(&set, listing(32, [10, 25, 26])).await,
        Noted::Changed(Change::Reopened(hour(10) - set.terms.skew))
    );
    assert_eq!((position(20).await, position(9).await), (None, Some(first)));
    for at in [33, 34] {
        house.note(&set, listing(at, [25, 26])).await;
    }
    assert!(position(20).await.unwrap() > first);
}

async fn a_set_that_is_gone_is_owed_until_somebody_forgets_it(house: House) {
    let set = set(&["app"]);
    house.load(&[&set], hour(0)).await;
    house.load(&[], hour(1)).await;
    let known = house.nightly().await;
    assert!(!known.is_configured);
    let residue = known.residue(None, hour(2), hour(3));
    assert!(
        matches!(&residue, Residue::Pending { awaits: Some(why), .. } if why.contains("forget"))
    );
    let forget = |by: &'static str| {
        let ledger = house.ledger.clone();
        async move {
            ledger
                .forget_backups(&name("nightly"), by, "the disks were shredded", hour(4))
                .await
                .unwrap()
        }
    };
    assert!(forget("anna").await);
    assert!(!forget("bob").await, "it is forgotten");
    assert!(house.ledger.backup_sets().await.unwrap().is_empty());
    // It comes back, for more stores.
    let set = self::set(&["app", "uploads"]);
    house.load(&[&set], hour(5)).await;
    assert_eq!(house.nightly().await.stores, BTreeSet::from([name("app"), name("uploads")]));
    assert!(!house.ledger.forget_backups(&set.name, "anna", "no", hour(6)).await.unwrap());
    assert_eq!(house.log().await, ["backup_set_added", "backup_set_forgotten", "backup_set_added"]);
}

async fn one_of_several_lists_a_set(house: House) {
    let set = set(&["app"]);
    house.load(&[&set], hour(0)).await;
    let every = Duration::from_hours(1);
    let claim = |at: Timestamp| {
        let ledger = house.ledger.clone();
        async move { ledger.claim_listing(&name("nightly"), every, at).await.unwrap() }
    };
    let (one, other) = tokio::join!(claim(hour(1)), claim(hour(1)));
    assert!(one ^ other, "{one} {other}");
    assert!(!claim(hour(1) + SignedDuration::from_mins(59)).await);
    assert!(claim(hour(2)).await);
    assert!(claim(hour(1)).await, "the clock was set back: listing it says so");
    house.note(&set, listing(30, [1, 25])).await;
    let late = Listing { at: hour(30) - SignedDuration::from_secs(5), ..listing(30, [1]) };
    assert_eq!(house.note(&set, late).await, Noted::Overtaken);
}
