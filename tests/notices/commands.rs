//! `expunged notices`, as people use it.

use expunged::notice::{Answer, State};
use insta::assert_snapshot;
use serde_json::json;

use crate::place::{Place, settled};

fn later(why: &str) -> Answer {
    Answer::Later { after: None, why: why.to_owned(), is_down: true }
}

#[tokio::test]
async fn notices_are_listed_and_narrowed() {
    let place = Place::after_a_run().await;
    // Four subjects in two lists to `crm`, and one notice of a record that it cannot know.
    let all = place.json(&["notices", "list", "--all"]);
    assert_eq!(all.as_array().unwrap().len(), 8, "{all}");
    let open = place.json(&["notices", "list"]);
    assert_eq!(open.as_array().unwrap().len(), 7, "{open}");
    assert_snapshot!("list", settled(&place.says(&["notices", "list"])));
    let count = |arguments: &[&str]| {
        let listed = place.json(&[&["notices", "list"], arguments].concat());
        listed.as_array().unwrap().len()
    };
    let run = place.run().await;
    assert_eq!(count(&["--recipient", "ads"]), 5);
    assert_eq!(count(&["--recipient", "crm", "--state", "exempt", "--state", "pending"]), 3);
    assert_eq!(count(&["--rule", "inactive", "--run", &run]), 7);
    assert_eq!(count(&["--rule", "other"]), 0);
    assert_eq!(count(&["--overdue"]), 0);
    assert_eq!(count(&["--limit", "3"]), 3);
    let cut = place.says(&["notices", "list", "--limit", "3"]);
    assert!(cut.contains("Only the oldest 3 are shown"), "{cut}");
    let none = place.says(&["notices", "list", "--overdue"]);
    assert!(none.contains("No such notice is open"), "{none}");
    let wrong = place.refuses(&["notices", "list", "--recipient", "adds"]);
    assert!(wrong.contains("there is no recipient `adds`; there are ads, crm"), "{wrong}");
    let (_, wrong) = place.ends(&["notices", "list", "--state", "overdue"], 2);
    assert!(wrong.contains("possible values: pending, sent, accepted"), "{wrong}");
}

#[tokio::test]
async fn a_notice_is_shown_without_whom_it_is_about() {
    let place = Place::after_a_run().await;
    let reason = "they \u{1b}[31mbought\u{1b}[0m again, see\nticket 7";
    let sent = Answer::Sent { job: Some("job-7".to_owned()) };
    let answers = [Answer::Denied(reason.to_owned()), sent, later("ads.invalid: DNS")];
    place.answer("ads", &answers).await;
    let notices = place.notices("ads").await;
    let show = |place: &Place, at: usize| {
        settled(&place.says(&["notices", "show", &notices[at].id.to_string()]))
    };
    assert_snapshot!("denied", show(&place, 0));
    assert_snapshot!("sent", show(&place, 1));
    assert_snapshot!("put_off", show(&place, 2));
    let json = place.json(&["notices", "show", &notices[0].id.to_string()]);
    assert_eq!(json["reason"], reason);
    let listed = place.says(&["--json", "notices", "list"]);
    assert!(!listed.contains("bought") && !listed.contains("job-7"), "only where asked: {listed}");
    // Nothing that is printed names anybody.
    for said in [listed, json.to_string(), place.says(&["notices", "list", "--all"])] {
        assert!(!said.contains("example.org"), "{said}");
    }
    let unknown = "00000000-0000-7000-8000-000000000000";
    let wrong = place.refuses(&["notices", "show", unknown]);
    assert!(wrong.contains("there is no notice 00000000"), "{wrong}");
}

