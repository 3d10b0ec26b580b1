//! The only reader of time and of randomness.
//!
//! Everything else is given `now`; a lint (`clippy.toml`) keeps it so.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};
use uuid::Uuid;

/// The wall clock, cut to microseconds: what every database can store and give back unchanged.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
pub fn now() -> Timestamp {
    let now = Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::MAX);
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

/// Measures how long something takes, by the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts measuring.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    pub fn start() -> Self {
        Stopwatch(Instant::now())
    }

    /// Time since the start.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// Two clocks that should agree may differ by so much.
pub const TOLERANCE: SignedDuration = SignedDuration::from_mins(1);

/// By how much one clock is ahead of where another says that it should be; negative when behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the clock jumped by {} s", .0.as_secs())]
pub struct Jump(pub SignedDuration);

/// Watches whether the wall clock is set while the process runs, by a clock that nobody can set and
/// that goes on while the machine sleeps (Linux: `CLOCK_BOOTTIME`).
///
/// A wrong clock makes the wrong records due. After a jump the watch stays tripped until the clock is
/// back where it was, or somebody says that it is right now.
#[derive(Debug)]
pub struct Watch {
    /// Both clocks, as they were when they last agreed.
    agreed: Mutex<(Timestamp, SignedDuration)>,
}

impl Default for Watch {
    fn default() -> Self {
        Watch { agreed: Mutex::new(read_both()) }
    }
}

impl Watch {
    /// Whether the wall clock has gone on as it should since the last look.
    ///
    /// # Errors
    /// With the size of the jump when it was set by more than [`TOLERANCE`].
    pub fn look(&self) -> Result<(), Jump> {
        let read = read_both();
        // A panic elsewhere leaves the pair whole.
        let mut agreed = self.agreed.lock().unwrap_or_else(PoisonError::into_inner);
        compare(*agreed, read)?;
        // What a time server corrects bit by bit is no jump.
        *agreed = read;
        Ok(())
    }

    /// Takes the wall clock for right from now on.
    pub fn accept(&self) {
        *self.agreed.lock().unwrap_or_else(PoisonError::into_inner) = read_both();
    }
}

fn read_both() -> (Timestamp, SignedDuration) {
    let uptime = clock_gettime(ClockId::Boottime);
    let nanoseconds = i32::try_from(uptime.tv_nsec).unwrap_or_default();
    (now(), SignedDuration::new(uptime.tv_sec, nanoseconds))
}

fn compare(
    (wall, uptime): (Timestamp, SignedDuration),
    (wall_now, uptime_now): (Timestamp, SignedDuration),
) -> Result<(), Jump> {
    let jump = wall_now.duration_since(wall) - (uptime_now - uptime);
    if jump.abs() > TOLERANCE { Err(Jump(jump)) } else { Ok(()) }
}

/// Whether `now` is the time that another clock shows.
///
/// # Errors
/// With how far `now` is ahead when they differ by more than [`TOLERANCE`].
pub fn agrees(now: Timestamp, other: Timestamp) -> Result<(), Jump> {
    let ahead = now.duration_since(other);
    if ahead.abs() > TOLERANCE { Err(Jump(ahead)) } else { Ok(()) }
}

/// A new identifier that sorts by time of creation (UUID version 7, RFC 9562).
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
pub fn new_id() -> Uuid {
    Uuid::now_v7()
}

/// Random bytes from the operating system.
///
/// # Panics
/// When the operating system has no randomness to give: nothing that needs keys can go on then.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads randomness")]
#[expect(clippy::expect_used, reason = "there is no safe way on without randomness")]
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(wall: i64, uptime: i64) -> (Timestamp, SignedDuration) {
        (Timestamp::from_second(1_800_000_000 + wall).unwrap(), SignedDuration::from_secs(uptime))
    }

    #[test]
    fn a_clock_that_goes_on_is_right_and_one_that_is_set_is_not() {
        assert_eq!(compare(pair(0, 0), pair(3_600, 3_600)), Ok(()));
        assert_eq!(compare(pair(0, 0), pair(3_660, 3_600)), Ok(()), "within the tolerance");
        let jump = |seconds| Err(Jump(SignedDuration::from_secs(seconds)));
        assert_eq!(compare(pair(0, 0), pair(10_800, 3_600)), jump(7_200));
        assert_eq!(compare(pair(0, 0), pair(-3_600, 3_600)), jump(-7_200));
    }

    #[test]
    fn a_jump_stays_until_the_clock_is_back_or_taken_for_right() {
        let watch = Watch::default();
        assert_eq!(watch.look(), Ok(()));
        let (wall, uptime) = *watch.agreed.lock().unwrap();
        *watch.agreed.lock().unwrap() = (wall - SignedDuration::from_hours(2), uptime);
        for _ in 0..3 {
            let Jump(jump) = watch.look().unwrap_err();
            assert!((jump - SignedDuration::from_hours(2)).abs() < SignedDuration::from_mins(1));
        }
        watch.accept();
        assert_eq!(watch.look(), Ok(()));
    }

    #[test]
    fn two_clocks_agree_within_a_minute() {
        let (now, _) = pair(0, 0);
        assert_eq!(agrees(now, now + SignedDuration::from_secs(60)), Ok(()));
        let ahead = SignedDuration::from_secs(61);
        assert_eq!(agrees(now + ahead, now), Err(Jump(ahead)));
    }
}
