//! A deletion is complete only when every recipient has completed or is exempt.

use expunged::notice::Answer;
use insta::assert_snapshot;

use crate::place::{Place, settled};

async fn a_certificate_waits_for_each_recipient(place: Place) {
    place.says(&["run"]);
    let run = place.run().await;
    let wrong = place.refuses(&["certificate", "inactive"]);
    assert_snapshot!("awaited", settled(&wrong));
    let denied = Answer::Denied("we bought it".to_owned());
    let done = vec![Answer::Completed; 4];
    place.answer("ads", &[&done[..], &[denied]].concat()).await;
    place.answer("crm", &[Answer::Completed, Answer::Completed]).await;
    let wrong = place.refuses(&["certificate", "inactive"]);
    assert!(wrong.contains("ads: 1 of 5 notices open (1 denied)"), "{wrong}");
    assert!(!wrong.contains("crm") && !wrong.contains("bought"), "{wrong}");
    assert_eq!(place.json(&["notices", "list", "--run", &run]).as_array().unwrap().len(), 1);

    let id = place.notices("ads").await[4].id.to_string();
    place.says(&["notices", "exempt", &id, "--reason", "its own consent"]);
    let text = place.says(&["certificate", "inactive", "--brief"]);
    let told: Vec<_> = text.lines().skip_while(|line| !line.starts_with("residuals")).collect();
    assert_snapshot!("told", settled(&told.join("\n")));
    let json = place.json(&["certificate", &run]);
    assert_eq!(json["recipients"][0]["recipient"], "ads", "{json}");
    let counts =
        ["notices", "completed", "exempt"].map(|field| json["recipients"][0][field].as_u64());
    assert_eq!(counts, [Some(5), Some(4), Some(1)]);
    let counts =
        ["notices", "completed", "exempt"].map(|field| json["recipients"][1][field].as_u64());
    assert_eq!(
        counts,
        [Some(3), Some(2), Some(1)],
        "one that it cannot know is exempt from the start"
    );
    // The entry that it names says so.
    let entry = json["recipients"][0]["entry"].as_u64().unwrap();
    let log = place.inner.audit();
    let entry = log.iter().find(|one| one["position"] == entry).unwrap();
    assert_eq!((&entry["kind"], &entry["recipient"]), (&"notice_exempted".into(), &"ads".into()));

    // The ledger's own columns can be changed without a trace, and do not make a certificate.
    let pool = place.inner.ledger().await;
    pool.execute(
        "UPDATE notice SET state = 'sent' WHERE recipient = 'crm' AND state = 'completed'",
    )
    .await;
    let wrong = place.refuses(&["certificate", "inactive"]);
    assert!(wrong.contains("differ in where its notices stand"), "{wrong}");
    pool.close().await;
}

#[tokio::test]
async fn a_certificate_waits_for_each_recipient_on_sqlite() {
    a_certificate_waits_for_each_recipient(Place::sqlite().await).await;
}

#[tokio::test]
async fn a_certificate_waits_for_each_recipient_on_postgres() {
    a_certificate_waits_for_each_recipient(Place::postgres().await).await;
}

#[tokio::test]
async fn a_ledger_that_says_done_where_the_log_does_not_makes_no_certificate() {
    let place = Place::after_a_run().await;
    let pool = place.inner.ledger().await;
    pool.execute("UPDATE notice SET state = 'completed', sealed = NULL").await;
    pool.close().await;
    let wrong = place.refuses(&["certificate", "inactive"]);
    assert!(wrong.contains("the ledger has none of them"), "{wrong}");
}

#[tokio::test]
async fn a_run_that_told_nobody_has_the_certificate_of_before() {
    let place = Place::sqlite().await;
    place.configure_with("", "subject = \"id\"");
    place.says(&["run"]);
    let json = place.json(&["certificate", "inactive"]);
    assert_eq!(json["residuals"]["recipients"], "none are registered");
    assert!(json.get("recipients").is_none(), "{json}");
    let text = place.says(&["certificate", "inactive", "--brief"]);
    assert!(text.contains("recipients     none are registered\nbackups"), "{text}");
}
