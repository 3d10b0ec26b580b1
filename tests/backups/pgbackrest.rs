//! pgBackRest, over a PostgreSQL whose log it archives.

use std::fs;
use std::path::Path;
use std::process::Command;

use expunged::backup::Fault;
use expunged::residue::{Purge, Standing};
use jiff::SignedDuration;

use crate::house::{Set, awaits, held_by, ids, now, script, tool};
use crate::stanza::Stanza;

/// A mark that nothing else has.
const MARK: &str = "anna@example.org was here, and nobody else";

impl Stanza {
    fn set(&self, lines: &str) -> Set {
        Set::new("pgbackrest", &format!("config = \"{}\"\n{lines}", self.config().display()))
    }

    fn main(&self) -> Set {
        self.set("stanza = \"main\"")
    }

    /// Whether the mark is anywhere in the repository: in a backup, or in the log.
    fn has_mark(&self) -> bool {
        let mut grep = Command::new("grep");
        grep.args(["-rqaF", MARK]).arg(self.server.at("repo"));
        let status = grep.status().unwrap();
        assert!(matches!(status.code(), Some(0 | 1)), "{status}");
        status.success()
    }
}

#[tokio::test]
async fn a_deletion_is_clear_once_backups_and_log_from_before_are_gone_and_seen_twice() {
    let stanza = Stanza::new();
    let set = stanza.main();
    let absent = set.fault().await;
    assert!(matches!(absent, Fault::Absent { .. }), "{absent}");
    stanza.run(&["stanza-create"]);
    let fault = set.fault().await;
    let Fault::Reported { says } = &fault else { panic!("{fault}") };
    assert_eq!(says, "no valid backups");

    let insert = format!("INSERT INTO persons VALUES ('{MARK}')");
    stanza.server.execute(&["CREATE TABLE persons (name text)", &insert]);
    let before = now();
    stanza.run(&["--type=full", "backup"]);
    stanza.server.execute(&["DELETE FROM persons", "VACUUM persons", "SELECT pg_switch_wal()"]);
    let deleted = now();
    let mut standing = Standing::default();
    assert_eq!(held_by(&set.stays(&mut standing, deleted).await), 1);
    stanza.run(&["--type=incr", "backup"]);
    let listing = set.listing().await;
    let [full, increment] = [0, 1].map(|place| listing.backups[place].clone());
    assert!(before - SignedDuration::from_secs(1) <= full.started_at && full.started_at <= deleted);
    assert_eq!((full.parents.len(), increment.parents), (0, vec![full.id.clone()]));
    assert!(full.permanent.is_none() && listing.purge == Purge::AtOnce);
    // The log begins before the first backup does, and nobody knows how long before.
    assert_eq!((listing.logs[0].id.as_str(), listing.logs[0].from), ("15-1", None));

    // What began within the second of the deletion may hold it.
    stanza.run(&["--type=full", "backup"]);
    let listing = set.listing().await;
    let newest = listing.backups.last().unwrap().clone();
    assert!(newest.started_at > deleted && newest.parents.is_empty(), "{listing:?}");
    set.stays(&mut standing, deleted).await;
    assert!(stanza.has_mark());

    // What is not needed any more goes at once, and the log along with the backups.
    stanza.run(&["--repo1-retention-full=1", "expire"]);
    assert!(!stanza.has_mark());
    let listing = set.listing().await;
    assert_eq!(ids(&listing), [newest.id.as_str()]);
    assert_eq!(listing.logs[0].from, Some(newest.started_at));
    set.clears(&mut standing, deleted).await;

    a_repository_that_does_not_open_says_why(&stanza).await;
    an_answer_that_broke_off_is_no_listing(&stanza).await;
}

/// What was archived before the oldest backup that is left brings deleted rows back by itself.
#[tokio::test]
async fn archived_log_that_outlives_its_backups_keeps_a_deletion_open() {
    let stanza = Stanza::new();
    stanza.run(&["stanza-create"]);
    stanza.server.execute(&["CREATE TABLE persons (name text)"]);
    stanza.run(&["--type=full", "backup"]);
    let insert = format!("INSERT INTO persons VALUES ('{MARK}')");
    stanza.server.execute(&[&insert, "TRUNCATE persons", "SELECT pg_switch_wal()"]);
    let deleted = now();
    // From the second backup on, the first one is no longer needed for the log.
    stanza.run(&["--type=incr", "backup"]);
    stanza.run(&["--type=full", "backup"]);
    let set = stanza.main();
    let oldest = set.listing().await.backups[0].id.clone();
    // Expired by hand, it takes its increment along and leaves its log.
    stanza.run(&[&format!("--set={oldest}"), "--repo1-retention-archive=9", "expire"]);
    let left = set.listing().await;
    assert_eq!((left.backups.len(), left.logs[0].from), (1, None), "{left:?}");
    let mut standing = Standing::default();
    let residue = set.stays(&mut standing, deleted).await;
    assert_eq!(awaits(&residue), "archived log reaches back to it");
    assert!(stanza.has_mark());
    stanza.run(&["--repo1-retention-full=1", "--repo1-retention-archive=1", "expire"]);
    assert!(!stanza.has_mark());
    set.clears(&mut standing, deleted).await;
    assert_eq!(ids(&set.listing().await), ids(&left));
}

async fn a_repository_that_does_not_open_says_why(stanza: &Stanza) {
    let absent = stanza.set("stanza = \"other\"").fault().await;
    assert!(matches!(absent, Fault::Absent { .. }), "{absent}");
    let nowhere = Set::new("pgbackrest", "config = \"/nowhere.conf\"\nstanza = \"main\"");
    let fault = nowhere.fault().await;
    assert!(matches!(&fault, Fault::Failed { ended, .. } if ended == "ended with 55"), "{fault}");
    let wrong = "stanza = \"main\"\nenvironment = { PGBACKREST_REPO1_CIPHER_TYPE = \"aes-256-cbc\", PGBACKREST_REPO1_CIPHER_PASS = { env = \"PATH\" } }";
    let fault = stanza.set(wrong).fault().await;
    assert!(matches!(fault, Fault::WrongPassword { .. }), "{fault}");
    // What it lists of itself is cut short.
    let info = stanza.server.at("repo/backup/main/backup.info");
    let copy = info.with_extension("info.copy");
    let whole = [&info, &copy].map(|file| fs::read(file).unwrap());
    for file in [&info, &copy] {
        fs::write(file, &whole[0][..500]).unwrap();
    }
    let fault = stanza.main().fault().await;
    assert!(matches!(fault, Fault::Reported { .. }), "{fault}");
    fs::write(&info, &whole[0]).unwrap();
    fs::write(&copy, &whole[1]).unwrap();
    stanza.main().listing().await;
}

async fn an_answer_that_broke_off_is_no_listing(stanza: &Stanza) {
    let half = |length: usize| {
        let real = tool("pgbackrest", "pgbackrest");
        let text = format!("{} \"$@\" | head -c {length}", real.display());
        script(stanza.server.folder.path(), "half", &text)
    };
    let with = |program: &Path| {
        stanza.set(&format!("stanza = \"main\"\nprogram = \"{}\"", program.display()))
    };
    for length in [0, 2, 100, 500] {
        let fault = with(&half(length)).fault().await;
        let is_clear = matches!(fault, Fault::NotUnderstood { .. });
        assert!(is_clear, "{length}: {fault}");
    }
    assert_eq!(with(&half(1_000_000)).listing().await.backups.len(), 1);
}
