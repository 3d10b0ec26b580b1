//! How fast a run goes: how much a batch takes, and how that follows what is measured.

use std::time::Duration;

/// How many rows a batch takes, adapted to what the store bears.
///
/// The width of a window is what the walk passes over: pages of a heap, or rows otherwise. It grows
/// while batches are quick and small, and shrinks when one was slow or waited for a lock.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Width of the next window.
    pub width: u64,
    /// Rows that a batch may take at most.
    pub rows: u64,
    widest: u64,
    /// Slowness alone makes no window narrower than this: a batch has costs of its own, which narrower
    /// windows only add up.
    narrowest: u64,
    most_rows: u64,
    /// A window of this width cannot hold more than the most rows.
    certain_width: u64,
}

/// How long a batch may hold its locks before the next one is made smaller.
const CALM: Duration = Duration::from_millis(80);

impl Pace {
    /// The pace to start at. A page of a heap holds at most 226 rows of the smallest kind, in
    /// practice dozens.
    pub fn new(steps_are_pages: bool) -> Pace {
        if steps_are_pages {
            Pace {
                width: 16,
                rows: 1_000,
                widest: 4_096,
                narrowest: 8,
                most_rows: 5_000,
                certain_width: 16,
            }
        } else {
            Pace {
                width: 1_000,
                rows: 1_000,
                widest: 100_000,
                narrowest: 500,
                most_rows: 5_000,
                certain_width: 5_000,
            }
        }
    }

    /// Rows that a batch may take at most.
    pub fn most_rows(&self) -> u64 {
        self.most_rows
    }

    /// The width up to which a window cannot hold more than that.
    pub fn certain_width(&self) -> u64 {
        self.certain_width
    }

    /// Takes note of how a batch went.
    pub fn note(&mut self, took: Duration, rows: u64) {
        if rows > self.most_rows {
            self.narrow();
        } else if took > CALM {
            self.width = (self.width / 2).max(self.narrowest.min(self.width));
            self.rows = (self.rows / 2).max(500.min(self.rows));
        } else if took < CALM / 2 {
            // Twice as wide, unless that would overshoot the most rows that a batch may take.
            if rows * 2 <= self.most_rows {
                self.width = (self.width * 2).min(self.widest);
            }
            self.rows = (self.rows * 2).min(self.most_rows);
        }
    }

    /// Takes note that a window holds more than a batch may take, with what goes along: the next is narrower.
    pub fn narrow(&mut self) {
        self.width = (self.width / 2).max(1);
        self.rows = (self.rows / 2).max(1);
    }

    /// Takes note of a batch that had to be undone because somebody else held a lock.
    pub fn back_off(&mut self) {
        self.width = (self.width / 4).max(1);
        self.rows = (self.rows / 4).max(50);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_batches_grow_to_their_bound_and_slow_ones_shrink() {
        let mut pace = Pace::new(false);
        for _ in 0..20 {
            pace.note(Duration::from_millis(1), 500);
        }
        assert_eq!((pace.width, pace.rows), (100_000, 5_000));
        pace.note(Duration::from_secs(1), 5_000);
        assert_eq!((pace.width, pace.rows), (50_000, 2_500));
        for _ in 0..40 {
            pace.back_off();
        }
        assert_eq!((pace.width, pace.rows), (1, 50));
    }

    #[test]
    fn dense_windows_do_not_grow_past_the_most_rows() {
        let mut pace = Pace::new(true);
        for _ in 0..10 {
            pace.note(Duration::from_millis(5), pace.width * 100);
        }
        assert!(pace.width * 100 <= 5_000, "{pace:?}");
    }
}
