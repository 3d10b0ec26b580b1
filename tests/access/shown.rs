//! What operators see of access paths.

use crate::harness::{Place, add_month, months_of_accounts, rule};
use crate::support::fresh_postgres;

fn text(bytes: &[u8]) -> String {
    // Lines are broken where the terminal ends.
    String::from_utf8_lossy(bytes).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn plan_and_status_say_which_way_and_why() {
    let store = fresh_postgres().await;
    months_of_accounts(&store).await;
    add_month(&store, 1, 1, 30).await;
    // The first of them is to stay.
    add_month(&store, 2, 0, 51).await;
    let place = Place::new();
    let rule = rule("nightly", "app", "0 3 * * *", "where = \"id > 0\"");
    place.configure(&(place.store("app", &store) + &rule));

    let plan = text(&place.run(&["plan"]).stdout);
    assert!(plan.contains("path partitions: one partition holds nothing but due rows"), "{plan}");
    assert!(
        plan.contains("drops 30 with partitions that are dropped whole: public.month_1"),
        "{plan}"
    );
    let spared = "public.month_2, whose due rows go one by one: 1 of its 51 rows are not due";
    assert!(plan.contains(spared), "{plan}");
    let json = place.json(&["plan"]);
    assert_eq!(json[0]["access"]["path"], "partitions", "{json}");
    assert_eq!(json[0]["access"]["partitions"][0]["rows"], 30, "{json}");

    assert_eq!(place.run(&["run"]).status.code(), Some(0));
    let status = text(&place.run(&["status"]).stdout);
    let said =
        "nightly, last run: by partitions: every row of them was due; ranges: no index serves";
    assert!(status.contains(said), "{status}");
    let log = text(&place.run(&["audit", "log", "--kind", "batch_done"]).stdout);
    assert!(log.contains("delete of 30 records with partition public.month_1"), "{log}");
    let why = text(&place.run(&["why", "nightly", "7,2020-01-02 00:00:00+00"]).stdout);
    assert!(why.contains("delete under rule nightly"), "{why}");
    assert_eq!(store.count("SELECT count(*) FROM accounts").await, 2);
}
