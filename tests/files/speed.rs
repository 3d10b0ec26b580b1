//! How fast a tree is purged, against `find -delete` on the same tree: prints the ratio, and makes sure
//! that exactly what is due has gone.
//!
//! The ratio is asserted in release builds alone, where it is what users see:
//! `cargo test --release --test files speed -- --nocapture`, with `EXPUNGED_LONG=1` on half a million files.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use expunged::clock::Stopwatch;
use expunged::store::files::{Deleted, FilesError};
use expunged::store::search::{Age, Limits, Search};
use expunged::store::sql::Bounds;
use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinHandle;

use crate::support::tell;
use crate::tree::Tree;

/// Of `find -delete`, all that comes with a purge included.
const LEAST: f64 = 1.2;
/// The most that a purge may hold in memory, in KiB.
const MEMORY: u64 = 32 * 1024;
const BATCH: usize = 10_000;
const FOLDERS: u64 = 1_024;
const DAY: i64 = 86_400;

fn size() -> (u64, usize) {
    match (cfg!(debug_assertions), std::env::var_os("EXPUNGED_LONG")) {
        (true, _) => (10_000, 1),
        (false, None) => (100_000, 5),
        (false, Some(_)) => (500_000, 5),
    }
}

#[tokio::test]
async fn a_purge_is_faster_than_find() {
    let (count, rounds) = size();
    let now = expunged::clock::now();
    let (mut ratios, mut peaks) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let [mut found, mut purged] = [0.0; 2];
        // One after the other, and each of them first in half of the rounds.
        for turn in 0..2 {
            let tree = Tree::new();
            build(tree.root(), count, now);
            if turn == round % 2 {
                let watch = Stopwatch::start();
                find(tree.root());
                found = watch.elapsed().as_secs_f64();
            } else {
                let watch = Stopwatch::start();
                peaks.push(purge(&tree, count, now).await);
                purged = watch.elapsed().as_secs_f64();
            }
            assert_eq!(tree.files().len() as u64, count - count * 2 / 5);
        }
        tell(&format!("{count} files: find {found:.2} s, purge {purged:.2} s"));
        ratios.push(found / purged);
    }
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios[ratios.len() / 2];
    let peak = peaks.iter().max().unwrap();
    tell(&format!(
        "{count} files, {} due: {ratio:.2} times as fast as find -delete ({ratios:.2?}), peak memory {peak} KiB",
        count * 2 / 5
    ));
    if !cfg!(debug_assertions) {
        assert!(ratio >= LEAST, "{ratio:.2} times as fast as find, and {LEAST} is the least");
        assert!(*peak < MEMORY, "peak memory was {peak} KiB");
    }
}

/// Surveys, deletes in batches what a walk finds, and surveys again. Gives the peak memory in KiB.
async fn purge(tree: &Tree, count: u64, now: Timestamp) -> u64 {
    // Makes the kernel count the most from now on: proc(5).
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let files = tree.open();
    let cutoff = now - SignedDuration::from_secs(730 * DAY);
    let earliest = jiff::civil::date(1990, 1, 1);
    let limits = Limits { bounds: Bounds { cutoff, now }, earliest };
    let templates = vec!["**".parse().unwrap()];
    let search = Arc::new(Search { templates, age: Age::Modified(limits), kept: Vec::new() });

    let watch = Stopwatch::start();
    let before = files.survey(&search).await.unwrap();
    let surveyed = watch.elapsed();
    assert_eq!((before.survey.total, before.survey.due), (count, count * 2 / 5));
    assert_eq!(before.unread.folders, 0);
    let mut walk = files.walk(search.clone());
    let (mut gone, mut deleting) = (0, std::time::Duration::ZERO);
    // As a run does: a batch is synced while the next is unlinked, and no more than that.
    let mut syncing = None;
    while let Some(entries) = walk.next(BATCH).await.unwrap() {
        let watch = Stopwatch::start();
        let expected = entries.len();
        let unlinked = files.unlink(&search, entries).await.unwrap();
        assert_eq!((unlinked.gone().len(), unlinked.left_some()), (expected, false));
        gone += expected as u64;
        synced(syncing.take()).await;
        let files = files.clone();
        syncing = Some(tokio::spawn(async move { files.make_last(vec![unlinked]).await }));
        deleting += watch.elapsed();
    }
    synced(syncing).await;
    let walked = watch.elapsed();
    assert_eq!(gone, count * 2 / 5);
    let after = files.survey(&search).await.unwrap();
    assert_eq!((after.survey.total, after.survey.due), (count - gone, 0));
    tell(&format!(
        "  survey {surveyed:.2?}, deletions {deleting:.2?} of {:.2?}, survey {:.2?}",
        walked - surveyed,
        watch.elapsed() - walked
    ));
    high_water()
}

async fn synced(syncing: Option<JoinHandle<Result<Vec<Deleted>, FilesError>>>) {
    if let Some(syncing) = syncing {
        syncing.await.unwrap().unwrap();
    }
}

fn find(root: &Path) {
    let status = Command::new("find")
        .arg(root)
        .args(["-type", "f", "-mtime", "+730", "-delete"])
        .status()
        .unwrap();
    assert!(status.success());
}

/// A sharded tree, two in five of its files due, all of it on the disk.
fn build(root: &Path, count: u64, now: Timestamp) {
    let (old, young) = (now.as_second() - 800 * DAY, now.as_second() - 100 * DAY);
    for folder in 0..FOLDERS {
        let folder = root.join(format!("{:02x}/{:02x}", folder / 32, folder % 32));
        fs::create_dir_all(folder).unwrap();
    }
    std::thread::scope(|scope| {
        for half in 0..2 {
            scope.spawn(move || {
                for number in (0..count).filter(|number| number % 2 == half) {
                    // Spread over folders as hashes would be.
                    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    let (shard, name) = (mixed >> 54, format!("{mixed:016x}.jpg"));
                    let path = root.join(format!("{:02x}/{:02x}/{name}", shard / 32, shard % 32));
                    let mut file = fs::File::create(path).unwrap();
                    std::io::Write::write_all(&mut file, &[b'x'; 200]).unwrap();
                    crate::tree::touch(&file, if number % 5 < 2 { old } else { young });
                }
            });
        }
    });
    assert!(Command::new("sync").arg("-f").arg(root).status().unwrap().success());
}

/// The most memory that this process has held (`VmHWM` of proc(5)), in KiB.
fn high_water() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse().unwrap()
}
