//! Looking again after a run, certificates, and what is said of one record.

use expunged::audit::proof::Proof;
use expunged::audit::record::show;
use expunged::audit::{Entry, Event};
use expunged::certificate::{CertificateError, issue};
use expunged::clock;
use expunged::event::Occurrence;
use expunged::plan::{KeptReason, Replica, Residue};
use expunged::run::RunState;
use expunged::store::sql::{Access, Bounds, Explained};

use crate::house::{House, RULES};
use crate::support::{Kind, TestDatabase, fresh_mysql, fresh_postgres, fresh_sqlite};

on_each_database! {
    what_was_taken_is_looked_for_again_and_certified
    one_record_is_explained
}

async fn what_was_taken_is_looked_for_again_and_certified(house: House) {
    for (rule, records) in [("inactive", 490), ("mails", 210)] {
        let done = house.run(rule).await;
        assert_eq!((done.state, done.records), (RunState::Done, records));
        let seen = done.verification.unwrap();
        assert_eq!((seen.checked, seen.of, seen.present), (records, records, 0));
        let expected = match house.store.kind {
            Kind::Postgres => Residue::PendingVacuum,
            Kind::MySql => Residue::LogicallyDeleted,
            // In its file alone; secure_delete is on.
            Kind::Sqlite => Residue::PhysicallyPurged,
        };
        assert_eq!(seen.residue, expected, "{}", seen.detail);
        let of_the_file =
            seen.detail.contains("overwritten in the database file (secure_delete); its journal");
        assert_eq!(of_the_file, house.store.kind == Kind::Sqlite, "{}", seen.detail);

        let ledger = &house.runner.ledger;
        let run = done.run.unwrap();
        let certificate =
            issue(ledger, run, Some(house.rule(rule)), &house.config.backups, clock::now())
                .await
                .unwrap();
        assert_eq!((certificate.records, certificate.verification.seen.present), (records, 0));
        assert_eq!(
            certificate.deletion_class.as_deref().unwrap().split(' ').next(),
            done_years(rule)
        );
        assert_eq!(certificate.authority, "approved by tester");
        // The proof stands by itself: the public key is enough.
        let proof = Proof::parse(&certificate.log.proof).unwrap();
        let shown = show(&proof, &[ledger.keys().verifier().clone()], None).unwrap();
        assert_eq!(shown.entry.event.run(), Some(run));
        let issued = house.events("certificate_issued").await;
        assert!(matches!(issued.last(),
            Some(Event::CertificateIssued { digest, .. }) if *digest == certificate.digest()));
    }
    house.assert_log_is_sound().await;
}

fn done_years(rule: &str) -> Option<&'static str> {
    Some(if rule == "inactive" { "2" } else { "1" })
}

/// A trigger puts a row back. On MySQL none can: there it may not write to its own table.
#[tokio::test]
async fn what_comes_back_is_found_and_not_certified_on_postgres() {
    what_comes_back_is_found(House::new(fresh_postgres().await, false).await).await;
}

#[tokio::test]
async fn what_comes_back_is_found_and_not_certified_on_sqlite() {
    what_comes_back_is_found(House::new(fresh_sqlite().await, true).await).await;
}

async fn what_comes_back_is_found(house: House) {
    house.revive(77).await;
    let run = house.run("inactive").await;
    assert_eq!(run.state, RunState::Failed);
    let seen = run.verification.unwrap();
    assert!(seen.present >= 1, "{seen:?}");
    assert!(run.error.unwrap().contains("look for what puts them back"));
    let refused =
        issue(&house.runner.ledger, run.run.unwrap(), None, &house.config.backups, clock::now())
            .await
            .unwrap_err();
    assert!(matches!(refused, CertificateError::Incomplete { .. }), "{refused}");
    let finished = house.events("run_finished").await;
    assert!(matches!(finished.last(),
        Some(Event::RunFinished { reason: Some(reason), .. })
            if reason.as_str() == "records that were reported gone are still there"));
    house.assert_log_is_sound().await;
}

const UPON_AN_EVENT: &str = r#"
[rule.closed]
store = "app"
table = "accounts"
where = "id > 3000"
on_event = "account.closed"
match = { id = "id" }
starting_point = "last_seen_at"
max_age = "9 years"
action = "delete"
mode = "enforce"
"#;

