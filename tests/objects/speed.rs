//! How fast a purge is, next to `rclone delete` as it comes, on the same server (s3s-fs) in turns. It asserts
//! in release builds only: `tests/run --release --test objects speed -- --nocapture`.

use std::process::Command;

use expunged::clock::Stopwatch;

use crate::house::{BUCKET, Files, KEY_ID, SECRET, older};

const OBJECTS: usize = if cfg!(debug_assertions) { 2_000 } else { 10_000 };
const ROUNDS: usize = if cfg!(debug_assertions) { 1 } else { 5 };
/// What a run hands over at once.
const BATCH: usize = 3_000;
const LEAST: f64 = 3.0;

#[tokio::test]
async fn a_purge_is_at_least_three_times_as_fast_as_rclone() {
    let server = Files::serve();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let seconds = [purge(&server).await, rclone(&server)];
        // The first is for warming up.
        if round > 0 || cfg!(debug_assertions) {
            ours.push(seconds[0]);
            theirs.push(seconds[1]);
        }
    }
    let mut ratios: Vec<f64> =
        ours.iter().zip(&theirs).map(|(ours, theirs)| theirs / ours).collect();
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios[ratios.len() / 2];
    crate::support::tell(&format!(
        "s3s-fs, {OBJECTS} objects: {ratio:.1} times as fast as `rclone delete --min-age` (from {:.1} to {:.1}); seconds {ours:.2?}, rclone {theirs:.2?}",
        ratios[0],
        ratios[ratios.len() - 1],
    ));
    assert!(
        cfg!(debug_assertions) || ratio >= LEAST,
        "{ratio:.2} times as fast, and {LEAST} is asked for"
    );
}

/// All in one place: folders would have rclone list each, which s3s-fs is slow at.
fn fill(server: &Files) {
    for number in 0..OBJECTS {
        server.put(&format!("{number:05}.jpg"), 48);
    }
    server.put("young.jpg", 1);
}

async fn purge(server: &Files) -> f64 {
    fill(server);
    let objects = server.open();
    let search = older(&["*.jpg"], 24);
    let begun = Stopwatch::start();
    let (mut walk, mut gone) = (objects.walk(search.clone()), 0);
    while let Some(entries) = walk.next(BATCH).await.unwrap() {
        gone += objects.delete(&search, entries).await.unwrap().gone.len();
    }
    let seconds = begun.elapsed().as_secs_f64();
    assert_eq!(gone, OBJECTS);
    assert!(server.has("young.jpg"));
    seconds
}

fn rclone(server: &Files) -> f64 {
    fill(server);
    let begun = Stopwatch::start();
    let done = Command::new("rclone")
        .args(["delete", "--min-age", "1d", &format!(":s3:{BUCKET}")])
        .args(["--config", "/dev/null", "--s3-provider", "Other", "--s3-endpoint", &server.url])
        .args(["--s3-access-key-id", KEY_ID, "--s3-secret-access-key", SECRET])
        .args(["--s3-region", "eu-central-1"])
        // As it comes: nothing that the environment would have it do.
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .output();
    let seconds = begun.elapsed().as_secs_f64();
    let done = done.expect("rclone is there: run the tests through tests/run, which installs it");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(!server.has("00001.jpg"), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(server.has("young.jpg"));
    seconds
}
