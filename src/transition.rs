//! The legal transitions of a run and of its batches, in one function.
//!
//! ```text
//! run:    new -> running -> done | stopped | failed
//!         new -> observed
//! batch:  intended -> done | undone
//! ```
//!
//! The ledger takes no step but through [`next`], and recovery replays what is recorded of a run
//! through it before it resolves anything: rows that no sequence of legal steps leaves behind are
//! damage, and nothing is concluded from them.

use std::collections::BTreeSet;
use std::fmt;

use crate::audit::entry::RunEnd;

/// Batches of one run that may be without an outcome at a time: what has taken effect may wait for its
/// outcome while the next is intended.
pub const MOST_OPEN: usize = 64;

/// Where a run stands, as far as that decides what may come next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// It was asked for; nothing is recorded of it.
    New,
    /// It takes batches.
    Running {
        /// The number of its next batch: as many were intended so far.
        next: u64,
        /// The batches without an outcome.
        open: BTreeSet<u64>,
    },
    /// It only counted, which is a run that begins and ends at once.
    Observed,
    /// It is over.
    Ended(RunEnd),
}

impl State {
    /// A run that has just begun.
    pub fn running() -> State {
        State::Running { next: 0, open: BTreeSet::new() }
    }

    /// The ledger's word for it; a run that is not recorded has none.
    pub fn as_str(&self) -> Option<&'static str> {
        match self {
            State::New => None,
            State::Running { .. } => Some("running"),
            State::Observed => Some("observed"),
            State::Ended(end) => Some(end.as_str()),
        }
    }
}

/// How a batch ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BatchEnd {
    /// It was carried out.
    Done,
    /// It was rolled back.
    Undone,
}

impl BatchEnd {
    /// The ledger's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            BatchEnd::Done => "done",
            BatchEnd::Undone => "undone",
        }
    }
}

/// What is recorded of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchState {
    /// Its number in its run, counted from 0.
    pub sequence: u64,
    /// How it ended; `None` while it is only intended.
    pub end: Option<BatchEnd>,
}

/// One step of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It begins to take batches.
    Start,
    /// It counts, and is over.
    Observe,
    /// The records of a batch are written down, before they are taken for good.
    Intend {
        /// The batch's number.
        sequence: u64,
    },
    /// The outcome of a batch is written down.
    Settle {
        /// The batch's number.
        sequence: u64,
        /// How it ended.
        end: BatchEnd,
    },
    /// It is over.
    Finish(RunEnd),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Start => f.write_str("begin"),
            Step::Observe => f.write_str("observe"),
            Step::Intend { sequence } => write!(f, "intend batch {sequence}"),
            Step::Settle { sequence, end } => {
                write!(f, "settle batch {sequence} as {}", end.as_str())
            }
            Step::Finish(end) => write!(f, "end as {end}"),
        }
    }
}

/// A step that a run may not take where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a run cannot {step} when {why}")]
pub struct IllegalStep {
    /// The step.
    pub step: Step,
    /// What is in its way.
    pub why: Obstacle,
}

/// What is in the way of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Obstacle {
    /// It has not begun.
    #[error("it has not begun")]
    NotBegun,
    /// It begins once.
    #[error("it has begun already")]
    Begun,
    /// What is over stays as it is.
    #[error("it is over")]
    Over,
    /// Batches are numbered without gaps.
    #[error("its next batch is number {0}")]
    OutOfOrder(u64),
    /// As many are open as may be: one must be settled first.
    #[error("batch {0} has no outcome yet")]
    BatchOpen(u64),
    /// There is no such batch to settle, or it was settled.
    #[error("that batch is not open")]
    NotOpen,
}

/// The state after a step: the one place that says which steps are legal.
///
/// A batch is intended only while its run is running and fewer than [`MOST_OPEN`] are open, with the next
/// number; it is settled once; a run ends only when no batch of it is open; what has ended never changes.
///
/// # Errors
/// When the step is not legal in this state.
pub fn next(state: State, step: Step) -> Result<State, IllegalStep> {
    let illegal = |why| Err(IllegalStep { step, why });
    match (state, step) {
        (State::New, Step::Start) => Ok(State::running()),
        (State::New, Step::Observe) => Ok(State::Observed),
        (State::New, _) => illegal(Obstacle::NotBegun),
        (State::Observed | State::Ended(_), _) => illegal(Obstacle::Over),
        (State::Running { .. }, Step::Start | Step::Observe) => illegal(Obstacle::Begun),
        (State::Running { next, mut open }, Step::Intend { sequence }) => match open.first() {
            _ if sequence != next => illegal(Obstacle::OutOfOrder(next)),
            Some(first) if open.len() >= MOST_OPEN => illegal(Obstacle::BatchOpen(*first)),
            _ => {
                open.insert(sequence);
                Ok(State::Running { next: next + 1, open })
            }
        },
        (State::Running { next, mut open }, Step::Settle { sequence, .. }) => {
            if open.remove(&sequence) {
                Ok(State::Running { next, open })
            } else {
                illegal(Obstacle::NotOpen)
            }
        }
        (State::Running { open, .. }, Step::Finish(end)) => match open.first() {
            Some(first) => illegal(Obstacle::BatchOpen(*first)),
            None => Ok(State::Ended(end)),
        },
    }
}

