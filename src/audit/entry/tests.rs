use super::*;
use crate::notice::State;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn at() -> Timestamp {
    "2026-11-21T12:00:00.25Z".parse().unwrap()
}

/// One event of every kind, in the order of [`Event::KINDS`].
#[expect(clippy::too_many_lines, reason = "there are many kinds")]
fn one_of_each() -> Vec<Event> {
    let (run, batch) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let (rule, store) = (name("inactive-accounts"), name("app"));
    let (digest, table) = ("ab".repeat(32), "public.users".to_owned());
    let (action, cutoff) = (ActionKind::Delete, at());
    vec![
        Event::DaemonStarted { version: "0.1.0".into() },
        Event::DaemonStopped { reason: "asked to stop".into() },
        Event::ConfigurationLoaded {
            digest: digest.clone(),
            rules: 3,
            stores: 1,
            version: "0.1.0".into(),
        },
        Event::ConfigurationRefused { reason: "it does not parse".into() },
        Event::RuleAdded { rule: rule.clone(), digest: digest.clone() },
        Event::RuleChanged { rule: rule.clone(), digest: digest.clone(), previous: digest.clone() },
        Event::RuleRemoved { rule: rule.clone(), digest: digest.clone() },
        Event::RuleArmed { rule: rule.clone(), digest: digest.clone(), by: None },
        Event::RuleDisarmed { rule: rule.clone() },
        Event::PlanMade {
            rule: rule.clone(),
            rule_digest: digest.clone(),
            cutoff,
            due: 7,
            digest: Some(digest.clone()),
        },
        Event::PlanRefused { digest: digest.clone(), rule: None, reason: "it is too old".into() },
        Event::ApprovalAwaited {
            run,
            rule: rule.clone(),
            rule_digest: digest.clone(),
            store: store.clone(),
            table: table.clone(),
            due: 70,
            total: 100,
            reason: "more than its share".into(),
        },
        Event::RunApproved { run, rule: rule.clone(), store: store.clone(), by: "root".into() },
        Event::RunStarted {
            run,
            rule: rule.clone(),
            rule_digest: digest.clone(),
            store: store.clone(),
            table: table.clone(),
            action,
            cutoff,
            cause: Cause::Slot,
            mode: RunMode::Enforce,
            plan: None,
        },
        Event::BatchDone {
            run,
            batch,
            rule: rule.clone(),
            store: store.clone(),
            table: table.clone(),
            action,
            records: 2,
            attachments: 0,
            dependents: Vec::new(),
            commitments: Hash([7; 32]),
            pseudonymized: vec!["email".into()],
            notices: BTreeMap::new(),
            partition: None,
        },
        Event::BatchUndone {
            run,
            batch,
            rule: rule.clone(),
            store: store.clone(),
            reason: "the target had not committed".into(),
        },
        Event::RunFinished {
            run,
            rule: rule.clone(),
            store: store.clone(),
            state: RunEnd::Done,
            records: 2,
            remaining: Some(0),
            batches: 1,
            reason: None,
        },
        Event::RunObserved {
            run,
            rule: rule.clone(),
            rule_digest: digest,
            store: store.clone(),
            table,
            cutoff,
            due: u64::MAX,
            undecided: 1,
        },
        Event::RunRefused { rule: rule.clone(), reason: "too many records are due".into() },
        Event::RunVerified {
            run,
            rule: rule.clone(),
            store: store.clone(),
            checked: 2,
            of: 2,
            present: 0,
            replica: Some("gone".into()),
            present_on_replica: Some(0),
            state: "pending_vacuum".into(),
        },
        Event::CertificateIssued {
            run,
            rule: rule.clone(),
            store: store.clone(),
            digest: "cd".repeat(32),
        },
        Event::ClockJumped { seconds: -7_200 },
        Event::HoldPlaced {
            hold: batch,
            scope: HoldScope::Table,
            store: Some(store.clone()),
            rule: None,
            table: Some("public.users".into()),
            until: at(),
            broad: false,
        },
        Event::HoldExtended { hold: batch, until: at() },
        Event::HoldReleased { hold: batch },
        Event::HoldExpired { hold: batch },
        Event::NoticesSettled {
            run,
            rule: rule.clone(),
            recipient: "ads".parse().unwrap(),
            state: State::Completed,
            notices: 3,
        },
        Event::NoticesOverdue {
            run,
            rule: rule.clone(),
            recipient: "ads".parse().unwrap(),
            notices: 1,
        },
        Event::NoticeExempted {
            run,
            rule,
            recipient: "ads".parse().unwrap(),
            notice: batch,
            by: "anna".into(),
        },
        Event::NoticesRetried { recipient: "ads".parse().unwrap(), notices: 2, by: "anna".into() },
        Event::ReceiptsRefused {
            recipient: "ads".parse().unwrap(),
            reason: "its signature is not the recipient's".into(),
            receipts: 1,
        },
        Event::BackupSetAdded {
            backup: name("nightly"),
            stores: vec![store.clone()],
            rotation: "35 days".into(),
            assumed: false,
        },
        Event::BackupSetForgotten { backup: name("nightly"), by: "anna".into() },
        Event::BackupsDoubted { backup: name("nightly"), reason: "it lists no backup".into() },
        Event::BackupsListed { backup: name("nightly"), backups: 35 },
        Event::BackupsConfirmed { backup: name("nightly"), by: "anna".into() },
        Event::BackupsCleared { backup: name("nightly"), before: at() },
        Event::BackupsReopened { backup: name("nightly"), before: at() },
        Event::RotationStalled { backup: name("nightly"), since: at() },
        Event::TombstonesDestroyed { store: store.clone(), before: at(), records: 1_007 },
        Event::RestoreNoticed {
            store: store.clone(),
            evidence: "its marker is older than the one that was written".into(),
            restored_to: Some(at()),
        },
        Event::ReplayStarted {
            store: store.clone(),
            restored_to: None,
            records: 12,
            by: "anna".into(),
        },
        Event::ReplayFinished { store: store.clone(), records: 11, left: 1 },
        Event::StoreReleased { store, reason: "it was replayed".into(), by: None },
        Event::KeyRotated { previous: "a+1+b".into(), current: "a+2+c".into() },
        Event::CommitmentKeyDestroyed {},
    ]
}

