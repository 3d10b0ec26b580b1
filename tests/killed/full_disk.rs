//! The ledger's disk full, in the middle of a run. No file may grow beyond a limit that differs from run to
//! run, so that now an intent meets it, now an outcome; then there is room again.

use std::process::Command;

use crate::house::{Act, House};
use crate::random::{Random, length};
use crate::support::{fresh_postgres, fresh_sqlite};

const LEDGERS: u32 = 6;

#[tokio::test]
async fn a_ledger_whose_disk_is_full_loses_nothing() {
    let mut random = Random::new();
    let (mut in_a_run, mut in_a_batch, mut rows, mut batches) = (0, 0, 0, 0);
    for number in 0..LEDGERS * length() {
        let on_sqlite = number % 2 == 0;
        let store = if on_sqlite { fresh_sqlite().await } else { fresh_postgres().await };
        let mut house = House::new(store, None, Act::Delete).await;
        house.add(40_000).await;
        let most = 700 + random.below(900);
        let mut limited = Command::new("bash");
        limited.args(["-c", &format!("trap '' XFSZ; ulimit -f {most}; exec \"$0\" \"$@\"")]);
        let whole = house.place.command(&["run"]);
        limited.arg(whole.get_program()).args(whole.get_args());
        limited.envs(whole.get_envs().filter_map(|(name, value)| Some((name, value?))));
        assert_eq!(limited.output().unwrap().status.code(), Some(1), "with {most} KiB");
        in_a_run += u32::from(house.open_runs().await > 0 && house.recorded().await > 0);
        in_a_batch += u32::from(house.open_batches().await > 0);
        house.finish().await;
        batches += house.assert_covered().await;
        rows += house.due_ids().count();
    }
    assert!(in_a_run > 0, "no disk was full in the middle of a run");
    crate::support::tell(&format!(
        "kill suite, full disk: {} ledgers, {in_a_run} full in the middle of a run, {in_a_batch} between \
         intent and outcome, {rows} rows, {batches} batches, each row covered once",
        LEDGERS * length(),
    ));
}