/// What events name is younger than the retention of its rule: it is looked for all the same, and on the replica.
#[tokio::test]
async fn what_an_event_took_and_comes_back_is_found_on_postgres() {
    what_an_event_took_is_looked_for(fresh_postgres().await, fresh_postgres().await).await;
}

#[tokio::test]
async fn what_an_event_took_and_comes_back_is_found_on_mysql() {
    what_an_event_took_is_looked_for(fresh_mysql().await, fresh_mysql().await).await;
}

#[tokio::test]
async fn what_an_event_took_and_comes_back_is_found_on_sqlite() {
    what_an_event_took_is_looked_for(fresh_sqlite().await, fresh_sqlite().await).await;
}

async fn what_an_event_took_is_looked_for(store: TestDatabase, replica: TestDatabase) {
    let kind = store.kind;
    let house = House::with_replica(store, &replica, UPON_AN_EVENT).await;
    let begin = async |id: u32| {
        let add = format!(
            "INSERT INTO accounts (id, status, last_seen_at) VALUES ({id}, 'user', '2026-11-02 12:00:00')"
        );
        house.store.execute(&add).await;
        replica.execute(&add).await;
        let event = Occurrence {
            id: format!("closed-{id}"),
            name: "account.closed".parse().unwrap(),
            values: [("id".to_owned(), id.to_string())].into(),
        };
        let rules = vec!["closed".parse().unwrap()];
        house.runner.ledger.receive(&[(event, rules)], clock::now()).await.unwrap();
    };
    begin(3001).await;
    let done = house.run("closed").await;
    assert_eq!((done.state, done.records), (RunState::Done, 1), "{done:?}");
    let seen = done.verification.unwrap();
    assert_eq!((seen.checked, seen.present), (1, 0));
    // The replica does not follow.
    assert_eq!((seen.replica, seen.present_on_replica), (Some(Replica::Behind), Some(1)));

    if kind == Kind::MySql {
        // No trigger there can put it back.
        return;
    }
    house.revive(3002).await;
    begin(3002).await;
    begin(3003).await;
    let failed = house.run("closed").await;
    assert_eq!((failed.state, failed.records), (RunState::Failed, 2), "{failed:?}");
    let seen = failed.verification.unwrap();
    assert_eq!((seen.checked, seen.present), (2, 1));
    assert!(failed.error.unwrap().contains("look for what puts them back"));
    house.assert_log_is_sound().await;
}

const STAFF: &str = r#"
[breakers]
max_share = "100 %"

[rule.staff]
store = "app"
table = "accounts"
where = "status = 'staff'"
starting_point = "last_seen_at"
retention = "1 year"
action = "anonymize"
marker = "anonymized_at"
mode = "enforce"
[rule.staff.columns]
email = "null"
"#;

/// A table that keeps its own history has as many due rows after a walk as before.
#[tokio::test]
async fn what_a_trigger_adds_is_counted_on_postgres() {
    what_a_trigger_adds_is_counted(fresh_postgres().await).await;
}

#[tokio::test]
async fn what_a_trigger_adds_is_counted_on_sqlite() {
    what_a_trigger_adds_is_counted(fresh_sqlite().await).await;
}

async fn what_a_trigger_adds_is_counted(store: TestDatabase) {
    let house = House::with(store, false, STAFF).await;
    let keep = "INSERT INTO accounts (id, email, status, last_seen_at) \
                VALUES (OLD.id + 10000, OLD.email, OLD.status, OLD.last_seen_at)";
    let trigger = match house.store.kind {
        Kind::Postgres => format!(
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {keep}; RETURN NULL; END $$; \
             CREATE TRIGGER keep AFTER UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION keep()"
        ),
        _ => format!("CREATE TRIGGER keep AFTER UPDATE ON accounts BEGIN {keep}; END"),
    };
    house.store.execute(&trigger).await;
    let run = house.run("staff").await;
    assert!(run.records >= 10, "{run:?}");
    let due = house.ids("status = 'staff' AND anonymized_at IS NULL").await;
    assert_eq!((due, run.remaining), (10, Some(10)), "{run:?}");
    let finished = house.events("run_finished").await;
    assert!(
        matches!(finished.last(), Some(Event::RunFinished { remaining: Some(10), .. })),
        "{finished:?}"
    );
}

