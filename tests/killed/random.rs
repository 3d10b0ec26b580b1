//! Killed at random moments.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::process::{Child, Stdio};
use std::time::Duration;

use expunged::clock::Stopwatch;

use crate::house::{Act, House, kind_of};
use crate::support::{TestDatabase, fresh_mysql, fresh_postgres, fresh_sqlite};

/// Kills in the middle of a run, for each of nine cases: more than a hundred together, a thousand in the long form.
const SHARE: u32 = 14;
/// How long a process may take to its next batch.
const PATIENCE: Duration = Duration::from_secs(5);
/// Rows that are due before a process is started, so that it does not finish before it is killed.
const ENOUGH: i64 = 2_000;

/// How many times as long as usual.
pub(crate) fn length() -> u32 {
    if std::env::var("EXPUNGED_LONG").is_ok_and(|long| long == "1") { 10 } else { 1 }
}

/// Numbers that look random and come again with their seed (SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Random {
        let seed = match std::env::var("EXPUNGED_SEED") {
            Ok(seed) => seed.parse().expect("EXPUNGED_SEED is a whole number"),
            Err(_) => RandomState::new().build_hasher().finish(),
        };
        crate::support::tell(&format!("kill suite: EXPUNGED_SEED={seed}"));
        Random(seed)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    /// Somewhere below so many milliseconds.
    pub(crate) async fn pause(&mut self, milliseconds: u64) {
        tokio::time::sleep(Duration::from_micros(self.below(milliseconds * 1_000))).await;
    }
}

/// Each in a task of its own: what one computes keeps no other from its database.
pub(crate) async fn side_by_side<Case>(cases: impl IntoIterator<Item = Case>)
where
    Case: Future<Output = ()> + Send + 'static,
{
    let tasks: Vec<_> = cases.into_iter().map(tokio::spawn).collect();
    for task in tasks {
        task.await.unwrap();
    }
}

async fn kill_at_random(store: TestDatabase, ledger: Option<TestDatabase>, act: Act) {
    let mut house = House::new(store, ledger, act).await;
    let mut random = Random::new();
    let (mut kills, mut in_a_run, mut in_a_batch) = (0, 0, 0);
    let share = SHARE * length();
    while in_a_run < share {
        assert!(kills < share * 4, "{in_a_run} of {kills} kills met a run in the middle");
        if house.due().await < ENOUGH {
            house.add(4 * ENOUGH).await;
        }
        let mut process = start(&house, &mut random).await;
        await_the_moment(&house, &mut process, &mut random).await;
        process.kill().unwrap();
        process.wait().unwrap();
        kills += 1;
        in_a_run += u32::from(house.open_runs().await > 0);
        in_a_batch += u32::from(house.open_batches().await > 0);
    }
    house.finish().await;
    let batches = house.assert_covered().await;
    crate::support::tell(&format!(
        "kill suite, {}, {act:?}: {kills} kills, {in_a_run} in the middle of a run, {in_a_batch} between \
         intent and outcome, {} rows, {batches} batches, each row covered once",
        kind_of(&house.store),
        house.due_ids().count(),
    ));
}

/// The daemon goes on with what was left behind; where nothing was, a command begins.
async fn start(house: &House, random: &mut Random) -> Child {
    let left = "SELECT (SELECT count(*) FROM run WHERE state = 'running') + \
                (SELECT count(*) FROM request WHERE state IN ('pending', 'claimed'))";
    let is_daemon = house.ledger.count(left).await > 0 && random.below(3) > 0;
    let mut command = house.place.command(&[if is_daemon { "daemon" } else { "run" }]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// One time in five any moment, from the very start on; otherwise one after a batch was begun.
async fn await_the_moment(house: &House, process: &mut Child, random: &mut Random) {
    if random.below(5) == 0 {
        return random.pause(400).await;
    }
    let batches = "SELECT count(*) FROM batch";
    let before = house.ledger.count(batches).await;
    let watch = Stopwatch::start();
    while process.try_wait().unwrap().is_none() && house.ledger.count(batches).await == before {
        if watch.elapsed() > PATIENCE {
            // A quick daemon had done all there was before it was looked at: it will not do more.
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    random.pause(50).await;
}

/// The three databases at once: most of the time goes by in waiting for disks.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn deletions_that_are_killed() {
    let act = Act::Delete;
    side_by_side([
        kill_at_random(fresh_postgres().await, None, act),
        kill_at_random(fresh_mysql().await, Some(fresh_postgres().await), act),
        kill_at_random(fresh_sqlite().await, None, act),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn pseudonymizations_that_are_killed() {
    let act = Act::Pseudonymize;
    side_by_side([
        kill_at_random(fresh_postgres().await, Some(fresh_postgres().await), act),
        kill_at_random(fresh_mysql().await, None, act),
        kill_at_random(fresh_sqlite().await, Some(fresh_postgres().await), act),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn anonymizations_by_the_database_that_are_killed() {
    let act = Act::Clear;
    side_by_side([
        kill_at_random(fresh_postgres().await, None, act),
        kill_at_random(fresh_mysql().await, None, act),
        kill_at_random(fresh_sqlite().await, None, act),
    ])
    .await;
}
