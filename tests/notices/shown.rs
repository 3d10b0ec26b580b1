//! What `status`, `metrics`, `why` and `recipients list` say of recipients.

use expunged::notice::Answer;
use insta::assert_snapshot;

use crate::place::{Place, name, settled};

/// `ads` has done one, refused one and has one; it fails since. `crm` has asked to be told nothing any more.
async fn trouble(place: &Place) {
    place.says(&["run"]);
    let sent = Answer::Sent { job: None };
    place.answer("ads", &[Answer::Completed, Answer::Denied("no".to_owned()), sent]).await;
    let (_, ledger) = place.open().await;
    let now = expunged::clock::now();
    ledger
        .note_recipient(&name("ads"), Some("ads.invalid answered 503"), false, now)
        .await
        .unwrap();
    ledger.note_recipient(&name("crm"), Some("answered 410"), true, now).await.unwrap();
    ledger.close().await;
    // Those to `ads` were due long ago.
    let pool = place.inner.ledger().await;
    pool.execute(
        "UPDATE notice SET due_at = '2020-01-01T00:00:00.000000Z' WHERE recipient = 'ads'",
    )
    .await;
    pool.close().await;
    let (_, ledger) = place.open().await;
    let overdue = ledger.mark_overdue(now).await.unwrap();
    assert_eq!(overdue.get(&name("ads")), Some(&4));
    ledger.close().await;
}

async fn all_of_it_is_shown(place: Place) {
    let before = place.says(&["metrics"]);
    assert!(before.contains("expunged_notices{recipient=\"ads\",state=\"pending\"} 0"), "{before}");
    trouble(&place).await;
    let listed = place.json(&["recipients", "list"]);
    assert_eq!(listed[0]["recipient"], "ads");
    assert_eq!((&listed[0]["open"]["denied"], &listed[0]["completed"]), (&1.into(), &1.into()));
    assert!(listed[1]["stopped_at"].is_string(), "{listed}");
    assert_snapshot!("recipients", settled(&place.says(&["recipients", "list"])));

    let status = place.says(&["status"]);
    let of_recipients = status.lines().skip_while(|line| !line.starts_with("notices"));
    assert_snapshot!("status", settled(&of_recipients.collect::<Vec<_>>().join("\n")));
    let status = place.json(&["status"]);
    assert_eq!(status["recipients"], listed, "as they are listed");
    assert!(!place.says(&["status", "inactive"]).contains("notices "), "only what was asked for");

    let metrics = place.says(&["metrics"]);
    for line in [
        "expunged_notices{recipient=\"ads\",state=\"pending\"} 2",
        "expunged_notices{recipient=\"ads\",state=\"sent\"} 1",
        "expunged_notices{recipient=\"ads\",state=\"accepted\"} 0",
        "expunged_notices{recipient=\"ads\",state=\"denied\"} 1",
        "expunged_notices{recipient=\"ads\",state=\"completed\"} 1",
        "expunged_notices_overdue{recipient=\"ads\"} 4",
        "expunged_notices_overdue{recipient=\"crm\"} 0",
        "expunged_recipient_failing{recipient=\"ads\"} 1",
        "expunged_recipient_failing{recipient=\"crm\"} 1",
    ] {
        assert!(
            metrics.lines().any(|given| given.trim_end_matches(".0") == line),
            "{line}\n{metrics}"
        );
    }
    let age = metrics
        .lines()
        .find(|line| line.starts_with("expunged_oldest_open_notice_age_seconds{recipient=\"ads\""));
    assert!(age.is_some(), "{metrics}");

    let overdue = place.json(&["notices", "list", "--overdue"]);
    assert_eq!(overdue.as_array().unwrap().len(), 4);
    let why = place.says(&["why", "inactive", "2"]);
    assert_snapshot!("why", settled(&why[why.find("copies").unwrap()..]));
    let why = place.json(&["why", "inactive", "2"]);
    assert_eq!(why["happened"][0]["told"]["ads"]["denied"], 1, "{why}");
}

#[tokio::test]
async fn all_of_it_is_shown_from_sqlite() {
    all_of_it_is_shown(Place::sqlite().await).await;
}

#[tokio::test]
async fn all_of_it_is_shown_from_postgres() {
    all_of_it_is_shown(Place::postgres().await).await;
}

#[tokio::test]
async fn a_recipient_that_stopped_is_told_again_after_a_retry() {
    let place = Place::sqlite().await;
    trouble(&place).await;
    place.says(&["notices", "retry", "--recipient", "crm"]);
    let listed = place.json(&["recipients", "list"]);
    assert!(listed[1]["stopped_at"].is_null(), "{listed}");
}