async fn one_record_is_explained(house: House) {
    let rule = house.rule("inactive");
    let store = house.runner.stores.get(&rule.store, Access::ReadOnly).unwrap();
    let target = store.target(rule).await.unwrap();
    let explain = async |id: &str| -> Option<Explained> {
        let now = clock::now();
        let bounds = Bounds { cutoff: rule.cutoff(now), now };
        store.explain(&target, bounds, &target.keys_from_text(id)).await.unwrap()
    };
    let due = explain("77").await.unwrap();
    assert!(due.is_due && due.meets_condition && due.kept.is_none());
    let staff = explain("7").await.unwrap();
    assert_eq!((staff.is_due, staff.kept), (false, Some(KeptReason::Excluded)));
    let fresh = explain("900").await.unwrap();
    assert_eq!((fresh.is_due, fresh.kept), (false, None));
    assert_eq!(fresh.starting_point.unwrap().to_string(), "2026-11-01T12:00:00Z");
    let unknown = explain("2001").await.unwrap();
    assert_eq!((unknown.is_due, unknown.kept), (false, Some(KeptReason::NoStartingPoint)));
    assert_eq!(explain("123456").await, None);
    let text = target.keys_from_text("seven");
    assert!(text.is_empty() || house.store.kind == Kind::Sqlite, "no number, no key");

    house.run("inactive").await;
    let ledger = &house.runner.ledger;
    let table = rule.table.to_string();
    let keys = target.keys_from_text("77");
    let taken = ledger.find_record(&rule.store, &table, &keys).await.unwrap();
    assert_eq!(taken.len(), 1);
    let entry = ledger.audit_entry(taken[0].position).await.unwrap();
    assert!(matches!(entry, Some(Entry { event: Event::BatchDone { .. }, .. })));
    let kept = ledger.find_record(&rule.store, &table, &target.keys_from_text("7")).await.unwrap();
    assert!(kept.is_empty());
}

#[tokio::test]
async fn what_is_gone_but_not_from_the_replica_is_done_and_not_certified() {
    // A second database of the same content stands for a replica that does not follow.
    for (store, replica) in [
        (fresh_postgres().await, fresh_postgres().await),
        (fresh_mysql().await, fresh_mysql().await),
        (fresh_sqlite().await, fresh_sqlite().await),
    ] {
        let house = House::with_replica(store, &replica, RULES).await;
        let approved = house.run("inactive").await;
        assert_eq!((approved.state, approved.records), (RunState::Done, 490), "{approved:?}");
        assert_eq!(approved.error, None);
        let seen = approved.verification.unwrap();
        assert_eq!((seen.present, seen.present_on_replica), (0, Some(490)));
        assert_eq!(
            (seen.replica, seen.came_back(), seen.is_good()),
            (Some(Replica::Behind), false, false)
        );
        refused_for(&house, approved.run, "replica has not followed: 490 of 490").await;
        house.assert_log_is_sound().await;
    }
}

/// What the store itself shows stands, whatever its replica does.
#[tokio::test]
async fn a_replica_that_cannot_be_asked_hides_nothing() {
    let replica = fresh_postgres().await;
    let house = House::with_replica(fresh_postgres().await, &replica, RULES).await;
    replica.execute("DROP TABLE accounts").await;
    let done = house.run("mails").await;
    assert_eq!((done.state, done.records), (RunState::Done, 700), "{done:?}");
    let seen = done.verification.unwrap();
    assert_eq!((seen.present, seen.replica), (0, Some(Replica::NotAsked)));
    refused_for(&house, done.run, "replica could not be asked").await;

    house.revive(77).await;
    let run = house.run("inactive").await;
    assert_eq!(run.state, RunState::Failed, "{run:?}");
    let seen = run.verification.unwrap();
    assert!(seen.came_back() && seen.replica == Some(Replica::NotAsked), "{seen:?}");
    refused_for(&house, run.run, "failed, and not done").await;
    let verified = house.events("run_verified").await;
    assert!(
        matches!(verified.last(), Some(Event::RunVerified { present, replica: Some(replica), .. })
        if *present > 0 && replica.as_str() == "not_asked")
    );
}

async fn refused_for(house: &House, run: Option<uuid::Uuid>, reason: &str) {
    let refused =
        issue(&house.runner.ledger, run.unwrap(), None, &house.config.backups, clock::now())
            .await
            .unwrap_err();
    assert!(refused.to_string().contains(reason), "{refused}");
}
