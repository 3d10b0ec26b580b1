//! Files: what events named, and what belonged to rows.

use expunged::clock;

use crate::house::{House, Marker, RULES, numbers, of_rule};
use crate::support::fresh_sqlite;

fn faces(house: &House) -> Vec<String> {
    let names = std::fs::read_dir(house.file("faces")).unwrap();
    let mut names: Vec<_> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn photos_that_events_named_go_again_and_newer_ones_stay() {
    let house = House::new(fresh_sqlite().await, Marker::No).await;
    for photo in 1..=6 {
        house.put(&format!("faces/p{photo}"), 10);
    }
    house.save_files();
    house.done(&["p1", "p2", "p3"]);
    house.takes("photos", 3);
    assert!(house.look(clock::now()).await.is_empty());
    house.restore_files();
    assert_eq!(faces(&house).len(), 6);
    // Uploaded anew under a name of before, after the deletion.
    std::fs::write(house.file("faces/p3"), "another face").unwrap();
    assert_eq!(house.look(clock::now()).await, ["uploads"]);
    house.refuses("photos", "restored");
    // The other store is not restored.
    house.takes("old", 20);
    let plan = house.plan("uploads", &[]);
    assert_eq!(numbers(of_rule(&plan, "photos")), [3, 3, 2, 0, 0, 1], "{plan}");
    let replayed = house.replay("uploads", &[]);
    assert_eq!(
        (&replayed["records"], &replayed["released"]),
        (&2.into(), &true.into()),
        "{replayed}"
    );
    assert_eq!(faces(&house), ["p3", "p4", "p5", "p6"]);
    assert_eq!(house.replay("uploads", &[])["records"], 0);
    assert!(house.look(clock::now()).await.is_empty());
    house.place.audit();
}

#[tokio::test]
async fn files_of_rows_that_are_gone_go_again_by_their_own_store() {
    let house = House::new(fresh_sqlite().await, Marker::No).await;
    let attached = "\n[[rule.old.attachments]]\nstore = \"uploads\"\npath = \"cards/{id}\"\n";
    let rules = format!("{RULES}{attached}");
    house.configure(&rules);
    for id in (1..=20).chain(31..=35) {
        house.put(&format!("cards/{id}"), 10);
    }
    house.save_files();
    house.save().await;
    house.takes("old", 20);
    let cards = || std::fs::read_dir(house.file("cards")).unwrap().count();
    assert_eq!(cards(), 5);

    // The files alone come back.
    house.restore_files();
    house.put("cards/9", 0);
    assert_eq!(house.look(clock::now()).await, ["uploads"]);
    house.refuses("old", "restored");
    let plan = house.plan("uploads", &[]);
    assert_eq!(numbers(of_rule(&plan, "old")), [20, 20, 19, 0, 0, 1], "{plan}");
    let replayed = house.replay("uploads", &[]);
    assert_eq!(
        (&replayed["records"], &replayed["released"]),
        (&19.into(), &true.into()),
        "{replayed}"
    );
    assert_eq!(cards(), 6);
    let again = house.replay("uploads", &[]);
    assert_eq!(again["records"], 0, "{again}");

    // The rows come back, and take along what is there of theirs.
    house.restore().await;
    house.restore_files();
    assert_eq!(house.look(clock::now()).await, ["app", "uploads"]);
    let replayed = house.replay("app", &[]);
    assert_eq!(replayed["records"], 20, "{replayed}");
    assert_eq!((house.ids("accounts", "id <= 20").await.len(), cards()), (0, 5));
    assert_eq!(house.replay("uploads", &[])["released"], true);
    house.takes("old", 0);
    house.place.audit();
}
