//! One recipient in trouble is one: the others are told meanwhile, and nothing is lost.

use crate::house::House;
use crate::receiver::{Act, Receiver};

const PEOPLE: u32 = 200;

/// Tells `ads`, which misbehaves, and `crm`, which is well; gives what `ads` was told when `crm` had all.
async fn beside(ads: Receiver, more: &str) -> (House, crate::harness::Daemon) {
    let crm = Receiver::well();
    let mut house = House::new(PEOPLE).await;
    house.recipient("ads", &ads, more);
    house.recipient("crm", &crm, "");
    house.configure();
    let daemon = house.place.start();
    house.until("crm", "completed", i64::from(PEOPLE)).await;
    (house, daemon)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_says_nothing_keeps_no_other_waiting() {
    let ads = Receiver::new(|_| Act::Hang);
    let (house, daemon) = beside(ads, "timeout = \"1 second\"").await;
    house.until("ads", "pending", i64::from(PEOPLE)).await;
    daemon.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_down_is_not_bothered_by_every_notice() {
    let ads = Receiver::new(|_| Act::Answer(500));
    let (house, mut daemon) = beside(ads.clone(), "").await;
    daemon.wait_for("the recipient is in trouble");
    // Those that were under way when it tripped, and a try now and then.
    assert!(ads.told().len() < 20, "{}", ads.told().len());
    let ledger = house.ledger().await;
    let failing =
        "SELECT count(*) FROM recipient WHERE recipient = 'ads' AND failing_since IS NOT NULL";
    crate::harness::poll(&ledger, failing, |rows| rows == 1).await;
    ledger.close().await;
    assert_eq!(daemon.stop().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_resets_answers_without_end_or_leads_elsewhere_is_told_again_or_given_up() {
    for (act, state) in [
        (Act::Reset, "pending"),
        (Act::Redirect("http://169.254.169.254/latest/meta-data"), "failed"),
        (Act::Answer(400), "failed"),
    ] {
        let ads = Receiver::new(move |_| act);
        let (house, daemon) = beside(ads, "").await;
        house.until("ads", state, i64::from(PEOPLE)).await;
        assert_eq!(daemon.stop().code(), Some(0), "{act:?}");
    }
    let ads = Receiver::new(|_| Act::Endless);
    let (house, daemon) = beside(ads, "").await;
    // It said that it took it, and the rest of what it says is not read.
    house.until("ads", "completed", i64::from(PEOPLE)).await;
    assert_eq!(daemon.stop().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_to_be_left_alone_for_a_while_is() {
    let ads = Receiver::new(|told| match told.time {
        1 => Act::TooMany(2),
        _ => Act::Answer(200),
    });
    let mut house = House::new(1).await;
    house.recipient("ads", &ads, "");
    house.configure();
    let watch = expunged::clock::Stopwatch::start();
    let daemon = house.place.start();
    house.until("ads", "completed", 1).await;
    assert!(watch.elapsed() >= std::time::Duration::from_secs(2));
    assert_eq!(ads.told().len(), 2);
    assert_eq!(daemon.stop().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_wants_nothing_more_is_told_nothing_more_until_somebody_has_looked() {
    let is_back = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let back = is_back.clone();
    let ads = Receiver::new(move |_| {
        let is_back = back.load(std::sync::atomic::Ordering::SeqCst);
        if is_back { Act::Answer(200) } else { Act::Answer(410) }
    });
    let (house, mut daemon) = beside(ads.clone(), "concurrency = 1").await;
    daemon.wait_for("the recipient wants to be told nothing any more");
    assert_eq!(ads.told().len(), 1);
    // A restart changes nothing about that.
    assert_eq!(daemon.stop().code(), Some(0));
    let daemon = house.place.start();
    house.until("ads", "pending", i64::from(PEOPLE)).await;
    assert_eq!(ads.told().len(), 1);
    is_back.store(true, std::sync::atomic::Ordering::SeqCst);
    let retried = house.place.run(&["notices", "retry", "--recipient", "ads"]);
    assert!(retried.status.success(), "{}", String::from_utf8_lossy(&retried.stderr));
    house.until("ads", "completed", i64::from(PEOPLE)).await;
    assert_eq!(daemon.stop().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_defect_while_answers_are_written_down_keeps_no_notice_from_its_end() {
    let ads = Receiver::well();
    let mut house = House::new(5).await;
    house.recipient("ads", &ads, "");
    house.configure();
    house.place.environment.push(("FAILPOINTS".into(), "notices.settling=1*panic".into()));
    let daemon = house.place.start();
    house.until("ads", "completed", 5).await;
    assert_eq!(daemon.stop().code(), Some(0));
}