/// Takes the steps that lead to what is recorded of a run, one after the other: its batches by
/// ascending number, and, where it is over, its end.
///
/// # Errors
/// At the first step that is not legal: no run leaves such records behind.
pub fn replay(
    batches: impl IntoIterator<Item = BatchState>,
    end: Option<RunEnd>,
) -> Result<State, IllegalStep> {
    let mut state = next(State::New, Step::Start)?;
    for BatchState { sequence, end } in batches {
        state = next(state, Step::Intend { sequence })?;
        if let Some(end) = end {
            state = next(state, Step::Settle { sequence, end })?;
        }
    }
    match end {
        Some(end) => next(state, Step::Finish(end)),
        None => Ok(state),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run_end() -> impl Strategy<Value = RunEnd> {
        prop_oneof![Just(RunEnd::Done), Just(RunEnd::Stopped), Just(RunEnd::Failed)]
    }

    fn batch_end() -> impl Strategy<Value = BatchEnd> {
        prop_oneof![Just(BatchEnd::Done), Just(BatchEnd::Undone)]
    }

    /// Small numbers, so that legal steps are common among them.
    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            1 => Just(Step::Start),
            1 => Just(Step::Observe),
            6 => (0..6_u64).prop_map(|sequence| Step::Intend { sequence }),
            6 => (0..6_u64, batch_end()).prop_map(|(sequence, end)| Step::Settle { sequence, end }),
            1 => run_end().prop_map(Step::Finish),
        ]
    }

    /// What the ledger would hold after the legal ones among some steps, and the state they lead to.
    fn record(steps: &[Step]) -> (State, Vec<BatchState>, Option<RunEnd>) {
        let (mut state, mut batches, mut ended) =
            (State::running(), Vec::<BatchState>::new(), None);
        for step in steps {
            let Ok(after) = next(state.clone(), *step) else { continue };
            state = after;
            match *step {
                Step::Intend { sequence } => batches.push(BatchState { sequence, end: None }),
                Step::Settle { sequence, end } => {
                    let batch = batches.iter_mut().find(|batch| batch.sequence == sequence);
                    batch.unwrap().end = Some(end);
                }
                Step::Finish(end) => ended = Some(end),
                Step::Start | Step::Observe => unreachable!("it has begun"),
            }
        }
        (state, batches, ended)
    }

    proptest! {
        #[test]
        fn whatever_legal_steps_record_replays_to_where_they_led(
            steps in prop::collection::vec(step(), 0..60),
        ) {
            let (state, batches, end) = record(&steps);
            prop_assert_eq!(replay(batches, end), Ok(state));
        }

        #[test]
        fn no_sequence_of_steps_breaks_the_rules(steps in prop::collection::vec(step(), 0..60)) {
            let mut state = State::New;
            let (mut intended, mut settled) = (0, BTreeSet::new());
            for step in steps {
                let before = state.clone();
                let Ok(after) = next(before.clone(), step) else { continue };
                match step {
                    Step::Start | Step::Observe => prop_assert_eq!(&before, &State::New),
                    Step::Intend { sequence } => {
                        prop_assert_eq!(sequence, intended, "numbers have no gaps");
                        prop_assert!(intended - (settled.len() as u64) < MOST_OPEN as u64);
                        intended += 1;
                    }
                    Step::Settle { sequence, .. } => {
                        prop_assert!(sequence < intended, "what was not intended");
                        prop_assert!(settled.insert(sequence), "settled twice");
                    }
                    Step::Finish(end) => {
                        prop_assert_eq!(settled.len() as u64, intended, "one is open");
                        prop_assert_eq!(&after, &State::Ended(end));
                    }
                }
                prop_assert!(!matches!(before, State::Ended(_) | State::Observed));
                state = after;
            }
        }

        #[test]
        fn rows_that_were_meddled_with_do_not_replay(
            ends in prop::collection::vec(batch_end(), 2..30),
            ended in prop::option::of(run_end()),
            place in any::<prop::sample::Index>(),
            end in run_end(),
        ) {
            let numbered = (0..).zip(ends);
            let batch = |(sequence, end)| BatchState { sequence, end: Some(end) };
            let batches: Vec<_> = numbered.map(batch).collect();
            prop_assert!(replay(batches.clone(), ended).is_ok());
            let place = place.index(batches.len() - 1);

            let mut lost = batches.clone();
            lost.remove(place);
            prop_assert!(replay(lost, ended).is_err(), "one is missing");
            let mut twice = batches.clone();
            twice.insert(place, batches[place]);
            prop_assert!(replay(twice, ended).is_err(), "one is there twice");
            let mut reopened = batches.clone();
            reopened[place].end = None;
            prop_assert_eq!(replay(reopened, ended).is_err(), ended.is_some(), "one is open");
            let mut open = batches;
            open.last_mut().unwrap().end = None;
            prop_assert!(replay(open, Some(end)).is_err(), "it ended with an open batch");
        }
    }

    #[test]
    fn an_illegal_step_says_what_is_in_its_way() {
        let open = replay([BatchState { sequence: 0, end: None }], None).unwrap();
        let says = |state: &State, step| next(state.clone(), step).unwrap_err().to_string();
        let finish = Step::Finish(RunEnd::Done);
        assert_eq!(says(&open, finish), "a run cannot end as done when batch 0 has no outcome yet");
        let second = Step::Intend { sequence: 1 };
        assert!(next(open.clone(), second).is_ok());
        let most = MOST_OPEN as u64;
        let all = (0..most).map(|sequence| BatchState { sequence, end: None });
        let full = replay(all, None).unwrap();
        assert_eq!(
            says(&full, Step::Intend { sequence: most }),
            format!("a run cannot intend batch {most} when batch 0 has no outcome yet")
        );
        let settle = Step::Settle { sequence: 7, end: BatchEnd::Done };
        assert_eq!(
            says(&open, settle),
            "a run cannot settle batch 7 as done when that batch is not open"
        );
        let over = State::Ended(RunEnd::Failed);
        assert_eq!(says(&over, second), "a run cannot intend batch 1 when it is over");
        assert_eq!(says(&State::New, finish), "a run cannot end as done when it has not begun");
    }
}
