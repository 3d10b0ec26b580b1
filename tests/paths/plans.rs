//! Circuit breakers, and saved plans.

use crate::house::{EXPORTS, House, OLD};

fn fill(house: &House) {
    for number in 0..50 {
        house.put(&format!("exports/ann/{number:02}.csv"), OLD);
        house.put(&format!("exports/bob/{number:02}.csv"), 1);
    }
}

#[test]
fn a_run_that_would_take_much_or_is_the_first_waits() {
    for (share, reason) in
        [("10 %", "more than its share of the"), ("100 %", "the first run of this version")]
    {
        for (house, kind) in House::each(EXPORTS).into_iter().zip(["files", "objects"]) {
            fill(&house);
            let config = house.place.path("expunged.toml");
            let text = std::fs::read_to_string(&config).unwrap();
            let other = format!("max_share = \"{share}\"");
            let text = text.replace("max_share = \"100 %\"", &other);
            // Another retention is another version of the rule, which nobody has approved.
            std::fs::write(&config, text.replace("30 days", "31 days")).unwrap();
            let run = house.run("exports");
            assert_eq!(run["state"], "waiting", "{run}");
            let error = run["error"].as_str().unwrap();
            assert!(error.contains(reason) && error.contains("50 of 100"), "{error}");
            assert_eq!(error.contains(&format!("share of the {kind}")), share == "10 %", "{error}");
            assert_eq!(house.all().len(), 100);
            let id = run["run"].as_str().unwrap();
            house.say(&["approve", id, "--why", "it is meant"]).has("approved");
            house.takes("exports", 50);
        }
    }
}

#[test]
fn a_saved_plan_takes_what_it_names_and_nothing_else() {
    for house in House::each(EXPORTS) {
        fill(&house);
        let out = house.place.path("plan").display().to_string();
        let saved = house.say(&["plan", "--out", &out, "--margin", "20 %"]);
        assert_eq!(saved.code, 2, "{}", saved.text);
        // It became young; it is gone; it is new. What comes next after the new one is told apart from it by
        // a sum alone, and stays with it.
        house.put("exports/ann/07.csv", 0);
        std::fs::remove_file(house.at("exports/ann/20.csv")).unwrap();
        house.put("exports/ann/10b.csv", OLD);
        let applied = house.place.json(&["apply", &out]);
        let run = if applied.is_array() { &applied[0] } else { &applied["runs"][0] };
        assert_eq!((&run["state"], &run["records"]), (&"done".into(), &47.into()), "{applied}");
        assert_eq!(run["left"], 3, "{applied}");
        let left = house.all();
        assert!(left.contains(&"exports/ann/07.csv".into()), "{left:?}");
        assert!(left.contains(&"exports/ann/10b.csv".into()), "{left:?}");
        assert_eq!(left.len(), 53);
    }
}

#[test]
fn a_saved_plan_that_reality_has_left_behind_is_refused() {
    for house in House::each(EXPORTS) {
        fill(&house);
        let out = house.place.path("plan").display().to_string();
        house.say(&["plan", "--out", &out, "--margin", "20 %"]);
        for number in 0..20 {
            house.put(&format!("exports/cat/{number}.csv"), OLD);
        }
        let applied = house.say(&["apply", &out]);
        assert_ne!(applied.code, 0, "{}", applied.text);
        applied.has("70 are due now");
        assert_eq!(house.all().len(), 120);
    }
}