#[test]
fn every_kind_reads_back_as_written_and_names_itself() {
    let events = one_of_each();
    let kinds: Vec<_> = events.iter().map(Event::kind).collect();
    assert_eq!(kinds, Event::KINDS);
    for event in events {
        let entry = Entry { at: at(), event };
        let json = entry.to_json().unwrap();
        assert!(!json.contains('\n'));
        assert_eq!(Entry::from_json(&json).unwrap(), entry);
        assert_eq!(Entry::from_json(&json).unwrap().to_json().unwrap(), json);
        let start =
            format!(r#"{{"at":"2026-11-21T12:00:00.250000Z","kind":"{}""#, entry.event.kind());
        assert!(json.starts_with(&start), "{json}");
    }
}

#[test]
fn accessors_give_what_the_json_says() {
    for event in one_of_each() {
        let json = serde_json::to_value(Entry { at: at(), event: event.clone() }).unwrap();
        let text = |key: &str| json.get(key).and_then(|value| value.as_str());
        assert_eq!(event.rule().map(Name::as_str), text("rule"));
        assert_eq!(event.store().map(Name::as_str), text("store"));
        assert_eq!(event.run().map(|run| run.to_string()).as_deref(), text("run"));
    }
}

#[test]
fn the_bytes_of_an_entry_are_fixed() {
    let entry = Entry { at: at(), event: one_of_each().swap_remove(14) };
    assert_eq!(
        entry.to_json().unwrap(),
        concat!(
            r#"{"at":"2026-11-21T12:00:00.250000Z","kind":"batch_done","#,
            r#""run":"00000000-0000-0000-0000-000000000001","#,
            r#""batch":"00000000-0000-0000-0000-000000000002","#,
            r#""rule":"inactive-accounts","store":"app","table":"public.users","#,
            r#""action":"delete","records":2,"#,
            r#""commitments":"0707070707070707070707070707070707070707070707070707070707070707","#,
            r#""pseudonymized":["email"]}"#
        )
    );
}

#[test]
fn who_was_told_how_often_stands_at_the_end() {
    let mut event = one_of_each().swap_remove(14);
    let plain = Entry { at: at(), event: event.clone() }.to_json().unwrap();
    if let Event::BatchDone { notices, .. } = &mut event {
        notices.extend([(name("analytics"), 2), (name("ads"), 1)]);
    }
    let entry = Entry { at: at(), event };
    let json = entry.to_json().unwrap();
    let told = r#","notices":{"ads":1,"analytics":2}}"#;
    assert_eq!(json, plain.trim_end_matches('}').to_owned() + told);
    assert_eq!(Entry::from_json(&json).unwrap(), entry);
}

#[test]
fn an_entry_that_would_not_fit_a_tile_is_refused() {
    let mut event = one_of_each().swap_remove(14);
    if let Event::BatchDone { pseudonymized, .. } = &mut event {
        pseudonymized.extend(std::iter::repeat_n("column".to_owned(), 8_000));
    }
    let refused = Entry { at: at(), event }.to_json();
    assert!(matches!(refused, Err(EntryError::TooLong { kind: "batch_done", .. })));
}

#[test]
fn unknown_kinds_and_other_json_are_refused() {
    for bad in ["", "{}", r#"{"at":"2026-11-21T12:00:00Z","kind":"surprise"}"#, "[1]"] {
        assert!(Entry::from_json(bad).is_err(), "{bad}");
    }
}

#[test]
fn moments_sort_as_text() {
    let texts = ["2026-11-21T12:00:00Z", "2026-11-21T12:00:00.000001Z", "2026-11-21T12:00:01Z"];
    let written = texts.map(|text| moment::to_text(text.parse().unwrap()));
    assert!(written.is_sorted());
    assert!(written.iter().all(|text| text.len() == 27));
    for moment in [Timestamp::MIN, Timestamp::UNIX_EPOCH] {
        assert_eq!(moment::from_text(&moment::to_text(moment)).unwrap(), moment);
    }
    assert!(moment::from_text("yesterday").is_err());
}
