//! What a ledger lets a run write is what [`expunged::transition::next`] lets it do, in whichever way it is written.

use std::collections::BTreeMap;

use expunged::audit::entry::{Cause, RunEnd};
use expunged::clock;
use expunged::ledger::{Finish, Intended, LedgerError, Outcome, Start};
use expunged::transition::{BatchEnd, MOST_OPEN, State, Step, next};
use expunged::types::{Key, KeyValue, Name};

use crate::house::House;
use crate::support::fresh_sqlite;

/// Numbers that look random and are the same each time (a linear congruential generator, by Knuth).
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[tokio::test]
async fn no_step_is_written_that_is_not_legal_in_sqlite() {
    only_legal_steps(House::new(fresh_sqlite().await, false).await).await;
}

#[tokio::test]
async fn no_step_is_written_that_is_not_legal_in_postgres() {
    only_legal_steps(House::new(fresh_sqlite().await, true).await).await;
}

async fn only_legal_steps(house: House) {
    let ledger = &house.runner.ledger;
    let rule = &house.config.rules[&"inactive".parse::<Name>().unwrap()];
    let now = clock::now();
    let mut dice = Dice(7);
    let mut met = [0; 4];
    for _ in 0..4 {
        let request = ledger.request(&rule.name, Cause::Command, now).await.unwrap();
        let run = ledger.start_run(&request, rule, &Start::Unasked, now).await.unwrap();
        let mut state = State::running();
        let (mut batches, mut of_number) = (Vec::new(), BTreeMap::new());
        // At last as many are open as may be.
        for round in 0..150 {
            let State::Running { next: number, open } = state.clone() else { break };
            let is_filling = round > 60;
            if is_filling || dice.throw(3) > 0 {
                let sequence =
                    if is_filling { number } else { (number + dice.throw(3)).saturating_sub(1) };
                let taken = Intended::of(vec![Key(vec![KeyValue::Int(sequence.into())])]);
                // None is written for a state of the holds that is not that of now.
                let epoch = u64::from(!is_filling && dice.throw(5) == 0);
                let written = ledger.intend(&run, sequence, &taken, None, epoch, now).await;
                match (next(state.clone(), Step::Intend { sequence }), written) {
                    (_, Err(LedgerError::HoldsChanged)) if epoch == 1 => met[0] += 1,
                    (Ok(after), Ok(batch)) if epoch == 0 => {
                        (state, met[1]) = (after, met[1] + 1);
                        of_number.insert(sequence, batch);
                        batches.push((batch, sequence, taken));
                    }
                    (Err(_), Err(LedgerError::Illegal { .. })) => met[2] += 1,
                    (legal, written) => panic!("{legal:?}, and the ledger says {written:?}"),
                }
            } else if let Some((batch, sequence, taken)) = batches.get(dice.throw(9) as usize) {
                let step = Step::Settle { sequence: *sequence, end: BatchEnd::Done };
                let settled = ledger.settle(&run, *batch, taken, Outcome::Done, now).await.unwrap();
                assert_eq!(settled, open.contains(sequence));
                if settled {
                    state = next(state, step).unwrap();
                }
            }
            assert_eq!(ledger.replay(&run).await.unwrap(), state);
        }
        let State::Running { open, next: number } = state.clone() else { panic!("it is over") };
        assert_eq!(open.len(), MOST_OPEN);
        for (batch, sequence, taken) in &batches {
            if open.contains(sequence) {
                ledger.settle(&run, *batch, taken, Outcome::Done, now).await.unwrap();
            }
        }
        let (state, now) = (RunEnd::Done, clock::now());
        let finish =
            Finish { state, remaining: None, reason: None, error: None, verification: None, now };
        ledger.finish_run(&run, finish).await.unwrap();
        let late = ledger.intend(&run, number, &Intended::default(), None, 0, now).await;
        assert!(matches!(late, Err(LedgerError::RunTakenOver)), "{late:?}");
        met[3] += 1;
        assert_eq!(of_number.len() as u64, number);
    }
    assert!(met.iter().all(|times| *times > 3), "each was met: {met:?}");
    house.assert_log_is_sound().await;
}
