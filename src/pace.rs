//! How fast a run goes: how much a batch takes, how long it rests between two, and how both follow what is measured.
//!
//! Decisions over measurements, nothing else. The operator says in a word ([`Tempo`]) how much may be felt of a run; each
//! word stands for targets. A [`Throttle`] is told how each batch went, and says how much the next one takes ([`Pace`])
//! and how long to rest before it.
//!
//! What a store bears is known by the run's own batches: under load the same rows take longer, so batches become smaller
//! and rests longer, and slow commits, which are mostly the disk's, lengthen the rests further. How many sessions are
//! active would say more of others, but databases show that only to users with rights that a deleting one should not have,
//! and nobody tells how many cores they are for.

use std::fmt;
use std::time::Duration;

/// How much others may feel of a run.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Tempo {
    /// As little as possible.
    Gentle,
    /// A little.
    #[default]
    Balanced,
    /// As fast as it goes.
    Full,
}

impl Tempo {
    /// The word for it in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Tempo::Gentle => "gentle",
            Tempo::Balanced => "balanced",
            Tempo::Full => "full",
        }
    }

    /// What the word stands for.
    pub fn targets(self) -> Targets {
        match self {
            Tempo::Gentle => Targets {
                batch: Duration::from_millis(20),
                rest: 1.0,
                most_rows: 1_000,
                lock_wait: Duration::from_millis(100),
            },
            Tempo::Balanced => Targets {
                batch: Duration::from_millis(80),
                rest: 0.25,
                most_rows: 5_000,
                lock_wait: Duration::from_millis(500),
            },
            Tempo::Full => Targets {
                batch: Duration::from_millis(500),
                rest: 0.0,
                most_rows: 10_000,
                lock_wait: LONGEST_LOCK_WAIT,
            },
        }
    }

    /// How often a batch that met a lock and cannot be passed over is tried again: less patience with each lock is made
    /// up for by more attempts.
    pub fn attempts(self, at_full: u32) -> u32 {
        let shorter = LONGEST_LOCK_WAIT.as_millis() / self.targets().lock_wait.as_millis().max(1);
        at_full.saturating_mul(u32::try_from(shorter).unwrap_or(1).max(1))
    }
}

impl fmt::Display for Tempo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a word for the tempo stands for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Targets {
    /// How long a batch may hold its locks before the next one is made smaller.
    pub batch: Duration,
    /// How many times as long as it was at work on a batch a store rests after it.
    pub rest: f64,
    /// Records that a batch takes at most.
    pub most_rows: u64,
    /// How long a batch waits for a lock, while it holds others, before it is undone and made smaller.
    pub lock_wait: Duration,
}

/// The longest that a batch waits for a lock.
const LONGEST_LOCK_WAIT: Duration = Duration::from_secs(2);

/// So many records a second at most.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rate(f64);

impl Rate {
    /// So many a second; `None` unless that is a number above zero.
    pub fn new(per_second: f64) -> Option<Rate> {
        (per_second.is_finite() && per_second > 0.0).then_some(Rate(per_second))
    }

    /// Records a second.
    pub fn per_second(self) -> f64 {
        self.0
    }

    /// Records that a batch takes at most, so that it does not use up more than a second's.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "above zero, and saturating"
    )]
    fn most_rows(self) -> u64 {
        (self.0 as u64).max(1)
    }
}

/// How a rule's runs are paced.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Pacing {
    /// How much others may feel.
    pub tempo: Tempo,
    /// Records a second at most, where that is bounded.
    pub rate: Option<Rate>,
    /// Batches that may be under way side by side.
    pub workers: usize,
}

impl Default for Pacing {
    fn default() -> Self {
        Pacing { tempo: Tempo::default(), rate: None, workers: 1 }
    }
}

/// How many rows a batch takes, adapted to what the store bears.
///
/// The width of a window is what the walk passes over: pages of a heap, or rows otherwise. It grows
/// while batches are quick and small, and shrinks when one was slow or waited for a lock.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Pace {
    /// Width of the next window.
    pub width: u64,
    /// Rows that a batch may take at most.
    pub rows: u64,
    /// How long a batch may take before the next one is made smaller.
    calm: Duration,
    widest: u64,
    /// Slowness alone makes no window narrower than this: a batch has costs of its own, which narrower
    /// windows only add up.
    narrowest: u64,
    fewest_rows: u64,
    most_rows: u64,
    /// A window of this width cannot hold more than the most rows.
    certain_width: u64,
}

