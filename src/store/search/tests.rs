use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

const NOW: i64 = 1_800_000_000;
const CUTOFF: i64 = NOW - 1_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn limits() -> Limits {
    let bounds = Bounds { cutoff: at(CUTOFF), now: at(NOW) };
    Limits { bounds, earliest: jiff::civil::date(1990, 1, 1) }
}

fn search(templates: &[&str], age: Age, kept: Vec<Kept>) -> Search {
    let templates = templates.iter().map(|text| text.parse().unwrap()).collect();
    Search { templates, age, kept }
}

fn held(templates: &[&str], placeholder: &str, subject: &str) -> Kept {
    let what = Covered::Persons {
        templates: templates.iter().map(|text| text.parse().unwrap()).collect(),
        placeholder: placeholder.to_owned(),
        values: BTreeSet::from([subject.as_bytes().to_vec()]),
    };
    Kept { what, range: Range::default() }
}

#[test]
fn age_decides_and_every_doubt_keeps() {
    let search = search(&["faces/*"], Age::Modified(limits()), Vec::new());
    let kept = Verdict::Kept;
    for (modified, verdict) in [
        (Some(CUTOFF - 1), Verdict::Due(Some(at(CUTOFF - 1)))),
        (Some(CUTOFF), Verdict::Young(at(CUTOFF))),
        (Some(NOW), Verdict::Young(at(NOW))),
        (Some(NOW + 1), kept(KeptReason::FutureStartingPoint)),
        (Some(0), kept(KeptReason::PlaceholderStartingPoint)),
        (Some(-5), kept(KeptReason::PlaceholderStartingPoint)),
        (None, kept(KeptReason::UnreadableStartingPoint)),
    ] {
        assert_eq!(search.judge(b"faces/a", modified.map(at)), verdict, "{modified:?}");
    }
    assert_eq!(search.judge(b"other/a", Some(at(CUTOFF - 1))), Verdict::Other);
}

#[test]
fn an_upload_counts_from_the_first_moment_that_is_credible() {
    let (early, late) = (CUTOFF - 9, CUTOFF - 2);
    let start = |age: Age, modified: Option<i64>, made: Option<i64>| {
        age.start(modified.map(at), made.map(at)).map(Timestamp::as_second)
    };
    for (modified, made, expected) in [
        (Some(late), Some(early), Some(early)),
        (Some(early), Some(late), Some(early)),
        (Some(NOW + 1), Some(late), Some(late)),
        (Some(0), Some(late), Some(late)),
        (None, Some(late), Some(late)),
        (Some(late), Some(0), Some(late)),
        (Some(late), None, Some(late)),
        // Nothing is credible: it stays, and the reason is that of its own date.
        (Some(NOW + 1), Some(NOW + 2), Some(NOW + 1)),
        (Some(0), None, Some(0)),
        (None, Some(0), None),
    ] {
        assert_eq!(start(Age::Uploaded(limits()), modified, made), expected);
        assert_eq!(start(Age::Modified(limits()), modified, made), modified);
    }
    let search = search(&["faces/*"], Age::Uploaded(limits()), Vec::new());
    assert_eq!(search.judge(b"faces/a", Some(at(late))), Verdict::Due(Some(at(late))));
    let future = search.judge(b"faces/a", Some(at(NOW + 1)));
    assert_eq!(future, Verdict::Kept(KeptReason::FutureStartingPoint));
    let epoch = search.judge(b"faces/a", Some(at(0)));
    assert_eq!(epoch, Verdict::Kept(KeptReason::PlaceholderStartingPoint));
}

#[test]
fn only_what_is_meant_is_looked_at() {
    let search = search(&["faces/*"], Age::Modified(limits()), Vec::new());
    let verdict = search.judge_by(b"other", || panic!("nobody needs to know"));
    assert_eq!(verdict, Verdict::Other);
}

