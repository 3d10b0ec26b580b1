//! How many requests are in flight, and how long to wait where the server asks for fewer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::clock;

/// More does not make a purge faster: measured against a real server, sixteen were slower than eight.
pub(super) const WIDEST: usize = 8;
/// How often a request is tried: a bit more than ten seconds of waiting in all.
pub(super) const ATTEMPTS: u32 = 8;

const FIRST_WAIT: Duration = Duration::from_millis(100);
/// So many that go well bring one place back.
const REGAIN: usize = 20;

/// The places for requests in flight.
pub(super) struct Pace {
    places: Semaphore,
    width: AtomicUsize,
    went_well: AtomicUsize,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            places: Semaphore::new(WIDEST),
            width: AtomicUsize::new(WIDEST),
            went_well: AtomicUsize::new(0),
        }
    }
}

impl Pace {
    /// Waits for a place.
    pub(super) async fn place(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed; if it were, requests would go on without waiting.
        self.places.acquire().await.ok()
    }

    /// The request was turned away: its place goes with it, down to the last one.
    pub(super) fn turned_away(&self, place: Option<SemaphorePermit<'_>>) {
        self.went_well.store(0, Ordering::Relaxed);
        let fewer = |width: usize| (width > 1).then(|| width - 1);
        if self.width.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer).is_ok()
            && let Some(place) = place
        {
            place.forget();
        }
    }

    /// The request went well: after some of them there is room for one more.
    pub(super) fn went_well(&self) {
        if !(self.went_well.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(REGAIN) {
            return;
        }
        let more = |width: usize| (width < WIDEST).then(|| width + 1);
        if self.width.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok() {
            self.places.add_permits(1);
        }
    }
}

/// Waits before the next attempt: twice as long each time, and of that a part by chance, so that those
/// who were turned away together do not come back together.
pub(super) async fn back_off(attempt: u32) {
    let longest = FIRST_WAIT * 2_u32.saturating_pow(attempt.min(6));
    let chance = f64::from(u16::from_le_bytes(clock::random_bytes())) / f64::from(u16::MAX);
    tokio::time::sleep(longest.mul_f64(f64::midpoint(chance, 1.0))).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_request_that_is_turned_away_takes_a_place_with_it_and_success_brings_it_back() {
        let all = Pace::default();
        for _ in 0..20 {
            let place = all.place().await;
            all.turned_away(place);
        }
        assert_eq!((all.width.load(Ordering::Relaxed), all.places.available_permits()), (1, 1));
        for _ in 0..(REGAIN * 20) {
            all.went_well();
        }
        assert_eq!(
            (all.width.load(Ordering::Relaxed), all.places.available_permits()),
            (WIDEST, WIDEST)
        );
    }
}