/// A page of a heap holds at most so many rows of the smallest kind (PostgreSQL, 8 KiB pages); in practice dozens.
const ROWS_PER_PAGE: u64 = 226;
/// A lock makes no batch smaller than this.
const FEWEST_ROWS: u64 = 10;

impl Pace {
    /// The pace to start at where nothing else is said.
    pub fn new(steps_are_pages: bool) -> Pace {
        Pace::of(Pacing::default(), steps_are_pages)
    }

    /// The pace to start at.
    pub fn of(pacing: Pacing, steps_are_pages: bool) -> Pace {
        let Targets { batch: calm, most_rows, .. } = pacing.tempo.targets();
        let most_rows = pacing.rate.map_or(most_rows, |rate| rate.most_rows().min(most_rows));
        let rows = most_rows.min(1_000);
        let fewest_rows = (most_rows / 10).clamp(1, 500);
        if steps_are_pages {
            let certain_width = (most_rows / ROWS_PER_PAGE).clamp(1, 16);
            Pace {
                width: certain_width,
                rows,
                calm,
                widest: 4_096,
                narrowest: (certain_width / 2).max(1),
                fewest_rows,
                most_rows,
                certain_width,
            }
        } else {
            Pace {
                width: rows,
                rows,
                calm,
                widest: 100_000,
                narrowest: fewest_rows,
                fewest_rows,
                most_rows,
                certain_width: most_rows,
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
        } else if took > self.calm {
            self.width = (self.width / 2).max(self.narrowest.min(self.width));
            self.rows = (self.rows / 2).max(self.fewest_rows.min(self.rows));
        } else if took < self.calm / 2 {
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

    /// Whether a batch may take more than at another.
    fn is_larger_than(&self, other: Pace) -> bool {
        self.width > other.width || self.rows > other.rows
    }

    /// Whether locks have made it as small as it can be: trying again then only waits for others.
    pub fn is_smallest(&self) -> bool {
        self.width == 1 && self.rows <= FEWEST_ROWS
    }

    /// Takes note of a batch that had to be undone because somebody else held a lock.
    pub fn back_off(&mut self) {
        self.width = (self.width / 4).max(1);
        self.rows = (self.rows / 4).max(FEWEST_ROWS.min(self.rows));
    }
}

/// How a batch went.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// When it was over, counted from the beginning of the run, by a clock that nobody can set.
    pub at: Duration,
    /// How long it took, from its first statement until its outcome was written.
    pub took: Duration,
    /// How long of that it held its locks.
    pub held: Duration,
    /// How long the store was at work on it. In the rest of the time, that of the ledger, the store rested already.
    pub worked: Duration,
    /// How long of that its commit took, where there was one.
    pub commit: Option<Duration>,
    /// Records that it took.
    pub rows: u64,
    /// What it was begun at. Several may be begun at the same, and their ends say the same thing.
    pub pace: Pace,
}

/// What is new about the replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplicaNews {
    /// It lags behind by more than is allowed, and is waited for.
    FellBehind,
    /// It has caught up.
    CaughtUp,
}

/// No rest is longer, but for the rate's sake: a batch that was held up is not to hold up the run.
const LONGEST_REST: Duration = Duration::from_secs(2);
/// A commit that is quicker is never taken for a sign of load.
const QUICK_COMMIT: Duration = Duration::from_millis(20);
/// A commit is slow when it takes so many times as long as the quickest of the run.
const SLOW_COMMIT: u32 = 4;
/// So many times as long as usual a run rests at most while commits are slow.
const MOST_STRAIN: u32 = 4;

/// Paces a run. Where several batches are under way side by side they share one: each tells it how it went and rests as
/// long as it says.
#[derive(Clone, Debug)]
pub struct Throttle {
    /// How much the next batch takes.
    pub pace: Pace,
    pacing: Pacing,
    /// How far a replica may lag behind.
    most_lag: Option<Duration>,
    /// Looks in a row at which the replica lagged too far behind, two at most.
    behind: u8,
    /// How many times as long as usual it rests, because commits are slow.
    strain: u32,
    quickest_commit: Option<Duration>,
    /// Records that may be taken at once; below zero, those that were taken too early.
    level: f64,
    noted_at: Duration,
    rest: Duration,
}

impl Throttle {
    /// For a run over rows, in steps of pages or of rows. Without `most_lag` no replica is waited for.
    pub fn new(pacing: Pacing, most_lag: Option<Duration>) -> Throttle {
        Throttle {
            pace: Pace::of(pacing, false),
            pacing,
            most_lag,
            behind: 0,
            strain: 1,
            quickest_commit: None,
            level: 0.0,
            noted_at: Duration::ZERO,
            rest: Duration::ZERO,
        }
    }

