//! Planned, run and read back; explained and proven.

use std::time::{Duration, SystemTime};

use expunged::clock;

use crate::house::{EXPORTS, House, OLD};

/// Puts what is due and what is not.
fn fill(house: &House) {
    for user in ["ann", "bob"] {
        house.put(&format!("exports/{user}/1.csv"), OLD);
        house.put(&format!("exports/{user}/2.csv"), 31);
        house.put(&format!("exports/{user}/young.csv"), 29);
    }
    let now = SystemTime::from(clock::now());
    house.put_at("exports/bob/future.csv", now + Duration::from_hours(48));
    house.put_at("exports/bob/placeholder.csv", SystemTime::UNIX_EPOCH);
    house.put("other/1.csv", OLD);
    house.put("exports/loose.csv", OLD);
}

#[test]
fn what_is_due_goes_and_what_stays_has_its_reason() {
    for house in House::each(EXPORTS) {
        fill(&house);
        let before = house.all();
        let (one, many) = (house.table().trim_end_matches('s'), house.table());
        let plan = house.say(&["plan", "--sample", "9"]);
        assert_eq!(plan.code, 2);
        plan.has(&format!("{many} older than 30 days"))
            .has("due 4 starting points from")
            .has("kept 1 starting point is a placeholder")
            .has("kept 1 starting point in the future")
            .has("sample exports/ann/1.csv")
            .has("A run now would take 4 records.")
            .lacks("row")
            .lacks("column");
        assert_eq!(house.all(), before, "a plan writes nothing");
        let plan = &house.place.json(&["plan"])[0];
        assert_eq!((&plan["due"], &plan["total"]), (&4.into(), &8.into()), "{plan}");

        house.say(&["check"]).has("0 errors, 0 warnings");
        house
            .say(&["why", "exports", "exports/ann/1.csv"])
            .has("it is due since")
            .has("the next run takes it");
        house.say(&["why", "exports", "exports/ann/young.csv"]).has("it is kept until");
        house
            .say(&["why", "exports", "exports/bob/future.csv"])
            .has("starting point in the future");
        house.say(&["why", "exports", "other/1.csv"]).has("the rule does not mean it");
        house.say(&["why", "exports", "../../etc/passwd"]).lacks("it is due");

        house.takes("exports", 4);
        let left: Vec<_> = before.iter().filter(|path| !is_due(path)).cloned().collect();
        assert_eq!(house.all(), left, "{one}");
        house.takes("exports", 0);

        house
            .say(&["why", "exports", "exports/ann/1.csv"])
            .has("there is no such file or object")
            .has("delete under rule exports, in run")
            .has("in the store:");
        let audit = house.place.audit();
        let text = serde_json::to_string(&audit).unwrap();
        assert!(!text.contains("exports/") && !text.contains("ann"), "{text}");
        let proof = ["audit", "prove", "--store", "uploads", "--table", many];
        let found = house.say(&[&proof[..], &["--key", "exports/ann/1.csv"]].concat());
        assert_eq!(found.code, 0, "{}", found.text);
        found.has("proven").has(&format!("of table {many} in store uploads"));
        let run = audit.iter().find(|entry| entry["kind"] == "batch_done").unwrap();
        let certificate = house.say(&["certificate", run["run"].as_str().unwrap()]);
        assert_eq!(certificate.code, 0, "{}", certificate.text);
        certificate.has(many).has("4");
        let young = house.say(&[&proof[..], &["--key", "exports/ann/young.csv"]].concat());
        assert_ne!(young.code, 0);
    }
}

fn is_due(path: &str) -> bool {
    path.starts_with("exports/") && (path.ends_with("/1.csv") || path.ends_with("/2.csv"))
}

const LOGS: &str = r#"
[rule.logs]
store = "uploads"
path = "logs/{date:%Y-%m-%d}/**"
starting_point = "path date"
starting_point_time_zone = "UTC"
retention = "30 days"
action = "delete"
mode = "enforce"
"#;

#[test]
fn a_date_in_the_path_counts_and_not_the_last_modification() {
    for house in House::each(LOGS) {
        let today = clock::now().strftime("%Y-%m-%d").to_string();
        for day in ["2024-02-29", "2024-02-30", "1970-01-01", "2999-01-01", today.as_str()] {
            house.put(&format!("logs/{day}/a/b.log"), 0);
            house.put(&format!("logs/{day}/c.log"), OLD);
        }
        house.put("logs/last-year/d.log", OLD);
        let plan = house.say(&["plan"]);
        plan.has("due 2 starting points from 2024-03-01 to 2024-03-01")
            .has("kept 2 starting point cannot be read")
            .has("kept 2 starting point is a placeholder");
        house.takes("logs", 2);
        assert_eq!(house.all().len(), 9);
        assert!(!house.has("logs/2024-02-29/c.log") && house.has("logs/2024-02-30/c.log"));
        house.say(&["why", "logs", "logs/2024-02-30/c.log"]).has("starting point cannot be read");
        house.say(&["why", "logs", "logs/2999-01-01/c.log"]).has("it is kept until");
    }
}

#[test]
fn what_was_put_there_again_is_no_failure() {
    for house in House::each(EXPORTS) {
        house.put("exports/ann/latest.csv", OLD);
        house.takes("exports", 1);
        house.put("exports/ann/latest.csv", 0);
        house.takes("exports", 0);
        assert!(house.has("exports/ann/latest.csv"));
        house
            .say(&["why", "exports", "exports/ann/latest.csv"])
            .has("it is kept until")
            .has("delete under rule");
    }
}
