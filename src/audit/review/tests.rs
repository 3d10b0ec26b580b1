use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::audit::entry::Reason;
use crate::audit::note::Signer;

fn at(second: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second)
}

fn started(second: i64) -> Entry {
    Entry { at: at(second), event: Event::DaemonStarted { version: "1".into() } }
}

fn stopped(second: i64) -> Entry {
    Entry { at: at(second), event: Event::DaemonStopped { reason: Reason::from("asked") } }
}

fn signer(seed: u8) -> Signer {
    Signer::new("log", [seed; 32]).unwrap()
}

fn rotated(from: &Signer, to: &Signer) -> Entry {
    let (previous, current) = (from.verifier().to_string(), to.verifier().to_string());
    Entry { at: at(0), event: Event::KeyRotated { previous, current } }
}

fn leaf(entry: &Entry) -> Hash {
    Hash::leaf(entry.to_json().unwrap().as_bytes())
}

fn checkpoint(entries: &[Entry]) -> Checkpoint {
    let tree: Frontier = entries.iter().map(leaf).collect();
    Checkpoint { origin: "log".into(), size: tree.size(), root: tree.root() }
}

fn review(entries: &[Entry], evidence: Evidence) -> Verification {
    let mut review = Review::new(evidence);
    for entry in entries {
        review.push(leaf(entry), Some(entry));
    }
    review.finish().0
}

#[test]
fn every_time_without_a_daemon_is_told() {
    let entries = [
        started(0),
        stopped(100),
        started(200),
        started(300),
        stopped(250),
        started(240),
        Entry { at: at(400), event: Event::ClockJumped { seconds: 9 } },
        stopped(500),
    ];
    let head = Some(checkpoint(&entries).sign(&signer(1)));
    let keys = vec![signer(1).verifier().clone()];
    let found = review(&entries, Evidence { keys, head, ..Evidence::default() });
    assert!(found.is_valid(), "{:?}", found.problems);
    let stop = |position, since, until: Option<i64>| Gap::Stopped {
        position,
        since: at(since),
        until: until.map(at),
    };
    assert_eq!(
        found.gaps,
        [
            stop(1, 100, Some(200)),
            Gap::Killed { position: 3, since: at(200), until: at(300) },
            stop(4, 250, Some(240)),
            Gap::ClockJumped { position: 6, seconds: 9 },
            stop(7, 500, None),
        ]
    );
    let back = [started(1_000), Entry { at: at(900), ..rotated(&signer(1), &signer(1)) }];
    let found = review(&back, Evidence::default());
    assert_eq!(found.gaps, [Gap::Backwards { position: 1, seconds: 100 }]);
    let many: Vec<_> = (0..150).map(started).collect();
    let found = review(&many, Evidence::default());
    assert_eq!((found.gaps.len(), found.omitted_gaps), (100, 49));
}

/// A log of six entries whose key was changed twice, and what vouches for it.
fn of_three_keys() -> (Vec<Entry>, Evidence) {
    let [a, b, c] = [signer(1), signer(2), signer(3)];
    let entries =
        vec![started(0), rotated(&a, &b), stopped(0), started(0), rotated(&b, &c), stopped(0)];
    let both = |size: usize, old: &Signer, new: &Signer| {
        new.cosign(&checkpoint(&entries[..size]).sign(old)).unwrap()
    };
    let evidence = Evidence {
        keys: vec![a.verifier().clone()],
        head: Some(checkpoint(&entries).sign(&c)),
        bridges: [(2, both(2, &a, &b)), (5, both(5, &b, &c))].into(),
        kept: Vec::new(),
    };
    (entries, evidence)
}

#[test]
fn whoever_has_one_key_can_follow_the_log_to_the_last() {
    let (entries, evidence) = of_three_keys();
    for seed in [1, 2, 3] {
        let keys = vec![signer(seed).verifier().clone()];
        let found = review(&entries, Evidence { keys, ..evidence.clone() });
        assert!(found.is_valid(), "{seed}: {:?}", found.problems);
        assert_eq!(found.keys.len(), 3);
    }
    let keys = vec![signer(4).verifier().clone()];
    assert!(!review(&entries, Evidence { keys, ..evidence }).is_valid());
}