    /// A new walk begins, whose steps are pages of a heap or rows. What is owed to the rate stays owed.
    pub fn set_out(&mut self, steps_are_pages: bool) {
        self.pace = Pace::of(self.pacing, steps_are_pages);
    }

    /// Takes note of how a batch went.
    pub fn note(&mut self, measured: Measured) {
        let Measured { at, took, held, worked, commit, rows, pace } = measured;
        let before = self.pace;
        self.pace.note(held, rows);
        if self.pace.is_larger_than(before) && before.is_larger_than(pace) {
            self.pace = before;
        }
        if let Some(commit) = commit {
            self.note_commit(commit);
        }
        let share = self.pacing.tempo.targets().rest * f64::from(self.strain);
        let rest = worked.min(LONGEST_REST).mul_f64(share);
        self.rest = rest.saturating_sub(took.saturating_sub(worked)).min(LONGEST_REST);
        if let Some(rate) = self.pacing.rate {
            let rate = rate.per_second();
            let passed = at.saturating_sub(self.noted_at).as_secs_f64();
            // What was not used within a second is gone.
            let level = (self.level + rate * passed).min(rate.max(1.0));
            #[expect(clippy::cast_precision_loss, reason = "a batch is small")]
            let rows = rows as f64;
            self.level = level - rows;
        }
        self.noted_at = self.noted_at.max(at);
    }

    fn note_commit(&mut self, commit: Duration) {
        let quickest = self.quickest_commit.map_or(commit, |quickest| quickest.min(commit));
        self.quickest_commit = Some(quickest);
        self.strain = if commit > quickest.saturating_mul(SLOW_COMMIT).max(QUICK_COMMIT) {
            (self.strain * 2).min(MOST_STRAIN)
        } else {
            (self.strain / 2).max(1)
        };
    }

    /// Takes note of a batch that had to be undone because somebody else held a lock.
    pub fn back_off(&mut self) {
        self.pace.back_off();
    }

    /// How long to rest after the batch that was noted last, before the next transaction is begun.
    pub fn pause(&self) -> Duration {
        let owed = match self.pacing.rate {
            Some(rate) if self.level < 0.0 => {
                Duration::try_from_secs_f64(-self.level / rate.per_second())
                    .unwrap_or(Duration::MAX)
            }
            _ => Duration::ZERO,
        };
        self.rest.max(owed)
    }

    /// Takes note of how far the replica lags behind, where that is known. One look alone may be wrong: where nothing was
    /// written for long, the first commit that comes seems to be as late.
    pub fn note_lag(&mut self, lag: Option<Duration>) -> Option<ReplicaNews> {
        let most = self.most_lag?;
        let was_behind = self.waits_for_replica();
        self.behind = match lag {
            Some(lag) if lag > most => (self.behind + 1).min(2),
            _ => 0,
        };
        match (was_behind, self.waits_for_replica()) {
            (false, true) => Some(ReplicaNews::FellBehind),
            (true, false) => Some(ReplicaNews::CaughtUp),
            _ => None,
        }
    }

    /// Whether nothing is taken until the replica has caught up.
    pub fn waits_for_replica(&self) -> bool {
        self.behind >= 2
    }
}

#[cfg(test)]
mod tests;
