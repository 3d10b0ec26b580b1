use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn backup(id: &str, started_at: &str) -> Backup {
    Backup { id: id.to_owned(), started_at: at(started_at), parents: Vec::new(), permanent: None }
}

#[test]
fn the_lead_goes_off_every_start_and_the_oldest_comes_first() {
    let logs = vec![
        LogRange { id: "15-1".to_owned(), from: Some(at("2026-11-02T00:00:00Z")) },
        LogRange { id: "16-2".to_owned(), from: None },
    ];
    let backups = vec![backup("b", "2026-11-03T00:00:00Z"), backup("a", "2026-11-02T00:00:00Z")];
    let found = Found { backups, logs, purge: Purge::Seen };
    let listing = found.into_listing(Duration::from_hours(1), at("2026-11-04T00:00:00Z"));
    let starts: Vec<_> = listing.backups.iter().map(|one| one.started_at.to_string()).collect();
    assert_eq!(starts, ["2026-11-01T23:00:00Z", "2026-11-02T23:00:00Z"]);
    assert_eq!(listing.logs[0].from, Some(at("2026-11-01T23:00:00Z")));
    assert_eq!((listing.logs[1].from, listing.purge), (None, Purge::Seen));
}

#[test]
fn backups_that_cannot_be_told_apart_are_no_listing() {
    let told = |ids: &[&str]| {
        let backups = ids.iter().map(|id| backup(id, "2026-11-03T00:00:00Z")).collect();
        told_apart(&Catalogue::Declared, Found::at_once(backups)).map(|_| ())
    };
    assert!(told(&["a", "b"]).is_ok() && told(&[]).is_ok());
    for ids in [&["a", "b", "a"][..], &["", "a"]] {
        assert!(matches!(told(ids), Err(Fault::NotUnderstood { .. })), "{ids:?}");
    }
}

#[test]
fn what_a_program_said_is_quoted_from_its_last_line_and_bounded() {
    assert_eq!(last_line("a\nFatal: b\nc\n\n", |line| line.starts_with("Fatal:")), "Fatal: b");
    assert_eq!(last_line("a\nb\n \n", |line| line.starts_with("Fatal:")), "b");
    assert_eq!(last_line("", |_| true), "");
    assert_eq!(short("a\tb\x1b[0m\nc"), "a b [0m");
    assert_eq!(short(&"ü".repeat(1_000)).chars().count(), QUOTED + 1);
}

#[test]
fn json_that_broke_off_is_told_from_json_that_is_another() {
    let read = |text: &str| json::<Vec<u64>>("it", text.as_bytes()).unwrap_err().to_string();
    assert!(read("[1, 2").contains("broke off in line 1, column 5"), "{}", read("[1, 2"));
    assert!(read("[1, \"x\"]").contains("invalid type"), "{}", read("[1, \"x\"]"));
    assert!(read("[1] [2]").contains("trailing"), "{}", read("[1] [2]"));
}