#[test]
fn a_change_of_the_key_that_the_old_one_does_not_vouch_for_is_found() {
    let (entries, evidence) = of_three_keys();
    let [a, b, c] = [signer(1), signer(2), signer(3)];
    let second = checkpoint(&entries[..2]);
    for note in [second.sign(&a), second.sign(&b), checkpoint(&entries[..3]).sign(&a)] {
        let mut evidence = evidence.clone();
        evidence.bridges.insert(2, note);
        let found = review(&entries, evidence);
        assert!(matches!(found.problems[0], Problem::Rotation { position: 1, .. }));
    }
    let mut lacking = evidence.clone();
    lacking.bridges.remove(&5);
    assert!(!review(&entries, lacking).is_valid());
    let mut stray = evidence.clone();
    stray.bridges.insert(3, checkpoint(&entries[..3]).sign(&b));
    assert_eq!(review(&entries, stray).problems, [Problem::StrayCheckpoint { size: 3 }]);
    // A key that was replaced signs no more, whoever has it by now.
    let old = Evidence { head: Some(checkpoint(&entries).sign(&b)), ..evidence };
    assert!(matches!(review(&entries, old).problems[..], [Problem::Checkpoint { .. }]));
    // Nor can it make a log that ends before it was replaced, for those who know of the new one.
    let keys = [1, 2].map(|seed| signer(seed).verifier().clone()).to_vec();
    let head = Some(checkpoint(&entries[..1]).sign(&a));
    let found = review(&entries[..1], Evidence { keys, head, ..Evidence::default() });
    assert_eq!(found.problems, [Problem::Key { key: b.verifier().to_string() }]);
    // Nor can one be left out of the chain.
    let skipped = vec![started(0), rotated(&a, &b), rotated(&a, &c)];
    let head = Some(checkpoint(&skipped).sign(&c));
    let keys = vec![a.verifier().clone()];
    assert!(!review(&skipped, Evidence { keys, head, ..Evidence::default() }).is_valid());
}

#[test]
fn checkpoints_of_before_show_what_was_put_back_or_rewritten() {
    let (entries, evidence) = of_three_keys();
    let kept = |note: String| Evidence { kept: vec![note], ..evidence.clone() };
    for (size, seed) in [(0, 1), (1, 1), (2, 1), (2, 2), (4, 2), (6, 3)] {
        let note = checkpoint(&entries[..size]).sign(&signer(seed));
        let found = review(&entries, kept(note));
        assert!(found.is_valid() && found.unchecked.is_empty(), "{size}: {:?}", found.problems);
        assert_eq!(found.held_against, 1);
    }
    let longer = [entries.clone(), vec![started(9)]].concat();
    let found = review(&entries, kept(checkpoint(&longer).sign(&signer(3))));
    assert_eq!(found.problems, [Problem::RolledBack { kept: 7, found: 6 }]);
    let other = [started(5), entries[1].clone()];
    let found = review(&entries, kept(checkpoint(&other).sign(&signer(2))));
    assert_eq!(found.problems, [Problem::Forked { size: 2 }]);
    for strange in [checkpoint(&entries).sign(&signer(9)), "no checkpoint".to_owned()] {
        let found = review(&entries, kept(strange));
        assert!(found.is_valid());
        assert_eq!((found.held_against, found.unchecked.len()), (0, 1));
    }
}

#[test]
fn notes_are_told_apart_in_a_file() {
    let (entries, _) = of_three_keys();
    let notes: Vec<_> = (0..3).map(|size| checkpoint(&entries[..size]).sign(&signer(1))).collect();
    assert_eq!(split_notes(&notes.concat()), notes);
    assert_eq!(split_notes(&notes.join("\n\n")), notes);
    let by_both = signer(2).cosign(&notes[0]).unwrap();
    assert_eq!(split_notes(&format!("{by_both}{}", notes[1])), [by_both, notes[1].clone()]);
    assert!(split_notes("\n").is_empty());
}
