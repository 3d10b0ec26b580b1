use proptest::prelude::*;

use super::*;

const TEMPOS: [Tempo; 3] = [Tempo::Gentle, Tempo::Balanced, Tempo::Full];

fn throttle(tempo: Tempo, rate: Option<f64>) -> Throttle {
    let rate = rate.and_then(Rate::new);
    Throttle::new(Pacing { tempo, rate, workers: 1 }, None)
}

fn took(took: Duration, rows: u64) -> Measured {
    let pace = Pace { width: u64::MAX, rows: u64::MAX, ..Pace::new(false) };
    Measured { at: Duration::ZERO, took, held: took, worked: took, commit: None, rows, pace }
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[test]
fn quick_batches_grow_to_their_bound_and_slow_ones_shrink() {
    let mut pace = Pace::new(false);
    for _ in 0..20 {
        pace.note(ms(1), 500);
    }
    assert_eq!((pace.width, pace.rows), (100_000, 5_000));
    pace.note(Duration::from_secs(1), 5_000);
    assert_eq!((pace.width, pace.rows), (50_000, 2_500));
    for _ in 0..40 {
        pace.back_off();
    }
    assert_eq!((pace.width, pace.rows), (1, 10));
    assert!(pace.is_smallest() && !Pace::new(true).is_smallest());
}

#[test]
fn dense_windows_do_not_grow_past_the_most_rows() {
    for tempo in TEMPOS {
        let mut pace = Pace::of(Pacing { tempo, ..Pacing::default() }, true);
        for _ in 0..10 {
            pace.note(ms(5), pace.width * 100);
        }
        assert!(pace.width * 100 <= pace.most_rows(), "{pace:?}");
    }
}

#[test]
fn a_window_of_the_certain_width_never_holds_too_much() {
    for tempo in TEMPOS {
        let pace = Pace::of(Pacing { tempo, ..Pacing::default() }, true);
        assert!(pace.certain_width() * ROWS_PER_PAGE <= pace.most_rows(), "{pace:?}");
        assert_eq!(pace.width, pace.certain_width(), "it starts there");
    }
}

#[test]
fn each_word_rests_as_it_promises() {
    for (tempo, rest) in [(Tempo::Gentle, ms(20)), (Tempo::Balanced, ms(5)), (Tempo::Full, ms(0))] {
        let mut throttle = throttle(tempo, None);
        assert_eq!(throttle.pause(), Duration::ZERO, "{tempo}: before the first batch");
        throttle.note(took(ms(20), 1_000));
        assert_eq!(throttle.pause(), rest, "{tempo}");
    }
}

#[test]
fn while_the_ledger_is_written_the_store_rests_already() {
    let mut throttle = throttle(Tempo::Gentle, None);
    let batch = Measured { held: ms(12), worked: ms(10), ..took(ms(14), 1_000) };
    throttle.note(batch);
    assert_eq!(throttle.pause(), ms(6), "of ten it has had four");
    throttle.note(Measured { took: ms(100), ..batch });
    assert_eq!(throttle.pause(), Duration::ZERO);
}

#[test]
fn a_batch_that_was_held_up_does_not_hold_up_the_run() {
    let mut throttle = throttle(Tempo::Gentle, None);
    throttle.note(took(Duration::from_hours(1), 1_000));
    assert_eq!(throttle.pause(), LONGEST_REST);
}

#[test]
fn slow_commits_lengthen_rests_and_quick_ones_shorten_them_again() {
    let mut throttle = throttle(Tempo::Gentle, None);
    let commits = |throttle: &mut Throttle, commit| {
        throttle.note(Measured { commit: Some(commit), ..took(ms(10), 100) });
        throttle.pause()
    };
    assert_eq!(commits(&mut throttle, ms(2)), ms(10));
    assert_eq!(commits(&mut throttle, ms(19)), ms(10), "too quick to mean anything");
    assert_eq!(commits(&mut throttle, ms(50)), ms(20));
    assert_eq!(commits(&mut throttle, ms(50)), ms(40));
    assert_eq!(commits(&mut throttle, ms(50)), ms(40), "there is an end to it");
    assert_eq!(commits(&mut throttle, ms(3)), ms(20));
    assert_eq!(commits(&mut throttle, ms(3)), ms(10));
    // A disk that is always slow is not a disk under load.
    let mut slow = self::throttle(Tempo::Gentle, None);
    assert_eq!(commits(&mut slow, ms(40)), ms(10));
    assert_eq!(commits(&mut slow, ms(90)), ms(10));
}

#[test]
fn a_rate_is_kept_and_what_was_not_used_does_not_add_up() {
    let mut throttle = throttle(Tempo::Full, Some(500.0));
    assert_eq!(throttle.pace.most_rows(), 500, "a second's worth at most");
    let (mut at, mut rows) = (Duration::ZERO, 0);
    while at < Duration::from_mins(1) {
        at += ms(10);
        throttle.note(Measured { at, ..took(ms(10), 400) });
        rows += 400;
        at += throttle.pause();
    }
    assert!((29_000..=30_500).contains(&rows), "{rows}");
    // An hour of nothing due allows one second's worth at once, and no more.
    at += Duration::from_hours(1);
    throttle.note(Measured { at, ..took(ms(10), 500) });
    assert_eq!(throttle.pause(), Duration::ZERO);
    throttle.note(Measured { at, ..took(ms(10), 500) });
    assert_eq!(throttle.pause(), Duration::from_secs(1));
}

#[test]
fn the_slowest_rate_takes_single_rows() {
    let throttle = throttle(Tempo::Gentle, Some(1.0 / 3_600.0));
    assert_eq!((throttle.pace.most_rows(), throttle.pace.rows), (1, 1));
    let mut paged = throttle;
    paged.set_out(true);
    assert_eq!(paged.pace.width, 1);
    assert_eq!(Rate::new(0.0), None);
    assert_eq!(Rate::new(f64::NAN), None);
}

#[test]
fn a_replica_is_waited_for_once_it_was_behind_twice() {
    let mut throttle = Throttle::new(Pacing::default(), Some(Duration::from_secs(10)));
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!(throttle.note_lag(seconds(3_600)), None, "one look may be wrong");
    assert_eq!(throttle.note_lag(seconds(0)), None);
    assert_eq!(throttle.note_lag(seconds(11)), None);
    assert_eq!(throttle.note_lag(seconds(12)), Some(ReplicaNews::FellBehind));
    assert!(throttle.waits_for_replica());
    assert_eq!(throttle.note_lag(seconds(13)), None, "said once");
    assert_eq!(throttle.note_lag(seconds(10)), Some(ReplicaNews::CaughtUp));
    assert!(!throttle.waits_for_replica());
    // One that does not follow at all is not waited for.
    throttle.note_lag(seconds(60));
    throttle.note_lag(seconds(60));
    assert_eq!(throttle.note_lag(None), Some(ReplicaNews::CaughtUp));
    let mut without = self::throttle(Tempo::Gentle, None);
    assert_eq!((without.note_lag(seconds(99)), without.note_lag(seconds(99))), (None, None));
}

#[test]
fn shorter_waits_for_locks_are_made_up_for_by_more_attempts() {
    assert_eq!(Tempo::Full.attempts(6), 6);
    for tempo in TEMPOS {
        let patience = tempo.targets().lock_wait * tempo.attempts(6);
        assert_eq!(patience, Duration::from_secs(12), "{tempo}");
    }
}

/// What may happen to a run.
#[derive(Clone, Debug)]
enum Step {
    Batch { took: u64, share: f64, commit: Option<u64> },
    Lock,
    Idle(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let batch = (0_u64..5_000, 0.0..=1.0, proptest::option::of(0_u64..2_000))
        .prop_map(|(took, share, commit)| Step::Batch { took, share, commit });
    let step =
        prop_oneof![4 => batch, 1 => Just(Step::Lock), 1 => (0_u64..10_000).prop_map(Step::Idle)];
    proptest::collection::vec(step, 0..200)
}

fn tempo() -> impl Strategy<Value = Tempo> {
    proptest::sample::select(TEMPOS.as_slice())
}

/// Has a run go so; gives what it took, how long that was, and the throttle.
fn go(
    throttle: &mut Throttle,
    steps: &[Step],
    check: impl Fn(&Throttle, &Step),
) -> (u64, Duration) {
    let (mut at, mut rows) = (Duration::ZERO, 0);
    for step in steps {
        match step {
            Step::Batch { took, share, commit } => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    clippy::cast_precision_loss,
                    reason = "a part of it"
                )]
                let taken = (throttle.pace.most_rows() as f64 * share) as u64;
                at += ms(*took);
                let commit = commit.map(ms);
                throttle.note(Measured { at, commit, ..self::took(ms(*took), taken) });
                rows += taken;
                check(throttle, step);
                at += throttle.pause();
            }
            Step::Lock => {
                throttle.back_off();
                check(throttle, step);
            }
            Step::Idle(passed) => at += ms(*passed),
        }
    }
    (rows, at)
}