#[test]
fn a_day_counts_from_its_end_where_it_is_one() {
    let templates = ["{date:%Y-%m-%d}/*", "*/x"];
    let search = search(&templates, Age::Day(limits(), TimeZone::UTC), Vec::new());
    let due = search.judge(b"2027-01-02/a", None);
    assert_eq!(due, Verdict::Due(Some("2027-01-03T00:00:00Z".parse().unwrap())));
    assert!(matches!(search.judge(b"2027-01-03/a", None), Verdict::Young(_)));
    assert!(matches!(search.judge(b"2999-01-03/a", None), Verdict::Young(_)));
    let unreadable = Verdict::Kept(KeptReason::UnreadableStartingPoint);
    assert_eq!(search.judge(b"2027-02-30/a", None), unreadable);
    assert_eq!(search.judge(b"other/x", None), unreadable, "its template has no date");
}

#[test]
fn a_hold_keeps_whose_it_is_under_any_template_that_says_so() {
    let templates = ["faces/*", "faces/{user}.jpg", "thumbs/{user}/*"];
    let search =
        search(&templates, Age::Modified(limits()), vec![held(&templates, "user", "maria")]);
    let old = Some(at(CUTOFF - 1));
    let kept = Verdict::Kept(KeptReason::Held);
    assert_eq!(search.judge(b"faces/maria.jpg", old), kept, "although the first says nothing");
    assert_eq!(search.judge(b"thumbs/maria/1", old), kept);
    assert_eq!(search.judge(b"thumbs/mario/1", old), Verdict::Due(old));
    assert_eq!(search.judge(b"faces/maria.png", old), Verdict::Due(old), "it says nobody's name");
    assert_eq!(search.judge(b"faces/maria.jpg", Some(at(NOW))), Verdict::Young(at(NOW)));
}

#[test]
fn a_hold_keeps_what_may_lie_in_its_range() {
    let range = |from, to| Range { from, to };
    let day = |text: &str| Some(text.parse::<Date>().unwrap());
    let judge = |range, age| {
        let kept = vec![Kept { what: Covered::Everything, range }];
        search(&["*"], age, kept).judge(b"a", Some("2025-06-15T12:00:00Z".parse().unwrap()))
    };
    let keeps = |range| judge(range, Age::Modified(limits())) == Verdict::Kept(KeptReason::Held);
    assert!(keeps(range(None, None)) && keeps(range(day("2025-06-15"), day("2025-06-15"))));
    assert!(keeps(range(day("2025-06-16"), None)), "the day begins earlier somewhere");
    assert!(!keeps(range(day("2025-06-17"), None)) && !keeps(range(None, day("2025-06-13"))));
    let out = range(day("2025-07-01"), None);
    assert_eq!(judge(out, Age::Any), Verdict::Kept(KeptReason::Held), "when it began is not known");
}

#[test]
fn prefixes_cover_each_other() {
    let search = search(&["a/b*", "a/*", "a/bc/d", "b{k}", "c"], Age::Any, Vec::new());
    assert_eq!(search.prefixes(), [b"a/".as_slice(), b"b", b"c"]);
    let all = Search::named(vec!["**/x".parse().unwrap(), "a".parse().unwrap()]);
    assert_eq!(all.prefixes(), [b"".as_slice()]);
}

fn verdict() -> impl Strategy<Value = Verdict> {
    let start = (0..NOW).prop_map(at);
    prop_oneof![
        Just(Verdict::Other),
        start.clone().prop_map(Verdict::Young),
        proptest::option::of(start).prop_map(Verdict::Due),
        select(vec![
            KeptReason::NoStartingPoint,
            KeptReason::UnreadableStartingPoint,
            KeptReason::PlaceholderStartingPoint,
            KeptReason::FutureStartingPoint,
            KeptReason::Excluded,
            KeptReason::AlreadyAnonymized,
            KeptReason::NoKey,
            KeptReason::Held,
        ])
        .prop_map(Verdict::Kept),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn counts_of_parts_add_up(verdicts in vec(verdict(), 0..40), cut in 0..40_usize) {
        let counted = |verdicts: &[Verdict]| {
            let mut survey = Survey::default();
            for verdict in verdicts {
                count(&mut survey, *verdict);
            }
            survey
        };
        let (one, other) = verdicts.split_at(cut.min(verdicts.len()));
        let mut sum = counted(one);
        add(&mut sum, &counted(other));
        prop_assert_eq!(sum, counted(&verdicts));
    }
}