#[tokio::test]
async fn what_was_given_up_is_tried_again() {
    let place = Place::after_a_run().await;
    let answers = [
        Answer::Failed("it said 400".to_owned()),
        Answer::Denied("no".to_owned()),
        Answer::Sent { job: None },
        Answer::Completed,
    ];
    place.answer("ads", &answers).await;
    let ids: Vec<_> = place.notices("ads").await.iter().map(|notice| notice.id).collect();
    let dry = place.says(&["notices", "retry", "--recipient", "ads", "--dry-run"]);
    assert_snapshot!("retry_dry", settled(&dry));
    assert_eq!(place.state(ids[0]).await, State::Failed, "only looked");
    let retried = place.says(&["notices", "retry", "--recipient", "ads"]);
    assert_snapshot!("retry", settled(&retried));
    let states = async |place: &Place| -> Vec<State> {
        place.notices("ads").await.iter().map(|notice| notice.state).collect()
    };
    use State::{Completed, Denied, Pending, Sent};
    assert_eq!(states(&place).await, [Pending, Denied, Sent, Completed, Pending]);

    // What a recipient refused, or has received, is told again only where somebody says so.
    let wrong = place.refuses(&["notices", "retry", "--recipient", "ads", "--state", "failed"]);
    assert!(
        wrong.contains("no notice to ads is failed: there are 2 pending, 1 sent, 1 denied"),
        "{wrong}"
    );
    let wrong = place.refuses(&["notices", "retry", "--recipient", "ads", "--state", "completed"]);
    assert!(wrong.contains("what is completed is over"), "{wrong}");
    let json = place.json(&["notices", "retry", "--recipient", "ads", "--state", "denied"]);
    assert_eq!(json, json!({ "recipient": "ads", "found": { "denied": 1 }, "retried": 1 }));
    assert_eq!(states(&place).await, [Pending, Pending, Sent, Completed, Pending]);
    place.says(&["notices", "retry", &ids[2].to_string()]);
    assert_eq!(states(&place).await, [Pending, Pending, Pending, Completed, Pending]);
    let wrong = place.refuses(&["notices", "retry", &ids[3].to_string()]);
    assert!(wrong.contains("is completed: there is nothing to try again"), "{wrong}");
    let (_, wrong) = place.ends(&["notices", "retry"], 2);
    assert!(wrong.contains("required"), "{wrong}");
    assert_eq!(place.inner.entries("notices_retried"), 3);
}

#[tokio::test]
async fn a_recipient_need_not_for_a_reason() {
    let place = Place::after_a_run().await;
    let id = place.notices("ads").await[0].id.to_string();
    let wrong = place.refuses(&["notices", "exempt", &id, "--reason", "  "]);
    assert!(wrong.contains("say why"), "{wrong}");
    let said = place.says(&["notices", "exempt", &id, "--reason", "has Ann's own consent"]);
    assert_snapshot!("exempt", settled(&said));
    assert_snapshot!("exempt_shown", settled(&place.says(&["notices", "show", &id])));
    let wrong = place.refuses(&["notices", "exempt", &id, "--reason", "another one"]);
    assert!(wrong.contains("is exempt already, and nothing was changed"), "{wrong}");
    let shown = place.says(&["notices", "show", &id]);
    assert!(shown.contains("has Ann's own consent"), "{shown}");
    let log = place.says(&["--json", "audit", "log", "--kind", "notice_exempted"]);
    assert!(log.contains(&id) && !log.contains("consent"), "the reason is not for the log: {log}");
}

#[tokio::test]
async fn a_recipient_that_is_not_configured_any_more_is_still_known() {
    let place = Place::after_a_run().await;
    place.configure_with("", "subject = \"id\"");
    let said = place.says(&["notices", "retry", "--recipient", "ads"]);
    assert!(said.contains("not configured any more"), "{said}");
    let id = place.notices("ads").await[0].id.to_string();
    let shown = place.says(&["notices", "show", &id]);
    assert!(shown.contains("`[recipient.ads]`"), "{shown}");
    assert_snapshot!("no_longer_configured", settled(&place.says(&["recipients", "list"])));
}

#[tokio::test]
async fn without_a_ledger_nothing_is_made() {
    let place = Place::sqlite().await;
    for file in std::fs::read_dir(place.inner.path("")).unwrap().flatten() {
        if file.file_name().to_string_lossy().starts_with("ledger.db") {
            let path = file.path();
            let removed = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path));
            removed.unwrap();
        }
    }
    let id = "00000000-0000-7000-8000-000000000000";
    for arguments in [
        &["notices", "list"][..],
        &["notices", "retry", id],
        &["notices", "exempt", id, "--reason", "none"],
    ] {
        let wrong = place.refuses(arguments);
        assert!(wrong.contains("there is no ledger"), "{wrong}");
    }
    assert!(!place.inner.path("ledger.db").exists());
    assert!(place.says(&["recipients", "list"]).contains("ads"));
}

#[tokio::test]
async fn the_help_teaches() {
    let place = Place::sqlite().await;
    for command in ["list", "show", "retry", "exempt"] {
        let help = place.says(&["notices", command, "--help"]);
        assert_snapshot!(format!("help_{command}"), help);
    }
}