proptest! {
    #[test]
    fn whatever_happens_it_stays_within_its_bounds(tempo in tempo(), pages in any::<bool>(), steps in steps()) {
        let mut throttle = throttle(tempo, None);
        throttle.set_out(pages);
        go(&mut throttle, &steps, |throttle, _| {
            let pace = throttle.pace;
            assert!(pace.width >= 1 && pace.width <= pace.widest, "{pace:?}");
            assert!(pace.rows >= 1 && pace.rows <= pace.most_rows, "{pace:?}");
            assert!(throttle.pause() <= LONGEST_REST, "{throttle:?}");
        });
    }

    #[test]
    fn at_full_nothing_rests_but_for_a_rate(steps in steps()) {
        let mut throttle = throttle(Tempo::Full, None);
        go(&mut throttle, &steps, |throttle, _| assert_eq!(throttle.pause(), Duration::ZERO));
    }

    #[test]
    fn a_lock_makes_it_smaller_and_it_recovers(tempo in tempo(), pages in any::<bool>(), steps in steps()) {
        let mut throttle = throttle(tempo, None);
        throttle.set_out(pages);
        go(&mut throttle, &steps, |_, _| {});
        let before = throttle.pace;
        throttle.back_off();
        let after = throttle.pace;
        prop_assert!(after.width < before.width || after.width == 1);
        prop_assert!(after.rows < before.rows || after.rows <= FEWEST_ROWS);
        for _ in 0..20 {
            throttle.note(took(Duration::ZERO, 0));
        }
        prop_assert_eq!((throttle.pace.width, throttle.pace.rows), (after.widest, after.most_rows));
    }

    #[test]
    fn a_rate_is_never_exceeded(tempo in tempo(), rate in 1.0_f64..20_000.0, steps in steps()) {
        let mut throttle = throttle(tempo, Some(rate));
        let (rows, passed) = go(&mut throttle, &steps, |_, _| {});
        #[expect(clippy::cast_precision_loss, reason = "few enough")]
        let rows = rows as f64;
        // What a second allows may be used at once.
        prop_assert!(rows <= rate * (passed.as_secs_f64() + 1.0) + 1.0, "{rows} in {passed:?}");
    }
}

#[test]
fn batches_begun_side_by_side_make_the_next_larger_only_once() {
    let mut throttle = Throttle::new(Pacing::default(), None);
    let at_first = throttle.pace;
    let quick = Measured { pace: at_first, ..took(ms(1), 100) };
    throttle.note(quick);
    let grown = throttle.pace;
    assert_eq!(grown.width, 2 * at_first.width);
    throttle.note(quick);
    assert_eq!(throttle.pace, grown, "what was begun before says nothing of the next");
    throttle.note(Measured { pace: grown, ..quick });
    assert_eq!(throttle.pace.width, 4 * at_first.width);
    throttle.note(Measured { pace: at_first, ..took(Duration::from_secs(1), 100) });
    assert_eq!(throttle.pace.width, 2 * at_first.width, "a slow one always does");
}
